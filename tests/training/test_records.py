"""What is told of how far a training has come."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from napari_wsi_xai.training import records
from napari_wsi_xai.training.records import ProgressReports, TrainProgress, write_atomically


def test_time_left_is_at_the_rate_of_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four epochs of five slides, gone on with after two, a second a slide."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(records.time, "monotonic", lambda: clock.now)
    told: list[TrainProgress] = []
    reports = ProgressReports(told.append, 5)
    module = SimpleNamespace(
        epoch=2, recipe=SimpleNamespace(epochs=4), history=[{"val_auc": 0.5}, {"val_auc": 0.7}]
    )
    trainer = SimpleNamespace(current_epoch=2, fit_loop=SimpleNamespace(batch_idx=0))
    reports.on_train_start(trainer, module)
    for batch in range(5):
        clock.now += 1
        trainer.fit_loop.batch_idx = batch
        reports.on_train_batch_end(trainer, module)
    module.epoch = 3
    reports.on_train_epoch_end(trainer, module)
    assert [one.slides_done for one in told] == [11, 12, 13, 14, 15, 15]
    assert [one.eta_s for one in told] == pytest.approx([9, 8, 7, 6, 5, 5])
    assert {one.epoch for one in told} == {3}
    assert {(one.epochs, one.slides_total) for one in told} == {(4, 20)}
    assert told[-1].figures == {"val_auc": 0.7}


def test_an_epoch_without_validation_ends_with_its_last_bag() -> None:
    """The module counts it before its last bag is told of."""
    told: list[TrainProgress] = []
    reports = ProgressReports(told.append, 3, together=2)
    module = SimpleNamespace(epoch=0, recipe=SimpleNamespace(epochs=2), history=[])
    trainer = SimpleNamespace(current_epoch=0, fit_loop=SimpleNamespace(batch_idx=0))
    reports.on_train_start(trainer, module)
    reports.on_train_batch_end(trainer, module)
    module.epoch, trainer.fit_loop.batch_idx = 1, 1
    reports.on_train_batch_end(trainer, module)
    assert [(one.slides_done, one.epoch) for one in told] == [(2, 1), (3, 1)]


def test_a_file_is_there_wholly_or_not(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("before")

    def break_off() -> None:
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert path.read_text() == "before"
    with write_atomically(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["log.csv"]
    assert path.read_text() == "after"
