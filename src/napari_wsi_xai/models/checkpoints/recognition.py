"""Which head a checkpoint's tensors belong to, told by their names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError, CheckpointError, WsiXaiError
from napari_wsi_xai.models.checkpoints.layout import Layout
from napari_wsi_xai.models.checkpoints.layouts import LAYOUTS
from napari_wsi_xai.models.checkpoints.names import cleaned_names
from napari_wsi_xai.models.mil import MIL_ARCHITECTURES, MILModel, build_mil

__all__ = ["Match", "Misfit", "fit_layout", "fit_options", "recognise"]

_NAMED = 3
_UNFIT = (WsiXaiError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)
"""What a layout, or the head that it describes, raises for tensors that are not its own."""


@dataclass(frozen=True)
class Match:
    """A layout that fits: the head it gives, still with fresh weights, and the tensors for it.

    Attributes
    ----------
    layout
        What fits.
    head
        Built with ``inferred`` and the options given.
    tensors
        By our names, exactly those of ``head.state_dict()``, of the same shapes.
    inferred
        Arguments that names and shapes tell.
    authors
        The tensors by the author's names, cleaned.
    """

    layout: Layout
    head: MILModel
    tensors: dict[str, Tensor]
    inferred: dict[str, Any]
    authors: dict[str, Tensor]


@dataclass(frozen=True)
class Misfit:
    """Why a layout does not fit."""

    layout: Layout
    known: int = 0
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    refused: bool = False
    """Whether the architecture itself does not take its arguments, whatever the tensors are."""

    @property
    def share(self) -> float:
        """Share of the names that are on both sides."""
        return self.known / max(1, self.known + len(self.missing) + len(self.left_over))

    def __str__(self) -> str:
        reasons = []
        if self.missing:
            reasons.append(f"missing {_some(self.missing)}")
        if self.left_over:
            reasons.append(f"left over {_some(self.left_over)}")
        return "; ".join([*reasons, *self.conflicts[:_NAMED]])


def recognise(
    tensors: Mapping[str, Tensor], origin: str, architecture: str | None = None
) -> list[Match]:
    """Every architecture that the tensors fit, the first layout of each.

    Names are tried as they are, then ever more cleaned, until something fits.

    Parameters
    ----------
    tensors
        By the author's names.
    origin
        What holds them, for the message.
    architecture
        The only one that is tried, where it is given.

    Raises
    ------
    BadArgumentError
        No such architecture.
    CheckpointError
        Nothing fits; the message tells what comes nearest and what stands in its way.
    """
    layouts = _layouts_of(architecture)
    nearest: Misfit | None = None
    for named in cleaned_names(tensors):
        matches: dict[str, Match] = {}
        for layout in layouts:
            tried = fit_layout(layout, named)
            if isinstance(tried, Match):
                matches.setdefault(layout.architecture, tried)
            elif nearest is None or tried.share > nearest.share:
                nearest = tried
        if matches:
            return list(matches.values())
    message = _nothing_fits(tensors, origin, layouts, nearest)
    if architecture is not None and (others := _others_that_fit(tensors, origin)):
        message = f"{message.rstrip('.')}; it does fit {' or '.join(others)}."
    raise CheckpointError(message)


def _others_that_fit(tensors: Mapping[str, Tensor], origin: str) -> list[str]:
    try:
        return [match.layout.architecture for match in recognise(tensors, origin)]
    except CheckpointError:
        return []


def _layouts_of(architecture: str | None) -> Sequence[Layout]:
    if architecture is not None and architecture not in MIL_ARCHITECTURES:
        raise BadArgumentError(
            f"architecture={architecture!r} is unknown; it is one of "
            f"{', '.join(MIL_ARCHITECTURES)}."
        )
    return [one for one in LAYOUTS if architecture in (None, one.architecture)]


def fit_layout(layout: Layout, tensors: Mapping[str, Tensor]) -> Match | Misfit:
    """Try one layout on tensors whose names are cleaned: all must fit, and none be missing."""
    kept, left_over = _sorted_by(layout, tensors)
    found = {layout.template_of(name) for name in kept}
    missing = tuple(t for t in layout.names if t not in found and t not in layout.optional)
    if missing or left_over or not kept:
        return Misfit(layout, len(kept), missing, left_over)
    try:
        inferred = layout.arguments(tensors)
    except _UNFIT as error:
        return Misfit(layout, len(kept), conflicts=(_reason(error),))
    return _build(layout, kept, inferred, {})


def fit_options(match: Match, options: Mapping[str, Any]) -> Match | Misfit:
    """The same head built with other arguments, where the tensors still fit it."""
    return _build(match.layout, match.authors, match.inferred, options)


def _build(
    layout: Layout, kept: dict[str, Tensor], inferred: dict[str, Any], options: Mapping[str, Any]
) -> Match | Misfit:
    try:
        head = _fresh(layout.architecture, {**inferred, **options})
        renamed = layout.rename(kept)
    except _UNFIT as error:
        refused = isinstance(error, BadArgumentError)
        return Misfit(layout, len(kept), conflicts=(_reason(error),), refused=refused)
    own = head.state_dict()
    lacking = tuple(name for name in own if name not in renamed)
    unknown = tuple(name for name in renamed if name not in own)
    conflicts = tuple(_shape_conflicts(layout, kept, renamed, own))
    if lacking or unknown or conflicts:
        return Misfit(layout, len(kept) - len(unknown), lacking, unknown, conflicts)
    return Match(layout, head, renamed, inferred, kept)


def _sorted_by(
    layout: Layout, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors that the layout has a name for, and names that it has no place for."""
    kept: dict[str, Tensor] = {}
    taken: set[str] = set()
    left_over = []
    for name, tensor in tensors.items():
        ours = layout.our_name(name)
        if ours is None and layout.ignores(name):
            continue
        if ours is None or ours in taken:
            left_over.append(name)
        else:
            taken.add(ours)
            kept[name] = tensor
    return kept, tuple(left_over)


def _fresh(architecture: str, arguments: Mapping[str, Any]) -> MILModel:
    """A head with fresh weights, without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        return build_mil(architecture, **arguments).float()


def _shape_conflicts(
    layout: Layout,
    authors: Mapping[str, Tensor],
    renamed: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> Iterator[str]:
    """Tensors of another shape than the head's, in words, by the author's names."""
    theirs = {layout.our_name(name): name for name in authors}
    for name, tensor in renamed.items():
        if name in own and tensor.shape != own[name].shape:
            yield (
                f"{theirs.get(name, name)} has shape {tuple(tensor.shape)} where "
                f"{tuple(own[name].shape)} is needed"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, WsiXaiError):
        return str(error).rstrip(".")
    return f"shapes that do not belong together ({type(error).__name__}: {error})"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _nothing_fits(
    tensors: Mapping[str, Tensor],
    origin: str,
    layouts: Sequence[Layout],
    nearest: Misfit | None,
) -> str:
    if not layouts:
        return f"no published layout of this architecture is known: {origin} cannot be opened."
    sought = ", ".join(dict.fromkeys(layout.architecture for layout in layouts))
    start = f"{origin} fits none of the heads looked for ({sought})"
    if nearest is None or nearest.share == 0:
        return (
            f"{start}: none of its {len(tensors)} tensors has a known name ({_some([*tensors])})."
        )
    layout = nearest.layout
    return (
        f"{start}: the nearest is {layout.architecture} ({layout.source}), which shares "
        f"{nearest.share:.0%} of the names; {nearest}."
    )
