"""A watched slide: its bag, where its tiles lie, and what is known of places on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from napari_wsi_xai.annotations import Annotation, read_geojson
from napari_wsi_xai.errors import BadArgumentError, SlideError
from napari_wsi_xai.evaluate import tile_truth
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.epoch_store import StoredSlide

if TYPE_CHECKING:
    from torch import Tensor

    from napari_wsi_xai.runs import Run, ZoomRun
    from napari_wsi_xai.tiles import TileGrid
    from napari_wsi_xai.training.bag import MagnificationUse
    from napari_wsi_xai.training.cohort import Case
    from napari_wsi_xai.training.slide_tiles import SlideTiles
    from napari_wsi_xai.training.tile_encoder import TileEncoder

__all__ = ["EXCLUDED_CLASSES", "WatchedSlide", "is_excluded", "watch_bag", "watch_case"]

MOST_BYTES = 512 * 2**20
"""Most memory that the tiles of a watched slide are kept in; larger ones are read at each look."""

EXCLUDED_CLASSES = frozenset(
    ("exclude", "excluded", "exclusion", "ignore", "artefact", "artifact", "pen", "pen mark")
)
"""Classes of outlines around what no decision may rest on; all others are ground truth."""


@dataclass(frozen=True, eq=False)
class WatchedSlide:
    """A slide to look at while a head is trained.

    Attributes
    ----------
    place
        Name, label and grids.
    features, coords_level0
        Its bag, as the head takes it: tensors, or one a magnification, coarse to fine. Where an
        encoder is trained too, its tiles.
    indices
        (n, 2) row and column of the bag's tiles on each of the grids.
    truth, excluded, tissue
        (rows, cols) share of each tile of the finest grid on the ground truth, on regions that no
        decision may rest on, and on tissue; None where it is not known.
    """

    place: StoredSlide
    features: Tensor | tuple[Tensor, ...] | SlideTiles
    coords_level0: Tensor | tuple[Tensor, ...] | None
    indices: tuple[NDArray[np.int64], ...]
    truth: NDArray[np.float32] | None = None
    excluded: NDArray[np.float32] | None = None
    tissue: NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """Of the slide."""
        return self.place.name


def is_excluded(annotation: Annotation) -> bool:
    """Whether the outline is around what no decision may rest on, by its class or else its name."""
    word = annotation.classification or annotation.name or ""
    return word.strip().rstrip("*").lower().replace("-", " ") in EXCLUDED_CLASSES


def watch_bag(
    bag: Bag,
    grids: Sequence[TileGrid],
    annotations: Iterable[Annotation] = (),
    *,
    indices: Sequence[NDArray[np.int64]] | None = None,
    tissue: NDArray[np.float32] | None = None,
    source: str | None = None,
    in_micrometres: bool = True,
    mpp_stated: bool = False,
) -> WatchedSlide:
    """A slide to watch from its bag and the grids of its tiles, coarse to fine.

    ``indices`` says where the tiles lie on the grids, where their corners do not. Outlines of
    :data:`EXCLUDED_CLASSES` are excluded regions, all others ground truth.

    Raises
    ------
    BadArgumentError
        The bag has no coordinates, or tiles outside the grids.
    """
    place = StoredSlide(bag.name, bag.label, tuple(grids), source, in_micrometres, mpp_stated)
    found = tuple(indices) if indices is not None else _indices(bag, grids)
    outlines = list(annotations)
    excluded = [one for one in outlines if is_excluded(one)]
    truth = [one for one in outlines if not is_excluded(one)]
    return WatchedSlide(
        place,
        bag.features,
        bag.coords_level0,
        found,
        tile_truth(truth, grids[-1]) if truth else None,
        tile_truth(excluded, grids[-1]) if excluded else None,
        tissue,
    )


def _indices(bag: Bag, grids: Sequence[TileGrid]) -> tuple[NDArray[np.int64], ...]:
    """Row and column of the tiles, by their corners."""
    corners = bag.coords_level0
    if corners is None:
        raise BadArgumentError(
            f"the tiles of {bag.name} have no coordinates, so there is no map to watch: watch "
            "slides with a run store or an .h5 file."
        )
    parts = corners if isinstance(corners, tuple) else (corners,)
    found = []
    for grid, part in zip(grids, parts, strict=True):
        index = grid.index_at(part.numpy() + np.asarray(grid.stride_level0) / 2)
        if not ((index >= 0) & (index < np.asarray(grid.shape))).all():
            raise BadArgumentError(f"{bag.name} has tiles outside its grid {grid.shape}.")
        found.append(index)
    return tuple(found)


def watch_case(
    case: Case,
    use: MagnificationUse = "single",
    outlines: Iterable[Path] = (),
    excluded: Iterable[Path] = (),
    encoder: TileEncoder | None = None,
) -> WatchedSlide:
    """A slide of a cohort to watch.

    Parameters
    ----------
    case
        The slide; its features are a run store or an ``.h5`` file.
    use
        ``MILModel.magnification_use`` of the head.
    outlines
        GeoJSON files beside the case's own annotation, of excluded regions for example.
    excluded
        GeoJSON files of nothing but excluded regions, whatever class they have there.
    encoder
        What is trained too: its tiles are taken, and the case's features are a slide.

    Raises
    ------
    BadArgumentError
        Its tiles have no coordinates.
    StoreError, AnnotationError
        A file cannot be read.
    """
    from napari_wsi_xai.runs import open_run
    from napari_wsi_xai.training.bags import read_bag

    files = ([case.annotation] if case.annotation else []) + list(outlines)
    annotations = [one for path in files for one in read_geojson(path)]
    annotations += [
        replace(one, classification="excluded") for path in excluded for one in read_geojson(path)
    ]
    if encoder is not None:
        return _watch_tiles(case, annotations, encoder)
    bag = read_bag(case, use)
    if case.kind != "run":
        return _watch_file(case, bag, annotations)
    run = open_run(case.features)
    grids = _grids(run, use)
    about = run.store.attributes["slide"]
    return watch_bag(
        bag,
        grids,
        annotations,
        tissue=_tissue(run, grids[-1]),
        source=about["source"],
        mpp_stated=about["mpp_source"] == "user",
    )


def _watch_tiles(
    case: Case, annotations: Iterable[Annotation], encoder: TileEncoder
) -> WatchedSlide:
    """A slide's tiles, as they are cut for the encoder; in memory where they are few."""
    from napari_wsi_xai.slides import open_slide
    from napari_wsi_xai.tiles import tissue_mask
    from napari_wsi_xai.training.slide_tiles import is_image, tiles_of

    if is_image(case):
        raise BadArgumentError(
            f"{case.slide} is an image with marked nuclei, whose tiles overlap: watch slides."
        )
    tiles = tiles_of(case, encoder.tile_px, encoder.mpp)
    assert tiles.grid is not None
    assert tiles.index is not None
    with open_slide(case.features, mpp=case.missing_mpp()) as slide:
        tissue = tissue_mask(slide).fraction(tiles.grid)
        source, stated = slide.source, slide.mpp_source == "user"
    bag = Bag(torch.empty(0), torch.from_numpy(tiles.corners), case.label, case.slide)
    places = {"indices": (tiles.index,), "tissue": tissue, "source": source, "mpp_stated": stated}
    watched = watch_bag(bag, (tiles.grid,), annotations, **places)  # type: ignore[arg-type]
    return replace(watched, features=tiles.read() if tiles.nbytes <= MOST_BYTES else tiles)


def _grids(run: Run | ZoomRun, use: MagnificationUse) -> tuple[TileGrid, ...]:
    levels = getattr(run, "levels", None) or [run]
    return tuple(one.grid for one in (levels if use in ("zoom", "pool") else levels[-1:]))


def _tissue(run: Run | ZoomRun, grid: TileGrid) -> NDArray[np.float32] | None:
    """Tissue on the slide itself; None where the slide is not at hand."""
    from napari_wsi_xai.tiles import tissue_mask

    if run.store.attributes["slide"]["source"] is not None:
        with suppress(SlideError), run.slide as slide:
            return tissue_mask(slide).fraction(grid)
    return None


def _watch_file(case: Case, bag: Bag, annotations: Iterable[Annotation]) -> WatchedSlide:
    """Features of another tool: on a grid of their own, in micrometres where the file says."""
    from napari_wsi_xai.runs import read_feature_bag
    from napari_wsi_xai.runs.imported import grid_of_bag

    file = read_feature_bag(case.features)
    stated = np.asarray(file.attributes.get("level0_mpp_yx", (0.0, 0.0)), dtype=np.float64)
    known = stated.shape == (2,) and bool((stated > 0).all())
    mpp = (float(stated[0]), float(stated[1])) if known else (1.0, 1.0)
    grid, cells = grid_of_bag(file, mpp, case.slide)
    return watch_bag(bag, (grid,), annotations, indices=(cells,), in_micrometres=known)
