"""What ``train`` watches: slides, when to look at them, and rules."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.cli.console import say

if TYPE_CHECKING:
    from napari_wsi_xai.training.cohort import Case, Cohort
    from napari_wsi_xai.training.rules import Rule

__all__ = ["Watch", "watch_of"]

Outlines = dict[str, tuple[Path, ...]]


@dataclass
class Watch:
    """Slides to watch in every folder that is trained in; none is possible."""

    slides: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    every: int | None = None
    outlines: Outlines = field(default_factory=dict)
    excluded: Outlines = field(default_factory=dict)
    stores: list[Path] = field(default_factory=list)

    def callbacks(self, cohort: Cohort, folder: Path) -> list[Any]:
        """What watches in a folder, for the slides as the cohort has them now."""
        if not self.slides:
            return []
        from napari_wsi_xai.training.lightning_import import import_lightning

        import_lightning()
        from napari_wsi_xai.training.watch import STORE_NAME, WatchSlides

        store = folder / STORE_NAME
        self.stores.append(store)
        return [
            WatchSlides(
                _cases(cohort, self.slides),
                cohort.classes,
                store,
                every=self.every or "epoch",
                rules=self.rules,
                outlines=self.outlines,
                excluded=self.excluded,
            )
        ]

    def facts(self) -> dict[str, Any]:
        """JSON-able: the stores, where slides are watched."""
        seen = [str(store) for store in self.stores if self._in(store)]
        return {"watched": seen} if self.stores else {}

    def tell(self) -> None:
        """Say where the maps of all epochs are, and how to look at them; and what was not seen."""
        unseen = [store.parent for store in self.stores if not self._in(store)]
        if unseen:
            say(
                f"{', '.join(self.slides)}: not watched in {unseen[0]}, where the training had "
                "ended before: give another --out to train anew."
            )
        elif self.stores:
            first, *others = self.stores
            more = f" (and {len(others)} more beside it)" if others else ""
            say(f"the maps of every look are in {first}{more}; to see them:")
            say(f"  napari-wsi-xai view {shlex.quote(str(first))}")

    def _in(self, store: Path) -> bool:
        """Whether all the slides are in a store."""
        from napari_wsi_xai.training.epoch_store import EpochStore

        if not store.is_dir():
            return False
        return {one.name for one in EpochStore.open(store).slides} >= set(self.slides)


def watch_of(
    cohort: Cohort,
    table: Path | None,
    slides: Sequence[str],
    rules: Sequence[str],
    rules_file: Path | None,
    every: int | None,
    outlines: Path | None,
) -> Watch:
    """What the command line asks to watch.

    Raises
    ------
    BadArgumentError
        A slide is not in the cohort; options that say how to watch come without one; a rule
        cannot be read; there are no outlines in the folder.
    CohortError
        Files of excluded regions that the table names are missing.
    """
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.training.outlines import excluded_of_table, outlines_in_folder

    names = tuple(dict.fromkeys(slides))
    known = {case.slide for case in cohort.cases}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadArgumentError(f"--watch {unknown[0]}: there is no such slide in the cohort.")
    asked = {"--rule": rules, "--rules": rules_file, "--every": every, "--outlines": outlines}
    idle = [option for option, value in asked.items() if value not in (None, [], ())]
    if not names:
        if idle:
            raise BadArgumentError(f"{idle[0]} needs slides to judge by: give --watch SLIDE.")
        return Watch()
    if every is not None and every < 1:
        raise BadArgumentError(f"--every {every} must be at least 1 step.")
    beside = {} if outlines is None else outlines_in_folder(outlines, _cases(cohort, names))
    parsed = _rules(rules, rules_file)
    return Watch(
        names, parsed, every, beside, {} if table is None else excluded_of_table(table, names)
    )


def _rules(words: Sequence[str], file: Path | None) -> tuple[Rule, ...]:
    """Rules of the file, then those of the command line."""
    from napari_wsi_xai.training.rules import parse_rules, read_rules

    return (*(() if file is None else read_rules(file)), *parse_rules(words))


def _cases(cohort: Cohort, names: Sequence[str]) -> list[Case]:
    """The slides, in the order in which they were named."""
    by_name = {case.slide: case for case in cohort.cases}
    return [by_name[name] for name in names]
