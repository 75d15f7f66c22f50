"""``info`` and ``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, emit_json, say
from napari_wsi_xai.cli.progress import ProgressDisplay

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
    from napari_wsi_xai.slides import open_slide, slide_info

    with open_slide(slide, mpp=mpp) as opened:
        facts = slide_info(opened)
    if as_json:
        emit_json(facts)
        return
    lines = _lines(facts)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


@app.command()
def convert(
    slide: SlideArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.ome.zarr", help="The folder to make.")],
    mpp: MppOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, once the new one is complete.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a slide as OME-Zarr 0.5, which any OME-Zarr viewer reads."""
    from napari_wsi_xai.slides import convert_slide, open_slide

    with open_slide(slide, mpp=mpp) as opened, ProgressDisplay(opened.name, "shards") as display:
        written = convert_slide(opened, out, progress=display.count, overwrite=overwrite)
    if as_json:
        emit_json({"slide": slide, "out": str(written)})
    else:
        say(f"{slide} -> {written}")


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values for people; height comes before width, as everywhere here."""
    bounds = facts["bounds_level0"]
    lines = [
        ("name", facts["name"]),
        ("source", facts["source"]),
        ("read by", f"{facts['backend']} ({facts['vendor'] or 'vendor not known'})"),
        ("size", _size(facts["shape"], facts["size_um"])),
        ("mpp", _mpp(facts["mpp"], facts["mpp_source"])),
        (
            "objective",
            f"{facts['objective_power']:g}x" if facts["objective_power"] else "not known",
        ),
        ("scanned", f"{bounds['height']} x {bounds['width']} px at ({bounds['y']}, {bounds['x']})"),
    ]
    for level in facts["levels"]:
        size = _size(level["shape"], None)
        lines.append((f"level {level['level']}", f"{size}, downsample {level['downsample']:g}"))
    lines.append(("other images", ", ".join(sorted(facts["associated_images"])) or "none"))
    lines.append(("fingerprint", facts["fingerprint"]))
    return lines


def _size(shape: list[int], size_um: list[float] | None) -> str:
    height, width = shape
    pixels = f"{height} x {width} px"
    if size_um is None:
        return pixels
    return f"{pixels}, {size_um[0] / 1000:.3g} x {size_um[1] / 1000:.3g} mm (height x width)"


def _mpp(mpp: list[float] | None, source: str | None) -> str:
    if mpp is None:
        return "not known: state it with --mpp"
    return f"{mpp[0]:g} x {mpp[1]:g} um per pixel, from the {source}"
