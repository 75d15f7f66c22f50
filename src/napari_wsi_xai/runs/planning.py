"""From a slide, a model and options to the plan and identity of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, StoreMismatchError
from napari_wsi_xai.runs.plan import RunPlan
from napari_wsi_xai.runs.store_group import StoreGroup
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles import TileGrid, Tissue

if TYPE_CHECKING:
    from napari_wsi_xai.models import Model

__all__ = ["EncodeOptions", "RunInputs", "require_settled"]


@dataclass(frozen=True)
class EncodeOptions:
    """How tiles are encoded and kept; see :func:`score`.

    Raises
    ------
    BadArgumentError
        A number is out of its limits.
    """

    precision: str = "auto"
    device: str = "auto"
    engine: str = "auto"
    block_tiles: int = 8
    batch_size: int = 32
    feature_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not 1 <= self.block_tiles <= 64:
            raise BadArgumentError(f"block_tiles={self.block_tiles} is not between 1 and 64.")
        if not 1 <= self.batch_size <= 4096:
            raise BadArgumentError(f"batch_size={self.batch_size} is not between 1 and 4096.")
        if self.feature_dtype not in ("float32", "float16"):
            raise BadArgumentError(
                f"feature_dtype {self.feature_dtype!r} is not 'float32' or 'float16'."
            )


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What every magnification of a run shares."""

    slide: Slide
    model: Model
    options: EncodeOptions

    def plan(self, grid: TileGrid, selected: NDArray[np.bool_]) -> RunPlan:
        """The plan of one magnification."""
        return RunPlan(
            source=self.slide.source,
            mpp=self.slide.mpp if self.slide.mpp_source == "user" else None,
            encoder=self.model.encoder,
            grid=grid,
            selected=selected,
            block_tiles=self.options.block_tiles,
            precision=self.options.precision,
            engine=self.options.engine,
            device=self.options.device,
            batch_size=self.options.batch_size,
        )

    def identity(self, grid: TileGrid, selected: NDArray[np.bool_]) -> dict[str, Any]:
        """What must agree for results to live in one store."""
        return {
            "slide": self.slide.fingerprint,
            "grid": grid.to_dict(),
            "tissue": Tissue(selected.astype(np.float32), selected).digest,
            "encoder": self.model.encoder.content_hash,
            "model": self.model.content_hash,
            "block_tiles": self.options.block_tiles,
            "feature_dtype": self.options.feature_dtype,
        }

    def provenance(self) -> dict[str, Any]:
        """Where results come from; without times, so that equal runs make equal stores."""
        slide, model = self.slide, self.model
        return {
            "slide": {
                "name": slide.name,
                "source": slide.source,
                "fingerprint": slide.fingerprint,
                "shape": list(slide.shape),
                "mpp": list(slide.require_mpp()),
                "mpp_source": slide.mpp_source,
            },
            "model": {
                "name": model.name,
                "classes": list(model.classes),
                "architecture": model.mil.architecture,
                "score_kind": model.mil.score_kind,
                "encoder": model.encoder.name,
                "seed": model.encoder.spec.seed,
                "trained": model.encoder.trained and bool(model.metadata.get("trained", True)),
                "content_hash": model.content_hash,
            },
            "versions": _versions(),
        }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("napari-wsi-xai", "torch", "torchvision", "zarr", "numpy", "openslide-python")
    return {name: version(name) for name in names}


def require_settled(store: StoreGroup, options: EncodeOptions) -> None:
    """A store keeps the precision and engine its first blocks were made with."""
    settled = store.attributes.get("engine") or {}
    for name in ("precision", "engine"):
        wanted = getattr(options, name)
        if settled and wanted not in ("auto", settled[name]):
            raise StoreMismatchError(
                f"{store.path} was begun with {name} {settled[name]}, not {wanted}: choose "
                f"'auto' or {settled[name]!r} to go on with it, or another output."
            )
