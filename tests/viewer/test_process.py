"""Runs in a process of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.viewer.drain import Failed, Finished, Planned, Stepped
from napari_wsi_xai.viewer.model_choice import ModelChoice
from napari_wsi_xai.viewer.process import ProcessRun, examine_elsewhere
from napari_wsi_xai.viewer.scoring import ScoreInputs


@pytest.fixture
def inputs(slide_path: Path, model_path: Path, tmp_path: Path) -> ScoreInputs:
    model = ModelChoice("bundle", path=model_path)
    return ScoreInputs(str(slide_path), "small", model=model, folder=tmp_path, precision="float32")


def test_a_run_elsewhere_ends_as_one_here(inputs: ScoreInputs, finished: Any) -> None:
    run = ProcessRun(inputs)
    events = []
    for event in run.events():
        events.append(event)
        if isinstance(event, Planned):
            run.focus(Region(1000, 1000, 10, 10))
    assert isinstance(events[-1], Finished)
    for key, values in finished.maps.items():
        np.testing.assert_array_equal(events[-1].snapshot.maps[key], values)


def test_the_process_serves_the_next_run(inputs: ScoreInputs) -> None:
    first, second = ProcessRun(inputs), ProcessRun(inputs)
    list(first.events())
    events = list(second.events())
    assert events[-1].loaded
    assert first._process is second._process


def test_cancel_keeps_what_is_done(inputs: ScoreInputs) -> None:
    run = ProcessRun(inputs)
    for event in run.events():
        if isinstance(event, Planned):
            run.cancel()
    assert isinstance(event, Finished)
    assert event.cancelled
    assert event.snapshot is None or not event.snapshot.complete


def test_cancel_before_the_start_is_not_lost(inputs: ScoreInputs) -> None:
    run = ProcessRun(inputs)
    run.cancel()
    (*_, last) = run.events()
    assert last.cancelled


def test_a_process_that_dies_is_a_sentence_and_the_next_run_goes_on(inputs: ScoreInputs) -> None:
    run = ProcessRun(inputs)
    for event in run.events():
        if isinstance(event, Stepped) and run._process is not None:
            run._process._child.kill()
    assert isinstance(event, Failed)
    assert "ended unexpectedly" in event.message
    (*_, last) = ProcessRun(inputs).events()
    assert last.snapshot.complete


def test_abandoning_ends_the_process_at_once(inputs: ScoreInputs) -> None:
    run = ProcessRun(inputs)
    events = run.events()
    next(events)
    run.abandon()
    assert run._process is not None
    assert not run._process.alive
    assert not any(isinstance(event, Finished) for event in events)


def test_a_file_is_examined_elsewhere(tmp_path: Path) -> None:
    import torch

    from napari_wsi_xai.viewer.checkpoints import CheckpointSummary

    weights = {"classifier.weight": torch.ones(3, 16), "classifier.bias": torch.ones(3)}
    torch.save(weights, tmp_path / "linear.pt")
    answer = examine_elsewhere(tmp_path / "linear.pt")
    assert isinstance(answer, CheckpointSummary)
    assert (answer.in_features, answer.num_classes) == (16, 3)
    (tmp_path / "text.pt").write_text("no weights")
    failed = examine_elsewhere(tmp_path / "text.pt")
    assert isinstance(failed, Failed)
    assert "text.pt" in failed.message


def test_a_process_that_dies_while_examining_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_wsi_xai.viewer import process

    monkeypatch.setattr(process._Process, "next_event", lambda self: None)
    failed = examine_elsewhere(tmp_path / "large.pt")
    assert isinstance(failed, Failed)
    assert "large.pt ended unexpectedly" in failed.message


def test_errors_come_back_as_sentences(inputs: ScoreInputs, tmp_path: Path) -> None:
    from dataclasses import replace

    (*_, last) = ProcessRun(replace(inputs, source=str(tmp_path / "no.svs"))).events()
    assert isinstance(last, Failed)
    assert "no.svs" in last.message
