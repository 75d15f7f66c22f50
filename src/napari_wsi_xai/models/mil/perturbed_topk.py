"""Differentiable choice of the k largest scores, by random perturbation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_wsi_xai.errors import BadArgumentError

__all__ = ["mix_children", "perturbed_topk"]


def perturbed_topk(
    scores: Tensor, k: int, noise: Tensor | int = 100, sigma: float = 0.05
) -> Tensor:
    r"""Soft indicators of the k largest scores, as Thandiackal et al. 2022 train with them.

    .. math::
        i^{(t)} = \mathrm{sort}(\mathrm{topk}(x + \sigma Z^{(t)})), \qquad
        Y_{jn} = \frac{1}{S} \sum_t [i^{(t)}_j = n]

    The gradient is taken entry by entry, each score answering for its own indicators alone:

    .. math::
        \frac{\partial L}{\partial x_n} = \sum_j \frac{\partial L}{\partial Y_{jn}}
        \frac{1}{S \sigma} \sum_t [i^{(t)}_j = n]\, Z^{(t)}_n

    This is what the published ZoomMIL was trained with; the full Jacobian (Cordonnier et al.
    2021, arXiv 2104.03059) has :math:`Z^{(t)}_m` for every pair (n, m) instead.

    Parameters
    ----------
    scores
        (..., N) float.
    k
        How many to choose, 1 to N.
    noise
        (..., S, N) standard normal Z, or the number S of samples to draw.
    sigma
        Standard deviation of the perturbation, in units of the scores.

    Returns
    -------
    Tensor
        (..., k, N): row j is the mean one-hot vector of the j-th chosen index, ascending. Each
        row sums to one.
    """
    count = scores.shape[-1]
    if not scores.is_floating_point():
        raise BadArgumentError(
            f"scores of {scores.dtype}, shape {tuple(scores.shape)}, must be floats."
        )
    if not 1 <= k <= count:
        raise BadArgumentError(f"k={k} must be from 1 to the number of scores, {count}.")
    if not sigma > 0:
        raise BadArgumentError(f"sigma={sigma} must be above 0.")
    drawn = _noise_for(scores, noise)
    indicators: Tensor = _PerturbedTopK.apply(scores, k, drawn, sigma)  # type: ignore[no-untyped-call]
    return indicators


def _noise_for(scores: Tensor, noise: Tensor | int) -> Tensor:
    """Noise (..., S, N), drawn where only the number of samples is given."""
    *batch, count = scores.shape
    if isinstance(noise, int):
        if noise < 1:
            raise BadArgumentError(f"noise={noise} samples: at least 1 is needed.")
        return torch.randn((*batch, noise, count), dtype=scores.dtype, device=scores.device)
    samples = noise.shape[-2] if noise.ndim > 1 else 0
    if samples < 1 or tuple(noise.shape) != (*batch, samples, count):
        raise BadArgumentError(
            f"noise of shape {tuple(noise.shape)} does not fit scores of shape "
            f"{tuple(scores.shape)}: give (..., samples, {count})."
        )
    return noise.to(scores)


def mix_children(indicators: Tensor, features: Tensor) -> Tensor:
    """Children of softly chosen tiles: indicators (k, n), descriptors (n r, D) to (k r, D).

    Row j r + c is the mean of the c-th children of all tiles with the weights ``indicators[j]``.
    """
    chosen, count = indicators.shape
    mixed = indicators @ features.reshape(count, -1)
    return mixed.reshape(chosen * (len(features) // count), -1)


class _PerturbedTopK(torch.autograd.Function):
    """Keeps the chosen indices (..., S, k) only, never S one-hot matrices."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, noise: Tensor, sigma: float) -> Tensor:
        samples, count = noise.shape[-2:]
        perturbed = scores.unsqueeze(-2) + sigma * noise
        chosen = perturbed.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
        ctx.save_for_backward(chosen, noise.gather(-1, chosen))
        ctx.sigma, ctx.shape = sigma, scores.shape
        slots = chosen.transpose(-1, -2)
        indicators = scores.new_zeros((*scores.shape[:-1], k, count))
        return indicators.scatter_add_(-1, slots, scores.new_ones(()).expand(slots.shape)) / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        chosen, noise = ctx.saved_tensors
        reached = cotangent.gather(-1, chosen.transpose(-1, -2)).transpose(-1, -2)
        shares = (reached * noise).flatten(-2) / (chosen.shape[-2] * ctx.sigma)
        gradient = cotangent.new_zeros(ctx.shape)
        return gradient.scatter_add_(-1, chosen.flatten(-2), shares), None, None, None
