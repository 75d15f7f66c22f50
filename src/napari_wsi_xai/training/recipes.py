"""How each head is trained: its authors' settings, each of which can be overridden."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import BadArgumentError, MissingExtraError
from napari_wsi_xai.models.mil import MIL_ARCHITECTURES
from napari_wsi_xai.training.authors import AUTHORS
from napari_wsi_xai.training.losses import loss_options
from napari_wsi_xai.training.recipe_values import AUGMENTS, END_TO_END, check_recipe, value_like
from napari_wsi_xai.training.schedules import SCHEDULES

__all__ = ["AUTHORS", "MONITORS", "Recipe", "read_recipe", "recipe_for", "write_recipe"]

MONITORS = {
    "val_loss": -1,
    "val_auc": 1,
    "val_accuracy": 1,
    "val_weighted_f1": 1,
    "train_loss": -1,
}
"""What tells which epoch was best, and whether more of it is better."""

CHOICES = {
    "optimizer": ("adam", "adamw", "sgd", "radam"),
    "schedule": SCHEDULES,
    "class_balance": ("none", "weighted", "sampler", "alternating"),
    "init": ("default", "orthogonal"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
    "monitor": tuple(MONITORS),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training; every one decides the resulting weights.

    Attributes
    ----------
    architecture
        A key of ``MIL_ARCHITECTURES``.
    optimizer, lr, betas, momentum, weight_decay
        ``"adam"``, ``"adamw"``, ``"sgd"`` or ``"radam"``; ``betas`` for all but SGD, which takes
        ``momentum``.
    lookahead
        Steps after which slow weights follow the fast ones halfway (Zhang et al. 2019); 0: never.
    accumulate
        Bags of one step.
    clip
        Largest norm of a gradient, or None.
    epochs
        Most passes over the training slides.
    patience, least_epochs
        Stop when ``monitor`` has not become better for ``patience`` epochs, not before epoch
        ``least_epochs``; None: never.
    monitor
        A key of :data:`MONITORS`: the epoch with the best is kept.
    schedule, lr_end, lr_factor, lr_patience, milestones
        See :func:`~napari_wsi_xai.training.schedules.learning_rate`.
    class_balance
        ``"weighted"``: classes with few slides weigh more in the loss; ``"sampler"``: their slides
        are drawn more often; ``"alternating"``: classes come in turn, small ones again, so that
        ``accumulate`` bags hold all classes evenly; ``"none"``.
    most_tiles
        Tiles of a slide that an epoch draws; None for all.
    init
        ``"orthogonal"`` weights and zero biases, or what the layers do by default.
    seed
        Of weights, order, drawn tiles and dropout.
    precision
        As Lightning names it; the mixed ones are for GPUs.
    end_to_end
        Train the encoder too, on the slides' tiles; the ``accumulate`` bags of a step go through
        it together.
    encoder_lr
        Learning rate of the encoder where it is not ``lr``; it follows the same schedule.
    frozen
        Parameters of the encoder that stay as they are, by what their names begin with, as
        :class:`~napari_wsi_xai.training.tile_encoder.TileEncoder` takes them; ``"all"``.
    head, loss
        Arguments of the architecture, and weights of the parts of its loss.
    augment
        How tiles are changed while the encoder is trained: ``flips``, ``hue``, ``saturation``,
        ``brightness``, ``contrast``, see :class:`~napari_wsi_xai.training.augment.Augmentation`.
    """

    architecture: str
    optimizer: str = "adam"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lookahead: int = 0
    accumulate: int = 1
    clip: float | None = None
    epochs: int = 20
    patience: int | None = None
    least_epochs: int = 0
    monitor: str = "val_loss"
    schedule: str = "none"
    lr_end: float = 0.0
    lr_factor: float = 0.1
    lr_patience: int = 5
    milestones: tuple[int, ...] = ()
    class_balance: str = "none"
    most_tiles: int | None = None
    init: str = "default"
    seed: int = 0
    precision: str = "32-true"
    end_to_end: bool = False
    encoder_lr: float | None = None
    frozen: tuple[str, ...] = ()
    head: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_recipe(self, CHOICES)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; :func:`recipe_for` takes it back.

        What is for training an encoder is left out where none is trained.
        """
        names = [one.name for one in fields(self) if self.end_to_end or one.name not in END_TO_END]
        values = {name: getattr(self, name) for name in names}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


_ROOMS = ("head", "loss", "augment")
_OWN = {one.name for one in fields(Recipe)} - {*_ROOMS, "architecture"}
_TYPES = {one.name: one.type for one in fields(Recipe)}


def recipe_for(architecture: str, **overrides: Any) -> Recipe:
    """The authors' recipe of a head, with some settings of one's own.

    Parameters
    ----------
    architecture
        A key of ``MIL_ARCHITECTURES``.
    **overrides
        Settings of :class:`Recipe`, arguments of the architecture (``dropout``, ``k_sample``) and
        weights of its loss (``bag_weight``), all by their own names. Where an argument is called
        like a setting it is written ``head.seed``; ``head={...}`` and ``loss={...}`` work too.

    Raises
    ------
    BadArgumentError
        Unknown architecture or setting, or a value that does not fit; names the nearest.
    """
    if architecture not in MIL_ARCHITECTURES:
        raise BadArgumentError(
            f"MIL architecture {architecture!r} is unknown"
            f"{_nearest(architecture, list(MIL_ARCHITECTURES))}; it is one of "
            f"{', '.join(MIL_ARCHITECTURES)}."
        )
    recipe = Recipe(architecture, **AUTHORS[architecture])
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {
        "head": dict(recipe.head),
        "loss": {**loss_options(architecture), **recipe.loss},
        "augment": dict(recipe.augment),
    }
    for name, value in _flat(overrides).items():
        room, key = _place(architecture, name)
        if room == "own":
            own[key] = value_like(name, value, str(_TYPES[key]))
        else:
            kind = {"loss": "float", "augment": AUGMENTS.get(key, "")}.get(room, "")
            read = value_like(name, value, kind)
            parts[room][key] = _listed_like(architecture, key, read) if room == "head" else read
    return replace(recipe, **{**own, **parts})


def _flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in overrides.items():
        name = name.replace("-", "_")
        if name in _ROOMS:
            if not isinstance(value, Mapping):
                raise BadArgumentError(
                    f"{name}={value!r} must be settings by name; one of them is {name}.NAME=VALUE."
                )
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _place(architecture: str, name: str) -> tuple[str, str]:
    """Where a setting belongs, ``"own"`` or one of ``_ROOMS``, and its name there."""
    rooms = {
        "own": list(_OWN),
        "head": head_arguments(architecture),
        "loss": list(loss_options(architecture)),
        "augment": list(AUGMENTS),
    }
    room, dot, key = name.partition(".")
    if dot and room in _ROOMS and key in rooms[room]:
        return room, key
    for room, names in rooms.items():
        if name in names:
            return room, name
    known = sorted({one for names in rooms.values() for one in names})
    raise BadArgumentError(
        f"{name!r} is no setting of a recipe for {architecture}{_nearest(name, known)}; it takes "
        f"{', '.join(known)}."
    )


def _listed_like(architecture: str, name: str, value: Any) -> Any:
    """A single number as a list of one, where the architecture takes a list."""
    takes = inspect.signature(MIL_ARCHITECTURES[architecture].__init__).parameters[name].default
    alone = isinstance(takes, tuple) and isinstance(value, int | float)
    return [value] if alone else value


def head_arguments(architecture: str) -> list[str]:
    """What an architecture takes besides the sizes that data tell."""
    names = list(inspect.signature(MIL_ARCHITECTURES[architecture].__init__).parameters)
    return [name for name in names if name not in ("self", "in_features", "num_classes")]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def read_recipe(path: str | Path, /, architecture: str | None = None, **overrides: Any) -> Recipe:
    """Read a recipe from YAML: settings by name, as :func:`recipe_for` takes them.

    Parameters
    ----------
    path
        The file. What it does not set is as the authors have it.
    architecture
        The head, where the file does not name it.
    **overrides
        Settings that go before those of the file.

    Raises
    ------
    BadArgumentError
        The file cannot be read, is no YAML of settings, names another head or none, or has an
        unknown setting.
    """
    yaml = _yaml()
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise BadArgumentError(
            f"the recipe {path} cannot be read: {error.strerror or error}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadArgumentError(
            f"the recipe {path} is no YAML: {' '.join(str(error).split())}."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise BadArgumentError(f"the recipe {path} must be settings by name, as in 'lr: 0.0001'.")
    named = values.pop("architecture", architecture)
    if named is None:
        raise BadArgumentError(f"the recipe {path} names no architecture: add 'architecture:'.")
    if architecture not in (None, named):
        raise BadArgumentError(f"the recipe {path} is for {named}, not {architecture}.")
    # Flattened first, so that an override meets the file's setting however each is written.
    return recipe_for(str(named), **{**_flat(values), **_flat(overrides)})


def write_recipe(recipe: Recipe, path: str | Path) -> Path:
    """Write a recipe as YAML that :func:`read_recipe` reads."""
    text = _yaml().safe_dump(recipe.to_dict(), sort_keys=False)
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml", "train", "Reading recipes") from error
    return yaml
