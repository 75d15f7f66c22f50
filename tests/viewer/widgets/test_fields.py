"""The fields that say which model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.viewer.checkpoints import CheckpointSummary
from napari_wsi_xai.viewer.drain import Failed
from napari_wsi_xai.viewer.head_options import HEAD_OPTIONS, HEADS, OVER_MAGNIFICATIONS
from napari_wsi_xai.viewer.widgets import examination
from napari_wsi_xai.viewer.widgets.fields import BUNDLE, CHECKPOINT, DEMO, PARTS, ModelFields

CLAM = CheckpointSummary("CLAM-SB · 3 classes", ("clam-sb",), 1024, 3)
ZOOM = CheckpointSummary("ZoomMIL · 2 classes", ("zoommil",), 512, 2, 3)
EITHER = CheckpointSummary("linear head", ("mean", "max"), 512, 2)


@pytest.fixture
def fields(qtbot: Any) -> ModelFields:
    made = ModelFields()
    qtbot.addWidget(made.native)
    made.native.show()
    made.show_fields()
    return made


class Files:
    """Files whose content is told by hand."""

    def __init__(self, folder: Path, fields: ModelFields, qtbot: Any) -> None:
        self._folder, self._fields, self._qtbot = folder, fields, qtbot
        self.answers: dict[str, CheckpointSummary | Failed] = {}
        self.asked: list[str] = []

    def examine(self, path: Path) -> CheckpointSummary | Failed:
        self.asked.append(path.name)
        return self.answers[path.name]

    def choose(self, name: str, answer: CheckpointSummary | Failed) -> None:
        self.answers[name] = answer
        (self._folder / name).write_bytes(b"weights")
        self._fields.kind.value = CHECKPOINT
        with self._qtbot.waitSignal(self._fields.checkpoint._examination.answered, timeout=5000):
            self._fields.checkpoint.file.value = self._folder / name


@pytest.fixture
def files(
    fields: ModelFields, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Files:
    made = Files(tmp_path, fields, qtbot)
    monkeypatch.setattr(examination, "examine_elsewhere", made.examine)
    return made


def shown(fields: ModelFields) -> set[str]:
    named = ("bundle", "encoder", "encoder_weights", "head", "head_weights", "classes", "mpp")
    return {name for name in named if getattr(fields, name).native.isVisible()}


def test_each_kind_of_model_shows_its_own_fields(fields: ModelFields) -> None:
    expected = {
        DEMO: set(),
        BUNDLE: {"bundle"},
        PARTS: {"encoder", "encoder_weights", "head", "head_weights", "classes", "mpp"},
        CHECKPOINT: set(),
    }
    for kind, names in expected.items():
        fields.kind.value = kind
        assert shown(fields) == names, kind
        assert fields.checkpoint.file.native.isVisible() == (kind == CHECKPOINT)


def test_a_checkpoint_is_put_into_words_and_only_what_it_lacks_is_asked(
    fields: ModelFields, files: Files, tmp_path: Path
) -> None:
    files.choose("clam.pt", CLAM)
    assert fields.checkpoint.found.value == "Recognised: CLAM-SB · 3 classes"
    assert shown(fields) == {"encoder", "encoder_weights", "classes", "mpp"}
    assert not fields.checkpoint.architecture.native.isVisible()
    assert "1,024 numbers a tile" in fields.hint.value
    assert fields.classes.value == "class 1, class 2, class 3"
    fields.encoder.value = "densenet121"
    assert "as densenet121 does" in fields.hint.value
    choice = fields.choice()
    assert (choice.kind, choice.path, choice.head) == (
        "checkpoint",
        tmp_path / "clam.pt",
        "clam-sb",
    )
    assert (choice.mpps, choice.options) == ((0.5,), ())


def test_several_magnifications_want_a_number_each(fields: ModelFields, files: Files) -> None:
    files.choose("zoom.pt", ZOOM)
    assert fields.mpp.value == "8, 2, 0.5"
    assert fields.choice().mpps == (8, 2, 0.5)
    assert fields.choice().options == (("k_sample", 12),)
    files.choose("clam.pt", CLAM)
    assert fields.choice().mpps == (0.5,)
    assert fields.choice().options == ()


def test_a_file_that_fits_two_architectures_asks_which(fields: ModelFields, files: Files) -> None:
    files.choose("linear.pt", EITHER)
    assert fields.checkpoint.architecture.native.isVisible()
    assert fields.choice().head == "mean"
    fields.checkpoint.architecture.value = "max"
    assert fields.choice().head == "max"
    files.choose("clam.pt", CLAM)
    assert not fields.checkpoint.architecture.native.isVisible()
    assert fields.choice().head == "clam-sb"


def test_a_file_that_cannot_be_used_says_why(fields: ModelFields, files: Files) -> None:
    files.choose("clam.pt", CLAM)
    files.choose("cat.pt", Failed("cat.pt holds code: save its state dict instead."))
    assert fields.checkpoint.found.value == "Cat.pt holds code: save its state dict instead."
    assert shown(fields) == set()
    with pytest.raises(BadArgumentError, match="holds code"):
        fields.choice()


def test_nothing_chosen_nothing_there_and_nothing_known_yet(
    fields: ModelFields, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "PAUSE_MS", 10**6)
    fields.kind.value = CHECKPOINT
    with pytest.raises(BadArgumentError, match="Choose the weights"):
        fields.choice()
    fields.checkpoint.file.value = tmp_path / "gone.pt"
    with pytest.raises(BadArgumentError, match="There is no file"):
        fields.choice()
    (tmp_path / "slow.pt").write_bytes(b"")
    fields.checkpoint.file.value = tmp_path / "slow.pt"
    with pytest.raises(BadArgumentError, match=r"Reading slow\.pt"):
        fields.choice()
    fields.checkpoint._examination.forget()


def test_only_the_file_named_last_is_told(fields: ModelFields, files: Files, qtbot: Any) -> None:
    files.choose("clam.pt", CLAM)
    checking = fields.checkpoint._examination
    checking.ask(Path("clam.pt"))
    old = checking._number
    checking.ask(Path("zoom.pt"))
    checking.forget()
    checking._arrived.emit(old, ZOOM)
    qtbot.wait(20)
    assert fields.checkpoint.chosen == "clam-sb"


def test_options_come_with_their_architecture(fields: ModelFields, qtbot: Any) -> None:
    fields.kind.value = PARTS
    for head in HEADS:
        fields.head.value = head
        names = {name for name, _ in fields.choice().options}
        assert names == {option.name for option in HEAD_OPTIONS.get(head, ())}
        assert len(fields.choice().mpps) == (3 if head in OVER_MAGNIFICATIONS else 1)
        visible = {key for key, one in fields.head_options.fields.items() if one.native.isVisible()}
        assert {owner for owner, _ in visible} == ({head} & HEAD_OPTIONS.keys())
    fields.head.value = "transmil"
    fields.head_options.fields["transmil", "crop"].value = "front"
    assert fields.choice().options == (("crop", "front"),)


def test_every_field_says_what_it_means(fields: ModelFields) -> None:
    every = [fields.kind, fields.bundle, fields.encoder, fields.encoder_weights, fields.head]
    every += [fields.head_weights, fields.classes, fields.tile_px, fields.mpp, fields.hint]
    every += [fields.checkpoint.file, fields.checkpoint.found, fields.checkpoint.architecture]
    every += list(fields.head_options.fields.values())
    assert all(field.tooltip for field in every)


def test_the_longest_form_fits_a_laptop_screen(fields: ModelFields, files: Files) -> None:
    files.choose("dtfd.pt", replace(CLAM, architectures=("dtfd",)))
    assert fields.native.sizeHint().height() < 480
