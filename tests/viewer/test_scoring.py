"""From the user's choices to a run."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from napari_wsi_xai.errors import BadArgumentError, GridError, MissingMppError, WsiXaiError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.tiles import TissueOptions
from napari_wsi_xai.viewer.drawings import LabelsDrawing
from napari_wsi_xai.viewer.model_choice import ModelChoice, load_choice
from napari_wsi_xai.viewer.scoring import (
    ScoreInputs,
    TissueChoice,
    plan_run,
    result_folder,
)


def finish(plan: Generator[str, None, Any]) -> tuple[list[str], Any]:
    messages = []
    while True:
        try:
            messages.append(next(plan))
        except StopIteration as end:
            return messages, end.value


@pytest.fixture
def inputs(slide_path: Path, model_path: Path, tmp_path: Path) -> Any:
    def make(**values: Any) -> ScoreInputs:
        model = ModelChoice("bundle", path=model_path)
        defaults = {"model": model, "folder": tmp_path, "precision": "float32"}
        return ScoreInputs(str(slide_path), "small", **(defaults | values))

    return make


def test_the_run_goes_where_it_was_told(inputs: Any, tmp_path: Path) -> None:
    messages, run = finish(plan_run(inputs()))
    assert messages == ["Opening the slide", "Loading the model", "Finding tissue"]
    assert run.path == tmp_path / "small.wsixai.zarr"
    assert run.total == 182


def test_a_matching_store_is_gone_on_with_and_another_model_gets_its_own(
    inputs: Any, other_model_path: Path, tmp_path: Path
) -> None:
    _, first = finish(plan_run(inputs()))
    first.compute()
    _, again = finish(plan_run(inputs()))
    assert again.complete
    assert again.path == first.path
    other = ModelChoice("bundle", path=other_model_path)
    _, second = finish(plan_run(inputs(model=other)))
    assert second.path == tmp_path / "small-2.wsixai.zarr"
    assert second.done == 0


def test_beside_the_slide_or_in_the_cache(inputs: Any, slide_path: Path, tmp_path: Path) -> None:
    assert result_folder(inputs(folder=None)) == slide_path.parent
    remote = ScoreInputs("https://host/slide.zarr", "slide", cache=tmp_path / "cache")
    assert result_folder(remote) == tmp_path / "cache"
    assert (tmp_path / "cache").is_dir()


def test_missing_mpp_is_asked_for_and_taken(no_mpp_path: Path, inputs: Any) -> None:
    from dataclasses import replace

    wanted = replace(inputs(), source=str(no_mpp_path), name="unscaled")
    with pytest.raises(MissingMppError, match="Micrometres per pixel"):
        finish(plan_run(wanted))
    _, run = finish(plan_run(replace(wanted, mpp=0.5)))
    assert run.grid.slide_mpp == (0.5, 0.5)


def test_drawn_tissue_replaces_the_mask(inputs: Any) -> None:
    # Level-0 square of 4 x 4 tiles, drawn as a polygon and as labels of 56 level-0 pixels.
    box = shapely.box(112, 224, 112 * 5, 112 * 6)
    _, drawn = finish(plan_run(inputs(tissue=TissueChoice(polygons=(box,)))))
    array = np.zeros((40, 40), np.uint8)
    array[4:12, 2:10] = 1
    labels = LabelsDrawing(array, (0.0, 0.0), (56.0, 56.0))
    choice = TissueChoice(TissueOptions(min_fraction=0.9), labels=labels)
    _, labelled = finish(plan_run(inputs(tissue=choice).in_memory()))
    for run in (drawn, labelled):
        rows, cols = np.nonzero(run.tissue)
        assert (rows.min(), rows.max(), cols.min(), cols.max()) == (2, 5, 1, 4)
        assert run.total == 16


def test_every_tile_counts_without_detection(inputs: Any) -> None:
    choice = TissueChoice(TissueOptions(method="none", min_fraction=0.0))
    _, run = finish(plan_run(inputs(tissue=choice)))
    assert run.total == 13 * 16


def test_a_region_does_only_the_blocks_it_touches(inputs: Any) -> None:
    _, run = finish(plan_run(inputs(region=Region(0, 0, 50, 50))))
    run.compute()
    assert 0 < run.done < run.total


def test_outlines_do_only_the_blocks_they_touch(inputs: Any) -> None:
    far = 112 * 8
    shapes = (shapely.box(1, 1, 50, 50), shapely.box(far + 1, far + 1, far + 50, far + 50))
    _, run = finish(plan_run(inputs(region=shapes)))
    run.compute()
    done = np.argwhere(np.isfinite(run.maps["tile-scores/all"]))
    assert {(int(r) // 8, int(c) // 8) for r, c in done} == {(0, 0), (1, 1)}
    with pytest.raises(GridError, match="no tissue tile under the selected shapes"):
        finish(plan_run(inputs(region=(shapely.box(-90, -90, -50, -50),))))


def test_what_is_in_view_is_done_first(inputs: Any) -> None:
    _, run = finish(plan_run(inputs(view=Region(1100, 1400, 100, 100))))
    steps = iter(run)
    while next(steps).tiles_done == 0:
        pass
    run.update_maps()
    done = np.argwhere(np.isfinite(run.maps["tile-scores/all"]))
    assert done.min(axis=0).tolist() == [8, 8]


def test_models_of_parts(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    choice = ModelChoice("parts", encoder="small", encoder_weights=None, head="max")
    model = load_choice(choice)
    assert model.metadata["trained"] is False
    state = {name: torch.full_like(t, 0.25) for name, t in model.mil.state_dict().items()}
    save_file(state, tmp_path / "head.safetensors")
    from dataclasses import replace

    loaded = load_choice(replace(choice, head_weights=tmp_path / "head.safetensors"))
    assert loaded.name == "small-head"
    assert loaded.content_hash != model.content_hash
    assert all((t == 0.25).all() for t in loaded.mil.state_dict().values())


def test_a_checkpoint_becomes_a_model_of_the_named_encoder_and_classes(tmp_path: Path) -> None:
    import torch

    from napari_wsi_xai.models import build_mil
    from napari_wsi_xai.models.checkpoints.layouts.abmil import LAYOUTS
    from napari_wsi_xai.viewer.checkpoints import examine_checkpoint

    head = build_mil("abmil", 24, 2)
    state = head.state_dict()
    author = {theirs: state[ours] for theirs, ours in LAYOUTS[0].names.items()}
    path = tmp_path / "published.pth"
    torch.save(author, path)
    summary = examine_checkpoint(path)
    assert (summary.architectures, summary.in_features, summary.num_classes) == (("abmil",), 24, 2)
    assert "descriptors of 24 numbers · 2 classes" in summary.words
    choice = ModelChoice(
        "checkpoint",
        path=path,
        encoder="small-8-16-24",
        encoder_weights=None,
        head="abmil",
        classes=("benign", "tumour"),
        tile_px=96,
        mpps=(0.25,),
    )
    model = load_choice(choice)
    assert (model.classes, model.tile_px, model.mpp) == (("benign", "tumour"), 96, 0.25)
    loaded = model.mil.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    from dataclasses import replace

    with pytest.raises(WsiXaiError, match="24"):
        load_choice(replace(choice, encoder="small-8-16"))


def test_what_is_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    from napari_wsi_xai.viewer.checkpoints import examine_checkpoint
    from napari_wsi_xai.viewer.drain import Failed

    path = tmp_path / "notes.pt"
    path.write_bytes(b"not a checkpoint")
    answer = examine_checkpoint(path)
    assert isinstance(answer, Failed)
    assert "notes.pt" in answer.message
    assert "\n" not in answer.message


def test_an_encoder_is_no_head(tmp_path: Path) -> None:
    import torch

    from napari_wsi_xai.models.torchvision_import import import_torchvision
    from napari_wsi_xai.viewer.checkpoints import examine_checkpoint
    from napari_wsi_xai.viewer.drain import Failed

    import_torchvision()
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1().state_dict(), tmp_path / "net.pth")
    answer = examine_checkpoint(tmp_path / "net.pth")
    assert isinstance(answer, Failed)
    assert "encoder (squeezenet1_1), not of a head" in answer.message


def test_heads_over_several_magnifications_take_a_number_each() -> None:
    choice = ModelChoice(
        "parts",
        encoder="small",
        encoder_weights=None,
        head="zoommil",
        mpps=(8, 2, 0.5),
        options=(("k_sample", 5),),
    )
    model = load_choice(choice)
    assert model.mpps == (8, 2, 0.5)
    assert model.mil.arguments["k_sample"] == 5


def test_no_bundle_chosen() -> None:
    with pytest.raises(BadArgumentError, match="no model was chosen"):
        load_choice(ModelChoice("bundle"))


def test_the_demo_model_is_there() -> None:
    assert load_choice(ModelChoice("demo")).classes[-1] == "tumor"
