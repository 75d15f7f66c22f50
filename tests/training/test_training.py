from __future__ import annotations

import subprocess
import sys

import pytest

import napari_wsi_xai.training as room

HEAVY = "{'torch', 'lightning', 'sklearn', 'tensorboard', 'pytorch_lightning', 'napari', 'qtpy'}"


def loaded_by(code: str) -> str:
    line = f"import sys; {code}; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", room.__all__)
def test_every_name_is_there(name):
    assert getattr(room, name) is not None
    assert name in dir(room)


def test_every_name_has_one_home():
    assert sorted(room._HOME_OF) == sorted(set(room.__all__))
    with pytest.raises(AttributeError, match="no attribute 'fit_transform'"):
        room.fit_transform  # noqa: B018


def test_the_room_loads_nothing_heavy():
    assert loaded_by("import napari_wsi_xai.training") == "[]"


def test_cohorts_splits_and_figures_need_neither_torch_nor_lightning():
    names = "Cohort, read_cohort, hold_out, classification_metrics, read_public_set"
    assert loaded_by(f"from napari_wsi_xai.training import {names}") == "[]"
