"""Rules in words: what they mean, when they apply, and what is told where they cannot be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training.figures import EpochFigures, SlideFigures
from napari_wsi_xai.training.rule_words import FIGURE_WORDS, figure_of, metric_key
from napari_wsi_xai.training.rules import Condition, decide, parse_rule, parse_rules, read_rules

DRIFT = "stop when validation auc rises while localisation falls for 5 epochs"


def make_history(
    auc: Sequence[float] = (), localisation: Sequence[float] = (), excluded: Sequence[float] = ()
) -> list[EpochFigures]:
    """One entry an epoch; figures that are not given are not there."""
    entries = []
    for number in range(max(len(auc), len(localisation), len(excluded))):
        figures = SlideFigures(
            localisation=localisation[number] if localisation else math.nan,
            excluded=excluded[number] if excluded else math.nan,
        )
        metrics = {"val_auc": auc[number]} if auc else {}
        entries.append(EpochFigures(number + 1, 10 * (number + 1), metrics, {"s": figures}))
    return entries


UP = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
DOWN = [0.8, 0.75, 0.7, 0.6, 0.5, 0.45]


def test_the_rule_of_the_two_trends() -> None:
    rule = parse_rule(DRIFT)
    assert rule.conditions == (Condition("val_auc", "rises"), Condition("localisation", "falls"))
    assert (rule.count, rule.unit) == (5, "epoch")
    history = make_history(UP, DOWN)
    assert rule.decide(history[:5]) is None
    assert rule.decide(history) == (
        "validation auc rose from 0.5 to 0.95 while localisation fell from 0.8 to 0.45 in epochs "
        f"2 to 6, and the rule is: {DRIFT}."
    )


@pytest.mark.parametrize("where", range(1, 6))
def test_one_epoch_against_the_trend_keeps_the_run(where: int) -> None:
    auc = list(UP)
    auc[where] = auc[where - 1] - 0.01
    assert parse_rule(DRIFT).decide(make_history(auc, DOWN)) is None


def test_standing_still_is_no_trend_but_breaks_none() -> None:
    rule = parse_rule("validation auc rises for 3 epochs")
    assert rule.decide(make_history([0.9, 1.0, 1.0, 1.0])) is not None
    assert rule.decide(make_history([1.0, 1.0, 1.0, 1.0])) is None


def test_a_limit_must_be_passed_every_time() -> None:
    rule = parse_rule("stop when attention on excluded > 0.5 for 3 epochs")
    assert rule.decide(make_history(excluded=[0.9, 0.4, 0.6, 0.7])) is None
    why = rule.decide(make_history(excluded=[0.4, 0.6, 0.7, 0.8]))
    assert why is not None
    assert why.startswith("attention on excluded was > 0.5 (0.8 at last) in epochs 2 to 4")
    assert rule.decide(make_history(excluded=[0.6, math.nan, 0.7])) is None
    assert rule.decide([]) is None
    loss = parse_rule("validation loss > 9 for 2 epochs")
    history = [EpochFigures(n, n, {"val_loss": v}) for n, v in enumerate((10.0, math.inf), 1)]
    assert "validation loss was > 9 (inf at last)" in str(loss.decide(history))
    history.append(EpochFigures(3, 3, {"val_loss": math.nan}))
    assert loss.decide(history) is None
    assert parse_rule("validation loss rises for 2 epochs").decide(history) is None


@pytest.mark.parametrize(
    ("words", "figure", "relation", "limit"),
    [
        ("attention entropy is below 0.1", "entropy", "<", 0.1),
        ("Stop if map-correlation stays at most -.5.", "correlation", "<=", -0.5),
        ("the localisation AUC < 50 %", "localisation", "<", 0.5),
        ("share of attention outside tissue at least 25%", "outside_tissue", ">=", 0.25),
        ("val_loss rises", "val_loss", "rises", None),
        ("training loss drops", "train_loss", "falls", None),
        ("val/acc over 0.99", "val_accuracy", ">", 0.99),
        ("validation increases", "val_auc", "rises", None),
        ("attention on excluded>5e-1", "excluded", ">", 0.5),
        ("validation loss > 50", "val_loss", ">", 50),
        ("training loss < -2", "train_loss", "<", -2),
        ("map correlation >= -1", "correlation", ">=", -1),
        ("attention outside tissue >= 100 %", "outside_tissue", ">=", 1),
    ],
)
def test_ways_to_say_it(words: str, figure: str, relation: str, limit: float | None) -> None:
    (condition,) = parse_rule(words).conditions
    assert (condition.figure, condition.relation) == (figure, relation)
    assert condition.limit == (None if limit is None else pytest.approx(limit))


@given(
    st.sampled_from(sorted(FIGURE_WORDS)),
    st.sampled_from(["rises", "falls", "> 0.25", "<= 0.25"]),
    st.integers(1, 99),
    st.sampled_from(["epoch", "check"]),
)
def test_every_figure_is_understood_by_its_name(
    figure: str, does: str, count: int, unit: str
) -> None:
    rule = parse_rule(f"stop when {FIGURE_WORDS[figure]} {does} for {count} {unit}s")
    assert rule.conditions[0].figure == figure
    assert (rule.count, rule.unit) == (count, unit)
    assert figure_of(figure) == figure


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("stop when happiness rises", "'happiness' is no figure"),
        ("validation auc wobbles for 5 epochs", "'validation auc wobbles' says nothing"),
        ("validation auc rises for few epochs", "'few' is not a whole number from 1"),
        ("validation auc rises for 0 epochs", "'0' is not a whole number from 1"),
        ("validation auc > high", "says nothing"),
        ("", "'' says nothing"),
        ("attention on excluded > 50", "attention on excluded is from 0 to 1 and never 50"),
        ("validation auc > 101 %", "validation auc is from 0 to 1 and never 1.01"),
        ("map correlation < -2", "map correlation is from -1 to 1 and never -2"),
        ("entropy > -0.1", "attention entropy is from 0 to 1 and never -0.1"),
    ],
)
def test_unknown_words_are_told_with_what_may_be_said(words: str, why: str) -> None:
    with pytest.raises(BadArgumentError) as caught:
        parse_rule(words)
    message = str(caught.value)
    assert why in message
    for figure in FIGURE_WORDS.values():
        assert figure in message


def test_epochs_count_once_and_checks_each_time() -> None:
    history = [
        EpochFigures(epoch, step, {}, {"s": SlideFigures(excluded=value)})
        for epoch, step, value in [(1, 5, 0.9), (1, 10, 0.9), (2, 15, 0.1), (2, 20, 0.9)]
    ]
    assert parse_rule("excluded > 0.5 for 2 epochs").decide(history) is not None
    assert parse_rule("excluded > 0.5 for 2 checks").decide(history) is None
    why = parse_rule("excluded > 0.5 for 2 checks").decide(history[:2])
    assert why is not None
    assert "in 2 checks, the last after step 10" in why


def test_a_figure_is_the_mean_over_slides() -> None:
    slides = {"a": SlideFigures(excluded=0.9), "b": SlideFigures(excluded=0.3)}
    history = [EpochFigures(1, 1, {}, slides)]
    assert parse_rule("excluded > 0.5").decide(history) is not None
    assert parse_rule("excluded > 0.7").decide(history) is None


def test_the_first_rule_that_applies_says_why() -> None:
    rules = parse_rules(["entropy < 0.1", {"when": "excluded > 0.5", "for": 2}, parse_rule(DRIFT)])
    why = decide(rules, make_history(UP, DOWN, [0.9] * 6))
    assert why is not None
    assert why.startswith("attention on excluded was > 0.5")
    assert decide(rules, make_history(UP)) is None
    assert decide([], make_history(UP, DOWN)) is None


@pytest.mark.parametrize("text", ["- {}\n- when: excluded > 0.5\n  for: 3\n", "rules:\n  - {}\n"])
def test_rules_from_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text.format(DRIFT))
    rules = read_rules(path)
    assert rules[0] == parse_rule(DRIFT)
    assert [rule.count for rule in rules] in ([5, 3], [5])


@pytest.mark.parametrize("text", ["rules: 5", "- [", "- 5", "- {what: now}"])
def test_yaml_that_holds_no_rules(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(BadArgumentError):
        read_rules(path)
    with pytest.raises(BadArgumentError, match=r"none\.yaml"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("logged", "key"),
    [
        ("val/auc", "val_auc"),
        ("validation AUC", "val_auc"),
        ("val_weighted_f1", "val_f1"),
        ("train_loss_epoch", "train_loss"),
    ],
)
def test_metrics_are_known_by_several_names(logged: str, key: str) -> None:
    assert metric_key(logged) == key
    entry = EpochFigures(1, 1, {logged: 0.75})
    assert parse_rule(f"{FIGURE_WORDS[key]} > 0.5").decide([entry]) is not None
