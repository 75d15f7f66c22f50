"""What the widget says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from zoom_cases import make_snapshot as make_zoom_snapshot

from napari_wsi_xai.runs import Progress
from napari_wsi_xai.viewer.snapshot import Snapshot
from napari_wsi_xai.viewer.widgets.wording import (
    duration,
    note_text,
    percent,
    progress_text,
    result_html,
    trace_lines,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (22, "22 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_names_tiles_speed_reading_and_time_left() -> None:
    progress = Progress(312, 1204, 5, 20, 41.2, 1.2, 8.8, 21.9, 0, "scoring")
    assert progress_text(progress) == "312 of 1,204 tiles · 41 tiles/s (reading 12 %) · 22 s left"


def test_progress_names_the_magnification_at_hand_and_the_longest_it_can_take() -> None:
    progress = Progress(30, 64, 1, 2, 41.2, 1, 9, 3.2, 0, "scoring", 0, 3, 8.0, 100)
    text = progress_text(progress, "8 µm/px")
    assert text.startswith("8 µm/px: 30 of 64 tiles · ")
    assert text.endswith(" · at most 3 s left")


def test_progress_before_the_first_tile_says_what_is_done() -> None:
    progress = Progress(0, 1204, 0, 20, None, 0, 0, None, 0, "preparing the model")
    assert progress_text(progress) == "0 of 1,204 tiles · preparing the model"


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "0 %"), (0.001, "under 1 %"), (0.934, "93 %"), (0.9999, "over 99 %"), (1, "100 %")],
)
def test_probabilities_are_not_rounded_to_certainty(probability: float, text: str) -> None:
    assert percent(probability) == text


def make_snapshot(complete: bool, failed: int = 0) -> Snapshot:
    probabilities = {"normal": 0.07, "tumor <b>": 0.93}
    return Snapshot({}, probabilities, 312, 1204, complete, failed, np.zeros((1, 1), np.uint8), {})


def test_result_shows_the_likeliest_class_first_and_that_it_is_provisional() -> None:
    text = result_html(make_snapshot(False, failed=2), "#111111", "#222222")
    assert text.index("tumor &lt;b&gt;") < text.index("normal")
    assert "93 %" in text
    assert "provisional, 312 of 1,204 tissue tiles" in text
    assert "2 tiles could not be read" in text


def test_result_of_a_complete_run_is_not_provisional() -> None:
    text = result_html(make_snapshot(True), "#111111", "#222222")
    assert "provisional" not in text
    assert "all 1,204 tissue tiles" in text


def test_an_untrained_model_is_called_so() -> None:
    trained, untrained = make_snapshot(True), replace(make_snapshot(True), trained=False)
    assert "mean nothing" in result_html(untrained, "#111111", "#222222")
    assert "mean nothing" not in result_html(trained, "#111111", "#222222")


def test_endings() -> None:
    assert "loaded" in note_text(loaded=True, cancelled=False, note="")
    assert "Cancelled" in note_text(loaded=False, cancelled=True, note="")
    assert note_text(False, False, "float32") == "Done. Precision: float32."


def test_a_zooming_head_says_what_it_read_opened_and_never_saw() -> None:
    lines = trace_lines(make_zoom_snapshot())
    assert [text for text, _ in lines] == [
        "Read 84 of 3,276 tiles (3 %)",
        "Opened 2 tiles at 8 µm/px, 2 at 2 µm/px",
        "98 % of the tissue at 0.5 µm/px was never read",
        "Colours: attention, from 0 (faint) to the highest at its magnification (yellow)",
    ]
    assert all(explanation for _, explanation in lines)


def test_tissue_in_thin_coarse_tiles_is_told() -> None:
    lines = trace_lines(make_zoom_snapshot(tissue_left_out=0.09))
    (told,) = [text for text, _ in lines if "never looked at" in text]
    assert told == "9 % of the tissue was never looked at"
    whole = trace_lines(make_zoom_snapshot(tissue_left_out=0.004))
    assert not any("never looked at" in text for text, _ in whole)


def test_nothing_is_called_never_read_before_the_end() -> None:
    lines = trace_lines(make_zoom_snapshot(2, complete=False))
    assert [text.split()[0] for text, _ in lines] == ["Read", "Opened", "Colours:"]
    first = trace_lines(make_zoom_snapshot(1, complete=False))
    assert [text.split()[0] for text, _ in first] == ["Read", "Colours:"]


def test_a_zooming_head_is_provisional_until_its_last_magnification() -> None:
    text = result_html(make_zoom_snapshot(), "#111111", "#222222")
    assert "all 3 magnifications" in text
    begun = replace(make_zoom_snapshot(2, complete=False), probabilities={"tumor": 1.0})
    assert "provisional, at 2 µm/px 16 of 16 tiles" in result_html(begun, "#111111", "#222222")
