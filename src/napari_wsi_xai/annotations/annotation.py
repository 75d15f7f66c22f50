"""One annotation: a shape in level-0 pixels and what was said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shapely.geometry.base import BaseGeometry

__all__ = ["Annotation"]


@dataclass(frozen=True)
class Annotation:
    """A shape on a slide.

    Attributes
    ----------
    geometry
        Shapely geometry in level-0 pixels. Its points are (x, y), as in annotation files.
    name
        The annotation's own name, or ``None``.
    classification
        The class it belongs to ("Tumor"), or ``None``.
    color
        Red, green and blue, 0 to 255, of the class where it has one, else of the annotation;
        ``None`` where the file gives none.
    properties
        Whatever else the file says about it, kept for writing it back.
    """

    geometry: BaseGeometry
    name: str | None = None
    classification: str | None = None
    color: tuple[int, int, int] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
