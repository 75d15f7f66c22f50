"""GeoJSON as QuPath writes and reads it.

A file holds one Feature, a list of Features or a FeatureCollection. QuPath keeps the class in
``properties.classification``: ``{"name": ..., "color": [r, g, b]}``, before version 0.3 with
``colorRGB``, a signed 32-bit ARGB integer. Coordinates are level-0 pixels, (x, y).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping, shape

from napari_wsi_xai.annotations.annotation import Annotation
from napari_wsi_xai.errors import AnnotationError

__all__ = ["read_geojson", "write_geojson"]


def read_geojson(path: str | os.PathLike[str]) -> list[Annotation]:
    """Read annotations from a GeoJSON file.

    Parameters
    ----------
    path
        A file with a Feature, a list of Features or a FeatureCollection.

    Returns
    -------
    list of Annotation
        In the file's order, geometries in level-0 pixels, (x, y), as they stand in the file
        (also where polygons cross themselves).

    Raises
    ------
    AnnotationError
        The file cannot be read, is not GeoJSON, or one of its features is malformed; the message
        counts features from 1.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not GeoJSON: {error}.") from error
    annotations = []
    for number, feature in enumerate(_features(document, path), start=1):
        try:
            annotations.append(_annotation(feature))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            # Anything a malformed feature makes json's types or shapely say.
            reason = str(error).strip() or type(error).__name__
            raise AnnotationError(f"Feature {number} of {path} is malformed: {reason}.") from error
        except shapely.errors.ShapelyError as error:
            raise AnnotationError(f"Feature {number} of {path} is malformed: {error}.") from error
    return annotations


def write_geojson(path: str | os.PathLike[str], annotations: Iterable[Annotation]) -> Path:
    """Write annotations as a FeatureCollection that QuPath opens.

    The file appears under its name only when it is whole.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    annotations
        What to write, in this order.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    AnnotationError
        The file cannot be written.
    """
    path = Path(path)
    document = {"type": "FeatureCollection", "features": [_feature(a) for a in annotations]}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        unfinished.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise AnnotationError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def _features(document: Any, path: Path) -> list[Any]:
    """Return the features of any of the three forms a file can have."""
    if isinstance(document, list):
        return document
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        return list(document["features"])
    if kind == "Feature":
        return [document]
    raise AnnotationError(
        f"{path} is JSON but not GeoJSON: it needs a Feature, a list of Features or a "
        f"FeatureCollection, not {'type ' + repr(kind) if kind else 'this'}."
    )


def _annotation(feature: Any) -> Annotation:
    """Turn one Feature into an Annotation, or raise what is wrong with it."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ValueError("it is not of type Feature")
    if not isinstance(feature.get("geometry"), dict):
        raise ValueError("it has no geometry")
    geometry = shapely.force_2d(shape(feature["geometry"]))
    if geometry.is_empty:
        raise ValueError("its geometry is empty")
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise ValueError("it has a coordinate that is not a finite number")
    properties = dict(feature.get("properties") or {})
    name = properties.pop("name", None)
    classification = properties.pop("classification", None)
    color = _color(properties)
    properties.pop("color", None)
    if isinstance(classification, Mapping):
        color = _color(classification) or color
        classification = classification.get("name")
    return Annotation(
        geometry,
        None if name is None else str(name),
        None if classification is None else str(classification),
        color,
        properties,
    )


def _color(values: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Read QuPath's two ways to write a colour."""
    if isinstance(values.get("colorRGB"), int):
        argb = values["colorRGB"]
        return (argb >> 16) & 255, (argb >> 8) & 255, argb & 255
    color = values.get("color")
    if color is None:
        return None
    red, green, blue = (int(channel) for channel in color)
    return red, green, blue


def _feature(annotation: Annotation) -> dict[str, Any]:
    """Turn an Annotation into the Feature QuPath expects."""
    properties: dict[str, Any] = {"objectType": "annotation", **annotation.properties}
    if annotation.name is not None:
        properties["name"] = annotation.name
    if annotation.classification is not None:
        properties["classification"] = {"name": annotation.classification}
    if annotation.color is not None:
        owner = properties.get("classification", properties)
        owner["color"] = list(annotation.color)
    return {"type": "Feature", "geometry": mapping(annotation.geometry), "properties": properties}
