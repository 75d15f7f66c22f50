"""Slides as napari layers: one multiscale image in micrometres that says which slide it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_wsi_xai.errors import SlideError
from napari_wsi_xai.geometry import LayerTransform, Mpp

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_wsi_xai.slides import Slide

__all__ = [
    "METADATA_KEY",
    "SLIDE_SUFFIXES",
    "LayerData",
    "Placement",
    "SlideReference",
    "associated_layer_data",
    "find_slide_layer",
    "is_slide_layer",
    "placement_on",
    "reference_of_layer",
    "show_associated_images",
    "slide_layer_data",
    "state_mpp",
]

LayerData = tuple[Any, dict[str, Any], str]
"""What napari calls a layer data tuple: data, keyword arguments, layer type."""

METADATA_KEY = "napari_wsi_xai"
"""Where every layer of this plugin keeps its provenance, in ``layer.metadata``."""

SLIDE_SUFFIXES = frozenset(
    (
        *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".qptiff"),
        *(".tif", ".tiff", ".btf", ".dcm", ".dicom", ".zarr"),
    )
)

COARSEST_PX = 2048
"""napari reads the whole coarsest level while the window waits, so it must be small."""

AXES = ("y", "x")


@dataclass(frozen=True)
class SlideReference:
    """Which slide a layer shows: enough to open it again in another thread.

    Attributes
    ----------
    source
        Path or URL.
    name
        Name for layers and files.
    mpp
        Micrometres per level-0 pixel, yx; None where nobody has said so yet.
    mpp_stated
        Whether ``mpp`` was stated by the user, not by the file.
    known
        Whether this plugin has opened the slide, so that ``mpp`` None means "the file lacks it".
    """

    source: str
    name: str
    mpp: Mpp | None
    mpp_stated: bool
    known: bool


@dataclass(frozen=True)
class Placement:
    """How level-0 pixels of a slide map to world coordinates: ``scale`` per pixel, ``translate``.

    ``translate`` is where the *centre* of pixel (0, 0) lies, as everywhere in napari.
    """

    scale: tuple[float, float]
    translate: tuple[float, float] = (0.0, 0.0)
    units: tuple[str, str] = ("um", "um")

    def of(self, transform: LayerTransform, mpp: Mpp) -> dict[str, Any]:
        """Layer keywords that put a map with ``transform`` (micrometres) over the slide."""
        ratio = np.asarray(self.scale) / np.asarray(mpp)
        return {
            "scale": tuple(np.asarray(transform.scale) * ratio),
            "translate": tuple(np.asarray(transform.translate) * ratio + self.translate),
            "units": self.units,
            "axis_labels": AXES,
        }


def slide_layer_data(slide: Slide) -> LayerData:
    """The slide as one multiscale RGB image, in micrometres or, without mpp, in pixels.

    Levels are the slide's Zarr arrays, read a chunk at a time, but for the coarsest, which napari
    wants whole: it is read here, so that a slide that cannot be read says so at once.

    Raises
    ------
    SlideReadError
        The coarsest level cannot be read.
    """
    metadata = {
        "kind": "slide",
        "source": slide.source,
        "name": slide.name,
        "backend": slide.backend,
        "fingerprint": slide.fingerprint,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "associated_images": sorted(slide.associated_images),
    }
    keywords = {
        "name": slide.name,
        "rgb": True,
        "multiscale": True,
        "scale": slide.mpp or (1.0, 1.0),
        "translate": (0.0, 0.0),
        "units": ("um", "um") if slide.mpp else ("pixel", "pixel"),
        "axis_labels": AXES,
        "metadata": {METADATA_KEY: metadata},
    }
    return _levels(slide), keywords, "image"


def _levels(slide: Slide) -> list[Any]:
    """Levels for napari: Zarr arrays and, last, a small picture in memory."""
    from napari_wsi_xai.tiles.overview import read_overview

    *finer, coarsest = slide.levels
    whole = slide.bounds.origin == (0, 0) and slide.bounds.shape == slide.shape
    if max(coarsest.shape[:2]) > COARSEST_PX and whole:
        return [*slide.levels, read_overview(slide, max_px=COARSEST_PX).image]
    shape = (int(coarsest.shape[0]), int(coarsest.shape[1]))
    return [*finer, slide.read_region((0, 0), shape, len(slide.levels) - 1)]


def associated_layer_data(slide: Slide) -> list[LayerData]:
    """Label, macro and other images of the slide, each a hidden layer beside it.

    They may show names and other patient data, which is why nothing but an explicit command asks
    for them.
    """
    scale = slide.mpp or (1.0, 1.0)
    height = slide.shape[0] * scale[0]
    layers: list[LayerData] = []
    right = slide.shape[1] * scale[1] * 1.05
    for name, image in slide.associated_images.items():
        pixel = 0.4 * height / max(image.shape[0], 1)
        keywords = {
            "name": f"{slide.name} · {name}",
            "rgb": True,
            "scale": (pixel, pixel),
            "translate": (0.0, right),
            "units": ("um", "um") if slide.mpp else ("pixel", "pixel"),
            "axis_labels": AXES,
            "metadata": {METADATA_KEY: {"kind": "associated image", "source": slide.source}},
        }
        layers.append((image, keywords, "image"))
        right += image.shape[1] * pixel * 1.05
    return layers


def show_associated_images(viewer: napari.viewer.Viewer) -> list[Layer]:
    """Add the label and macro images of the selected slide to the viewer (a menu command)."""
    from napari.layers import Layer as LayerType
    from napari.utils.notifications import show_info, show_warning

    layer = viewer.layers.selection.active
    if layer is None or not is_slide_layer(layer):
        layer = next((one for one in viewer.layers if is_slide_layer(one)), None)
    reference = reference_of_layer(layer) if layer is not None else None
    if reference is None:
        show_warning("Select the layer of a slide first.")
        return []
    from napari_wsi_xai.slides import open_slide

    try:
        slide = open_slide(reference.source, mpp=reference.mpp if reference.mpp_stated else None)
        data = associated_layer_data(slide)
    except SlideError as error:
        show_warning(str(error))
        return []
    if not data:
        show_info(f"{slide.name} holds no label or macro image.")
    return [viewer.add_layer(LayerType.create(*one)) for one in data]


def is_slide_layer(layer: Layer) -> bool:
    """Whether the layer shows a slide: opened by this plugin, or by another from a slide file."""
    if _metadata(layer).get("kind") == "slide":
        return True
    from napari.layers import Image

    path = layer.source.path
    # ``isinstance`` also sees through the proxies that napari hands to plugins.
    if path is None or not isinstance(layer, Image) or not layer.rgb or layer.ndim != 2:
        return False
    return Path(str(path).rstrip("/")).suffix.lower() in SLIDE_SUFFIXES


def reference_of_layer(layer: Layer) -> SlideReference | None:
    """Which slide the layer shows, or None where it shows none."""
    if not is_slide_layer(layer):
        return None
    metadata = _metadata(layer)
    if metadata.get("kind") == "slide":
        return SlideReference(
            source=metadata["source"],
            name=metadata["name"],
            mpp=metadata["mpp"],
            mpp_stated=metadata["mpp_source"] == "user",
            known=True,
        )
    path = str(layer.source.path)
    return SlideReference(path, layer.name, None, mpp_stated=False, known=False)


def find_slide_layer(layers: Any, source: str) -> Layer | None:
    """The layer among ``layers`` that shows the slide at ``source``, or None."""
    for layer in layers:
        reference = reference_of_layer(layer)
        if reference is not None and _same_source(reference.source, source):
            return layer
    return None


def placement_on(layer: Layer | None, mpp: Mpp) -> Placement:
    """Where the slide lies in the world: as its layer does, or in micrometres from the origin.

    A slide whose mpp was stated after it had been opened stays where it is, in pixels, and so do
    polygons drawn on it; maps then follow the slide.
    """
    if layer is None:
        return Placement(scale=mpp)
    scale, translate = np.asarray(layer.scale)[-2:], np.asarray(layer.translate)[-2:]
    units = tuple(str(unit) for unit in layer.units[-2:])
    return Placement(
        (float(scale[0]), float(scale[1])),
        (float(translate[0]), float(translate[1])),
        (units[0], units[1]),
    )


def state_mpp(viewer: napari.viewer.Viewer, layer: Layer, mpp: Mpp) -> None:
    """Put a slide that lies in pixels into micrometres, once the user has stated its mpp.

    Only while nothing else is in the viewer: what was drawn on the slide must stay on it.
    """
    metadata = dict(_metadata(layer))
    if metadata.get("kind") != "slide" or metadata["mpp"] is not None:
        return
    metadata.update(mpp=mpp, mpp_source="user")
    layer.metadata[METADATA_KEY] = metadata
    if len(viewer.layers) > 1:
        return
    camera = _camera(viewer)
    centre, zoom = camera.center, camera.zoom
    layer.scale, layer.units = mpp, ("um", "um")
    camera.center = (*centre[:-2], centre[-2] * mpp[0], centre[-1] * mpp[1])
    camera.zoom = zoom / mpp[0]


def _camera(viewer: napari.viewer.Viewer) -> Any:
    from napari_wsi_xai.viewer.view import camera_of  # which needs the placement above

    return camera_of(viewer)


def _metadata(layer: Layer) -> Mapping[str, Any]:
    found = layer.metadata.get(METADATA_KEY, {})
    return found if isinstance(found, Mapping) else {}


def _same_source(one: str, other: str) -> bool:
    if "://" in one or "://" in other:
        return one.rstrip("/") == other.rstrip("/")
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
