"""What the window says and asks of an author's checkpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.viewer.checkpoints import (
    default_classes,
    default_mpps,
    encoder_hint,
    read_mpps,
)


def test_the_hint_names_the_length_and_networks_that_have_it() -> None:
    text = encoder_hint("resnet50", 1024)
    assert "1,024 numbers a tile, as densenet121 or googlenet do" in text
    assert text.endswith("resnet50 gives 2,048.")
    assert "as resnet18 does" in encoder_hint(" resnet18", 512)
    assert "must be the one it was trained with" in encoder_hint("hf-hub:owner/name", 1280)


def test_lengths_are_those_of_the_networks() -> None:
    from napari_wsi_xai.models import build_encoder
    from napari_wsi_xai.viewer.head_options import LENGTHS

    quick = ("resnet18", "squeezenet1_1", "densenet121", "swin_t", "resnet50")
    assert {name: build_encoder(name).dim for name in quick} == {n: LENGTHS[n] for n in quick}


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
