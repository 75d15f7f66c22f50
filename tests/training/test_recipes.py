from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import MIL_ARCHITECTURES
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.recipes import AUTHORS, read_recipe, recipe_for, write_recipe
from napari_wsi_xai.training.schedules import best_epoch, early_stop, learning_rate


def test_every_architecture_has_a_recipe() -> None:
    assert set(AUTHORS) == set(MIL_ARCHITECTURES)
    for name in MIL_ARCHITECTURES:
        assert recipe_for(name).architecture == name


def test_settings_are_the_authors() -> None:
    clam = recipe_for("clam-sb")
    assert (clam.optimizer, clam.lr, clam.weight_decay, clam.epochs) == ("adam", 1e-4, 1e-5, 200)
    assert (clam.patience, clam.least_epochs, clam.monitor) == (20, 50, "val_loss")
    assert clam.loss == {"bag_weight": 0.7, "instance_weight": 0.3}
    dsmil = recipe_for("dsmil")
    assert (dsmil.betas, dsmil.weight_decay, dsmil.init) == ((0.5, 0.9), 1e-3, "orthogonal")
    assert (dsmil.schedule, dsmil.lr_end, dsmil.epochs) == ("cosine", 5e-6, 50)
    abmil = recipe_for("abmil")
    assert (abmil.lr, abmil.betas, abmil.weight_decay) == (5e-4, (0.9, 0.999), 1e-4)
    transmil = recipe_for("transmil")
    assert (transmil.optimizer, transmil.accumulate, transmil.lr) == ("radam", 2, 2e-4)
    zoommil = recipe_for("zoommil")
    assert (zoommil.monitor, zoommil.class_balance) == ("val_weighted_f1", "sampler")
    assert (zoommil.lr_factor, zoommil.lr_patience, zoommil.head) == (0.8, 5, {"dropout": 0.25})
    assert recipe_for("dtfd").clip == 5.0
    assert recipe_for("msmil").most_tiles == 100


def test_settings_can_be_overridden_wherever_they_belong() -> None:
    recipe = recipe_for("clam-sb", lr="2e-3", k_sample="4", bag_weight=0.5, patience="none")
    assert (recipe.lr, recipe.patience) == (2e-3, None)
    assert recipe.head == {"k_sample": 4}
    assert recipe.loss == {"bag_weight": 0.5, "instance_weight": 0.3}
    dtfd = recipe_for("dtfd", **{"seed": 7, "head.seed": 3, "milestones": "10,20"})
    assert (dtfd.seed, dtfd.head["seed"], dtfd.milestones) == (7, 3, (10, 20))
    assert recipe_for("chowder", hidden="20,10").head["hidden"] == [20, 10]
    assert recipe_for("sparseconvmil", hidden="16").head["hidden"] == [16]
    assert recipe_for("zoommil", k_sample=3).head == {"dropout": 0.25, "k_sample": 3}
    assert recipe_for("clam-sb", **{"class-balance": "weighted"}).class_balance == "weighted"


@pytest.mark.parametrize(
    ("name", "near"),
    [("learning_rates", None), ("weigth_decay", "weight_decay"), ("bag_weights", "bag_weight")],
)
def test_unknown_settings_name_the_nearest(name: str, near: str | None) -> None:
    with pytest.raises(BadArgumentError, match=f"'{name}' is no setting") as error:
        recipe_for("clam-sb", **{name: 1})
    assert (f"did you mean {near!r}" in str(error.value)) == (near is not None)
    with pytest.raises(BadArgumentError, match=r"'clam' is unknown \(did you mean 'clam-"):
        recipe_for("clam")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0}, "lr=0.0 must be above 0"),
        ({"lr": "fast"}, "lr='fast' does not fit: it must be a number"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"epochs": 1.5}, "epochs=1.5 does not fit: it must be a whole number"),
        ({"optimizer": "adm"}, "optimizer='adm' must be one of adam"),
        ({"betas": "0.9"}, "betas="),
        ({"monitor": "auc"}, "monitor='auc' must be one of val_loss"),
        ({"patience": 0}, "patience=0"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"lr": 1e-3, "lr_end": 1e-2}, "lr_end=0.01 must be from 0 to 0.001"),
        ({"head": 3}, "head=3 must be settings by name"),
        ({"seed": True}, "seed=True does not fit"),
    ],
)
def test_values_out_of_their_limits_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BadArgumentError) as error:
        recipe_for("abmil", **settings)
    assert words in str(error.value)


@pytest.mark.parametrize("name", sorted(MIL_ARCHITECTURES))
def test_yaml_keeps_a_recipe(name: str, tmp_path: Path) -> None:
    recipe = recipe_for(name, lr=3e-5, seed=12)
    path = write_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(path) == recipe
    assert read_recipe(path, name, epochs=3) == replace(recipe, epochs=3)


def test_yaml_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("architecture: clam-mb\nlr: 1e-5\ndropout: 0.1\nloss: {bag_weight: 0.6}\n")
    recipe = read_recipe(path, bag_weight="0.9")
    assert recipe.lr == 1e-5
    assert recipe.head == {"dropout": 0.1}
    assert recipe.loss["bag_weight"] == 0.9
    with pytest.raises(BadArgumentError, match="for clam-mb, not abmil"):
        read_recipe(path, "abmil")
    path.write_text("lr: 1\n")
    with pytest.raises(BadArgumentError, match="names no architecture"):
        read_recipe(path)
    assert read_recipe(path, "mean").lr == 1
    for text in ("- 1\n", "a: [\n"):
        path.write_text(text)
        with pytest.raises(BadArgumentError, match=r"r\.yaml"):
            read_recipe(path, "mean")
    with pytest.raises(BadArgumentError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    path.write_text("lr: 1\n")
    with pytest.raises(BadArgumentError, match="'path' is no setting"):
        read_recipe(path, "mean", **{"path": "3"})


def test_learning_rates() -> None:
    cosine = recipe_for("dsmil", lr=1.0, lr_end=0.2, epochs=10)
    assert learning_rate(cosine, 0, []) == 1.0
    assert learning_rate(cosine, 5, []) == pytest.approx(0.6)
    assert learning_rate(cosine, 10, []) == pytest.approx(0.2)
    steps = recipe_for("dtfd", lr=1.0, milestones=(2, 4), lr_factor=0.5)
    assert [learning_rate(steps, e, []) for e in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    plateau = recipe_for("zoommil", lr=1.0, lr_patience=1, lr_factor=0.5)
    figures = [0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.3, math.nan]
    rates = [learning_rate(plateau, e, figures[:e]) for e in range(len(figures) + 1)]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert learning_rate(replace(plateau, lr_end=0.4), 8, figures) == 0.4
    assert learning_rate(plateau, 9, [math.nan] * 9) == 1
    assert learning_rate(recipe_for("abmil"), 11, []) == 5e-4


def test_training_stops_when_nothing_becomes_better() -> None:
    recipe = recipe_for("clam-sb", patience=2, least_epochs=5)
    assert early_stop(recipe, [3, 2, 1, 0]) is None  # too early
    reason = early_stop(recipe, [3, 2, 1, 0, 0])
    assert reason == "val_loss was best in epoch 1 and did not become better for 4 epochs."
    assert early_stop(recipe, [3, 2, 1, 4, 0]) is None
    assert early_stop(replace(recipe, patience=None), [3] * 99) is None
    assert "never a number" in str(early_stop(recipe, [math.nan] * 5))


@given(st.lists(st.one_of(st.floats(), st.sampled_from([0.0, 0.5, 1.0]))))
def test_best_epoch_is_the_first_of_the_largest(values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    best = best_epoch(values)
    if best is None:
        assert not finite
        return
    assert values[best] == max(finite)
    assert all(values[e] != values[best] for e in range(best))


def test_zoommil_wants_features_of_several_magnifications() -> None:
    with pytest.raises(BadArgumentError, match="the features are of one: encode the slides at"):
        build_head(recipe_for("zoommil"), 12, 2, 1)
    assert build_head(recipe_for("zoommil"), 12, 2, 2).num_magnifications == 2


def test_settings_for_an_encoder_go_through_a_file(tmp_path: Path) -> None:
    recipe = recipe_for(
        "abmil",
        end_to_end="true",
        encoder_lr="1e-5",
        frozen="conv1, layer1.0",
        class_balance="alternating",
        **{"augment.flips": "true", "hue": "0.04"},
    )
    assert (recipe.end_to_end, recipe.encoder_lr) == (True, 1e-5)
    assert recipe.frozen == ("conv1", "layer1.0")
    assert recipe.augment == {"flips": True, "hue": 0.04}
    assert read_recipe(write_recipe(recipe, tmp_path / "recipe.yaml")) == recipe
    assert recipe_for(**recipe.to_dict()) == recipe
    text = "architecture: abmil\nend_to_end: true\nfrozen: [all]\naugment: {contrast: 0.5}\n"
    (tmp_path / "own.yaml").write_text(text)
    own = read_recipe(tmp_path / "own.yaml", **{"augment.contrast": "0.2"})
    assert (own.frozen, own.augment) == (("all",), {"contrast": 0.2})


def test_recipes_for_descriptors_alone_say_nothing_of_encoders() -> None:
    told = recipe_for("abmil").to_dict()
    assert not {"end_to_end", "encoder_lr", "frozen", "augment"} & set(told)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_lr": 0.1}, "encoder_lr=0.1 is for training the encoder too"),
        ({"frozen": "all"}, "add end_to_end=true"),
        ({"flips": True}, "add end_to_end=true"),
        ({"end_to_end": "maybe"}, "end_to_end='maybe' does not fit: it must be true or false"),
        ({"end_to_end": 1}, "true or false"),
        ({"end_to_end": True, "encoder_lr": 0}, "encoder_lr=0.0 must be above 0"),
        ({"end_to_end": True, "hue": 0.6}, "augment.hue=0.6 must be from 0 to 0.5"),
        ({"end_to_end": True, "contrast": -1}, "augment.contrast=-1.0 must be from 0"),
        ({"end_to_end": True, "flips": 2}, "flips=2 does not fit: it must be true or false"),
        ({"end_to_end": True, "augment": {"blur": 1}}, "'augment.blur' is no setting"),
        ({"end_to_end": True, "frozen": [1]}, "frozen=\\[1\\] does not fit: it must be words"),
    ],
)
def test_settings_for_an_encoder_out_of_their_limits(settings: dict, words: str) -> None:
    with pytest.raises(BadArgumentError, match=words):
        recipe_for("abmil", **settings)
