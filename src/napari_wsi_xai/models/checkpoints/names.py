"""Names of tensors without what wrappers put before and between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

__all__ = ["cleaned_names"]

_WRAPPER = "module"  # torch.nn.DataParallel, also around a part of a head
_LOSSES = re.compile(r"(?:.*\.)?(?:instance_loss_fn|criterion|loss_fn)\..+")
_COMPILED = re.compile(r"(?:(?<=^)|(?<=\.))_orig_mod\.")
_MOST_STEPS, _MOST_PLACES, _MOST_OFFERS = 4, 6, 40


def cleaned_names(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors under their own names, then under ever more cleaned ones.

    Names of losses (CLAM keeps one in its state dict) and ``_orig_mod.`` of ``torch.compile`` are
    taken off at once. ``module.`` belongs to some names (CLAM's attention without gate) and comes
    from DataParallel in others, at the front or in the middle; and a part of the name that all
    share (``model.`` of Lightning) may be a wrapper's or the author's. So every way of taking them
    off is offered, those with the fewest steps first: the head that fits tells which is right.
    """
    first = {_COMPILED.sub("", name): name for name in tensors if _LOSSES.fullmatch(name) is None}
    seen = {frozenset(first)}
    waiting = [(first, 0)]
    for _ in range(_MOST_OFFERS):
        if not waiting:
            return
        names, steps = waiting.pop(0)
        yield {name: tensors[original] for name, original in names.items()}
        for cleaned in _cleaned_once(names) if steps < _MOST_STEPS else ():
            if frozenset(cleaned) not in seen:
                seen.add(frozenset(cleaned))
                waiting.append((cleaned, steps + 1))


def _cleaned_once(names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The names after each single step that can be taken; those that would collide are left out."""
    places = sorted({place for name in names for place in _places(name)})
    steps = [_without_wrapper(names, set(places)), _without_shared_front(names)]
    steps += [_without_wrapper(names, {place}) for place in places[:_MOST_PLACES]]
    for cleaned in steps:
        if cleaned and len(set(cleaned)) == len(names):
            yield cleaned


def _places(name: str) -> Iterator[str]:
    """What stands before each ``module`` in a name."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i, part in enumerate(parts[:-1]) if part == _WRAPPER)


def _without_wrapper(names: Mapping[str, str], places: set[str]) -> dict[str, str]:
    cleaned = {}
    for name, original in names.items():
        parts = name.split(".")
        kept = [
            part
            for i, part in enumerate(parts)
            if i + 1 == len(parts) or part != _WRAPPER or ".".join(parts[:i]) not in places
        ]
        cleaned[".".join(kept)] = original
    return cleaned


def _without_shared_front(names: Mapping[str, str]) -> dict[str, str]:
    fronts = {name.partition(".")[0] if "." in name else None for name in names}
    if len(fronts) != 1 or None in fronts:
        return {}
    return {name.partition(".")[2]: original for name, original in names.items()}
