"""Nystrom attention, plain attention and the position encoding against their dense forms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.nystrom import NystromAttention, pseudo_inverse
from napari_wsi_xai.models.mil.ppeg import PPEG
from napari_wsi_xai.models.mil.token_attention import DotProductAttention

KINDS = ["plain", "nystrom-back", "nystrom-front"]


def tokens(n, dim=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=draw, dtype=torch.float64)


def attention(kind="nystrom-back", heads=2, **arguments):
    torch.manual_seed(4)
    arguments = {"residual_kernel": 5} | arguments
    if kind == "plain":
        return DotProductAttention(8, heads, **arguments).double()
    arguments = {"landmarks": 4, "crop": kind.removeprefix("nystrom-")} | arguments
    return NystromAttention(8, heads, **arguments).double()


def dense(layer, padded):
    """Attention matrices (H, n', n') from the definition, without any shortcut."""
    q, k, _ = (
        part.view(len(padded), layer.heads, -1).transpose(0, 1)
        for part in layer.qkv(padded).chunk(3, dim=-1)
    )
    q = q / layer.head_dim**0.5
    if isinstance(layer, DotProductAttention):
        return torch.softmax(q @ k.transpose(1, 2), -1)
    run = len(padded) // layer.landmarks
    q_marks, k_marks = (
        torch.stack([x[:, i * run : (i + 1) * run].mean(1) for i in range(layer.landmarks)], 1)
        for x in (q, k)
    )
    a1, a2, a3 = (
        torch.softmax(left @ right.transpose(1, 2), -1)
        for left, right in [(q, k_marks), (q_marks, k_marks), (q_marks, k)]
    )
    return a1 @ pseudo_inverse(a2, layer.iterations) @ a3


def outcome(layer, x):
    """The whole layer from its definition: pad, attend, convolve, crop, project."""
    padding = 0 if isinstance(layer, DotProductAttention) else -len(x) % layer.landmarks
    padded = torch.cat([x.new_zeros(padding, x.shape[1]), x])
    v = layer.qkv(padded).chunk(3, dim=-1)[2].view(len(padded), layer.heads, -1).transpose(0, 1)
    mixed = dense(layer, padded) @ v
    if layer.residual is not None:
        mixed = mixed + layer.residual(v[None])[0]
    mixed = layer.out(mixed.transpose(0, 1).flatten(1))
    front = isinstance(layer, NystromAttention) and layer.crop == "front"
    return mixed[: len(x)] if front else mixed[padding:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 11])
def test_layer_equals_its_definition(kind, n):
    layer, x = attention(kind), tokens(n)
    torch.testing.assert_close(layer(x), outcome(layer, x))
    torch.testing.assert_close(layer.matrices(layer.pad(x)), dense(layer, layer.pad(x)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 40])
@pytest.mark.parametrize("taps", [5, 0])
def test_first_token_alone_equals_the_whole_layer(kind, n, taps):
    layer, x = attention(kind, residual_kernel=taps), tokens(n)
    result, row = layer.attend_first(x)
    torch.testing.assert_close(result, layer(x)[0])
    padding = layer.padding(n)
    torch.testing.assert_close(row, dense(layer, layer.pad(x))[:, padding])


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_rows_and_row_sums_equal_the_matrix(kind, monkeypatch):
    monkeypatch.setattr("napari_wsi_xai.models.mil.token_attention.CHUNK_TOKENS", 3)
    layer = attention(kind)
    padded = layer.pad(tokens(10))
    mean, weights = dense(layer, padded).mean(0), tokens(len(padded), 1)[:, 0]
    torch.testing.assert_close(layer.push(padded, weights), weights @ mean)
    torch.testing.assert_close(layer.row_sums(padded), mean.sum(-1))


def test_a_landmark_a_token_is_plain_attention():
    """With l = 1 all three factors are the same matrix A, and A A+ A = A."""
    x = tokens(6)
    nystrom = NystromAttention(8, 2, 5, landmarks=6, iterations=60).double()
    plain = DotProductAttention(8, 2, 5).double()
    plain.load_state_dict(nystrom.state_dict())
    torch.testing.assert_close(nystrom(x), plain(x), rtol=1e-6, atol=1e-8)


def test_inverse_is_the_pseudo_inverse_of_every_head():
    matrices = torch.softmax(3 * torch.eye(5) + torch.randn(3, 5, 5) / 4, -1).double()
    torch.testing.assert_close(pseudo_inverse(matrices, 30), torch.linalg.pinv(matrices))


def test_heads_share_the_first_guess_of_the_inverse():
    """Its scale is the largest row sum times the largest column sum of all heads."""
    one = torch.tensor([[0.9, 0.1], [0.9, 0.1]], dtype=torch.float64)
    other = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    start = pseudo_inverse(torch.stack([one, other]), 0)
    torch.testing.assert_close(start[1], other.T / 1.8)


def test_crops_differ_only_by_which_rows_are_taken():
    x = tokens(6)
    back, front = attention(landmarks=4), attention("nystrom-front", landmarks=4)
    torch.testing.assert_close(front(x)[2:], back(x)[:4])
    torch.testing.assert_close(attention("nystrom-front")(tokens(8)), attention()(tokens(8)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_definition(kind):
    layer, x = attention(kind), tokens(7).requires_grad_()
    wanted = torch.autograd.grad(outcome(layer, x)[0].sum(), x)
    got = torch.autograd.grad(layer(x)[0].sum(), x)
    alone = torch.autograd.grad(layer.attend_first(x)[0].sum(), x)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(alone, wanted)


@given(st.integers(1, 9), st.integers(0, 20))
def test_position_encoding_is_the_sum_of_three_convolutions(side, seed):
    torch.manual_seed(seed)
    encoding, x = PPEG(4).double(), tokens(side * side + 1, 4, seed)
    square = x[1:].T.reshape(1, 4, side, side)
    convs = (encoding.conv7, encoding.conv5, encoding.conv3)
    wanted = square + sum(
        F.conv2d(square, c.weight, c.bias, padding=c.padding, groups=4) for c in convs
    )
    result = encoding(x, side)
    torch.testing.assert_close(result[1:], wanted[0].flatten(1).T)
    torch.testing.assert_close(result[0], x[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"dim": 10, "heads": 4}, "dim=10.*heads=4"),
        ({"dim": 8, "heads": 0}, "heads=0"),
        ({"dim": 8, "residual_kernel": 4}, "residual_kernel=4"),
        ({"dim": 8, "landmarks": 0}, "landmarks=0"),
        ({"dim": 8, "iterations": 0}, "pinv_iterations=0"),
        ({"dim": 8, "crop": "left"}, "crop='left'"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(BadArgumentError, match=named):
        NystromAttention(**arguments)
