"""Model bundles: round trips, hashes, and every way in which a file can be wrong."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError, ModelFileError, WeightsNotFoundError
from napari_wsi_xai.models import (
    MIL_ARCHITECTURES,
    Model,
    SmallCNN,
    build_encoder,
    build_mil,
    build_model,
    load_model,
    save_model,
    small_encoder,
)
from napari_wsi_xai.models.bundle import model_config

FORMS = ["bundle", "bundle.safetensors"]


def trained_model(architecture: str = "abmil") -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder = small_encoder(SmallCNN((8, 16)).eval())
    mpps = [2.0**step for step in range(build_mil(architecture, 16).num_magnifications)]
    model = build_model(encoder, architecture, ("normal", "tumor"), tile_px=64, mpp=mpps[::-1])
    return replace(model, metadata={"trained": True, "note": "größer"}, name="demo")


def decision(model: Model) -> torch.Tensor:
    """Logits of a bag, or of nested bags, with places."""
    bags = [
        torch.randn(9 * 4**level, 16, generator=torch.Generator().manual_seed(level))
        for level in range(len(model.mpps))
    ]
    corners = [64 * torch.arange(2 * len(bag)).reshape(-1, 2) for bag in bags]
    if len(bags) == 1:
        return model.mil(bags[0], corners[0]).logits
    return model.mil(bags, corners).logits


def features(model: Model) -> np.ndarray:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        return model.encoder.module(model.encoder.to_input(tiles)).numpy()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("architecture", sorted(MIL_ARCHITECTURES))
def test_round_trip(tmp_path, form, architecture):
    model = trained_model(architecture)
    path = save_model(model, tmp_path / form)
    again = load_model(path)
    assert again.content_hash == model.content_hash
    assert (again.tile_px, again.mpp, again.classes) == (64, 1.0, ("normal", "tumor"))
    assert (again.name, again.metadata) == ("demo", model.metadata)
    assert again.encoder.name == model.encoder.name
    np.testing.assert_array_equal(features(again), features(model))
    assert again.mpps == model.mpps
    torch.testing.assert_close(decision(again), decision(model), rtol=0, atol=0)
    assert not again.mil.training


def test_hash_is_of_content_not_of_place(tmp_path):
    model = trained_model()
    hashes = {load_model(save_model(model, tmp_path / "a" / form)).content_hash for form in FORMS}
    shutil.move(tmp_path / "a" / "bundle", tmp_path / "b")
    hashes.add(load_model(tmp_path / "b").content_hash)
    assert hashes == {model.content_hash}
    assert replace(model, name="other").content_hash == model.content_hash
    assert replace(model, mpp=0.5).content_hash != model.content_hash
    assert replace(model, classes=("a", "b")).content_hash != model.content_hash
    other = build_mil("abmil", 16, 2)
    assert replace(model, mil=other).content_hash != model.content_hash


def several(mpp=(8.0, 2.0, 0.5), **arguments) -> Model:
    return build_model("small-8-16", "zoommil", tile_px=64, mpp=mpp, **arguments)


@pytest.mark.parametrize("form", FORMS)
def test_several_magnifications_travel_with_the_bundle(tmp_path, form):
    model = several()
    assert (model.mpp, model.mpps) == (0.5, (8.0, 2.0, 0.5))
    assert model.mil.num_magnifications == 3
    again = load_model(save_model(model, tmp_path / form))
    assert (again.mpp, again.mpps) == (0.5, (8.0, 2.0, 0.5))
    assert again.content_hash == model.content_hash
    assert again.content_hash != several((4.0, 2.0, 0.5)).content_hash
    assert pickle.loads(pickle.dumps(again)).mpps == again.mpps
    assert several((2, 1)).mil.num_magnifications == 2


def test_one_magnification_is_hashed_and_written_as_ever():
    """Bundles and result stores from before there were several go on to match."""
    model = trained_model()
    assert set(model_config(model)) == {"mil", "tile_px", "mpp", "classes"}
    assert model.mpps == (1.0,)
    assert replace(model, mpp=0.25).mpps == (0.25,)
    assert replace(model, mpps=(1.0,)).content_hash == model.content_hash


def test_arguments_that_came_later_do_not_change_earlier_hashes(tmp_path):
    """Bundles and stores made before CHOWDER had a tile perceptron and WELDON's pooling."""
    earlier = {"in_features", "num_classes", "single_logit", "n_extreme", "hidden", "dropout"}
    arguments = model_config(trained_model("chowder"))["mil"]["arguments"]
    assert set(arguments) == earlier | {"order"}
    for options in ({"score_hidden": (5,)}, {"weldon": (2, 1)}):
        model = build_model(trained_model().encoder, "chowder", **options)
        assert set(options) <= set(model_config(model)["mil"]["arguments"])
        again = load_model(save_model(model, tmp_path / f"{next(iter(options))}.safetensors"))
        assert again.mil.arguments == model.mil.arguments
        assert again.content_hash == model.content_hash


def test_magnifications_that_do_not_fit():
    with pytest.raises(BadArgumentError, match=r"zoommil head looks at 3 magn.*0\.5 states 1"):
        several(0.5)
    with pytest.raises(BadArgumentError, match=r"looks at 4 magn.*2, 1 states 2"):
        several((2, 1), num_magnifications=4)
    with pytest.raises(BadArgumentError, match=r"2 / 1\.5 = 1\.33333"):
        several((2.0, 1.5))
    with pytest.raises(BadArgumentError, match=r"abmil head looks at 1 magn.*2, 1 states 2"):
        build_model("small", "abmil", mpp=(2, 1))
    with pytest.raises(BadArgumentError, match=r"mpp=1 is not the finest of mpps=8, 2, 0\.5"):
        replace(several(), mpp=1.0)
    with pytest.raises(BadArgumentError, match=r"mpp=\(\)"):
        several(())


def test_concatenated_descriptors_are_as_long_as_all_magnifications_together():
    """A head that takes descriptors side by side needs their lengths' sum."""
    encoder = build_encoder("small-8-16")
    head = build_mil("mean", 32)
    head.magnification_use, head.num_magnifications = "concat", 2
    model = Model(encoder, head, 64, 1.0, ("a", "b"), mpps=(4.0, 1.0))
    assert model.mil.in_features == 2 * encoder.dim
    head.num_magnifications = 3
    with pytest.raises(BadArgumentError, match=r"length 16 for each of 3 magn.*32"):
        Model(encoder, head, 64, 1.0, ("a", "b"), mpps=(16.0, 4.0, 1.0))


@pytest.mark.parametrize("form", FORMS)
def test_half_size_storage(tmp_path, form):
    model = trained_model()
    full = save_model(model, tmp_path / "full.safetensors").stat().st_size
    half = save_model(model, tmp_path / "half.safetensors", dtype="float16").stat().st_size
    assert half < 0.7 * full
    again = load_model(save_model(model, tmp_path / form, dtype="float16"))
    assert next(again.encoder.module.parameters()).dtype == torch.float32
    np.testing.assert_allclose(features(again), features(model), rtol=0.02, atol=1e-3)
    twice = load_model(save_model(again, tmp_path / ("again-" + form), dtype="float16"))
    assert twice.content_hash == again.content_hash


@pytest.mark.parametrize("form", FORMS)
def test_encoder_of_a_bundle_travels_by_its_path(tmp_path, form):
    model = load_model(save_model(trained_model(), tmp_path / form))
    assert model.encoder.spec.kind == "small"
    assert model.encoder.spec.weights == str(tmp_path / form)
    pickled = pickle.dumps(model.encoder)
    assert len(pickled) < 1000
    again = replace(model, encoder=pickle.loads(pickled))
    np.testing.assert_array_equal(features(again), features(model))
    assert pickle.loads(pickle.dumps(model)).content_hash == model.content_hash


def test_untrained_encoder_by_reference(tmp_path):
    model = build_model("resnet18", "mean", seed=4)
    path = save_model(model, tmp_path / "b")
    assert not (path / "encoder.safetensors").exists()
    again = load_model(path)
    assert again.content_hash == model.content_hash
    assert again.encoder.spec.weights is None
    assert not again.metadata["trained"]
    embedded = save_model(model, tmp_path / "e", embed_encoder=True)
    assert (embedded / "encoder.safetensors").exists()
    again = load_model(embedded)
    assert again.content_hash == model.content_hash
    assert not again.encoder.trained


def test_weights_from_a_file_are_embedded(tmp_path, shared_data):
    weights = shared_data / "weights" / "squeezenet1_1_imagenet.pth"
    model = build_model(build_encoder("squeezenet1_1", str(weights)), "chowder")
    path = save_model(model, tmp_path / "b")
    assert load_model(path).content_hash == model.content_hash
    assert str(weights.parent) not in (path / "model.json").read_text()
    with pytest.raises(BadArgumentError, match="embed_encoder"):
        save_model(model, tmp_path / "c", embed_encoder=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_program_inside_a_bundle(tmp_path, form):
    module = SmallCNN((8, 16)).eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 64, 64)), tmp_path / "net.pt")
    model = build_model(build_encoder(str(tmp_path / "net.pt")), "abmil")
    path = save_model(model, tmp_path / form, dtype="float16")
    (tmp_path / "net.pt").unlink()
    again = load_model(path)
    np.testing.assert_array_equal(features(again), features(model))
    assert pickle.loads(pickle.dumps(again.encoder)).dim == 16


def test_seed_decides_the_head():
    one, same, other = (build_model("small", seed=seed) for seed in (1, 1, 2))
    assert one.content_hash == same.content_hash != other.content_hash
    assert one.metadata["trained"] is False
    assert "untrained" in one.name


def test_parts_that_do_not_fit():
    encoder = build_encoder("small")
    with pytest.raises(BadArgumentError, match=r"128.*64"):
        Model(encoder, build_mil("mean", 64), 224, 0.5, ("a", "b"))
    head = build_mil("mean", 128)
    with pytest.raises(BadArgumentError, match="2 different"):
        Model(encoder, head, 224, 0.5, ("a", "b", "c"))
    with pytest.raises(BadArgumentError, match="2 different"):
        Model(encoder, head, 224, 0.5, ("a", "a"))
    with pytest.raises(BadArgumentError, match="mpp=0"):
        Model(encoder, head, 224, 0, ("a", "b"))


def changed(path, change):
    """The bundle with its description edited."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if path.is_dir():
        config = json.loads((path / "model.json").read_text())
        change(config)
        (path / "model.json").write_text(json.dumps(config))
        return
    with safe_open(str(path), "pt") as file:
        config = json.loads(file.metadata()["napari_wsi_xai"])
    change(config)
    save_file(load_file(path), path, {"napari_wsi_xai": json.dumps(config)})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=99), "99"),
        (lambda c: c["mil"].update(architecture="transmogrifier"), "transmogrifier"),
        (lambda c: c["encoder"]["spec"].update(kind="oracle"), "oracle"),
        (lambda c: c.pop("tile_px"), "tile_px"),
        (lambda c: c.update(mpp=2.0), "hash"),
        (lambda c: c["encoder"].update(preprocessing=None), "preprocessing"),
        (lambda c: c["mil"]["arguments"].update(hidden=64), "shape"),
        (lambda c: c["mil"]["arguments"].update(extra=1), "extra"),
        (lambda c: c["mil"].update(arguments=[1]), "damaged"),
        (lambda c: c["encoder"]["spec"].update(name="small-8-17"), "shape"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path, form, change, message):
    path = save_model(trained_model(), tmp_path / form)
    changed(path, change)
    with pytest.raises(ModelFileError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_not_a_bundle(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(WeightsNotFoundError, match="nothing-here"):
        load_model(tmp_path / "nothing-here")
    with pytest.raises(ModelFileError, match=r"model\.json"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{ not json")
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("[1, 2]")
    with pytest.raises(ModelFileError, match="schema version None"):
        load_model(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ModelFileError, match="no model description"):
        load_model(tmp_path / "plain.safetensors")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(ModelFileError, match=r"image\.png"):
        load_model(tmp_path / "image.png")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated(tmp_path, share):
    path = save_model(trained_model(), tmp_path / "bundle.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError):
        load_model(path)
    folder = save_model(trained_model(), tmp_path / "bundle")
    (folder / "mil.safetensors").unlink()
    with pytest.raises(ModelFileError):
        load_model(folder)


def test_flipped_weights_are_noticed(tmp_path):
    path = save_model(trained_model(), tmp_path / "bundle.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"hash|not those"):
        load_model(path)


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["m.pt", "m.pkl", "m.safetensors", "encoder.safetensors"])
def test_pickle_is_not_run(tmp_path, name):
    target = tmp_path / "made-by-code"
    if name.startswith("encoder"):
        path = save_model(trained_model(), tmp_path / "bundle")
        (path / name).write_bytes(pickle.dumps(Payload(target)))
    else:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(ModelFileError):
        load_model(path)
    assert not target.exists()


def test_saving_over_a_bundle_and_over_something_else(tmp_path):
    path = save_model(trained_model(), tmp_path / "bundle")
    other = trained_model("chowder")
    assert load_model(save_model(other, path)).content_hash == other.content_hash
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ModelFileError, match="no model bundle"):
        save_model(other, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFileError):
        save_model(other, tmp_path / "file" / "bundle")
    with pytest.raises(BadArgumentError, match="int8"):
        save_model(other, tmp_path / "x", dtype="int8")
    leftovers = [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]
    assert leftovers == []


def test_bundle_name_beyond_ascii(tmp_path):
    path = save_model(trained_model(), tmp_path / "Größe 😐.safetensors")
    assert pickle.loads(pickle.dumps(load_model(path).encoder)).dim == 16
