"""What each MIL head is trained with: one loss an architecture, as its authors have it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil import MILModel, MILOutput
from napari_wsi_xai.models.mil.bags import Bags

if TYPE_CHECKING:
    from napari_wsi_xai.models.mil.chowder import CHOWDER
    from napari_wsi_xai.models.mil.clam import CLAM
    from napari_wsi_xai.models.mil.dsmil import DSMIL
    from napari_wsi_xai.models.mil.dtfd import DTFD
    from napari_wsi_xai.models.mil.mil_sil import MILSIL
    from napari_wsi_xai.models.mil.msmil import MSMIL
    from napari_wsi_xai.training.domain import DomainTerm

__all__ = ["LOSSES", "TileBag", "bag_loss", "loss_options", "run_head", "training_loss"]

SMALLEST_PROBABILITY = 1e-5
"""ABMIL's Bernoulli likelihood keeps probabilities this far from 0 and 1."""

Parts = dict[str, Tensor]


class TileBag(Protocol):
    """What a loss needs of a bag."""

    @property
    def features(self) -> Tensor | tuple[Tensor, ...]:
        """(N, D) descriptors, or one such bag a magnification, coarse to fine."""

    @property
    def coords_level0(self) -> Tensor | tuple[Tensor, ...] | None:
        """(N, 2) origins of the tiles, yx in level-0 pixels."""


def run_head(head: MILModel, bag: TileBag) -> MILOutput:
    """The head's output on a bag, of one magnification or several."""
    features: Bags = bag.features if isinstance(bag.features, Tensor) else list(bag.features)
    coords = bag.coords_level0 if isinstance(bag.coords_level0, Tensor) else None
    return cast(MILOutput, head(features, coords))


def training_loss(
    head: MILModel,
    bag: TileBag,
    label: int,
    weights: Tensor | None = None,
    *,
    domain: DomainTerm | None = None,
    **options: float,
) -> Parts:
    r"""Loss of one bag, and the named parts that it is made of.

    .. math:: L = w_y \sum_p \lambda_p L_p

    Parameters
    ----------
    head
        Any architecture; it is run in the mode it is in.
    bag
        Descriptors and, for heads that look at places, coordinates.
    label
        The slide's class y.
    weights
        (C,) weight :math:`w` of each class. It multiplies the loss of a bag: what torch does with
        class weights would cancel in a batch of one bag.
    domain
        Tells slides apart against the descriptors; MSMIL only.
    **options
        The :math:`\lambda`, see :func:`loss_options`.

    Returns
    -------
    dict
        Scalars: ``"loss"``, which gradients are taken of, and its parts before any weighting.

    Raises
    ------
    BadArgumentError
        ``label`` is no class, or an option is not known or negative.
    ModelError
        The bag does not fit the head.
    """
    label = head.check_label(label)
    _check_options(head.architecture, options)
    extra = {} if domain is None else {"domain": domain}
    if extra and head.architecture != "msmil":
        raise BadArgumentError(
            f"the {head.architecture} head is not trained against slides: domain is for msmil."
        )
    parts: Parts = LOSSES[head.architecture](head, bag, label, **options, **extra)
    if weights is not None:
        parts["loss"] = parts["loss"] * weights[label]
    return parts


def loss_options(architecture: str) -> dict[str, float]:
    """Options that the loss of an architecture takes, with the authors' values."""
    parameters = signature(LOSSES[architecture]).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, float)}


def _check_options(architecture: str, options: Mapping[str, float]) -> None:
    known = loss_options(architecture)
    for name, value in options.items():
        if name not in known:
            taken = ", ".join(known) or "none"
            raise BadArgumentError(
                f"the loss of {architecture} has no option {name!r}; it takes {taken}."
            )
        if not value >= 0:
            raise BadArgumentError(f"{name}={value} of a loss must be at least 0.")


def bag_loss(head: MILModel, logits: Tensor, label: int) -> Tensor:
    r"""What the head's decision alone costs: logits (C,) or (1,) to a scalar.

    Cross entropy :math:`-\log \mathrm{softmax}(P)_y`; for a single logit
    :math:`-y \log \sigma(P) - (1 - y) \log(1 - \sigma(P))`, in ABMIL with :math:`\sigma(P)` kept
    within :math:`[10^{-5}, 1 - 10^{-5}]`; DSMIL has a sigmoid for every class, whose losses are
    averaged.
    """
    architecture = head.architecture
    if architecture == "dsmil":
        return binary_cross_entropy_with_logits(logits, _target(head, label, logits))
    if not head.single_logit:
        return cross_entropy(logits[None], torch.tensor([label], device=logits.device))
    if architecture in ("abmil", "abmil-gated"):
        p = torch.sigmoid(logits).clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        return -(p if label else 1 - p).log().sum()
    return binary_cross_entropy_with_logits(logits, _target(head, label, logits))


def _target(head: MILModel, label: int, logits: Tensor) -> Tensor:
    """(1,) the label, or (C,) one for the class and zero for the others."""
    target = torch.zeros_like(logits)
    target[0 if head.single_logit else label] = float(label) if head.single_logit else 1.0
    return target


def decision(head: MILModel, bag: TileBag, label: int) -> Parts:
    """The decision's loss alone: all heads whose authors add nothing to it.

    ZoomMIL belongs here: what is particular about its training, the perturbed choice of tiles, is
    in the head's training mode.
    """
    loss = bag_loss(head, run_head(head, bag).logits, label)
    return {"loss": loss, "bag": loss}


def abmil(
    head: MILModel,
    bag: TileBag,
    label: int,
    pooled_weight: float = 0.0,
    sharpness: float = 1.0,
) -> Parts:
    r"""ABMIL: the decision; with ``pooled_weight`` also the attention logits, pooled.

    .. math:: \mathrm{BCE}(\tfrac1r \log \tfrac1N \sum_j e^{r s_j}, [y > 0])

    Softmax fixes neither the sign of the attention logits s nor that every tile of interest, and
    not just the plainest, gets a high one. This term (not the authors', so its weight is 0 by
    default) asks that some be above 0 in slides of the later classes and none in those of the
    first. ``sharpness`` is r: towards 0 the pooling is the mean, towards infinity the maximum.
    """
    out = run_head(head, bag)
    slide = bag_loss(head, out.logits, label)
    if not pooled_weight:
        return {"loss": slide, "bag": slide}
    if not sharpness:
        raise BadArgumentError(f"sharpness={sharpness} of the abmil loss must be above 0.")
    scores = sharpness * out.tile_scores[:, 0]
    pooled = (torch.logsumexp(scores, 0) - math.log(len(scores))) / sharpness
    target = torch.full_like(pooled, float(label > 0))
    tiles = binary_cross_entropy_with_logits(pooled, target)
    return {"loss": slide + pooled_weight * tiles, "bag": slide, "pooled": tiles}


def clam(
    head: MILModel, bag: TileBag, label: int, bag_weight: float = 0.7, instance_weight: float = 0.3
) -> Parts:
    """CLAM: decision and instance classifiers, 0.7 and 0.3 of the loss."""
    scorer, features = cast("CLAM", head), cast(Tensor, bag.features)
    with _draws_kept(features):
        out = run_head(head, bag)
    instance = scorer.instance_evaluation(features, label).loss
    slide = bag_loss(head, out.logits, label)
    total = bag_weight * slide + instance_weight * instance
    return {"loss": total, "bag": slide, "instance": instance}


def dsmil(
    head: MILModel, bag: TileBag, label: int, bag_weight: float = 0.5, instance_weight: float = 0.5
) -> Parts:
    """DSMIL: the decision and each class's best-scored tile, half each."""
    scorer, features = cast("DSMIL", head), cast(Tensor, bag.features)
    slide = bag_loss(head, run_head(head, bag).logits, label)
    best = scorer.classify_tiles(head.check_bag(features)).max(dim=0).values
    instance = bag_loss(head, best, label)
    total = bag_weight * slide + instance_weight * instance
    return {"loss": total, "bag": slide, "instance": instance}


def mil_sil(
    head: MILModel, bag: TileBag, label: int, bag_weight: float = 1.0, sil_weight: float = 1.0
) -> Parts:
    """MIL-SIL: the slide (alone: MIL), and every tile with its slide's label (alone: SIL)."""
    losses = cast("MILSIL", head).losses(cast(Tensor, bag.features), label)
    total = bag_weight * losses.bag + sil_weight * losses.single
    return {"loss": total, "bag": losses.bag, "single": losses.single}


def dtfd(head: MILModel, bag: TileBag, label: int, pseudo_weight: float = 1.0) -> Parts:
    """DTFD: every pseudo-bag with its slide's label, and what they distil.

    Both tiers see the same pseudo-bags.
    """
    tiers, features = cast("DTFD", head), cast(Tensor, bag.features)
    with _draws_kept(features):
        pseudo = tiers.pseudo_bag_logits(features)
    first = torch.stack([bag_loss(head, logits, label) for logits in pseudo]).mean()
    second = bag_loss(head, run_head(head, bag).logits, label)
    return {"loss": pseudo_weight * first + second, "pseudo": first, "bag": second}


def chowder(head: MILModel, bag: TileBag, label: int, score_l2: float = 0.0) -> Parts:
    r"""CHOWDER: the decision, and :math:`\lambda \|w\|^2` of what scores the tiles."""
    slide = bag_loss(head, run_head(head, bag).logits, label)
    weights = cast("CHOWDER", head).score.named_parameters()
    penalty = torch.stack([p.square().sum() for n, p in weights if n.endswith("weight")]).sum()
    return {"loss": slide + score_l2 * penalty, "bag": slide, "score_l2": penalty}


def msmil(
    head: MILModel,
    bag: TileBag,
    label: int,
    domain_weight: float = 0.0,
    domain: DomainTerm | None = None,
) -> Parts:
    """MS-DA-MIL: the decision; with ``domain`` also the slide that each tile is of.

    The authors take what tells slides apart out of the descriptors by training the encoder
    against it. Descriptors are given here, so it is taken out of their projections.
    """
    out = run_head(head, bag)
    slide = bag_loss(head, out.logits, label)
    if domain is None:
        return {"loss": slide, "bag": slide}
    assert out.attention is not None
    pooled = cast("MSMIL", head)
    features = bag.features if isinstance(bag.features, Tensor) else list(bag.features)
    projected = pooled.project(pooled.pool_bags(features))
    told = domain.loss(projected, out.attention)
    return {"loss": slide + domain_weight * told, "bag": slide, "domain": told}


@contextmanager
def _draws_kept(features: Tensor) -> Iterator[None]:
    """What is drawn inside is drawn once more after it: two passes share dropout and shuffles."""
    device = features.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


Loss = Callable[..., Parts]

LOSSES: dict[str, Loss] = {
    "mean": decision,
    "max": decision,
    "abmil": abmil,
    "abmil-gated": abmil,
    "chowder": chowder,
    "zoommil": decision,
    "sparseconvmil": decision,
    "msmil": msmil,
    "clam-sb": clam,
    "clam-mb": clam,
    "mil-fc": decision,
    "mil-sil": mil_sil,
    "xmil-attnmil": decision,
    "dsmil": dsmil,
    "transmil": decision,
    "xmil-transmil": decision,
    "dtfd": dtfd,
}
