"""Texts of the widget *Score slide*: what it says of progress and of results. No Qt here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from napari_wsi_xai.viewer.zoom_snapshot import magnification

if TYPE_CHECKING:
    from napari_wsi_xai.runs import Progress
    from napari_wsi_xai.runs.trace import LevelTrace
    from napari_wsi_xai.viewer.states import AnySnapshot
    from napari_wsi_xai.viewer.zoom_snapshot import ZoomSnapshot

__all__ = ["duration", "note_text", "progress_text", "result_html", "trace_lines"]

BAR_CHARACTERS = 36

NOTABLE = 0.005
"""A share of tissue that is not looked at is told from half a per cent on."""

UNTRAINED = "Untrained model: these numbers are random and mean nothing."


def duration(seconds: float) -> str:
    """``"22 s"``, ``"3 min 10 s"`` or ``"2 h 05 min"``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def progress_text(progress: Progress, where: str = "") -> str:
    """``"312 of 1,204 tiles · 41 tiles/s (reading 12 %) · 22 s left"``, at ``where``."""
    parts = [f"{progress.tiles_done:,} of {progress.tiles_total:,} tiles"]
    if progress.tiles_per_s:
        rate = progress.tiles_per_s
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        parts.append(f"{speed} tiles/s (reading {progress.read_share:.0%})".replace("%", " %"))
    if progress.eta_s is not None and progress.tiles_done < progress.tiles_total:
        most = "at most " if progress.tiles_ahead else ""
        parts.append(f"{most}{duration(progress.eta_s)} left")
    if progress.tiles_done == 0:
        parts.append(progress.message)
    return (f"{where}: " if where else "") + " · ".join(parts)


def percent(probability: float) -> str:
    """``"93 %"``; never a rounded 0 % or 100 % for what is not."""
    if 0 < probability < 0.005:
        return "under 1 %"
    if 0.995 < probability < 1:
        return "over 99 %"
    return f"{probability * 100:.0f} %"


def result_html(snapshot: AnySnapshot, accent: str, quiet: str) -> str:
    """The slide's class probabilities, most probable first, with bars.

    Parameters
    ----------
    snapshot
        The run.
    accent, quiet
        Colours (``"#rrggbb"``) of the leading class's bar and of the others.
    """
    ranked = sorted(snapshot.probabilities.items(), key=lambda item: -item[1])
    rows = []
    for place, (name, probability) in enumerate(ranked):
        bar = "&nbsp;" * max(1, round(BAR_CHARACTERS * probability))
        colour = accent if place == 0 else quiet
        weight = "600" if place == 0 else "400"
        style = f"font-weight:{weight}; padding-right:10px"
        rows.append(
            f"<tr><td style='{style}'>{escape(name)}</td>"
            f"<td align='right' style='{style}'>{percent(probability)}</td>"
            f"<td><span style='background-color:{colour}; font-size:7pt'>{bar}</span></td></tr>"
        )
    standing = escape(snapshot.standing)
    if not snapshot.complete:
        standing = f"<i>{standing}</i>"
    if snapshot.failed:
        tiles = "tile" if snapshot.failed == 1 else "tiles"
        standing += f" · {snapshot.failed:,} {tiles} could not be read"
    warning = "" if snapshot.trained else f"<br><b>{UNTRAINED}</b>"
    return f"<table cellspacing='0' cellpadding='2'>{''.join(rows)}</table>{standing}{warning}"


def note_text(loaded: bool, cancelled: bool, note: str) -> str:
    """How a run ended, in a sentence."""
    if loaded:
        return "A finished result was found and loaded; nothing was computed."
    if cancelled:
        return "Cancelled. What is done is kept: Score goes on from there."
    return f"Done. Precision: {note.rstrip('.')}." if note else "Done."


def trace_lines(snapshot: ZoomSnapshot) -> list[tuple[str, str]]:
    """What a zooming head read, opened and never saw: sentences, each with its explanation."""
    lines = [_read(snapshot)]
    if opened := [one.trace for one in snapshot.levels if one.trace.opened]:
        lines += [_opened(opened)] if snapshot.labels.any() else []
    finest = snapshot.levels[-1].trace
    if snapshot.complete and finest.skipped:
        lines.append(_never_read(finest))
    if snapshot.tissue_left_out >= NOTABLE:
        lines.append(_never_looked_at(snapshot.tissue_left_out))
    if any(level.attention is not None for level in snapshot.levels):
        lines.append(COLOURS)
    return lines


COLOURS = (
    "Colours: attention, from 0 (faint) to the highest at its magnification (yellow)",
    "The share of a tile in what the model sees at that magnification; the tiles of each "
    "magnification\nsum to one, so colours of two magnifications are not the same numbers. Hover a "
    "tile to read its own.",
)


def _read(snapshot: ZoomSnapshot) -> tuple[str, str]:
    tiles = sum(level.trace.tiles for level in snapshot.levels)
    share = percent(snapshot.done / tiles if tiles else 0.0)
    return (
        f"Read {snapshot.done:,} of {tiles:,} tiles ({share})",
        "Tiles whose pixels were read, out of all tissue tiles at all magnifications; the "
        "decision rests on these alone.",
    )


def _opened(levels: Sequence[LevelTrace]) -> tuple[str, str]:
    noun = "tile" if levels[0].opened == 1 else "tiles"
    counts = [f"{one.opened:,} {noun} at {magnification(one.mpp)}" for one in levels[:1]]
    counts += [f"{one.opened:,} at {magnification(one.mpp)}" for one in levels[1:]]
    return (
        f"Opened {', '.join(counts)}",
        "Tiles that the model chose to look into at the next finer magnification, framed in the "
        "layer of opened tiles.\nIt chooses by a second attention (selection weight), not by the "
        "one that is shown in colours.",
    )


def _never_read(finest: LevelTrace) -> tuple[str, str]:
    share = percent(finest.skipped / finest.tiles)
    return (
        f"{share} of the tissue at {magnification(finest.mpp)} was never read",
        "Nothing in this tissue could change the result at this magnification: it lies outside the "
        "opened tiles,\nand was seen at coarser magnifications only.",
    )


def _never_looked_at(share: float) -> tuple[str, str]:
    return (
        f"{percent(share)} of the tissue was never looked at",
        "It lies in tiles of the lowest magnification that hold less tissue than Minimum tissue "
        "(More options).\nA smaller minimum includes it.",
    )
