"""Values of recipes: from words to numbers, and within their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole

if TYPE_CHECKING:
    from napari_wsi_xai.training.recipes import Recipe

__all__ = ["AUGMENTS", "END_TO_END", "check_recipe", "value_like"]

AUGMENTS = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), "float")
AUGMENTS = {"flips": "bool", **AUGMENTS}
"""How tiles can be changed, and the type of each setting."""

END_TO_END = ("end_to_end", "encoder_lr", "frozen", "augment")
"""Settings that matter only where an encoder is trained."""

_WORDS: dict[str, Any] = {"none": None, "null": None, "true": True, "false": False}


def value_like(name: str, value: Any, kind: str) -> Any:
    """A value as a setting of type ``kind`` takes it; words of a command line become numbers.

    YAML reads ``1e-4`` as a word too. An empty ``kind`` takes what is given.

    Raises
    ------
    BadArgumentError
        It is of another type.
    """
    if isinstance(value, str):
        value = _read(value, kind)
    if kind == "str":
        fits = isinstance(value, str)
    elif kind == "bool":
        fits = isinstance(value, bool)
    elif kind == "tuple[str, ...]":
        words = [value] if isinstance(value, str) else value
        fits = isinstance(words, Sequence) and all(isinstance(one, str) for one in words)
        value = tuple(words) if fits else value
    elif kind.startswith("tuple"):
        fits = isinstance(value, Sequence) and all(_is_number(one) for one in value)
        value = tuple(value) if fits else value
    elif value is None:
        fits = "None" in kind or not kind
    elif kind.startswith("int"):
        fits = _is_number(value) and float(value).is_integer()
        value = int(value) if fits else value
    elif kind.startswith("float"):
        fits = _is_number(value)
        value = float(value) if fits else value
    else:
        fits = True
    if not fits:
        raise BadArgumentError(f"{name}={value!r} does not fit: it must be {_described(kind)}.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _described(kind: str) -> str:
    words = {
        "int": "a whole number",
        "float": "a number",
        "str": "a word",
        "bool": "true or false",
        "tuple[str, ...]": "words",
        "tuple[float, float]": "two numbers",
        "tuple[int, ...]": "whole numbers",
    }
    plain = kind.removesuffix(" | None")
    return words.get(plain, plain) + (" or none" if plain != kind else "")


def _read(text: str, kind: str) -> Any:
    if kind == "str":
        return text.strip()
    if text.strip().lower() in _WORDS and not kind.startswith("tuple[str"):
        return _WORDS[text.strip().lower()]
    inner = text.strip().strip("[]()")
    if kind == "tuple[str, ...]":
        return [part.strip() for part in inner.split(",") if part.strip()]
    if "," in inner or kind.startswith("tuple") or text.strip().startswith("["):
        return [_number(part) for part in inner.split(",") if part.strip()]
    return _number(text)


def _number(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text.strip()


def check_recipe(recipe: Recipe, choices: Mapping[str, Sequence[str]]) -> None:
    """Raise a ``BadArgumentError`` for a setting out of its limits."""
    for name, known in choices.items():
        value = getattr(recipe, name)
        if value not in known:
            raise BadArgumentError(f"{name}={value!r} must be one of {', '.join(known)}.")
    check_whole(1, epochs=recipe.epochs, accumulate=recipe.accumulate)
    check_whole(
        0,
        seed=recipe.seed,
        lookahead=recipe.lookahead,
        least_epochs=recipe.least_epochs,
        lr_patience=recipe.lr_patience,
        milestones=list(recipe.milestones),
    )
    for name in ("patience", "most_tiles"):
        if getattr(recipe, name) is not None:
            check_whole(1, **{name: getattr(recipe, name)})
    above = {"lr": recipe.lr, "clip": recipe.clip, "encoder_lr": recipe.encoder_lr}
    for name, number in above.items():
        if number is not None and not number > 0:
            raise BadArgumentError(f"{name}={number} must be above 0.")
    limits = {
        "weight_decay": (recipe.weight_decay, 0, float("inf")),
        "lr_end": (recipe.lr_end, 0, recipe.lr),
        "lr_factor": (recipe.lr_factor, 0, 1),
        "momentum": (recipe.momentum, 0, 1),
    }
    for name, (number, low, high) in limits.items():
        if not low <= number <= high:
            raise BadArgumentError(f"{name}={number} must be from {low:g} to {high:g}.")
    if len(recipe.betas) != 2 or not all(0 <= beta < 1 for beta in recipe.betas):
        raise BadArgumentError(f"betas={recipe.betas} must be two numbers from 0 to below 1.")
    _check_end_to_end(recipe)


def _check_end_to_end(recipe: Recipe) -> None:
    given = [name for name in END_TO_END[1:] if getattr(recipe, name) not in (None, (), {})]
    if given and not recipe.end_to_end:
        raise BadArgumentError(
            f"{given[0]}={getattr(recipe, given[0])} is for training the encoder too: add "
            "end_to_end=true, or leave it out."
        )
    for name, value in recipe.augment.items():
        if name not in AUGMENTS:
            raise BadArgumentError(f"augment.{name}: it takes {', '.join(AUGMENTS)}.")
        value = value_like(f"augment.{name}", value, AUGMENTS[name])
        most = 0.5 if name == "hue" else float("inf")
        if not 0 <= value <= most:
            raise BadArgumentError(f"augment.{name}={value} must be from 0 to {most:g}.")
