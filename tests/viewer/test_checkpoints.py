"""What the window says and asks of an author's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.viewer.checkpoints import (
    CheckpointSummary,
    default_classes,
    default_mpps,
    encoder_hint,
    examine_checkpoint,
    read_mpps,
)
from napari_wsi_xai.viewer.head_options import HEAD_OPTIONS, OVER_MAGNIFICATIONS


def test_the_hint_names_the_length_and_networks_that_have_it() -> None:
    text = encoder_hint("resnet50", 1024)
    assert "1,024 numbers a tile, as densenet121 or convnext_base do" in text
    assert text.endswith("resnet50 gives 2,048.")
    assert "as resnet18 does" in encoder_hint(" resnet18", 512)
    assert "must be the one it was trained with" in encoder_hint("hf-hub:owner/name", 1281)
    assert "mobilenet_v2" in encoder_hint("hf-hub:owner/name", 1280)


def test_class_names_are_kept_where_their_number_is_right() -> None:
    assert default_classes(2, ("benign", "tumour")) == ("benign", "tumour")
    assert default_classes(3, ("benign", "tumour")) == ("class 1", "class 2", "class 3")


def test_magnifications_are_suggested_in_whole_steps_from_the_finest() -> None:
    assert default_mpps(3, (0.5,)) == (8, 2, 0.5)
    assert default_mpps(1, (8, 2, 0.25)) == (0.25,)
    assert default_mpps(2, (4, 1)) == (4, 1)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=4, unique=True))
def test_micrometres_are_read_as_written(values: list[float]) -> None:
    falling = tuple(sorted(values, reverse=True))
    assert read_mpps(", ".join(map(repr, falling))) == falling


@pytest.mark.parametrize("text", ["", "fast", "0,5", "0.5, 2", "-1", "0", "2, 2", "nan", "inf"])
def test_what_is_no_micrometres_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadArgumentError, match=r"write 0\.5"):
        read_mpps(text)


def test_options_are_those_of_the_heads_with_the_same_defaults() -> None:
    import inspect

    from napari_wsi_xai.models import MIL_ARCHITECTURES

    for architecture, options in HEAD_OPTIONS.items():
        taken = inspect.signature(MIL_ARCHITECTURES[architecture]).parameters
        for option in options:
            stated = option.choices[0][1] if option.choices else option.default
            assert taken[option.name].default == stated, (architecture, option.name)


def test_heads_over_several_magnifications_are_known_as_such() -> None:
    from napari_wsi_xai.models import MIL_ARCHITECTURES

    several = {
        name for name, head in MIL_ARCHITECTURES.items() if head.magnification_use != "single"
    }
    assert several == OVER_MAGNIFICATIONS


def test_files_of_published_models_are_put_into_words(shared_data: Path) -> None:
    found = {
        name: examine_checkpoint(shared_data / "weights" / name)
        for name in ("dsmil_c16_aggregator.pth", "xmil_camelyon_attnmil.pt", "dtfd_model.pth")
    }
    words = [answer.words for answer in found.values() if isinstance(answer, CheckpointSummary)]
    assert words == [
        "DSMIL · descriptors of 512 numbers · 2 classes",
        "xMIL attention · descriptors of 768 numbers · 2 classes",
        "DTFD-MIL · descriptors of 1,024 numbers · 2 classes",
    ]
