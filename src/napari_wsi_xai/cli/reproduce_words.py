"""What ``reproduce`` passes on to a data set's reader, and what it says of its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_wsi_xai.cli.console import say
from napari_wsi_xai.cli.train_words import words_of
from napari_wsi_xai.cli.training_inputs import names_of

if TYPE_CHECKING:
    from napari_wsi_xai.training.records import TrainProgress
    from napari_wsi_xai.training.reproduction import Reproduction

__all__ = ["progress_words", "reader_options", "tell_plan"]

_TAKEN = {
    "camelyon16": ("--complete", "--no-outlines"),
    "crc-histophenotypes": ("--complete",),
    "bracs": ("--label",),
    "tcga": ("--label", "--classes", "--slides"),
}


def reader_options(
    data_set: str,
    label: str | None,
    classes: str | None,
    slides: str | None,
    complete: bool,
    no_outlines: bool,
) -> dict[str, Any]:
    """Options of the data set's reader that were given.

    Raises
    ------
    BadArgumentError
        One is for another data set.
    """
    from napari_wsi_xai.errors import BadArgumentError

    given = {
        "--label": label,
        "--classes": classes,
        "--slides": slides,
        "--complete": complete or None,
        "--no-outlines": no_outlines or None,
    }
    asked = {option: value for option, value in given.items() if value is not None}
    taken = _TAKEN.get(data_set, tuple(given))
    idle = [option for option in asked if option not in taken]
    if idle:
        raise BadArgumentError(
            f"{idle[0]} is not for {data_set}, which is read with {' and '.join(taken)}."
        )
    names = {"--label": "labels" if data_set == "bracs" else "label", "--no-outlines": "outlines"}
    options: dict[str, Any] = {names.get(o, o.lstrip("-")): value for o, value in asked.items()}
    if "outlines" in options:
        options["outlines"] = False
    if "classes" in options:
        options["classes"] = names_of(str(options["classes"]))
    return options


def tell_plan(planned: Reproduction) -> None:
    """Say, before hours of it, what will be done."""
    counts = ", ".join(f"{name} {count}" for name, count in planned.cohort.counts().items())
    scales = ", ".join(f"{mpp:g}" for mpp in planned.mpps)
    trained = "trained along" if planned.recipe.end_to_end else "as it is"
    say(f"{planned.paper.data_set}: {counts}; after {planned.paper.citation}.")
    say(
        f"{planned.recipe.architecture} on {planned.encoder.name} ({trained}), tiles of "
        f"{planned.tile_px} px at {scales} um/px; {_trainings(planned)}."
    )


def _trainings(planned: Reproduction) -> str:
    folds, name = len(planned.splits), planned.splits[0].name
    one = {"given": "the official split", "hold-out": "a split drawn by patient"}.get(name, name)
    parts = [f"{folds} folds" if folds > 1 else one]
    if planned.members is not None:
        parts.append(f"{planned.members} members")
    return ", ".join(parts)


def progress_words(planned: Reproduction, number: int, progress: TrainProgress) -> str:
    """Which fold and member it is, where there are several, and how far that is."""
    folds, members = len(planned.splits), planned.members or 1
    fold = f"fold {number // members + 1} of {folds}, " if folds > 1 else ""
    member = f"member {number % members + 1} of {members}, " if members > 1 else ""
    return f"{fold}{member}{words_of(progress)}"
