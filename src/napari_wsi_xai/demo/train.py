"""Train the shipped demo model on slide labels: ``python -m napari_wsi_xai.demo.train``.

Slides of the generator, rendered to arrays, come in pairs that differ by their tumour nests alone;
the network sees bags of tiles and the slide's label, never a polygon. Polygons are used afterwards,
on other seeds, to measure how well the attention found the nests.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_wsi_xai.demo.model import MODEL_PATH
from napari_wsi_xai.demo.render import Scene
from napari_wsi_xai.demo.slide import DEMO_MPP, QUALITY
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.models import MILModel, Model, SmallCNN, build_mil, save_model, small_encoder

__all__ = ["Bag", "TrainingOptions", "make_bags", "measure", "train"]

CLASSES = ("normal", "tumor")
TILE_PX = 224
TRAINING_SEEDS = range(10_000, 10_030)
HELD_OUT_SEEDS = range(20_000, 20_010)


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a training run.

    Attributes
    ----------
    slide_px
        Side of a training slide.
    bags, tiles
        A step takes ``bags`` slides, half of them with tumour, and at most ``tiles`` random tiles
        of each. Fewer than a slide has would leave some tumour slides without a tumour tile.
    pooled_weight
        Weight of the loss on the pooled tile scores beside the one on the slide's logits.
    sharpness
        r of the pooling ``log(mean(exp(r s))) / r``: 0 is the mean, infinity the maximum.
    """

    seed: int = 0
    slide_px: int = 3000
    epochs: int = 8
    bags: int = 2
    tiles: int = 96
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-2
    hidden: int = 64
    dropout: float = 0.25
    pooled_weight: float = 1.0
    sharpness: float = 1.0


@dataclass(frozen=True)
class Bag:
    """Tissue tiles of one slide.

    Attributes
    ----------
    tiles
        (n, 224, 224, 3) uint8.
    covered
        (n,) share of each tile inside a nest; for measuring only.
    label
        Index into the classes.
    """

    tiles: NDArray[np.uint8]
    covered: NDArray[np.float64]
    label: int


def make_bags(seeds: Sequence[int], slide_px: int) -> list[Bag]:
    """Two bags of each seed: the normal slide and the one with tumour."""
    pairs = [(seed, tumour) for seed in seeds for tumour in (False, True)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: _make_bag(pair[0], pair[1], slide_px), pairs))


def _make_bag(seed: int, tumour: bool, slide_px: int) -> Bag:
    from imagecodecs import jpeg8_decode, jpeg8_encode

    scene = Scene(seed, (slide_px, slide_px), tumour)
    image = scene.render(Region(0, 0, slide_px, slide_px))
    image = jpeg8_decode(jpeg8_encode(image, level=QUALITY, subsampling="420"))
    count = slide_px // TILE_PX
    used = image[: count * TILE_PX, : count * TILE_PX]
    grid = used.reshape(count, TILE_PX, count, TILE_PX, 3).swapaxes(1, 2)
    tissue = (grid[:, :, ::4, ::4, 1] < 215).mean(axis=(2, 3)) > 0.5
    rows, columns = np.nonzero(tissue)
    boxes = shapely.box(
        columns * TILE_PX, rows * TILE_PX, (columns + 1) * TILE_PX, (rows + 1) * TILE_PX
    )
    nests = shapely.union_all(scene.layout.nests.polygons())
    covered = shapely.area(shapely.intersection(boxes, nests)) / TILE_PX**2
    return Bag(grid[rows, columns], covered, int(tumour))


def _as_input(tiles: NDArray[np.uint8]) -> Tensor:
    """Pixels to -1..1, NCHW, as the small encoder's preprocessing does."""
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _draw(bag: Bag, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random tiles, flipped and turned."""
    chosen = bag.tiles[rng.permutation(len(bag.tiles))[:count]]
    turned = [np.rot90(tile, int(rng.integers(4))) for tile in chosen]
    return np.stack([tile[::-1] if rng.random() < 0.5 else tile for tile in turned])


def _loss(mil: MILModel, features: Tensor, label: int, options: TrainingOptions) -> Tensor:
    r"""Loss of one bag: cross-entropy of the slide's logits, plus that of the pooled tile scores.

    .. math:: L = -\log P_y + \lambda \, \mathrm{BCE}(\tfrac1r \log \tfrac1N \sum_j e^{r s_j}, y)

    The second term asks of the attention logits themselves that some be above 0 in tumour slides
    and none in normal ones. Softmax alone fixes neither their sign nor that every tumour tile,
    and not just the plainest, gets a high one.
    """
    out = mil(features)
    target = torch.tensor(label)
    slide = nn.functional.cross_entropy(out.logits, target)
    r = options.sharpness
    pooled = (torch.logsumexp(r * out.tile_scores[:, 0], 0) - np.log(len(features))) / r
    tile = nn.functional.binary_cross_entropy_with_logits(pooled, target.float())
    return slide + options.pooled_weight * tile


def train(bags: Sequence[Bag], options: TrainingOptions) -> tuple[SmallCNN, MILModel]:
    """Train encoder and gated attention head end to end on slide labels; returns both in eval."""
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    rng = np.random.default_rng(options.seed)
    cnn = SmallCNN()
    mil = build_mil(
        "abmil-gated",
        in_features=cnn.widths[-1],
        num_classes=len(CLASSES),
        hidden=options.hidden,
        dropout=options.dropout,
    )
    cnn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [*cnn.parameters(), *mil.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    by_label = [[bag for bag in bags if bag.label == label] for label in (0, 1)]
    steps = min(map(len, by_label)) * 2 // options.bags
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, total_steps=steps * options.epochs
    )
    for epoch in range(options.epochs):
        orders = [rng.permutation(len(group)) for group in by_label]
        total = 0.0
        for step in range(steps):
            half = slice(step * options.bags // 2, (step + 1) * options.bags // 2)
            chosen = [
                group[i] for group, order in zip(by_label, orders, strict=True) for i in order[half]
            ]
            tiles = [_draw(bag, options.tiles, rng) for bag in chosen]
            # One pass over both kinds of slide: batch statistics must not tell them apart.
            features = cnn(_as_input(np.concatenate(tiles))).split([len(t) for t in tiles])
            losses = [
                _loss(mil, f, bag.label, options) for f, bag in zip(features, chosen, strict=True)
            ]
            loss = torch.stack(losses).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1:2d}/{options.epochs}  loss {total / steps:.4f}", flush=True)
    return cnn.eval(), mil.eval()


@torch.inference_mode()
def measure(cnn: SmallCNN, mil: MILModel, bags: Sequence[Bag]) -> dict[str, Any]:
    """Slide AUC, and in tumour slides the AUC of tile scores against tiles half inside a nest."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels, probabilities, found, by_chance = [], [], [], []
    for bag in bags:
        parts = [cnn(_as_input(bag.tiles[i : i + 64])) for i in range(0, len(bag.tiles), 64)]
        out = mil(torch.cat(parts))
        labels.append(bag.label)
        probabilities.append(float(torch.softmax(out.logits, 0)[1]))
        truth = bag.covered >= 0.5
        if bag.label and truth.any():
            found.append(float(roc_auc_score(truth, out.tile_scores[:, 0].numpy())))
            by_chance.append(float(roc_auc_score(truth, rng.random(len(truth)))))
    tumour = [p for p, label in zip(probabilities, labels, strict=True) if label]
    normal = [p for p, label in zip(probabilities, labels, strict=True) if not label]
    return {
        "slides": len(bags),
        "slide_auc": float(roc_auc_score(labels, probabilities)),
        "lowest_tumor_probability": min(tumour),
        "highest_normal_probability": max(normal),
        "localisation_auc_mean": float(np.mean(found)),
        "localisation_auc_lowest": min(found),
        "localisation_auc_random": float(np.mean(by_chance)),
    }


def _bundle(cnn: SmallCNN, mil: MILModel, training: dict[str, Any]) -> Model:
    return Model(
        small_encoder(cnn),
        mil,
        tile_px=TILE_PX,
        mpp=DEMO_MPP,
        classes=CLASSES,
        name="demo",
        metadata={"trained": True, "training": training},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_PATH, help="bundle to write")
    parser.add_argument("--epochs", type=int, default=TrainingOptions.epochs)
    parser.add_argument("--seed", type=int, default=TrainingOptions.seed)
    given = parser.parse_args(arguments)
    options = TrainingOptions(seed=given.seed, epochs=given.epochs)
    started = time.perf_counter()
    bags = make_bags(TRAINING_SEEDS, options.slide_px)
    rendered = time.perf_counter()
    print(
        f"{len(bags)} slides, {sum(len(b.tiles) for b in bags)} tiles: {rendered - started:.0f} s"
    )
    cnn, mil = train(bags, options)
    trained = time.perf_counter()
    result = measure(cnn, mil, make_bags(HELD_OUT_SEEDS, options.slide_px))
    print(f"trained in {trained - rendered:.0f} s", result)
    training = {
        "script": "python -m napari_wsi_xai.demo.train",
        "labels": "slide labels only",
        "training_seeds": [TRAINING_SEEDS.start, TRAINING_SEEDS.stop - 1],
        "held_out_seeds": [HELD_OUT_SEEDS.start, HELD_OUT_SEEDS.stop - 1],
        "options": asdict(options),
        "torch": torch.__version__.split("+")[0],
        "held_out": result,
    }
    save_model(_bundle(cnn, mil, training), given.out)
    print(f"wrote {given.out} ({given.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
