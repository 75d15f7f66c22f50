"""What a head cannot be asked by its name or its file: options in words, and how many scales.

No torch here: the window shows these before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ARCHITECTURE_NAMES",
    "HEADS",
    "HEAD_OPTIONS",
    "OVER_MAGNIFICATIONS",
    "HeadOption",
]

ARCHITECTURE_NAMES = {
    "abmil": "attention (ABMIL)",
    "abmil-gated": "gated attention (ABMIL)",
    "clam-sb": "CLAM, one attention branch",
    "clam-mb": "CLAM, one branch a class",
    "dsmil": "DSMIL",
    "transmil": "TransMIL",
    "xmil-attnmil": "xMIL attention",
    "xmil-transmil": "xMIL TransMIL",
    "dtfd": "DTFD-MIL",
    "chowder": "CHOWDER",
    "mil-fc": "best tile (MIL of CLAM's code)",
    "mil-sil": "single tiles, averaged (SIL)",
    "sparseconvmil": "SparseConvMIL",
    "zoommil": "ZoomMIL (several magnifications)",
    "msmil": "MS-DA-MIL (several magnifications)",
    "mean": "mean of tiles",
    "max": "best tile (max)",
}
"""Every MIL architecture, in the order people are offered them, and what it is called."""

HEADS = tuple(ARCHITECTURE_NAMES)
"""MIL architectures; written out here because asking the models' room would load torch."""

OVER_MAGNIFICATIONS = frozenset(("zoommil", "msmil"))
"""Heads that look at a slide at several magnifications, always."""


@dataclass(frozen=True)
class HeadOption:
    """An option of a head that its file does not tell.

    Attributes
    ----------
    name
        Keyword of the head's constructor.
    label, tooltip
        For people.
    choices
        (words, value) to choose from; the first is the default. Empty for a whole number.
    default, lowest, highest
        Of a whole number.
    """

    name: str
    label: str
    tooltip: str
    choices: tuple[tuple[str, str], ...] = ()
    default: int = 0
    lowest: int = 0
    highest: int = 0


_CROP = HeadOption(
    "crop",
    "Attention library",
    "This head fills the bag up to a round number of tiles and drops the filling afterwards, at "
    "the end\nthat its attention library (nystrom-attention) chose: from 0.0.10 on the right one, "
    "before that the other.\nThe file does not say which was installed in training; codes from "
    "before 2022 used the old one.",
    (("0.0.10 or newer", "back"), ("0.0.9 or older", "front")),
)

_ATTENTION = HeadOption(
    "attention",
    "Attention",
    "How tiles are compared with each other: Nyström attention is the approximation that the "
    "published\nmodels use, full attention compares every pair. The file fits both; the training "
    "settings say.",
    (("Nyström (approximate)", "nystrom"), ("full (every pair)", "dot_prod")),
)

_OPENED = HeadOption(
    "k_sample",
    "Tiles opened",
    "How many tiles are looked into at each magnification but the finest (k in the paper, 12 in "
    "its\ncode). The published models were trained with a fixed number: keep to it.",
    default=12,
    lowest=1,
    highest=1000,
)

_DISTILLATION = HeadOption(
    "distillation",
    "Groups decide by",
    "The bag is cut into groups at random; this is what each group hands on to the decision:\nthe "
    "attention-weighted mean of its tiles (AFS), its best tile (MaxS), or its best and its worst "
    "tile (MaxMinS).\nThe file fits all three; the training settings say.",
    (
        ("weighted mean (AFS)", "afs"),
        ("best tile (MaxS)", "maxs"),
        ("best and worst tile (MaxMinS)", "maxmins"),
    ),
)

_GROUPS = HeadOption(
    "groups",
    "Groups",
    "Into how many groups the bag is cut; 4 in the published code.",
    default=4,
    lowest=1,
    highest=100,
)

_SITE = HeadOption(
    "downsample",
    "Site (level-0 px)",
    "Edge of a cell of the head's grid, in pixels of the full-resolution slide. Tiles in one cell "
    "are averaged,\nand tiles in touching cells are neighbours, so the edge of a tile on the slide "
    "keeps every tile apart.\nThe file does not say which was used in training.",
    default=10,
    lowest=1,
    highest=100_000,
)

HEAD_OPTIONS: dict[str, tuple[HeadOption, ...]] = {
    "transmil": (_CROP,),
    "xmil-transmil": (_ATTENTION,),
    "zoommil": (_OPENED,),
    "sparseconvmil": (_SITE,),
    "dtfd": (_DISTILLATION, _GROUPS),
}
"""Options by architecture; most have none."""
