from __future__ import annotations

import numpy as np
import pytest

from napari_wsi_xai.errors import MissingMppError
from napari_wsi_xai.models import Model, build_encoder, build_model
from napari_wsi_xai.runs import Run, score

FORMS = (
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.dicom",
    "CMU-1-Small-Region.pyramid.ome.tif",
    "CMU-1-Small-Region_v0.4.ome.zarr",
    "CMU-1-Small-Region_v0.5.ome.zarr",
)


@pytest.fixture(scope="module")
def model(shared_data) -> Model:
    """The real SqueezeNet with an untrained ABMIL head."""
    weights = shared_data / "weights" / "squeezenet1_1_imagenet.pth"
    return build_model(build_encoder("squeezenet1_1", str(weights)), "abmil", ("normal", "tumor"))


@pytest.fixture(scope="module")
def runs(shared_data, model) -> dict[str, Run]:
    paths = {name: shared_data / "slides" / name for name in FORMS}
    return {n: score(p, model, precision="float32").compute() for n, p in paths.items()}


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_all_forms_of_a_slide_give_one_grid(runs):
    grids = {run.grid for run in runs.values()}
    assert len(grids) == 1
    assert grids.pop().shape == (13, 9)


@pytest.mark.parametrize("form", FORMS[3:])
def test_lossless_forms_give_the_same_descriptors(runs, form):
    svs, other = runs[FORMS[0]], runs[form]
    both = svs.tissue & other.tissue
    assert both.sum() >= 0.95 * svs.total
    a, b = (run.features.compute()[both] for run in (svs, other))
    assert cosine(a, b).min() >= 0.999


@pytest.mark.parametrize("form", FORMS[1:3])
def test_recompressed_forms_give_nearly_the_same(runs, form):
    svs, other = runs[FORMS[0]], runs[form]
    both = svs.tissue & other.tissue
    a, b = (run.features.compute()[both] for run in (svs, other))
    assert cosine(a, b).min() >= 0.97
    assert np.median(cosine(a, b)) >= 0.99


def test_half_precision_is_refused_for_squeezenet(shared_data, model):
    run = score(shared_data / "slides" / FORMS[0], model, precision="auto")
    run.prepare()
    assert run.plan.precision == "float32"


def test_no_mpp_is_asked_for_then_a_non_integer_level_is_read(shared_data, model):
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(MissingMppError, match="--mpp"):
        score(path, model)
    coarse = build_model(model.encoder, "abmil", model.classes, tile_px=112, mpp=1.0)
    run = score(path, coarse, mpp=0.5, precision="float32").compute()
    assert run.grid.downsample == pytest.approx(2.0005, abs=1e-3)
    assert run.complete
    assert not run.failures
