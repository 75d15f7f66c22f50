"""What the features of a cohort are, told without reading them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from napari_wsi_xai.errors import CohortError, StoreError
from napari_wsi_xai.runs import read_feature_bag
from napari_wsi_xai.runs.opening import open_store
from napari_wsi_xai.runs.zoom_store import MagnificationStore
from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.training.bag import MagnificationUse
from napari_wsi_xai.training.cohort import Case, Cohort
from napari_wsi_xai.training.wording import listed

__all__ = ["FeatureFacts", "feature_facts"]


@dataclass(frozen=True)
class FeatureFacts:
    """Where descriptors come from; what a file does not say is None.

    Attributes
    ----------
    length
        Numbers in a descriptor of one magnification.
    encoder
        Name of the encoder.
    encoder_hash
        Content hash of the encoder, where run stores were made with it.
    tile_px
        Edge of a tile in pixels.
    mpps
        Micrometres per pixel of every magnification, coarse to fine.
    """

    length: int
    encoder: str | None = None
    encoder_hash: str | None = None
    tile_px: int | None = None
    mpps: tuple[float, ...] | None = None

    def in_features(self, use: MagnificationUse = "single") -> int:
        """Length D that a head with this ``magnification_use`` takes."""
        side_by_side = len(self.mpps or (0,)) if use == "concat" else 1
        return self.length * side_by_side


def feature_facts(cohort: Cohort) -> FeatureFacts:
    """What the features of all cases have in common.

    Raises
    ------
    CohortError
        Slides differ in descriptor length, encoder, tile size or magnifications, or are not
        encoded yet; the message names some of each kind.
    StoreError
        Features cannot be read.
    """
    slides = [case.slide for case in cohort.cases if case.kind == "slide"]
    if slides:
        raise CohortError(f"features of {listed(slides)} are not there yet: encode the slides.")
    of: dict[FeatureFacts, list[str]] = defaultdict(list)
    for case in cohort.cases:
        of[_facts_of(case)].append(case.slide)
    if len(of) == 1:
        return next(iter(of))
    first, second = sorted(of, key=lambda facts: -len(of[facts]))[:2]
    differ = [
        f"{word} {getattr(first, name)} of {of[first][0]}, {getattr(second, name)} of "
        f"{listed(of[second])}"
        for name, word in _WORDS.items()
        if getattr(first, name) != getattr(second, name)
    ]
    raise CohortError(
        f"the slides' features do not belong together ({'; '.join(differ)}): make all of them "
        "in one way."
    )


_WORDS = {
    "length": "descriptor length",
    "encoder": "encoder",
    "encoder_hash": "encoder's content",
    "tile_px": "tile edge in pixels",
    "mpps": "um/px",
}


def _facts_of(case: Case) -> FeatureFacts:
    if case.kind == "run":
        return _facts_of_run(case)
    if case.kind == "pt":
        return FeatureFacts(read_feature_bag(case.features).features.shape[1])
    import h5py

    try:
        with h5py.File(case.features, "r") as file:
            length = int(file["features"].shape[-1])
            about = dict(file["coords"].attrs)
        tile_px, mpp = about.get("patch_size"), about.get("mpp")
        edge = None if tile_px is None else int(tile_px)
        mpps = None if mpp is None else (float(mpp),)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{case.features} is not a CLAM or TRIDENT feature file: {error}."
        ) from error
    encoder, digest = (about.get(name) for name in ("encoder", "encoder_hash"))
    return FeatureFacts(
        length,
        None if encoder is None else str(encoder),
        None if digest is None else str(digest),
        edge,
        mpps,
    )


def _facts_of_run(case: Case) -> FeatureFacts:
    store = open_store(case.features)
    about = store.attributes
    first = store.levels()[0] if isinstance(store, MagnificationStore) else store
    grid = TileGrid.from_dict(first.attributes["identity"]["grid"])
    mpps = store.mpps if isinstance(store, MagnificationStore) else (grid.mpp,)
    return FeatureFacts(
        int(first.features.shape[2]),
        str(about["model"]["encoder"]),
        about["identity"].get("encoder"),
        grid.tile_px,
        tuple(float(mpp) for mpp in mpps),
    )
