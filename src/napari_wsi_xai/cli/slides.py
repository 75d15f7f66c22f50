"""``info`` and ``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, emit_json, say

if TYPE_CHECKING:
    from napari_wsi_xai.slides import Slide

__all__ = ["MppOption", "convert", "info"]

SlideArgument = Annotated[str, typer.Argument(metavar="SLIDE", help="A file, a folder or a URL.")]
MppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        metavar="UM",
        help="Micrometres per pixel of the slide's finest level, where the file does not say.",
    ),
]


@app.command()
def info(slide: SlideArgument, mpp: MppOption = None, as_json: JsonOption = False) -> None:
    """Say what a slide is: size, levels, micrometres per pixel, bounds."""
    from napari_wsi_xai.slides import open_slide

    with open_slide(slide, mpp=mpp) as opened:
        facts = _facts(opened)
    if as_json:
        emit_json(facts)
        return
    levels = facts.pop("levels")
    facts.pop("properties")
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {_words(value)}")
    for number, level in enumerate(levels):
        height, across = level["shape"]
        print(
            f"{f'level {number}':<{width}}  {height} x {across} px, "
            f"downsample {level['downsample']:g}"
        )


@app.command()
def convert(
    slide: SlideArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.ome.zarr", help="The folder to make.")],
    mpp: MppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a slide as OME-Zarr 0.5, which any OME-Zarr viewer reads."""
    from napari_wsi_xai.slides import convert_slide, open_slide

    with open_slide(slide, mpp=mpp) as opened:
        written = convert_slide(opened, out)
    if as_json:
        emit_json({"slide": slide, "out": str(written)})
    else:
        say(f"{slide} -> {written}")


def _facts(slide: Slide) -> dict[str, Any]:
    """Return what there is to say about a slide, (y, x) throughout."""
    return {
        "source": slide.source,
        "backend": slide.backend,
        "shape": list(slide.shape),
        "mpp": None if slide.mpp is None else list(slide.mpp),
        "mpp_source": slide.mpp_source,
        "bounds": {"origin": list(slide.bounds.origin), "shape": list(slide.bounds.shape)},
        "background": list(slide.background),
        # Only the names: the images themselves may show patient data.
        "associated_images": sorted(slide.associated_images),
        "fingerprint": slide.fingerprint,
        "levels": [
            {"shape": list(level.shape[:2]), "downsample": downsample}
            for level, downsample in zip(slide.levels, slide.downsamples, strict=True)
        ],
        "properties": dict(slide.properties),
    }


def _words(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    if not isinstance(value, list):
        return str(value)
    if value and not isinstance(value[0], str):
        return " x ".join(
            f"{number:g}" if isinstance(number, float) else str(number) for number in value
        )
    return ", ".join(value) or "none"
