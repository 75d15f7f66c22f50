"""Settings that the authors of each head train it with."""

from __future__ import annotations

from typing import Any

__all__ = ["AUTHORS"]


def _recipe(**values: Any) -> dict[str, Any]:
    return values


_ILSE = _recipe(lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-4, epochs=20)
_CLAM = _recipe(lr=1e-4, weight_decay=1e-5, epochs=200, patience=20, least_epochs=50)

AUTHORS: dict[str, dict[str, Any]] = {
    "mean": _ILSE,
    "max": _ILSE,
    "mil-sil": _ILSE,
    "abmil": _ILSE,
    "abmil-gated": _ILSE,
    "chowder": _recipe(lr=1e-3, weight_decay=0.0, accumulate=10, epochs=30),
    "clam-sb": _CLAM,
    "clam-mb": _CLAM,
    "mil-fc": _CLAM,
    "dsmil": _recipe(
        lr=1e-4,
        betas=(0.5, 0.9),
        weight_decay=1e-3,
        epochs=50,
        patience=10,
        monitor="val_auc",
        schedule="cosine",
        lr_end=5e-6,
        init="orthogonal",
    ),
    "transmil": _recipe(
        optimizer="radam",
        lookahead=6,
        lr=2e-4,
        weight_decay=1e-5,
        accumulate=2,
        epochs=200,
        patience=10,
    ),
    "sparseconvmil": _recipe(lr=2e-3, weight_decay=1e-6, accumulate=2, epochs=200),
    "msmil": _recipe(optimizer="sgd", lr=1e-4, weight_decay=0.0, epochs=5, most_tiles=100),
    "zoommil": _recipe(
        lr=1e-4,
        weight_decay=0.0,
        epochs=100,
        monitor="val_weighted_f1",
        schedule="plateau",
        lr_factor=0.8,
        lr_patience=5,
        class_balance="sampler",
        head={"dropout": 0.25},
    ),
    "xmil-attnmil": _recipe(
        optimizer="sgd",
        lr=2e-3,
        weight_decay=0.0,
        accumulate=32,
        epochs=1000,
        most_tiles=2048,
        monitor="val_auc",
    ),
    "xmil-transmil": _recipe(
        optimizer="sgd",
        lr=2e-4,
        weight_decay=0.0,
        accumulate=5,
        epochs=200,
        monitor="val_auc",
        head={"dropout": 0.5, "class_dropout": 0.5},
    ),
    "dtfd": _recipe(
        lr=1e-4,
        weight_decay=1e-4,
        clip=5.0,
        epochs=200,
        monitor="val_auc",
        schedule="steps",
        milestones=(100,),
        lr_factor=0.2,
    ),
}
"""What the authors' training codes do by default; where they are silent,
:class:`~napari_wsi_xai.training.recipes.Recipe` does.

- abmil: AMLab-Amsterdam/AttentionDeepMIL. ``mean``, ``max`` and ``mil-sil`` have no published
  code and are trained as ABMIL is.
- chowder: the implementations that follow the paper; their penalty on what scores the tiles has
  no agreed strength, so ``score_l2`` is 0 (one has 0.5 beside the sum over ten slides, which is
  0.05 here). Ten slides a step. The paper averages networks, see ``train_ensemble``.
- clam-sb, clam-mb, mil-fc: mahmoodlab/CLAM.
- dsmil: binli123/dsmil-wsi. transmil: szc19990412/TransMIL, which uses half precision on a GPU.
- sparseconvmil: MarvinLer/SparseConvMIL; it draws 5 tiles a slide for its demonstration, here all
  are taken.
- msmil: takeuchi-lab/MS-DA-MIL-CNN, second stage, bags of 100 tiles. Its epochs have up to 50
  bags of a slide and those here one, so more ``epochs`` make as many steps.
- zoommil: histocartography/zoommil. xmil-*: bifold-pathomics/xMIL, the settings for CAMELYON16.
- dtfd: hrzhang1123/DTFD-MIL.
"""
