"""Watch where a head looks while it is trained, and stop it where a rule says so."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_wsi_xai.errors import BadArgumentError, WsiXaiWarning
from napari_wsi_xai.models import MILModel
from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore
from napari_wsi_xai.training.figures import FIGURES, EpochFigures, SlideFigures
from napari_wsi_xai.training.lightning_import import import_lightning
from napari_wsi_xai.training.look import figures_of, look_at
from napari_wsi_xai.training.rule_words import FIGURE_WORDS, metric_key
from napari_wsi_xai.training.rules import Rule, decide, parse_rules
from napari_wsi_xai.training.thumbnails import TopTiles
from napari_wsi_xai.training.undisturbed import undisturbed
from napari_wsi_xai.training.watched import WatchedSlide, watch_case

if TYPE_CHECKING:
    from napari_wsi_xai.training.cohort import Case

__all__ = ["STORE_NAME", "WatchSlides"]

STORE_NAME = "epochs.wsixai.zarr"


class WatchSlides(import_lightning().Callback):  # type: ignore[misc]
    """Lightning callback: maps and figures of some slides after every epoch, and rules on them.

    Watching changes nothing of the training: weights and random numbers are the same without it.

    Parameters
    ----------
    slides
        Cases of a cohort, or slides made with :func:`~napari_wsi_xai.training.watched.watch_bag`.
    classes
        Names of the classes.
    store
        Folder of the store, ``epochs.wsixai.zarr`` in the trainer's folder by default. Where
        training goes on from a checkpoint, so does the store.
    every
        ``"epoch"``, or a number of optimisation steps.
    rules
        When to stop, as :func:`~napari_wsi_xai.training.rules.parse_rules` takes them.
    outlines
        Name of a slide to GeoJSON files beside its annotation, of excluded regions for example.
    excluded
        Name of a slide to GeoJSON files of nothing but excluded regions, whatever their classes.

    Attributes
    ----------
    stopped_because
        Why a rule stopped the run, or None.
    history
        Figures so far, the oldest first.

    Raises
    ------
    BadArgumentError
        No slide or one twice; ``every`` is neither; a rule cannot be read.
    """

    def __init__(
        self,
        slides: Sequence[Case | WatchedSlide],
        classes: Sequence[str],
        store: Path | str | None = None,
        *,
        every: Literal["epoch"] | int = "epoch",
        rules: Iterable[str | Rule | Mapping[str, Any]] = (),
        outlines: Mapping[str, Sequence[Path]] | None = None,
        excluded: Mapping[str, Sequence[Path]] | None = None,
    ) -> None:
        names = [_name_of(one) for one in slides]
        if not names or len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            wrong = f"{', '.join(twice)} more than once" if twice else "no slide"
            raise BadArgumentError(f"{wrong} to watch: give every slide once.")
        if every != "epoch" and not (isinstance(every, int) and every >= 1):
            raise BadArgumentError(f"every={every!r} is neither 'epoch' nor a number of steps.")
        unknown = sorted({*(outlines or {}), *(excluded or {})} - set(names))
        if unknown:
            raise BadArgumentError(f"outlines are given for {unknown[0]!r}, which is not watched.")
        self.classes = tuple(classes)
        self.every = every
        self.rules = parse_rules(rules)
        self.stopped_because: str | None = None
        self.history: list[EpochFigures] = []
        self._given = tuple(slides)
        self._outlines, self._excluded = dict(outlines or {}), dict(excluded or {})
        self._path = None if store is None else Path(store)
        self._slides: tuple[WatchedSlide, ...] = ()
        self._store: EpochStore | None = None
        self._top_tiles: dict[str, TopTiles] = {}
        self._warned: set[str] = set()
        self._metrics: dict[str, float] = {}

    # -- what Lightning calls --------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Read the watched slides and open the store."""
        if stage != "fit":
            return
        head = head_of(pl_module)
        encoder = getattr(pl_module, "encoder", None)
        self._slides = tuple(self._watched(one, head, encoder) for one in self._given)
        _require_known(self.rules, self._slides)
        if trainer.is_global_zero:
            path = self._path or Path(trainer.default_root_dir) / STORE_NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            places = tuple(one.place for one in self._slides)
            self._top_tiles = {place.name: TopTiles(place) for place in places}
            identity = {
                "classes": list(self.classes),
                "head": head.architecture,
                "every": self.every,
            }
            self._store = EpochStore.create_or_resume(path, places, identity)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Go on where the checkpoint stands; a run that a rule has stopped stays stopped."""
        if self._store is not None:
            self._store.keep_until(int(trainer.global_step))
            self.history = self._store.history()
        self._stop_by_rules(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Look at the slides after every so many steps."""
        step = int(trainer.global_step)
        last = self.history[-1].step if self.history else 0
        if self.every != "epoch" and step > last and step % self.every == 0:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the slides after the epoch, once it has been validated."""
        self._metrics = _metrics_of(trainer, pl_module, int(trainer.current_epoch) + 1)
        if self.every == "epoch":
            self._look(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: metrics of the last epoch, for checks within the next."""
        return {"metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._metrics = dict(state_dict["metrics"])

    # -- looking ---------------------------------------------------------------------------

    def _watched(self, one: Case | WatchedSlide, head: MILModel, encoder: Any) -> WatchedSlide:
        if isinstance(one, WatchedSlide):
            return one
        outlines, excluded = (of.get(one.slide, ()) for of in (self._outlines, self._excluded))
        return watch_case(one, head.magnification_use, outlines, excluded, encoder)

    def _look(self, trainer: Any, pl_module: Any) -> None:
        store = self._store
        if store is not None:
            epoch, step = int(trainer.current_epoch) + 1, int(trainer.global_step)
            metrics = self._metrics | _metrics_of(trainer, pl_module, epoch)
            maps, figures = {}, {}
            with undisturbed(pl_module):
                for slide in self._slides:
                    maps[slide.name], figures[slide.name] = self._seen(store, slide, pl_module)
            looks = {name: self._top_tiles[name].look(one.top) for name, one in figures.items()}
            pictures = {name: tiles for name, tiles in looks.items() if tiles is not None}
            entry = EpochFigures(epoch, step, metrics, figures)
            store.append(entry, maps, pictures)
            self.history.append(entry)
            if self.every == "epoch" or epoch > 1:  # nothing is logged before the first ends
                self._warn_of_missing(metrics)
        self._stop_by_rules(trainer, pl_module)

    def _seen(
        self, store: EpochStore, slide: WatchedSlide, pl_module: Any
    ) -> tuple[dict[str, EpochMap], SlideFigures]:
        """Maps of a slide as the head stands, and figures of them."""
        encoder = getattr(pl_module, "encoder", None)
        found, probability = look_at(head_of(pl_module), slide, self.classes, encoder)
        now = {key: one.values for key, one in found.items()}
        label = self.classes[slide.place.label]
        return found, figures_of(slide, now, store.last_maps(slide.name), label, probability)

    def _stop_by_rules(self, trainer: Any, pl_module: Any) -> None:
        why = trainer.strategy.broadcast(decide(self.rules, self.history))
        if why is not None:
            self.stopped_because = why
            trainer.should_stop = True
            if hasattr(pl_module, "stop"):  # which keeps the reason with the run's result
                pl_module.stop(why)
            if self._store is not None:
                self._store.update_attributes(stopped_because=why)

    def _warn_of_missing(self, metrics: Mapping[str, float]) -> None:
        """A rule on a metric that is never logged would never apply, in silence."""
        logged = {metric_key(name) for name in metrics}
        missing = {c.figure for rule in self.rules for c in rule.conditions} - logged - set(FIGURES)
        for figure in sorted(missing - self._warned):
            self._warned.add(figure)
            warnings.warn(
                f"a rule speaks of {FIGURE_WORDS[figure]}, which is not logged (there is "
                f"{', '.join(sorted(metrics)) or 'nothing'}): it does not apply as long as it "
                "is missing.",
                WsiXaiWarning,
                stacklevel=2,
            )


def head_of(module: Any) -> MILModel:
    """The MIL head that a LightningModule trains.

    Raises
    ------
    BadArgumentError
        It has none.
    """
    head = getattr(module, "head", None)
    found = head if isinstance(head, MILModel) else None
    for part in module.modules():
        if found is None and isinstance(part, MILModel):
            found = part
    if found is None:
        raise BadArgumentError(f"{type(module).__name__} has no MIL head to watch.")
    return found


def _metrics_of(trainer: Any, module: Any, epoch: int) -> dict[str, float]:
    """Finite metrics: those logged, and the module's own row of this epoch where it keeps any."""
    row = (getattr(module, "history", None) or [{}])[-1]
    own = row if row.get("epoch") == epoch else {}
    both = {**trainer.callback_metrics, **own}
    left_out = ("epoch", "lr")
    numbers = {name: float(value) for name, value in both.items() if name not in left_out}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _name_of(one: Case | WatchedSlide) -> str:
    return one.name if isinstance(one, WatchedSlide) else one.slide


def _require_known(rules: Iterable[Rule], slides: Sequence[WatchedSlide]) -> None:
    """Raise where a rule speaks of what is known of no slide: it would never apply."""
    needs = {
        "localisation": ("truth", "outlines of the ground truth"),
        "excluded": ("excluded", 'outlines of excluded regions (class "excluded")'),
        "outside_tissue": ("tissue", "the slide itself, for its tissue"),
    }
    for rule in rules:
        for condition in rule.conditions:
            field, what = needs.get(condition.figure, ("", ""))
            if field and all(getattr(slide, field) is None for slide in slides):
                raise BadArgumentError(
                    f"the rule {rule.words!r} needs {what} on at least one watched slide."
                )
