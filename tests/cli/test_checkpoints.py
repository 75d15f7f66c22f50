"""``models inspect`` and ``models import`` with authors' checkpoints."""

from __future__ import annotations

import os

import pytest
import torch

from napari_wsi_xai import import_checkpoint, load_model, open_run

ENCODER = ("--encoder", "small-8-16", "--tile-px", 32)
CLASSES = ("--classes", "normal, tumor")


@pytest.fixture
def checkpoint(tmp_path):
    """An attention head over descriptors of 16 numbers, from a Lightning checkpoint."""
    torch.manual_seed(0)
    shapes = {"attention.0": (5, 16), "attention.2": (1, 5), "classifier.0": (1, 16)}
    state = {}
    for name, shape in shapes.items():
        state[f"model.{name}.weight"] = torch.randn(shape)
        state[f"model.{name}.bias"] = torch.randn(shape[0])
    path = tmp_path / "fold_1.ckpt"
    torch.save({"state_dict": state, "epoch": 12}, path)
    return path


@pytest.fixture
def linear(tmp_path):
    path = tmp_path / "linear.pt"
    torch.save({"classifier.weight": torch.ones(2, 16), "classifier.bias": torch.ones(2)}, path)
    return path


def test_inspect_in_words_and_as_json(cli, checkpoint):
    text = cli("models", "inspect", checkpoint)
    assert (text.status, text.err) == (0, "")
    assert "AMLab-Amsterdam/AttentionDeepMIL Attention" in text.out
    assert "epoch=12" in text.out
    assert "dropout=0.0" in text.out
    facts = cli("models", "inspect", checkpoint, "--json").json
    assert (facts["kind"], facts["architecture"]) == ("head", "abmil")
    assert (facts["in_features"], facts["num_classes"]) == (16, 2)
    assert facts["stored"] == {"epoch": 12}
    assert facts["assumed"] == {"dropout": 0.0}


def test_inspect_weights_of_an_encoder(cli, shared_data):
    path = shared_data / "weights" / "squeezenet1_1_imagenet.pth"
    text = cli("models", "inspect", path).out
    assert "encoder weights: torchvision squeezenet1_1" in text
    assert f"--encoder squeezenet1_1 --encoder-weights {path}" in text
    assert cli("models", "inspect", path, "--json").json["kind"] == "encoder"


def test_import_and_score(cli, checkpoint, slide, tmp_path):
    out = tmp_path / "model.safetensors"
    words = (*ENCODER, *CLASSES, "--tile-mpp", 0.5, "--option", "dropout=0.25", "--out", out)
    made = cli("models", "import", checkpoint, *words, "--json")
    assert made.status == 0
    assert made.json["head_arguments"]["dropout"] == 0.25
    assert "encoder of" in made.err
    assert "untrained" in made.err
    model = load_model(out)
    assert model.classes == ("normal", "tumor")
    assert model.metadata["checkpoint"] == "fold_1.ckpt"
    bag = torch.randn(4, 16)
    assert torch.equal(model.mil(bag).logits, import_checkpoint(checkpoint)(bag).logits)
    scored = cli("score", slide, "--model", out, "--out", tmp_path / "runs", "--mpp", 0.5, "--json")
    assert scored.status == 0
    assert "the encoder of this model (small-8-16 (untrained, seed 0)) is UNTRAINED" in scored.err
    (store,) = (tmp_path / "runs").glob("*.wsixai.zarr")
    assert open_run(store).store.attributes["model"]["trained"] is False


def test_real_checkpoint_with_its_encoder(cli, shared_data, tmp_path):
    weights = shared_data / "weights"
    words = ("--encoder", "squeezenet1_1", *CLASSES, "--tile-px", 224, "--tile-mpp", 0.5)
    encoder = ("--encoder-weights", weights / "squeezenet1_1_imagenet.pth")
    source = weights / "dsmil_c16_aggregator.pth"
    made = cli("models", "import", source, *words, *encoder, "--out", tmp_path / "m", "--json")
    assert (made.status, made.err) == (0, "")
    assert (made.json["head"], made.json["descriptor_length"]) == ("dsmil", 512)
    assert made.json["metadata"]["source"].startswith("binli123/dsmil-wsi")
    other = cli("models", "import", weights / "dtfd_model.pth", *words, "--out", tmp_path / "n")
    assert other.status == 2
    assert "512" in other.error
    assert "1024" in other.error


def test_what_is_missing_is_asked_for_by_name(cli, checkpoint, linear, tmp_path):
    out = ("--out", tmp_path / "m")
    asked = cli("models", "import", checkpoint, *out)
    assert asked.status == 2
    for words in ("descriptor length 16", "--classes with 2 names", "--tile-px", "--tile-mpp"):
        assert words in asked.error
    partly = cli("models", "import", checkpoint, *ENCODER, "--tile-mpp", 1, *out)
    assert "--classes" in partly.error
    assert "--tile-px" not in partly.error
    several = (linear, *ENCODER, *CLASSES, "--tile-mpp", 1, *out)
    assert "--architecture mean or max or mil-sil" in cli("models", "import", *several).error
    assert cli("models", "import", *several, "--architecture", "max").status == 0
    assert "mean or max" in cli("models", "inspect", linear).out


def test_magnifications_are_asked_for(cli, golden, tmp_path):
    from reference_states import listed_states, made_state

    path = tmp_path / "zoom.pt"
    torch.save(made_state(listed_states(golden)["zoommil_eval_k5"]), path)
    words = ("--encoder", "small-8-24", "--tile-px", 32, "--classes", "a,b,c", "--out")
    asked = cli("models", "import", path, *words, tmp_path / "m")
    assert "--tile-mpp UM with 3 values" in asked.error
    made = cli("models", "import", path, *words, tmp_path / "m", "--tile-mpp", "8, 2,0.5", "--json")
    assert made.status == 0
    assert load_model(tmp_path / "m").mpps == (8.0, 2.0, 0.5)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--option", "hidden"), "NAME=VALUE"),
        (("--option", "gated=true"), "no option 'gated'"),
        (("--option", "hidden=6"), "hidden=5"),
        (("--option", "tile_px=6"), "option of its own"),
        (("--tile-mpp", "fine"), "'fine' needs numbers"),
        (("--tile-mpp", "2,0.5"), "1 magnification"),
        (("--classes", "a,b,c"), "2 different names"),
        (("--encoder", "small-8-20"), "length 20"),
        (("--architecture", "clam"), "'clam' is unknown"),
    ],
)
def test_bad_words_end_with_2(cli, checkpoint, tmp_path, words, part):
    usual = (*ENCODER, *CLASSES, "--tile-mpp", 0.5, "--out", tmp_path / "m")
    result = cli("models", "import", checkpoint, *usual, *words)
    assert result.status == 2
    assert part in result.error
    assert not (tmp_path / "m").exists()


def test_files_that_are_no_head(cli, shared_data, bundle, tmp_path):
    usual = (*ENCODER, *CLASSES, "--tile-mpp", 0.5, "--out", tmp_path / "m")
    encoder = shared_data / "weights" / "squeezenet1_1_imagenet.pth"
    for path, part in (
        (encoder, "encoder weights: torchvision squeezenet1_1"),
        (bundle, "is a model bundle already"),
        (tmp_path / "absent.pt", "no weights file"),
    ):
        result = cli("models", "import", path, *usual)
        assert result.status == 1
        assert part in result.error


def test_code_in_a_checkpoint_is_not_run(cli, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made-by-code"),)

    path = tmp_path / "bad.pt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "extra": Payload()}, path)
    result = cli("models", "inspect", path)
    assert result.status == 1
    assert "mkdir" in result.error
    assert not (tmp_path / "made-by-code").exists()
