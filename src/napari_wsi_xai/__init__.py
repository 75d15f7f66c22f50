"""See why a model called a whole slide.

Every public name is imported when it is first used, so that ``import napari_wsi_xai`` costs
nothing: neither torch nor napari nor Qt is loaded by it.

>>> from napari_wsi_xai import open_slide, load_model, score
>>> run = score(open_slide("slide.svs"), load_model("model/"), out="slide.wsixai.zarr")
>>> run.compute().probabilities
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_wsi_xai import errors

if TYPE_CHECKING:
    from napari_wsi_xai.annotations import (
        Annotation,
        cover_fraction,
        rasterise,
        read_geojson,
        write_geojson,
    )
    from napari_wsi_xai.errors import WsiXaiError, WsiXaiWarning
    from napari_wsi_xai.evaluate import Localisation, localisation_auc, tile_truth
    from napari_wsi_xai.geometry import Region, layer_transform, level0_to_um, um_to_level0
    from napari_wsi_xai.models import (
        Encoder,
        EncoderSpec,
        MILModel,
        Model,
        build_encoder,
        build_mil,
        build_model,
        bundle_checkpoint,
        import_checkpoint,
        inspect_checkpoint,
        list_encoders,
        load_model,
        save_model,
    )
    from napari_wsi_xai.runs import (
        FeatureBag,
        Progress,
        Run,
        ZoomRun,
        open_run,
        read_feature_bag,
        run_from_bag,
        score,
        write_feature_bag,
    )
    from napari_wsi_xai.slides import Slide, convert_slide, open_slide
    from napari_wsi_xai.tiles import (
        TileGrid,
        TissueOptions,
        read_tiles,
        tile_grid,
        tissue_mask,
        tissue_tiles,
    )
    from napari_wsi_xai.viewer import add_layers

_ROOMS = {
    "annotations": (
        "Annotation",
        "cover_fraction",
        "rasterise",
        "read_geojson",
        "write_geojson",
    ),
    "errors": ("WsiXaiError", "WsiXaiWarning"),
    "evaluate": ("Localisation", "localisation_auc", "tile_truth"),
    "geometry": ("Region", "layer_transform", "level0_to_um", "um_to_level0"),
    "models": (
        "Encoder",
        "EncoderSpec",
        "MILModel",
        "Model",
        "build_encoder",
        "build_mil",
        "build_model",
        "bundle_checkpoint",
        "import_checkpoint",
        "inspect_checkpoint",
        "list_encoders",
        "load_model",
        "save_model",
    ),
    "runs": (
        "FeatureBag",
        "Progress",
        "Run",
        "ZoomRun",
        "open_run",
        "read_feature_bag",
        "run_from_bag",
        "score",
        "write_feature_bag",
    ),
    "slides": ("Slide", "convert_slide", "open_slide"),
    "tiles": (
        "TileGrid",
        "TissueOptions",
        "read_tiles",
        "tile_grid",
        "tissue_mask",
        "tissue_tiles",
    ),
    "viewer": ("add_layers",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Annotation",
    "Encoder",
    "EncoderSpec",
    "FeatureBag",
    "Localisation",
    "MILModel",
    "Model",
    "Progress",
    "Region",
    "Run",
    "Slide",
    "TileGrid",
    "TissueOptions",
    "WsiXaiError",
    "WsiXaiWarning",
    "ZoomRun",
    "__version__",
    "add_layers",
    "build_encoder",
    "build_mil",
    "build_model",
    "bundle_checkpoint",
    "convert_slide",
    "cover_fraction",
    "errors",
    "import_checkpoint",
    "inspect_checkpoint",
    "layer_transform",
    "level0_to_um",
    "list_encoders",
    "load_model",
    "localisation_auc",
    "open_run",
    "open_slide",
    "rasterise",
    "read_feature_bag",
    "read_geojson",
    "read_tiles",
    "run_from_bag",
    "save_model",
    "score",
    "tile_grid",
    "tile_truth",
    "tissue_mask",
    "tissue_tiles",
    "um_to_level0",
    "write_feature_bag",
    "write_geojson",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("napari-wsi-xai")
    elif name in _ROOM_OF:
        value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported yet or not."""
    return sorted({*globals(), *__all__})
