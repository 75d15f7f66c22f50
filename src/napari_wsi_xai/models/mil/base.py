"""The four-block interface that every MIL architecture has, whatever its paper calls the parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models.mil.arguments import check_share, check_whole, described

__all__ = ["MILModel", "MILOutput", "mean_sigmoid_logits"]


@dataclass
class MILOutput:
    """What a MIL head says about one bag.

    Attributes
    ----------
    logits
        (C,) one a class, or (1,) for a single-logit head.
    tile_scores
        (N, K) raw scores before any normalisation; K = 1, or one per class or branch.
    attention
        (N, K) weights that sum to one over the tiles; ``None`` where the head has none.
    slide_descriptor
        (M,) the aggregate that the decision is taken from; for heads with several branches their
        descriptors one after the other.
    """

    logits: Tensor
    tile_scores: Tensor
    attention: Tensor | None
    slide_descriptor: Tensor


class MILModel(nn.Module, ABC):
    """A head over a bag of descriptors: tile scoring f_s, aggregation f_a, decision f_cls.

    ``forward`` is the three in a row. A subclass is one architecture in one file; it passes every
    argument of its constructor to this one, so that ``build_mil(architecture, **arguments)`` makes
    it again. Heads whose scores need neighbours or the whole bag set ``scores_per_tile`` to False;
    heads over several magnifications take a list of bags and check each with :meth:`check_bag`.

    Parameters
    ----------
    in_features
        Length D of a descriptor.
    num_classes
        Number of classes C, at least 2.
    single_logit
        Two classes told apart by one logit through a sigmoid, as binary heads are often trained.
    **arguments
        What else the architecture was made with (JSON-able).
    """

    architecture: ClassVar[str]
    score_kind: ClassVar[str]
    scores_per_tile: ClassVar[bool] = True
    pooling: ClassVar[Literal["scores", "weighted-sum", "bag"]] = "bag"
    """What :meth:`aggregate` needs of a bag: its scores alone; a sum of descriptors with the
    weights of :meth:`weigh`; or all of it. The first two can be taken block by block."""
    magnification_use: Literal["single", "zoom", "pool", "concat"] = "single"
    """What several magnifications are to the head. ``"zoom"`` and ``"pool"``: a list of bags,
    coarse to fine, of which it opens a part or takes all. ``"concat"``: one bag of the finest
    tiles, each descriptor followed by those of the coarser tiles around it, fine to coarse."""
    num_magnifications: int = 1

    def __init__(
        self, in_features: int, num_classes: int, single_logit: bool = False, **arguments: Any
    ) -> None:
        super().__init__()
        check_whole(1, in_features=in_features)
        check_whole(2, num_classes=num_classes)
        check_share(**{name: value for name, value in arguments.items() if "dropout" in name})
        if single_logit and num_classes != 2:
            raise BadArgumentError(
                f"num_classes={num_classes} must be exactly 2 with single_logit=True."
            )
        self.in_features = int(in_features)
        self.num_classes = int(num_classes)
        self.single_logit = bool(single_logit)
        self.num_logits = 1 if single_logit else self.num_classes
        self.arguments: dict[str, Any] = {
            "in_features": self.in_features,
            "num_classes": self.num_classes,
            "single_logit": self.single_logit,
            **arguments,
        }

    @abstractmethod
    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """f_s: descriptors (N, D) to raw tile scores (N, K).

        ``coords_level0`` (N, 2) are the tiles' origins, yx in level-0 pixels, for heads that look
        at places; the others ignore them.
        """

    @abstractmethod
    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """f_a: scores (N, K) and descriptors (N, D) to (slide descriptor (M,), attention).

        Heads with ``pooling = "scores"`` take ``None`` for the descriptors.
        """

    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to what the weighted sum of :meth:`aggregate` is taken of (N, L)."""
        return features

    def weigh(self, tile_scores: Tensor) -> Tensor:
        """Scores (N, K) to weights (N, K) that sum to one; for ``pooling = "weighted-sum"``."""
        raise ModelError(f"the {self.architecture} head does not weigh its tiles.")

    @abstractmethod
    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """f_cls: slide descriptor (M,) to logits (C,), or (1,) for a single-logit head."""

    def forward(self, features: Tensor, coords_level0: Tensor | None = None) -> MILOutput:
        """Score a whole bag.

        Parameters
        ----------
        features
            (N, D) descriptors of the tissue tiles, N >= 1, finite; float16 is taken as the
            parameters' type.
        coords_level0
            (N, 2) origins of the tiles, yx in level-0 pixels; only some heads need them.

        Raises
        ------
        ModelError
            No tiles, a descriptor of another length, or values that are not finite.
        """
        features = self.check_bag(features)
        tile_scores = self.score_tiles(features, coords_level0)
        slide_descriptor, attention = self.aggregate(tile_scores, features, coords_level0)
        return MILOutput(self.decide(slide_descriptor), tile_scores, attention, slide_descriptor)

    def check_bag(self, features: Tensor) -> Tensor:
        """The bag in the parameters' float type, or a ``ModelError`` that says what is wrong."""
        own = next(self.parameters())
        self._check_kind(features, own)
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise ModelError(
                f"a bag of shape {tuple(features.shape)} does not fit: this {self.architecture} "
                f"head takes (number of tiles, {self.in_features})."
            )
        if features.shape[0] == 0:
            raise ModelError("a bag of 0 tiles cannot be scored: at least 1 tissue tile is needed.")
        features = features.to(own.dtype)
        # The sum is finite for finite values short of overflow, and far cheaper than a mask.
        if not torch.isfinite(features.detach().sum()):
            bad = int((~torch.isfinite(features.detach())).any(dim=1).sum())
            if bad:
                raise ModelError(
                    f"{bad} of {features.shape[0]} tiles have descriptors that are not finite: "
                    "leave these tiles out of the bag."
                )
        return features

    def _check_kind(self, features: object, own: Tensor) -> None:
        """A dense tensor of real numbers where the parameters are, or a ``ModelError``."""
        size = f"(number of tiles, {self.in_features})"
        takes = f"this {self.architecture} head takes a tensor {size}"
        if not isinstance(features, Tensor):
            how = ", as torch.as_tensor makes of an array" if hasattr(features, "shape") else ""
            raise ModelError(f"a bag {described(features)} does not fit: {takes}{how}.")
        if features.is_complex() or features.layout is not torch.strided:
            raise ModelError(
                f"a bag of {features.dtype}, {features.layout}, does not fit: {takes} of real "
                "numbers, all of them stored."
            )
        if features.device != own.device:
            raise ModelError(
                f"a bag on {features.device} does not fit: this {self.architecture} head is on "
                f"{own.device}; move one of them."
            )

    def check_label(self, label: int) -> int:
        """A class, 0 <= label < C, or a ``BadArgumentError``."""
        try:
            number = index(label)
        except TypeError:
            number = -1
        if not 0 <= number < self.num_classes:
            raise BadArgumentError(f"label={label!r} must be from 0 to {self.num_classes - 1}.")
        return number

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (C,) to class probabilities (C,) that sum to one.

        Softmax; for a single logit ``p = sigmoid(logit)`` gives ``(1 - p, p)``.
        """
        if self.single_logit:
            return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=-1)
        return torch.softmax(logits, dim=-1)

    def mean_logits(self, logits: Tensor) -> Tensor:
        r"""Logits (E, C) of E heads to the (C,) whose probabilities are the mean of theirs.

        .. math::
            z_c = \log \frac{1}{E} \sum_e p_c^{(e)}, \quad \text{and for a single logit} \quad
            z = \log \frac{\sum_e p^{(e)}}{\sum_e (1 - p^{(e)})}
        """
        if self.single_logit:
            return mean_sigmoid_logits(logits)
        return torch.logsumexp(torch.log_softmax(logits, dim=-1), dim=0) - math.log(len(logits))


def mean_sigmoid_logits(logits: Tensor) -> Tensor:
    """Logits (E, C) to the (C,) whose sigmoids are the means of theirs, one by one."""
    return torch.logsumexp(logsigmoid(logits), dim=0) - torch.logsumexp(logsigmoid(-logits), dim=0)
