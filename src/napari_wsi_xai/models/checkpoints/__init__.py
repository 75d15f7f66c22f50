"""Authors' checkpoints: read, recognise and rebuild them as heads of this package."""

from __future__ import annotations

from napari_wsi_xai.models.checkpoints.bundling import bundle_checkpoint
from napari_wsi_xai.models.checkpoints.facts import CheckpointFacts, inspect_checkpoint
from napari_wsi_xai.models.checkpoints.importing import import_checkpoint

__all__ = ["CheckpointFacts", "bundle_checkpoint", "import_checkpoint", "inspect_checkpoint"]
