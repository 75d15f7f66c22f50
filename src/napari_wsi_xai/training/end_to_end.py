"""What a training end to end needs besides the head: slides' tiles, and the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil import MILModel
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.bags import BUDGET_BYTES, Kept
from napari_wsi_xai.training.cohort import SIDES, Cohort
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.nuclei import MPP, TILE_PX
from napari_wsi_xai.training.recipes import Recipe
from napari_wsi_xai.training.slide_tiles import SlideTiles, find_tiles, is_image
from napari_wsi_xai.training.splits import Split
from napari_wsi_xai.training.tile_bags import TileBagDataset
from napari_wsi_xai.training.tile_encoder import TileEncoder

__all__ = ["EndToEnd", "begin_end_to_end", "facts_of_start"]


@dataclass
class EndToEnd:
    """Slides' tiles and the network that is trained on them.

    Attributes
    ----------
    encoder
        The network.
    slides
        Tiles of every slide of the split, by the case's index.
    kept
        Pixels in memory.
    """

    encoder: TileEncoder
    slides: dict[int, SlideTiles]
    kept: Kept

    def bags(self, cohort: Cohort, indices: Sequence[int], recipe: Recipe) -> TileBagDataset:
        """Bags to train on."""
        drawn = (recipe.most_tiles, recipe.seed)
        return TileBagDataset(cohort, indices, *drawn, slides=self.slides, kept=self.kept)

    def judged(self, cohort: Cohort, indices: Sequence[int]) -> TileBagDataset:
        """Bags to judge, of all tiles."""
        return TileBagDataset(cohort, indices, slides=self.slides, kept=self.kept, whole=True)

    def judge_with(self, state: dict[str, Tensor], device: str) -> None:
        """Take the network's tensors from an epoch, and judge on this device."""
        self.encoder.network.load_state_dict(state)
        self.encoder.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")

    def described(self, bag: Bag | SlideTiles) -> Bag:
        """Descriptors of a bag to judge, on the processor."""
        return described(self.encoder, bag, torch.device("cpu"))


def described(encoder: TileEncoder, bag: Bag | SlideTiles, device: torch.device) -> Bag:
    """A bag of tiles as a bag of descriptors, in evaluation mode."""
    if isinstance(bag, SlideTiles):
        coords = torch.from_numpy(bag.corners).to(device)
        return Bag(encoder.encode(bag).to(device), coords, bag.label, bag.name)
    assert isinstance(bag.features, Tensor)
    return replace(bag, features=encoder.encode(bag.features).to(device))


def facts_of_start(
    cohort: Cohort,
    encoder: Encoder | None,
    tile_px: int | None,
    mpps: Sequence[float] | None,
) -> FeatureFacts:
    """What descriptors will be, with the geometry of tiles; 224 px at 0.5 um/px by default.

    Raises
    ------
    BadArgumentError
        No encoder to begin with, or several magnifications.
    """
    if encoder is None:
        raise BadArgumentError(
            "end to end an encoder is trained too: give the one to begin with (--encoder NAME)."
        )
    if mpps is not None and len(mpps) != 1:
        raise BadArgumentError(
            f"mpps={tuple(mpps)}: end to end, tiles of one magnification are trained on."
        )
    nuclei = all(is_image(case) for case in cohort.cases)
    default_px, default_mpp = (TILE_PX, MPP) if nuclei else (224, 0.5)
    mpp = default_mpp if mpps is None else float(mpps[0])
    return FeatureFacts(
        encoder.dim, encoder.name, encoder.content_hash, tile_px or default_px, (mpp,)
    )


def begin_end_to_end(
    cohort: Cohort,
    split: Split,
    recipe: Recipe,
    head: MILModel,
    encoder: Encoder,
    facts: FeatureFacts,
    workers: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> EndToEnd:
    """Find the tiles of all slides and copy the encoder; ``workers`` share the memory for pixels.

    ``tell`` is told of how many slides the tiles are found, and how many there are.

    Raises
    ------
    BadArgumentError
        The head takes several magnifications, or the encoder cannot be trained.
    CohortError
        Slides cannot be used; the message names them.
    """
    if head.magnification_use != "single":
        raise BadArgumentError(
            f"the {head.architecture} head looks at several magnifications, and end to end tiles "
            "of one are trained on: take a head that looks at one."
        )
    assert facts.tile_px is not None
    assert facts.mpps is not None
    geometry = (facts.tile_px, facts.mpps[0])
    network = TileEncoder(encoder, *geometry, recipe.frozen, recipe.augment)
    indices = [index for side in SIDES for index in getattr(split, side)]
    # Bags to train on and bags to judge have workers of their own.
    kept = Kept(BUDGET_BYTES // max(1, 2 * workers))
    return EndToEnd(network, find_tiles(cohort, indices, *geometry, tell), kept)
