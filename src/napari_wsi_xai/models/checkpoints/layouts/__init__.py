"""Layouts of published heads: one file an architecture or family, gathered here."""

from __future__ import annotations

from napari_wsi_xai.models.checkpoints.layout import Layout
from napari_wsi_xai.models.checkpoints.layouts import (
    abmil,
    chowder,
    clam,
    dsmil,
    dtfd,
    instance,
    mil_fc,
    msmil,
    sparseconvmil,
    transmil,
    xmil_attnmil,
    xmil_transmil,
    zoommil,
)

__all__ = ["LAYOUTS"]

LAYOUTS: tuple[Layout, ...] = (
    *abmil.LAYOUTS,
    *zoommil.LAYOUTS,
    *sparseconvmil.LAYOUTS,
    *msmil.LAYOUTS,
    *clam.LAYOUTS,
    *mil_fc.LAYOUTS,
    *chowder.LAYOUTS,
    *xmil_attnmil.LAYOUTS,
    *instance.LAYOUTS,
    *dsmil.LAYOUTS,
    *transmil.LAYOUTS,
    *xmil_transmil.LAYOUTS,
    *dtfd.LAYOUTS,
)
"""Every known layout; where two of one architecture fit the same tensors, the first is taken."""
