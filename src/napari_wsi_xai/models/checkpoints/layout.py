"""How a published code names the tensors of its heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

__all__ = ["Layout", "Tensors"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """The tensors of one head in one published code, and how they become a head of ours.

    Attributes
    ----------
    architecture
        Key of ``MIL_ARCHITECTURES``.
    source
        The code and class, for people: ``"mahmoodlab/CLAM CLAM_SB, gated"``.
    names
        Author's tensor name to the name in our head. ``*`` stands for a number, the same on both
        sides, in order: ``{"linear_layers.*.0.weight": "layers.*.weight"}``.
    arguments
        From the author's tensors (by the author's names, prefixes taken off) to what
        ``build_mil`` takes: ``in_features``, ``num_classes`` and what else shapes or names tell.
        It may raise ``KeyError`` or ``IndexError`` where they do not fit.
    optional
        Names of ``names`` that may be absent.
    ignored
        Regular expressions, matched in full, of tensors that are no part of the head: an
        encoder's, a loss's.
    convert
        Last step where a renaming is not enough: our names to tensors, reshaped.
    """

    architecture: str
    source: str
    names: Mapping[str, str]
    arguments: Callable[[Tensors], dict[str, Any]]
    optional: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def template_of(self, name: str) -> str | None:
        """The entry of ``names`` that an author's name is an instance of."""
        if name in self.names:
            return name
        return next((t for t in self.names if "*" in t and _numbers(t, name) is not None), None)

    def ignores(self, name: str) -> bool:
        """Whether a tensor is known to be no part of the head."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def our_name(self, name: str) -> str | None:
        """The name in our head of what the author calls ``name``; None where it has none."""
        template = self.template_of(name)
        if template is None:
            return None
        return _fill(self.names[template], _numbers(template, name) or [])

    def rename(self, tensors: Tensors) -> dict[str, Tensor]:
        """Author's tensors under our names; those that have none are left out."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            ours = self.our_name(name)
            if ours is not None:
                renamed[ours] = tensor
        return renamed if self.convert is None else self.convert(renamed)


def _numbers(template: str, name: str) -> list[str] | None:
    """The numbers that ``*`` stands for in ``name``; None where the template does not fit."""
    match = _pattern(template).fullmatch(name)
    return None if match is None else list(match.groups())


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\*", r"(\d+)"))


def _fill(template: str, numbers: list[str]) -> str:
    parts = template.split("*")
    return parts[0] + "".join(n + part for n, part in zip(numbers, parts[1:], strict=True))
