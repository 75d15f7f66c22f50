"""The room's front: lazy names, and the guard around torchvision."""

import subprocess
import sys

import pytest

from napari_wsi_xai import models
from napari_wsi_xai.models import torchvision_import


def test_all_names_resolve():
    for name in models.__all__:
        assert getattr(models, name) is not None
    assert set(models.__all__) <= set(dir(models))
    with pytest.raises(AttributeError, match="nothing"):
        models.nothing  # noqa: B018


def test_importing_the_room_imports_no_torch():
    code = "import sys, napari_wsi_xai.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_import_errors_are_passed_on(monkeypatch):
    def fail(_name):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(torchvision_import.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        torchvision_import.import_torchvision()
    assert torchvision_import._declared == [] or "torchvision" in sys.modules


def test_guard_leaves_a_working_torchvision():
    torchvision = torchvision_import.import_torchvision()
    assert torchvision_import.import_torchvision() is torchvision
    assert "resnet50" in torchvision.models.list_models()
