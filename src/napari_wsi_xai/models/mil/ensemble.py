"""Several heads of one architecture, whose mean decides (as Courtiol et al. 2018 do)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.base import MILModel, MILOutput

__all__ = ["EnsembleMIL", "ensemble_of"]


_SHARED = ("in_features", "num_classes", "single_logit")
"""Arguments that an ensemble and its members have in common."""


class EnsembleMIL(MILModel):
    r"""Members that differ in their weights alone; the mean of their probabilities decides.

    .. math::
        p_i = \frac{1}{E} \sum_{e=1}^{E} p_i^{(e)}, \qquad
        s_{ij} = \frac{1}{E} \sum_e s_{ij}^{(e)}, \qquad
        a_{ij} = \frac{1}{E} \sum_e a_{ij}^{(e)}, \qquad
        D_i = [D_i^{(1)}, ..., D_i^{(E)}]

    The logits are those whose probabilities are :math:`p_i`. Attention still sums to one. The
    members, not their mean scores, decide, so the bag is needed whole.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`; all members have them.
    member
        Architecture of the members, one that looks at one magnification.
    members
        E, how many there are.
    member_arguments
        What else their architecture takes.
    """

    architecture = "ensemble"
    score_kind = "mean of the members' scores"
    pooling = "bag"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        member: str = "chowder",
        members: int = 10,
        member_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        from napari_wsi_xai.models.mil import MIL_ARCHITECTURES, build_mil

        own = _own_arguments(member_arguments)
        check_whole(1, members=members)
        super().__init__(
            in_features, num_classes, single_logit, member=member, members=int(members)
        )
        if member not in MIL_ARCHITECTURES:
            known = ", ".join(MIL_ARCHITECTURES)
            raise BadArgumentError(f"member={member!r} must be one of {known}.")
        self.members = nn.ModuleList(
            build_mil(member, in_features, num_classes, single_logit=single_logit, **own)
            for _ in range(members)
        )
        first = self.first
        # With those that were not given, and as JSON keeps them.
        self.arguments["member_arguments"] = _without_shared(first.arguments)
        if first.magnification_use != "single":
            raise BadArgumentError(
                f"member={member!r} is a head over several magnifications: members of an ensemble "
                "look at one."
            )
        self.score_kind = f"{first.score_kind}, mean of {members}"  # type: ignore[misc]
        self.scores_per_tile = first.scores_per_tile  # type: ignore[misc]

    @property
    def first(self) -> MILModel:
        """The first member, which stands for all in what they have in common."""
        return self.members[0]  # type: ignore[return-value]

    def forward(self, features: Tensor, coords_level0: Tensor | None = None) -> MILOutput:
        """See :meth:`MILModel.forward`."""
        features = self.check_bag(features)
        outputs: list[MILOutput] = [head(features, coords_level0) for head in self.members]
        return MILOutput(
            self.first.mean_logits(torch.stack([out.logits for out in outputs])),
            torch.stack([out.tile_scores for out in outputs]).mean(dim=0),
            _mean_attention([out.attention for out in outputs]),
            torch.cat([out.slide_descriptor for out in outputs]),
        )

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to the mean of the members' scores (N, K)."""
        scores = [head.score_tiles(features, coords_level0) for head in self.members]  # type: ignore[operator]
        return torch.stack(scores).mean(dim=0)

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Members' descriptors one after the other, and their mean attention.

        Every member aggregates with its own scores; their mean is not used.
        """
        if features is None:
            raise ModelError("an ensemble aggregates the whole bag: give it the descriptors.")
        outputs: list[MILOutput] = [head(features, coords_level0) for head in self.members]
        descriptor = torch.cat([out.slide_descriptor for out in outputs])
        return descriptor, _mean_attention([out.attention for out in outputs])

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Members' descriptors to the logits of their mean decision (C,)."""
        parts = slide_descriptor.chunk(len(self.members))
        pairs = zip(self.members, parts, strict=True)
        return self.first.mean_logits(torch.stack([head.decide(part) for head, part in pairs]))  # type: ignore[operator]

    def mean_logits(self, logits: Tensor) -> Tensor:
        """See :meth:`MILModel.mean_logits`."""
        return self.first.mean_logits(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (C,) to probabilities (C,), as the members have it."""
        return self.first.probabilities(logits)


def ensemble_of(heads: Sequence[MILModel]) -> EnsembleMIL:
    """An ensemble with copies of the weights of some heads, in eval mode.

    Raises
    ------
    BadArgumentError
        There is none, or they differ in more than weights.
    """
    if not heads:
        raise BadArgumentError("there are 0 heads: an ensemble has at least 1.")
    first = heads[0]
    for number, head in enumerate(heads, 1):
        if (head.architecture, head.arguments) != (first.architecture, first.arguments):
            raise BadArgumentError(
                f"head {number} is {head.architecture} with {head.arguments}, not as the first "
                f"{first.architecture} with {first.arguments}: members differ in weights alone."
            )
    own = _without_shared(first.arguments)
    with torch.random.fork_rng(devices=[]):
        ensemble = EnsembleMIL(
            **{name: first.arguments[name] for name in _SHARED},
            member=first.architecture,
            members=len(heads),
            member_arguments=own,
        )
    ensemble.to(next(first.parameters()))
    for member, head in zip(ensemble.members, heads, strict=True):
        member.load_state_dict(head.state_dict())
    return ensemble.eval()


def _without_shared(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in _SHARED}


def _own_arguments(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Members' arguments, or a ``BadArgumentError``."""
    if given is not None and not isinstance(given, Mapping):
        raise BadArgumentError(f"member_arguments={given!r} must be arguments by name.")
    own = dict(given or {})
    shared = [name for name in _SHARED if name in own]
    if shared:
        raise BadArgumentError(
            f"member_arguments has {shared[0]}={own[shared[0]]!r}, which is of the whole ensemble: "
            "give it beside member_arguments."
        )
    return own


def _mean_attention(attention: Sequence[Tensor | None]) -> Tensor | None:
    known = [one for one in attention if one is not None]
    return torch.stack(known).mean(dim=0) if known else None
