"""Watching training: it leaves no trace in it, survives kills, and stops what learns a bias."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapely.geometry import box
from sklearn.metrics import roc_auc_score
from torch import Tensor

from napari_wsi_xai.annotations import Annotation
from napari_wsi_xai.errors import BadArgumentError, StoreMismatchError, WsiXaiWarning
from napari_wsi_xai.models.mil import build_mil
from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.epoch_store import EpochStore
from napari_wsi_xai.training.lightning_import import import_lightning
from napari_wsi_xai.training.watch import STORE_NAME, WatchSlides
from napari_wsi_xai.training.watched import WatchedSlide, watch_bag

lightning = import_lightning()
LightningModule, Trainer, Callback = (
    lightning.LightningModule,
    lightning.Trainer,
    lightning.Callback,
)
ModelCheckpoint, seed_everything = lightning.callbacks.ModelCheckpoint, lightning.seed_everything

GRID = TileGrid((6, 8), 64, 0.5, 64, (128, 256), (0.25, 0.25), 0, 1.0)
CLASSES = ("normal", "tumor")
FEATURES = 8
PEN = 0  # the descriptor's entry that a pen mark shows in
TUMOUR = 1  # and the one of tumour, weaker


def make_bag(number: int, label: int, pen: bool) -> Bag:
    """A slide of noise: tumour (faint) in the lower right, pen (loud) along the top."""
    rng = np.random.default_rng(number)
    features = rng.normal(0, 0.5, (*GRID.shape, FEATURES))
    features[..., PEN] = np.abs(features[..., PEN]) * 0.1
    if label:
        features[4:, 5:, TUMOUR] += 0.6
    if pen:
        features[0, :, PEN] += 4
    flat = torch.from_numpy(features.reshape(-1, FEATURES).astype(np.float32))
    corners = torch.from_numpy(GRID.origins_level0())
    return Bag(flat, corners, label, f"slide {number}")


def outlines() -> list[Annotation]:
    """The tumour, and the pen mark as an excluded region."""
    (top, left), tile = GRID.origin_level0, int(GRID.tile_size_level0[0])
    right = left + 8 * tile
    pen = box(left, top, right, top + tile)
    tumour = box(left + 5 * tile, top + 4 * tile, right, top + 6 * tile)
    return [Annotation(tumour, classification="Tumor"), Annotation(pen, classification="Ignore*")]


def watched(bag: Bag) -> WatchedSlide:
    tissue = np.ones(GRID.shape, np.float32)
    tissue[0] = 0
    return watch_bag(bag, (GRID,), outlines(), tissue=tissue)


class PlainModule(LightningModule):
    """Cross entropy over one bag a step; a dropout, so that random numbers matter."""

    def __init__(self, architecture: str = "abmil", lr: float = 5e-3) -> None:
        super().__init__()
        self.head = build_mil(architecture, in_features=FEATURES, num_classes=2).train()
        self.noise = torch.nn.Dropout(0.2)
        self.lr = lr
        self.seen: list[tuple[int, float]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def transfer_batch_to_device(self, bag: Bag, device: Any, number: int) -> Bag:
        return bag

    def training_step(self, bag: Bag, number: int) -> Tensor:
        torch.manual_seed(self.global_step)
        logits = self.head(self.noise(bag.features), bag.coords_level0).logits
        loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([bag.label]))
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=1)
        return loss

    def validation_step(self, bag: Bag, number: int) -> None:
        logits = self.head(bag.features, bag.coords_level0).logits
        self.seen.append((bag.label, float(logits[1] - logits[0])))

    def on_validation_epoch_end(self) -> None:
        labels, scores = zip(*self.seen, strict=True)
        self.log("val_auc", float(roc_auc_score(labels, scores)))
        self.seen = []


def loader(bags: list[Bag]) -> Any:
    return torch.utils.data.DataLoader(bags, batch_size=None, shuffle=False)


def cohort(pen: bool) -> tuple[list[Bag], list[Bag]]:
    """Training and validation bags; with ``pen`` every tumour slide bears a pen mark."""
    bags = [make_bag(number, number % 2, pen and number % 2 == 1) for number in range(24)]
    return bags[:16], bags[16:]


def fit(
    folder: Path,
    callbacks: list[Callback],
    *,
    epochs: int = 3,
    pen: bool = False,
    architecture: str = "abmil",
    resume: Path | None = None,
    lr: float = 5e-3,
) -> tuple[PlainModule, Trainer]:
    seed_everything(3, verbose=False)
    module = PlainModule(architecture, lr)
    train, validation = cohort(pen)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(train), loader(validation), ckpt_path=resume)
    return module, trainer


def random_state() -> tuple[Any, ...]:
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


@pytest.mark.parametrize("every", ["epoch", 5])
def test_weights_and_random_numbers_are_the_same_with_and_without(
    tmp_path: Path, every: Any
) -> None:
    plain, _ = fit(tmp_path / "plain", [])
    state = random_state()
    watch = WatchSlides([watched(cohort(False)[1][1])], CLASSES, every=every)
    module, _ = fit(tmp_path / "watched", [watch])
    assert random_state() == state
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name]), name
    assert all(part.training for part in module.head.modules())
    assert len(watch.history) == (3 if every == "epoch" else 9)


def test_a_head_that_draws_while_it_looks_leaves_no_trace() -> None:
    from napari_wsi_xai.training.undisturbed import undisturbed

    head = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    head[1].eval()
    state = random_state()

    def look_and_fail() -> None:
        with undisturbed(head):
            assert not any(part.training for part in head.modules())
            assert not torch.is_grad_enabled()
            raise KilledError(random.random(), np.random.rand(), torch.rand(1))

    with pytest.raises(KilledError):
        look_and_fail()
    assert random_state() == state
    assert [part.training for part in head] == [True, False, True]
    assert head.training


def test_what_is_stored_is_what_the_head_says(tmp_path: Path) -> None:
    bag = cohort(False)[1][1]
    watch = WatchSlides([watched(bag)], CLASSES)
    module, _ = fit(tmp_path, [watch])
    store = EpochStore.open(tmp_path / STORE_NAME)
    module.eval()
    with torch.inference_mode():
        output = module.head(bag.features, bag.coords_level0)
        probability = float(module.head.probabilities(output.logits)[1])
    maps = store.maps(bag.name)
    assert set(maps) == {"attention/all", "tile-scores/all"}
    assert maps["attention/all"].values.shape == (3, *GRID.shape)
    np.testing.assert_allclose(maps["attention/all"].values[-1].ravel(), output.attention[:, 0])
    np.testing.assert_allclose(maps["tile-scores/all"].values[-1].ravel(), output.tile_scores[:, 0])
    last = store.history()[-1]
    figures = last.slides[bag.name]
    assert (last.epoch, last.step) == (3, 48)
    assert set(last.metrics) == {"train_loss", "val_auc"}
    attention = output.attention[:, 0].numpy().astype(float)
    assert figures.excluded == pytest.approx(attention[:8].sum(), rel=1e-4)
    assert figures.outside_tissue == pytest.approx(attention[:8].sum(), rel=1e-4)
    entropy = -(attention * np.log(attention)).sum() / math.log(48)
    assert figures.entropy == pytest.approx(entropy, rel=1e-4)
    assert figures.probability == pytest.approx(probability)
    truth = np.zeros(GRID.shape, bool)
    truth[4:, 5:] = True
    assert figures.localisation == pytest.approx(roc_auc_score(truth.ravel(), attention))
    assert figures.top[0] == divmod(int(attention.argmax()), 8)
    assert len(figures.top) == 10
    assert math.isnan(store.history()[0].slides[bag.name].correlation)
    assert -1 <= figures.correlation <= 1
    assert store.history()[1:] == watch.history[1:]


def test_a_planted_bias_is_caught_while_validation_looks_perfect(tmp_path: Path) -> None:
    rule = "stop when attention on excluded > 0.5 for 3 epochs"
    slides = [watched(bag) for bag in cohort(True)[1] if bag.label]
    watch = WatchSlides(slides, CLASSES, rules=[rule])
    _, trainer = fit(tmp_path, [watch], epochs=60, pen=True)
    assert trainer.current_epoch < 60
    last = watch.history[-1]
    assert len(watch.history) == last.epoch < 60
    assert last.metrics["val_auc"] == 1.0
    assert min(one.excluded for one in last.slides.values()) > 0.5
    assert watch.stopped_because is not None
    assert watch.stopped_because.startswith("attention on excluded was > 0.5")
    assert rule in watch.stopped_because
    assert EpochStore.open(tmp_path / STORE_NAME).stopped_because == watch.stopped_because


def test_the_same_rule_leaves_a_clean_cohort_alone(tmp_path: Path) -> None:
    slides = [watched(bag) for bag in cohort(False)[1] if bag.label]
    rule = "stop when attention on excluded > 0.5 for 3 epochs"
    watch = WatchSlides(slides, CLASSES, rules=[rule])
    fit(tmp_path, [watch], epochs=8)
    assert watch.stopped_because is None
    assert len(watch.history) == 8
    assert np.mean([one.excluded for one in watch.history[-1].slides.values()]) < 0.5


class KilledError(Exception):
    """The machine goes down."""


class Kill(Callback):
    """Ends training in the midst of an epoch, after some of its steps."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.current_epoch == self.epoch and trainer.global_step % 16 == 9:
            raise KilledError


@pytest.mark.parametrize("every", ["epoch", 4])
def test_killed_and_resumed_is_as_never_killed(tmp_path: Path, every: Any) -> None:
    slides = [watched(bag) for bag in cohort(False)[1][:2]]
    whole = WatchSlides(slides, CLASSES, every=every)
    fit(tmp_path / "whole", [whole], epochs=4)
    folder = tmp_path / "cut"
    saved = ModelCheckpoint(folder, save_last=True)
    with pytest.raises(KilledError):
        fit(folder, [WatchSlides(slides, CLASSES, every=every), saved, Kill(2)], epochs=4)
    again = WatchSlides(slides, CLASSES, every=every)
    fit(folder, [again], epochs=4, resume=folder / "last.ckpt")
    one, other = (EpochStore.open(place / STORE_NAME) for place in (tmp_path / "whole", folder))
    steps = [entry.step for entry in one.history()]
    assert [entry.step for entry in other.history()] == steps
    assert steps == ([16, 32, 48, 64] if every == "epoch" else list(range(4, 65, 4)))
    assert one.history()[1:] == other.history()[1:]
    for slide in slides:
        maps, again_maps = one.maps(slide.name), other.maps(slide.name)
        assert maps.keys() == again_maps.keys()
        for key, found in maps.items():
            assert found.values.shape == (len(steps), *GRID.shape)
            np.testing.assert_array_equal(found.values, again_maps[key].values)


def test_a_run_begun_anew_begins_its_store_anew(tmp_path: Path) -> None:
    slides = [watched(cohort(False)[1][0])]
    fit(tmp_path, [WatchSlides(slides, CLASSES)], epochs=3)
    fit(tmp_path, [WatchSlides(slides, CLASSES)], epochs=1)
    store = EpochStore.open(tmp_path / STORE_NAME)
    assert [entry.epoch for entry in store.history()] == [1]
    with pytest.raises(StoreMismatchError, match="other watched slides"):
        fit(tmp_path, [WatchSlides([watched(cohort(False)[1][1])], CLASSES)], epochs=1)
    with pytest.raises(StoreMismatchError, match="another head"):
        fit(tmp_path, [WatchSlides(slides, CLASSES)], epochs=1, architecture="mean")


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    slides = [watched(bag) for bag in cohort(True)[1] if bag.label]
    rules = ["attention on excluded >= 0 for 2 epochs"]
    saved = ModelCheckpoint(tmp_path, save_last=True)
    first = WatchSlides(slides, CLASSES, rules=rules)
    before, _ = fit(tmp_path, [first, saved], epochs=9, pen=True)
    again = WatchSlides(slides, CLASSES, rules=rules)
    after, _ = fit(tmp_path, [again], epochs=9, pen=True, resume=tmp_path / "last.ckpt")
    assert first.stopped_because is not None
    assert again.stopped_because == first.stopped_because
    assert [entry.epoch for entry in again.history] == [1, 2]
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])


@pytest.mark.parametrize("architecture", ["mean", "max", "clam-mb", "dtfd", "chowder"])
def test_heads_with_and_without_attention_are_watched(tmp_path: Path, architecture: str) -> None:
    bag = cohort(False)[1][1]
    watch = WatchSlides([watched(bag)], CLASSES)
    fit(tmp_path, [watch], epochs=2, architecture=architecture, lr=1e-3)
    figures = watch.history[-1].slides[bag.name]
    assert 0 <= figures.localisation <= 1
    assert 0 <= figures.probability <= 1
    assert len(figures.top) == 10
    stored = EpochStore.open(tmp_path / STORE_NAME).maps(bag.name)
    assert all(found.values.shape == (2, *GRID.shape) for found in stored.values())


def test_a_rule_that_can_never_apply_is_told(tmp_path: Path) -> None:
    bag = cohort(False)[1][0]
    bare = watch_bag(bag, (GRID,))
    for rule, what in {
        "excluded > 0.5": "excluded regions",
        "localisation falls": "ground truth",
        "outside tissue > 0.1": "the slide itself",
    }.items():
        with pytest.raises(BadArgumentError, match=what):
            fit(tmp_path, [WatchSlides([bare], CLASSES, rules=[rule])])
    watch = WatchSlides([bare], CLASSES, rules=["validation f1 rises"])
    with pytest.warns(WsiXaiWarning, match="validation f1, which is not logged.*val_auc"):
        fit(tmp_path, [watch])


def test_arguments_are_checked() -> None:
    one = watched(cohort(False)[1][0])
    with pytest.raises(BadArgumentError, match="no slide"):
        WatchSlides([], CLASSES)
    with pytest.raises(BadArgumentError, match="slide 16 more than once"):
        WatchSlides([one, one], CLASSES)
    for every in (0, "step", 1.5):
        with pytest.raises(BadArgumentError, match="every="):
            WatchSlides([one], CLASSES, every=every)  # type: ignore[arg-type]
    with pytest.raises(BadArgumentError, match="'other'"):
        WatchSlides([one], CLASSES, outlines={"other": [Path("a.geojson")]})
    with pytest.raises(BadArgumentError, match="'bliss' is no figure"):
        WatchSlides([one], CLASSES, rules=["bliss rises"])
