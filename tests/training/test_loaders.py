"""Orders of bags."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.training.loaders import AlternatingSampler


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_classes_come_in_turn_and_every_slide_comes(labels: list[int], seed: int) -> None:
    sampler = AlternatingSampler(labels, seed)
    order = list(sampler)
    classes = sorted(set(labels))
    assert len(order) == len(sampler) == len(classes) * max(Counter(labels).values())
    for first in range(0, len(order), len(classes)):
        assert [labels[n] for n in order[first : first + len(classes)]] == classes
    times = Counter(order)
    assert set(times) == set(range(len(labels)))
    for label in classes:
        counts = [times[n] for n, one in enumerate(labels) if one == label]
        assert max(counts) - min(counts) <= 1
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert len(list(sampler)) == len(order)


def test_orders_change_with_epoch_and_seed() -> None:
    labels = [0] * 9 + [1] * 3
    first, other = AlternatingSampler(labels, 0), AlternatingSampler(labels, 1)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before
    assert list(other) != before
