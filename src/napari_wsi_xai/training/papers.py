"""How published data sets were trained on in the papers whose heads are reproduced."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_wsi_xai.errors import BadArgumentError

__all__ = ["PAPERS", "Paper", "paper_of"]


@dataclass(frozen=True)
class Paper:
    """Settings of a paper on one data set, where they are not those of every training.

    Attributes
    ----------
    data_set
        A key of ``PUBLIC_SETS``.
    citation
        The paper.
    head, also
        A key of ``MIL_ARCHITECTURES``, and others that the paper trained alike.
    encoder, weights
        What describes a tile: a network and the origin of its weights.
    tile_px, mpps
        Edge of a tile in pixels, at so many micrometres per pixel, coarse to fine.
    folds
        Folds of a cross-validation; 1 for one split, the official one where there is one.
    members
        Heads whose mean decides, or None for one head.
    settings
        Settings of the recipe that differ from the head's own.
    options
        What the data set's reader is told.
    end_to_end
        Whether the encoder was trained too; ``start`` and ``start_settings`` then stand in for
        encoder and weights.
    start, start_settings
        The network that training end to end begins with, with random weights, and settings that
        only matter then.
    min_tissue
        Smallest share of tissue in a tile (the coarsest), where it is not the usual one.
    nuclei
        Whether the bags are tiles around marked nuclei of images, and not of slides.
    """

    data_set: str
    citation: str
    head: str
    encoder: str
    tile_px: int
    mpps: tuple[float, ...]
    weights: str | None = "DEFAULT"
    also: tuple[str, ...] = ()
    folds: int = 1
    members: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    end_to_end: bool = False
    start: str | None = None
    start_settings: Mapping[str, Any] = field(default_factory=dict)
    min_tissue: float | None = None
    nuclei: bool = False

    @property
    def heads(self) -> tuple[str, ...]:
        """All heads that the settings are for."""
        return (self.head, *self.also)


_CHOWDER = Paper(
    "camelyon16",
    "CHOWDER: Courtiol et al., Classification and Disease Localization in Histopathology Using "
    "Only Global Labels, 2018 (arXiv 1802.02212)",
    head="chowder",
    encoder="resnet50",
    tile_px=224,
    mpps=(0.5,),
    members=10,
)

_ABMIL = Paper(
    "crc-histophenotypes",
    "ABMIL: Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning, ICML 2018 "
    "(arXiv 1802.04712)",
    head="abmil",
    also=("abmil-gated",),
    encoder="resnet18",
    tile_px=27,
    mpps=(0.55,),
    folds=10,
    settings={"lr": 1e-4, "weight_decay": 5e-4, "epochs": 100},
    end_to_end=True,
    start="small-36-48-512",
    start_settings={"augment": {"flips": True}},
    nuclei=True,
)

_ZOOMMIL = Paper(
    "bracs",
    "ZoomMIL: Thandiackal et al., Differentiable Zooming for Multiple Instance Learning on "
    "Whole-Slide Images, ECCV 2022 (arXiv 2204.12454)",
    head="zoommil",
    encoder="resnet50",
    tile_px=256,
    mpps=(8.0, 4.0, 1.0),
    options={"labels": "group"},
    min_tissue=0.1,
)

_CLAM = Paper(
    "tcga",
    "CLAM: Lu et al., Data-efficient and weakly supervised computational pathology on whole-slide "
    "images, Nature Biomedical Engineering 2021 (arXiv 2004.09666)",
    head="clam-sb",
    also=("clam-mb",),
    encoder="resnet50",
    tile_px=256,
    mpps=(0.5,),
    folds=10,
    settings={"subtyping": True, "class_balance": "sampler"},
    options={"slides": "DX"},
)

PAPERS: dict[str, Paper] = {one.data_set: one for one in (_CHOWDER, _ABMIL, _ZOOMMIL, _CLAM)}
"""The paper that is reproduced on each data set.

- camelyon16: CHOWDER averages networks that began with other weights, here ten.
- crc-histophenotypes: the learning rate and weight decay of the paper's appendix. Its network
  (two convolutions of 36 and 48 channels and 512 numbers a tile) is ``small-36-48-512`` here, which
  has batch norms.
- bracs: ZoomMIL was trained on BRIGHT, a challenge with slides of the same hospital, at 1.25x, 2.5x
  and 10x with three classes, on tiles with at least a tenth of tissue at the coarsest. Its
  descriptors come from a ResNet-50 cut off after the third stage.
- tcga: CLAM's settings for telling subtypes apart (subtyping, classes drawn evenly); its ResNet-50
  is cut off likewise, and its instance loss is a smooth SVM where here it is cross entropy.
"""


def paper_of(data_set: str) -> Paper:
    """The paper that is reproduced on a data set.

    Raises
    ------
    BadArgumentError
        None is; the message names the nearest data set.
    """
    if data_set not in PAPERS:
        near = difflib.get_close_matches(data_set, PAPERS, 1, 0)
        raise BadArgumentError(
            f"there is no data set {data_set!r} to reproduce a paper on, perhaps "
            f"{near[0]}: there are {', '.join(PAPERS)}."
        )
    return PAPERS[data_set]
