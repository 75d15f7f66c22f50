"""The part of a training that Lightning runs."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from napari_wsi_xai.errors import StoreError
from napari_wsi_xai.models.mil import MILModel
from napari_wsi_xai.training.bags import BUDGET_BYTES, BagDataset, Kept
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.end_to_end import EndToEnd
from napari_wsi_xai.training.lightning_import import import_lightning
from napari_wsi_xai.training.loaders import AlternatingSampler, EpochSampler, bag_loader
from napari_wsi_xai.training.module import MILModule
from napari_wsi_xai.training.recipes import Recipe
from napari_wsi_xai.training.records import EpochRecords, ProgressReports, TrainProgress
from napari_wsi_xai.training.splits import Split

__all__ = ["Fit"]


@dataclass
class Fit:
    """Everything that a training is run with; ``tiles`` where an encoder is trained too.

    Descriptors stay in ``kept`` as far as they fit, so that they are read once.
    """

    cohort: Cohort
    split: Split
    recipe: Recipe
    head: MILModel
    weights: Tensor
    folder: Path
    callbacks: Sequence[Any] = ()
    on_progress: Callable[[TrainProgress], None] | None = None
    workers: int = 0
    device: str = "auto"
    tiles: EndToEnd | None = None
    kept: Kept = field(default_factory=lambda: Kept(BUDGET_BYTES))

    def run(self) -> MILModule:
        """The module after its last epoch; goes on from ``last.ckpt`` where there is one.

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C; what was done up to the last epoch is kept.
        """
        names = tuple(self.cohort.cases[i].slide for i in self.split.train)
        weighted = self.recipe.class_balance == "weighted"
        encoder = None if self.tiles is None else self.tiles.encoder
        weights = self.weights if weighted else None
        module = MILModule(self.head, self.recipe, weights, names, encoder)
        records = EpochRecords(self.folder)
        kept = records.checkpoint if records.checkpoint.is_file() else None
        state = None if kept is None else _read(kept)
        if state is not None and self._ended(module, state):
            return module
        begun = 0 if state is None else len(state["training"]["history"])
        callbacks = list(self.callbacks)
        if self.on_progress is not None:
            together = 1 if self.tiles is None else self.recipe.accumulate
            callbacks.append(ProgressReports(self.on_progress, len(self._sampler()), together))
        with _quiet(), _as_it_was():
            trainer = self._trainer([*callbacks, records])
            try:
                trainer.fit(module, *self._loaders(begun), ckpt_path=kept, weights_only=True)
            except SystemExit:  # how Lightning ends the process after Ctrl-C
                raise KeyboardInterrupt from None
        return module.cpu()  # type: ignore[no-any-return]

    def _ended(self, module: MILModule, state: dict[str, Any]) -> bool:
        """Whether nothing is left to do; the module then holds what was kept."""
        done = state["training"]
        if done["stopped_because"] is None and len(done["history"]) < self.recipe.epochs:
            return False
        module.load_state_dict(state["state_dict"])
        module.on_load_checkpoint(state)
        return True

    def _sampler(self) -> EpochSampler:
        """The order of the training bags, as the recipe balances classes."""
        recipe, labels = self.recipe, [self.cohort.cases[i].label for i in self.split.train]
        if recipe.class_balance == "alternating":
            return AlternatingSampler(labels, recipe.seed)
        sampled = recipe.class_balance == "sampler"
        shares = torch.stack([self.weights[label] for label in labels]) if sampled else None
        return EpochSampler(len(labels), recipe.seed, shares)

    def _bags(self) -> list[BagDataset]:
        """Training bags, and validation bags where there are any."""
        cohort, split, recipe = self.cohort, self.split, self.recipe
        if self.tiles is not None:
            return [
                self.tiles.bags(cohort, split.train, recipe),
                *([self.tiles.judged(cohort, split.val)] if split.val else []),
            ]
        use = self.head.magnification_use
        own: dict[str, Any] = {"use": use, "kept": self.kept}
        bags = [BagDataset(cohort, split.train, recipe.most_tiles, recipe.seed, **own)]
        return [*bags, *([BagDataset(cohort, split.val, **own)] if split.val else [])]

    def _loaders(self, epoch: int) -> list[Any]:
        """Training bags in the order of an epoch, and validation bags where there are any.

        Lightning asks for the first bags of a training that it goes on with before it tells
        anybody that an epoch begins.
        """
        bags, *judged = self._bags()
        sampler = self._sampler()
        bags.set_epoch(epoch)
        sampler.set_epoch(epoch)
        together = None if self.tiles is None else self.recipe.accumulate
        loaders = [bag_loader(bags, sampler, self.workers, together)]
        return loaders + [bag_loader(one, None, self.workers) for one in judged]

    def _trainer(self, callbacks: list[Any]) -> Any:
        return import_lightning().Trainer(
            accelerator="gpu" if self.device == "cuda" else self.device,
            devices=1,
            precision=self.recipe.precision,
            max_epochs=self.recipe.epochs,
            accumulate_grad_batches=1 if self.tiles is not None else self.recipe.accumulate,
            gradient_clip_val=self.recipe.clip,
            deterministic=True,
            callbacks=callbacks,
            default_root_dir=self.folder,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint of this package's own; nothing in it is executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise StoreError(
            f"the checkpoint {path} cannot be read: delete the folder {path.parent} and train anew."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice to itself."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Give back what Lightning changes for the whole process: random numbers, Ctrl-C, torch."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    # Memory about to be written need not be filled first: it costs a third of a step.
    settings.fill_uninitialized_memory = False
    main = threading.current_thread() is threading.main_thread()
    interrupt = signal.getsignal(signal.SIGINT)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            settings.fill_uninitialized_memory = filled
            if main:
                signal.signal(signal.SIGINT, interrupt)
