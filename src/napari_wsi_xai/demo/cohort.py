"""A cohort of procedural slides to train on: ``python -m napari_wsi_xai.demo.cohort --out DIR``.

Tumour slides hold few and small nests, so that a slide's label is the work of a handful of tiles.
A cohort can be made misleading on purpose: a pen stroke or the light of another scanner on the
tumour slides alone, to see whether a training run that learns it is caught.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from shapely import Polygon

from napari_wsi_xai.annotations import Annotation, write_geojson
from napari_wsi_xai.demo.layout import FewNests
from napari_wsi_xai.demo.noise import uniform
from napari_wsi_xai.demo.render import Scene
from napari_wsi_xai.demo.slide import DEMO_MPP, SMALLEST_PX, existing_scene, write_scene
from napari_wsi_xai.errors import BadArgumentError, WsiXaiError

__all__ = ["ANNOTATIONS", "EXCLUDED", "SLIDES", "TABLE", "Bias", "excluded_outlines", "make_cohort"]

Bias = Literal["pen", "tint"]

TABLE = "cohort.csv"
SLIDES = "slides"
ANNOTATIONS = "annotations"
EXCLUDED = "excluded"
"""Names in a cohort's folder: the table, the slides, nests of tumour slides, pen strokes."""

SPLITS = ("train", "test")
FIRST_SEED = 1_000_000  # far from the slides of the shipped model
MOST_SLIDES = 5_000  # of a split
MOST_SEEDS = 50_000  # so that no two cohorts meet
ATTEMPTS, NEXT_SEED = 8, 1_000_000_000
PAIR = 5000
TRUTH_COLOUR = (200, 0, 0)
PEN_COLOUR = (90, 90, 90)


@dataclass(frozen=True)
class _Entry:
    """A row of the table and the slide it is about."""

    name: str
    patient: str
    split: str
    scene: Scene


def make_cohort(
    folder: str | os.PathLike[str],
    *,
    train: int = 120,
    test: int = 60,
    seed: int = 0,
    side_px: int = 3072,
    tumour_share: float = 0.5,
    nests: tuple[int, int] = (1, 3),
    nest_um: tuple[float, float] = (120.0, 260.0),
    mimics: tuple[int, int] = (1, 3),
    bias: Bias | None = None,
    biased_splits: Sequence[str] = SPLITS,
    mpp: float = DEMO_MPP,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make slides, outlines of their tumour nests and the table of a cohort.

    The same arguments give the same files, byte for byte. Slides that are there from an earlier
    call are kept, also where that call asked for fewer; the table is written last.

    Parameters
    ----------
    folder
        Gets ``cohort.csv``, ``slides/``, ``annotations/`` and, with pen strokes, ``excluded/``.
    train, test
        Number of slides of each split. A patient has one or two slides, of one label.
    seed
        Which cohort. No slide of it is in another one.
    side_px
        Height and width of the slides, at least 1024.
    tumour_share
        Share of tumour slides in each split, between 0 and 1.
    nests
        Fewest and most nests of a tumour slide.
    nest_um
        Least and most of a nest's size in micrometres: twice its largest radius.
    mimics
        Fewest and most nests of reactive cells on every slide, tumour or not. Their nuclei are
        somewhat smaller and more even than those of tumour cells; nothing else differs.
    bias
        What tumour slides have and normal ones have not, besides tumour: ``"pen"``, a stroke of
        red ink (its outline is written, class "excluded"); ``"tint"``, a yellowish light.
    biased_splits
        Splits that the bias is in; ``("train",)`` leaves a test that shows what was learnt.
    mpp
        Micrometres per pixel written into the files. Cells have real sizes at 0.5.
    progress
        Called with (slides done, slides in all).

    Returns
    -------
    Path
        The table: slide, label, patient, split, annotation and, with pen strokes, excluded.

    Raises
    ------
    BadArgumentError
        An argument is out of its limits, the nests find no room on a slide, or the folder holds
        the slides of another cohort.
    """
    _check(train, test, tumour_share, seed, side_px)
    _check_bias(bias, biased_splits)
    few = _few_nests(nests, mimics, nest_um, mpp)
    folder, tell = Path(folder), progress or (lambda done, total: None)
    for name in (SLIDES, ANNOTATIONS, *((EXCLUDED,) if bias == "pen" else ())):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows, total = [], train + test
    for split, count in zip(SPLITS, (train, test), strict=True):
        biased = bias if split in biased_splits else None
        for entry in _entries(split, count, seed, tumour_share, (side_px, side_px), few, biased):
            rows.append(_write(folder, entry, mpp))
            tell(len(rows), total)
    columns = ["slide", "label", "patient", "split", "annotation"]
    return _write_table(folder / TABLE, columns + ([EXCLUDED] if bias == "pen" else []), rows)


def excluded_outlines(table: str | os.PathLike[str]) -> dict[str, tuple[Path, ...]]:
    """Files of pen strokes by slide, as :class:`~napari_wsi_xai.training.watch.WatchSlides` takes.

    Empty for a cohort without them.
    """
    path = Path(table)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["slide"]: (path.parent / row[EXCLUDED],) for row in rows if row.get(EXCLUDED)}


def _check(train: int, test: int, tumour_share: float, seed: int, side_px: int) -> None:
    for name, count in (("train", train), ("test", test)):
        if not 0 <= count <= MOST_SLIDES:
            raise BadArgumentError(f"{name}={count} is not between 0 and {MOST_SLIDES} slides.")
    if train + test == 0:
        raise BadArgumentError("train=0 and test=0 make no cohort: ask for at least one slide.")
    if not 0 < tumour_share < 1:
        raise BadArgumentError(
            f"tumour_share={tumour_share} is not between 0 and 1: both classes need slides."
        )
    if not 0 <= seed < MOST_SEEDS:
        raise BadArgumentError(f"seed={seed} is not between 0 and {MOST_SEEDS - 1}.")
    if side_px < SMALLEST_PX:
        raise BadArgumentError(f"side_px={side_px} must be at least {SMALLEST_PX} px.")


def _check_bias(bias: str | None, splits: Sequence[str]) -> None:
    if bias is not None and bias not in get_args(Bias):
        raise BadArgumentError(f"bias={bias!r} is not 'pen', 'tint' or None.")
    unknown = [split for split in splits if split not in SPLITS]
    if isinstance(splits, str) or unknown:
        raise BadArgumentError(
            f"biased_splits={splits!r} must be a sequence of 'train' and 'test'."
        )


def _few_nests(
    count: tuple[int, int], mimics: tuple[int, int], size_um: tuple[float, float], mpp: float
) -> FewNests:
    if not mpp > 0:
        raise BadArgumentError(f"mpp={mpp} is not above 0; give micrometres per pixel, e.g. 0.5.")
    if not 1 <= count[0] <= count[1]:
        raise BadArgumentError(f"nests={count} must be a least number from 1 on and a most.")
    if not 0 <= mimics[0] <= mimics[1]:
        raise BadArgumentError(f"mimics={mimics} must be a least number from 0 on and a most.")
    low, high = (size / (2 * mpp) for size in size_um)
    if not 40 <= low <= high:
        raise BadArgumentError(
            f"nest_um={size_um} must be a least size of {80 * mpp:g} um (a few cells at "
            f"mpp {mpp:g}) and a most."
        )
    return FewNests((count[0], count[1]), (low, high), (mimics[0], mimics[1]))


def _entries(
    split: str,
    count: int,
    seed: int,
    tumour_share: float,
    shape: tuple[int, int],
    few: FewNests,
    bias: str | None,
) -> Iterator[_Entry]:
    """Rows of a split; what a slide is does not depend on how many there are."""
    side = SPLITS.index(split)
    patients, alone, latest = 0, {False: False, True: False}, {False: "", True: ""}
    for number in range(count):
        # Labels as evenly mixed as they can be: 1, 2, ... slides always have the right share.
        tumour = int((number + 1) * tumour_share + 0.5) > int(number * tumour_share + 0.5)
        second = float(uniform(seed, PAIR, side, number)) < 0.5
        if alone[tumour] and second:
            alone[tumour] = False
        else:
            patients += 1
            alone[tumour], latest[tumour] = True, f"{split}-p{patients:04d}"
        first = FIRST_SEED + (2 * seed + side) * MOST_SLIDES + number
        given_away = {bias: True} if tumour and bias else {}
        scene = _with_room(Scene(first, shape, tumour, few, **given_away))
        yield _Entry(f"{split}_{number:04d}", latest[tumour], split, scene)


def _with_room(scene: Scene) -> Scene:
    """The scene, or one of the next seeds in line where its tissue is too narrow for its nests."""
    for attempt in range(ATTEMPTS):
        tried = replace(scene, seed=scene.seed + attempt * NEXT_SEED)
        try:
            _ = tried.layout
        except BadArgumentError as error:
            no_room = error
        else:
            return tried
    raise no_room


def _write(folder: Path, entry: _Entry, mpp: float) -> dict[str, str]:
    """Make the slide where it is not there yet, and its outlines; return the row."""
    path = folder / SLIDES / f"{entry.name}.tif"
    slide = existing_scene(path, entry.scene, mpp) or write_scene(path, entry.scene, mpp)
    row = {"slide": entry.name, "label": slide.label}
    row |= {"patient": entry.patient, "split": entry.split}
    outlines = f"{entry.name}.geojson"
    if slide.truth:
        row["annotation"] = f"{ANNOTATIONS}/{outlines}"
        write_geojson(folder / row["annotation"], _nests(slide.truth))
    if entry.scene.ink:
        row[EXCLUDED] = f"{EXCLUDED}/{outlines}"
        stroke = Annotation(entry.scene.ink.outline, "pen", "excluded", PEN_COLOUR)
        write_geojson(folder / row[EXCLUDED], [stroke])
    return row


def _nests(truth: Sequence[Polygon]) -> list[Annotation]:
    return [
        Annotation(nest, f"nest {number}", "Tumor", TRUTH_COLOUR)
        for number, nest in enumerate(truth, start=1)
    ]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_bytes(text.getvalue().encode())
    unfinished.replace(path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the cohort."""
    parser = argparse.ArgumentParser(
        prog="python -m napari_wsi_xai.demo.cohort",
        description="Make a cohort of procedural slides with few, small tumour nests.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; what is there is kept")
    parser.add_argument("--train", type=int, default=120, help="slides to train on")
    parser.add_argument("--test", type=int, default=60, help="slides to test with")
    parser.add_argument("--seed", type=int, default=0, help="which cohort")
    parser.add_argument("--side-px", type=int, default=3072, help="side of a slide")
    parser.add_argument("--tumour-share", type=float, default=0.5)
    parser.add_argument("--nests", type=int, nargs=2, default=(1, 3), metavar=("LEAST", "MOST"))
    parser.add_argument(
        "--nest-um", type=float, nargs=2, default=(120.0, 260.0), metavar=("LEAST", "MOST")
    )
    parser.add_argument("--mimics", type=int, nargs=2, default=(1, 3), metavar=("LEAST", "MOST"))
    parser.add_argument("--bias", choices=get_args(Bias), help="what gives tumour slides away")
    parser.add_argument(
        "--biased-splits", nargs="+", choices=SPLITS, default=SPLITS, help="where the bias is"
    )
    given = vars(parser.parse_args(arguments))
    given |= {name: tuple(given[name]) for name in ("nests", "nest_um", "mimics")}
    try:
        print(make_cohort(given.pop("out"), **given, progress=_report))
    except WsiXaiError as error:
        parser.exit(error.exit_status, f"{parser.prog}: error: {error}\n")


def _report(done: int, total: int) -> None:
    print(f"\rslide {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
