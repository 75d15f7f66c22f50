"""One Lightning module that trains every head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models.mil import MILModel
from napari_wsi_xai.models.mil.msmil import domain_strength
from napari_wsi_xai.training.bags import Bag
from napari_wsi_xai.training.domain import DomainBranch, DomainTerm
from napari_wsi_xai.training.end_to_end import described
from napari_wsi_xai.training.epoch_rows import mean_parts, validation_figures
from napari_wsi_xai.training.lightning_import import import_lightning
from napari_wsi_xai.training.loaders import mixed_seed
from napari_wsi_xai.training.losses import bag_loss, run_head, training_loss
from napari_wsi_xai.training.optimizers import build_optimizer, set_rate
from napari_wsi_xai.training.recipes import MONITORS, Recipe
from napari_wsi_xai.training.schedules import best_epoch, early_stop, learning_rate
from napari_wsi_xai.training.slide_tiles import SlideTiles
from napari_wsi_xai.training.tile_encoder import TileEncoder

__all__ = ["MILModule"]


class MILModule(import_lightning().LightningModule):  # type: ignore[misc]
    """A head, its recipe and what has happened so far.

    Everything that chance decides in an epoch is drawn anew from the recipe's seed and the
    epoch's number, and everything else that an epoch depends on is in the checkpoint: going on
    from one gives the weights that going through would have given.

    Callbacks read ``head``, ``history`` and ``epoch``, and end a training with :meth:`stop`.

    Parameters
    ----------
    head
        With the weights to begin with.
    recipe
        How to train it.
    weights
        (C,) weight of each class in the loss, or None.
    slides
        Names of the training slides, for a loss that tells them apart.
    encoder
        Trained too, on bags of tiles; by default bags are of descriptors.

    Attributes
    ----------
    history
        One row an epoch, by name: ``epoch`` (from 1), ``lr``, ``train_loss`` and its parts,
        ``val_loss`` (of the decision alone, classes unweighted), ``val_auc``, ``val_accuracy``,
        ``val_weighted_f1``. The row of an epoch is there when its validation ends.
    best_state
        The head's tensors after the best epoch so far; after the last where nothing tells.
    best_encoder
        Likewise of the encoder's network; empty where none is trained.
    stopped_because
        Why training ended before the last epoch; None where it did not.
    """

    def __init__(
        self,
        head: MILModel,
        recipe: Recipe,
        weights: Tensor | None = None,
        slides: tuple[str, ...] = (),
        encoder: TileEncoder | None = None,
    ) -> None:
        super().__init__()
        self.head, self.recipe, self.weights = head, recipe, weights
        self.encoder = encoder
        self.slides = {name: number for number, name in enumerate(slides)}
        self.history: list[dict[str, float]] = []
        self.best_state: dict[str, Tensor] = {}
        self.best_encoder: dict[str, Tensor] = {}
        self.stopped_because: str | None = None
        self.domain: DomainBranch | None = None
        if recipe.architecture == "msmil" and recipe.loss.get("domain_weight", 0) > 0:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                self.domain = DomainBranch(_projected_length(head), max(1, len(slides)))
        self._slow: dict[str, Tensor] = {}
        self._steps = 0
        self._before = 0
        self._parts: list[dict[str, float]] = []
        self._judged: list[tuple[int, float, list[float]]] = []

    @property
    def epoch(self) -> int:
        """Number of the epoch that is going on, from 0; those before are in ``history``."""
        return len(self.history)

    @property
    def monitored(self) -> list[float]:
        """What tells the best epoch, one value an epoch, larger is better, NaN is never best."""
        sign = MONITORS[self.recipe.monitor]
        return [sign * row.get(self.recipe.monitor, math.nan) for row in self.history]

    @property
    def best_epoch(self) -> int | None:
        """Number of the best epoch so far, from 0."""
        return best_epoch(self.monitored)

    def stop(self, reason: str) -> None:
        """End the training after this epoch and keep why, in a sentence; the first reason stays."""
        self.stopped_because = self.stopped_because or reason
        self.trainer.should_stop = True

    # -- training --------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimiser over everything that is trained."""
        return build_optimizer(self.recipe, self, self.encoder)

    def on_train_epoch_start(self) -> None:
        """Begin an epoch: its seed, its learning rate, its tiles."""
        torch.manual_seed(mixed_seed(self.recipe.seed, self.epoch))
        self.train()
        self._parts, self._before = [], self.epoch
        loader = self.trainer.train_dataloader
        loader.dataset.set_epoch(self.epoch)
        loader.sampler.set_epoch(self.epoch)
        set_rate(self.optimizers(), learning_rate(self.recipe, self.epoch, self.monitored))
        if self.recipe.lookahead and not self._slow:
            self._slow = {n: p.detach().clone() for n, p in self.named_parameters()}

    def transfer_batch_to_device(self, bag: Any, device: torch.device, number: int) -> Any:
        """The bag, or bags, where the head is."""
        if isinstance(bag, list):
            return [self.transfer_batch_to_device(one, device, number) for one in bag]
        if isinstance(bag, SlideTiles):
            return bag

        def there(part: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            if isinstance(part, Tensor):
                return part.to(device, non_blocking=True)
            return tuple(one.to(device, non_blocking=True) for one in part)

        coords = None if bag.coords_level0 is None else there(bag.coords_level0)
        return replace(bag, features=there(bag.features), coords_level0=coords)

    def training_step(self, batch: Bag | list[Bag], index: int) -> Tensor:
        """The loss of one bag, or the mean of several whose tiles are encoded together."""
        if isinstance(batch, Bag):
            return self._loss(batch)
        assert self.encoder is not None
        return torch.stack([self._loss(bag) for bag in self.encoder.together(batch)]).mean()

    def _loss(self, bag: Bag) -> Tensor:
        weights = None if self.weights is None else self.weights.to(self.device)
        domain = self._domain(bag)
        with _named(bag):
            parts = training_loss(
                self.head, bag, bag.label, weights, domain=domain, **self.recipe.loss
            )
        self._parts.append({name: float(part.detach()) for name, part in parts.items()})
        return parts["loss"]

    def _domain(self, bag: Bag) -> DomainTerm | None:
        if self.domain is None:
            return None
        progress = (self.epoch + 1) / self.recipe.epochs
        return DomainTerm(self.domain, self.slides[bag.name], domain_strength(progress))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and with ``lookahead`` every so often half the way back to the slow weights."""
        super().optimizer_step(*args, **kwargs)
        self._steps += 1
        if self.recipe.lookahead and self._steps % self.recipe.lookahead == 0:
            with torch.no_grad():
                for name, fast in self.named_parameters():
                    slow = self._slow[name] = self._slow[name].to(fast).lerp(fast, 0.5)
                    fast.copy_(slow)

    # -- validation ------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to judge."""
        self._judged = []

    def validation_step(self, bag: Bag | SlideTiles, index: int) -> None:
        """Judge one bag."""
        with _named(bag):
            if self.encoder is not None:
                bag = described(self.encoder, bag, self.device)
            assert isinstance(bag, Bag)
            logits = run_head(self.head, bag).logits
        loss = float(bag_loss(self.head, logits, bag.label))
        chances = self.head.probabilities(logits).float().tolist()
        self._judged.append((bag.label, loss, chances))

    def on_validation_epoch_end(self) -> None:
        """Put the epoch into the history."""
        self._end_epoch(validation_figures(self._judged))

    def on_train_batch_end(self, *_: Any) -> None:
        """Put an epoch without validation into the history."""
        if self.trainer.is_last_batch and not self.trainer.enable_validation:
            self._end_epoch({})

    def on_train_epoch_end(self) -> None:
        """Put an epoch into the history that was stopped before its end."""
        if self.epoch == self._before:
            self._end_epoch({})

    def _end_epoch(self, validation: dict[str, float]) -> None:
        rate = float(self.optimizers().param_groups[0]["lr"])
        row = {"epoch": float(self.epoch + 1), "lr": rate, **mean_parts(self._parts), **validation}
        self.history.append(row)
        self.log_dict({name: value for name, value in row.items() if name != "epoch"})
        if self.best_epoch in (None, self.epoch - 1):
            self.best_state = _copied(self.head)
            if self.encoder is not None:
                self.best_encoder = _copied(self.encoder.network)
        if not math.isfinite(row["train_loss"]):
            self.stop(f"the loss of epoch {self.epoch} was {row['train_loss']}, not a number.")
        known = self.recipe.monitor in row
        reason = early_stop(self.recipe, self.monitored) if known else None
        if reason:
            self.stop(reason)

    # -- checkpoints -----------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of."""
        checkpoint["training"] = {
            "history": self.history,
            "best_state": self.best_state,
            "best_encoder": self.best_encoder,
            "stopped_because": self.stopped_because,
            "slow": self._slow,
            "steps": self._steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        kept = checkpoint["training"]
        self.history, self.best_state = kept["history"], kept["best_state"]
        self.best_encoder = kept.get("best_encoder", {})
        self.stopped_because = kept["stopped_because"]
        self._slow, self._steps = kept["slow"], kept["steps"]


@contextmanager
def _named(bag: Bag | SlideTiles) -> Iterator[None]:
    """Say which slide it is whose bag does not fit."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{bag.name}: {error}") from error


def _projected_length(head: nn.Module) -> int:
    return int(head.arguments["projection"][-1])  # type: ignore[index]


def _copied(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors as they are now, on the processor."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
