"""Rules that stop a training run, said in words: "stop when attention on excluded > 0.5"."""

from __future__ import annotations

import itertools
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_wsi_xai.errors import BadArgumentError, MissingExtraError
from napari_wsi_xai.training.figures import FIGURES, EpochFigures, mean_figures
from napari_wsi_xai.training.rule_words import (
    FIGURE_WORDS,
    bounds_of,
    figure_of,
    metric_key,
    possible_words,
)

__all__ = ["Condition", "Rule", "decide", "parse_rule", "parse_rules", "read_rules"]

Relation = Literal["rises", "falls", ">", ">=", "<", "<="]

_TRENDS: dict[str, Relation] = {
    **dict.fromkeys(("rise", "rises", "grow", "grows", "increase", "increases"), "rises"),
    **dict.fromkeys(("fall", "falls", "drop", "drops", "decrease", "decreases"), "falls"),
}

_LIMITS: dict[str, Relation] = {
    **dict.fromkeys((">", "above", "over", "more than"), ">"),
    **dict.fromkeys(("<", "below", "under", "less than"), "<"),
    **dict.fromkeys((">=", "at least"), ">="),
    **dict.fromkeys(("<=", "at most"), "<="),
}

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_CLAUSE = re.compile(
    rf"(?P<figure>.*?)\s*(?:\b(?P<trend>{_either(_TRENDS)})"
    rf"|(?:\b(?:is|stays|lies)\s+)?(?P<limit>{_either(_LIMITS)})"
    r"\s*(?P<number>[-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*(?P<percent>%?))"
)
_FOR = re.compile(r"\s+for\s+(?P<count>\S+)\s+(?P<unit>epoch|check)s?$")
_START = re.compile(r"^stop\s+(?:when|if|once)\s+")


@dataclass(frozen=True)
class Condition:
    """What one figure must do.

    Attributes
    ----------
    figure
        One of :data:`~napari_wsi_xai.training.figures.FIGURES`, whose mean over the watched
        slides is meant, or a metric that training logs ("val_auc").
    relation
        "rises": higher at the end than at the start, and in between never lower than just before;
        "falls": the other way round; or how it compares with ``limit`` every time.
    limit
        What it is compared with; None where it rises or falls.
    """

    figure: str
    relation: Relation
    limit: float | None = None

    def holds(self, values: Sequence[float]) -> bool:
        """Whether the figure's last values, the oldest first, do that; NaN never does."""
        if not values:
            return False
        if self.limit is not None:
            return all(_COMPARE[self.relation](value, self.limit) for value in values)
        sign = 1.0 if self.relation == "rises" else -1.0
        steps = [sign * (b - a) for a, b in itertools.pairwise(values)]
        return all(step >= 0 for step in steps) and sum(steps) > 0

    def told(self, values: Sequence[float]) -> str:
        """What the figure did, with numbers."""
        name = FIGURE_WORDS.get(self.figure, self.figure)
        if self.limit is None:
            verb = "rose" if self.relation == "rises" else "fell"
            return f"{name} {verb} from {values[0]:.3g} to {values[-1]:.3g}"
        return f"{name} was {self.relation} {self.limit:g} ({values[-1]:.3g} at last)"


@dataclass(frozen=True)
class Rule:
    """When to stop: all conditions hold for some time.

    Attributes
    ----------
    conditions
        All of them must hold together.
    count
        For how many epochs or checks in a row.
    unit
        "epoch": only what was found last in each epoch counts; "check": every time that the
        watched slides were looked at, for those looked at every so many steps.
    words
        The rule as it was said.
    """

    conditions: tuple[Condition, ...]
    count: int = 1
    unit: Literal["epoch", "check"] = "epoch"
    words: str = ""

    def decide(self, history: Sequence[EpochFigures]) -> str | None:
        """Why to stop after the last of ``history``, or None to go on."""
        if self.unit == "epoch":
            history = list({entry.epoch: entry for entry in history}.values())
        told = []
        for condition in self.conditions:
            # A change needs the value before the first epoch of the change as well.
            needed = self.count + (condition.limit is None)
            if len(history) < needed:
                return None
            values = [value_of(entry, condition.figure) for entry in history[-needed:]]
            if not condition.holds(values):
                return None
            told.append(condition.told(values))
        return f"{' while '.join(told)} {self._when(history)}, and the rule is: {self.words}."

    def _when(self, history: Sequence[EpochFigures]) -> str:
        first, last = history[-self.count], history[-1]
        if self.unit == "check":
            return f"in {self.count} checks, the last after step {last.step}"
        if first.epoch == last.epoch:
            return f"in epoch {last.epoch}"
        return f"in epochs {first.epoch} to {last.epoch}"


def value_of(entry: EpochFigures, figure: str) -> float:
    """A figure's mean over the watched slides, or a logged metric; NaN where there is none."""
    if figure in FIGURES:
        return mean_figures(list(entry.slides.values()))[figure]
    known = {metric_key(name): value for name, value in entry.metrics.items()}
    return known.get(figure, math.nan)


def decide(rules: Sequence[Rule], history: Sequence[EpochFigures]) -> str | None:
    """Why the first rule that applies stops the run, or None where none does."""
    return next((why for rule in rules if (why := rule.decide(history)) is not None), None)


def parse_rule(words: str) -> Rule:
    """Read a rule from words.

    ``[stop when] FIGURE rises|falls | FIGURE >|>=|<|<= NUMBER [while|and ...] [for N epochs]``,
    as in "stop when validation auc rises while localisation falls for 5 epochs".

    Raises
    ------
    BadArgumentError
        A word is not known; the message lists what may be said.
    """
    text = " ".join(re.sub(r"[_/]|(?<=[a-z])-(?=[a-z])", " ", words.lower()).split()).rstrip(".")
    text = _START.sub("", text)
    count, unit = 1, "epoch"
    if found := _FOR.search(text):
        text, unit = text[: found.start()], found["unit"]
        if not found["count"].isdecimal() or int(found["count"]) < 1:
            raise _unreadable(words, f"{found['count']!r} is not a whole number from 1")
        count = int(found["count"])
    clauses = re.split(r"\s+(?:while|and)\s+", text)
    conditions = tuple(_condition(clause, words) for clause in clauses)
    return Rule(conditions, count, "check" if unit == "check" else "epoch", words.strip())


def _condition(clause: str, words: str) -> Condition:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise _unreadable(words, f"{clause!r} says nothing of what a figure does")
    figure = figure_of(match["figure"])
    if figure is None:
        raise _unreadable(words, f"{match['figure']!r} is no figure")
    if match["trend"]:
        return Condition(figure, _TRENDS[match["trend"]])
    limit = float(match["number"]) / (100 if match["percent"] else 1)
    least, most = bounds_of(figure)
    if not least <= limit <= most:
        raise _unreadable(
            words, f"{FIGURE_WORDS[figure]} is from {least:g} to {most:g} and never {limit:g}"
        )
    return Condition(figure, _LIMITS[match["limit"]], limit)


def _unreadable(words: str, why: str) -> BadArgumentError:
    return BadArgumentError(
        f'the rule {words!r} cannot be read: {why}. A rule is "FIGURE rises", "FIGURE falls" or '
        '"FIGURE > 0.5" (also >=, <, <=), joined by "while", with "for 5 epochs" (or "checks") at '
        f"the end; figures are {possible_words()}."
    )


def parse_rules(rules: Iterable[str | Rule | Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Rules from words, from ``{"when": "...", "for": 5}`` or as they are."""
    return tuple(one if isinstance(one, Rule) else parse_rule(_words_of(one)) for one in rules)


def _words_of(rule: object) -> str:
    if isinstance(rule, str):
        return rule
    if isinstance(rule, Mapping) and {"when"} <= set(rule) <= {"when", "for"}:
        epochs = f" for {rule['for']} epochs" if "for" in rule else ""
        return f"{rule['when']}{epochs}"
    raise BadArgumentError(
        f"the rule {rule!r} is neither words nor has it the keys 'when' and, if wanted, 'for'."
    )


def read_rules(path: str | os.PathLike[str]) -> tuple[Rule, ...]:
    """Read rules from a YAML file: a list, or a list under the key ``rules``.

    Raises
    ------
    BadArgumentError
        The file cannot be read, is no such list, or a rule cannot be read.
    MissingExtraError
        The package pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml", "train", "Reading a YAML file") from error
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BadArgumentError(f"{path} cannot be read as YAML: {reason}.") from error
    listed = content.get("rules") if isinstance(content, Mapping) else content
    if not isinstance(listed, list):
        raise BadArgumentError(f"{path} holds no list of rules, nor one under the key 'rules'.")
    return parse_rules(listed)
