"""MIL heads (f_s, f_a, f_cls): one architecture a file, found by name."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.abmil import ABMIL, GatedABMIL
from napari_wsi_xai.models.mil.base import MILModel, MILOutput
from napari_wsi_xai.models.mil.chowder import CHOWDER
from napari_wsi_xai.models.mil.clam import CLAMMB, CLAMSB
from napari_wsi_xai.models.mil.dsmil import DSMIL
from napari_wsi_xai.models.mil.dtfd import DTFD
from napari_wsi_xai.models.mil.ensemble import EnsembleMIL
from napari_wsi_xai.models.mil.max import MaxMIL
from napari_wsi_xai.models.mil.mean import MeanMIL
from napari_wsi_xai.models.mil.mil_fc import MILFC
from napari_wsi_xai.models.mil.mil_sil import MILSIL
from napari_wsi_xai.models.mil.msmil import MSMIL
from napari_wsi_xai.models.mil.sparseconvmil import SparseConvMIL
from napari_wsi_xai.models.mil.transmil import TransMIL
from napari_wsi_xai.models.mil.xmil_attnmil import XMILAttnMIL
from napari_wsi_xai.models.mil.xmil_transmil import XMILTransMIL
from napari_wsi_xai.models.mil.zoommil import ZoomMIL

__all__ = ["HEADS", "MIL_ARCHITECTURES", "MILModel", "MILOutput", "build_mil"]

MIL_ARCHITECTURES: dict[str, type[MILModel]] = {
    head.architecture: head
    for head in (
        MeanMIL,
        MaxMIL,
        ABMIL,
        GatedABMIL,
        CHOWDER,
        ZoomMIL,
        SparseConvMIL,
        MSMIL,
        CLAMSB,
        CLAMMB,
        MILFC,
        MILSIL,
        XMILAttnMIL,
        DSMIL,
        TransMIL,
        XMILTransMIL,
        DTFD,
    )
}
"""Every architecture by name; a new one is a file and an entry here."""

HEADS: dict[str, type[MILModel]] = {**MIL_ARCHITECTURES, EnsembleMIL.architecture: EnsembleMIL}
"""What a file may hold: every architecture, and ensembles of one."""


def build_mil(
    architecture: str, in_features: int, num_classes: int = 2, **arguments: Any
) -> MILModel:
    """Build a head with fresh weights, in eval mode.

    Parameters
    ----------
    architecture
        A key of :data:`MIL_ARCHITECTURES`, or ``"ensemble"``.
    in_features
        Length D of a descriptor.
    num_classes
        Number of classes.
    **arguments
        What else the architecture takes; see its class.

    Raises
    ------
    BadArgumentError
        Unknown architecture, or an argument that it does not take.
    """
    head = HEADS.get(architecture)
    if head is None:
        raise BadArgumentError(
            f"MIL architecture {architecture!r} is unknown; it is one of {', '.join(HEADS)}."
        )
    try:
        model = head(in_features, num_classes, **arguments)
    except TypeError as error:
        raise BadArgumentError(f"MIL architecture {architecture!r}: {error}.") from error
    return model.eval()
