"""Figures of where a head looks: closed forms, bounds, and what says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy, spearmanr

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.evaluate import localisation_auc
from napari_wsi_xai.training.figures import (
    SlideFigures,
    attention_entropy,
    localisation,
    map_correlation,
    mean_figures,
    share_on,
)

WEIGHTS = hnp.arrays(
    np.float64, st.integers(2, 40), elements=st.floats(1e-6, 1e3, allow_subnormal=False)
)


@given(st.integers(2, 500), st.data())
def test_entropy_of_weight_shared_evenly_by_k_of_n(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    weights = np.zeros(n)
    weights[:k] = 0.37
    assert attention_entropy(weights) == pytest.approx(math.log(k) / math.log(n), abs=1e-12)


@given(WEIGHTS, st.floats(0.01, 100))
def test_entropy_is_scipys_over_ln_n_whatever_the_scale(weights: np.ndarray, scale: float) -> None:
    expected = entropy(weights) / math.log(len(weights))
    assert attention_entropy(weights) == pytest.approx(expected, abs=1e-9)
    assert attention_entropy(weights * scale) == pytest.approx(expected, abs=1e-9)
    assert 0 <= attention_entropy(weights) <= 1


def test_entropy_counts_tiles_only() -> None:
    canvas = np.array([[np.nan, 1.0], [1.0, np.nan]])
    assert attention_entropy(canvas) == 1.0
    assert str(attention_entropy([1.0, 0.0, 0.0])) == "0.0"
    assert attention_entropy([5e-324, 1.0, 1.0]) == pytest.approx(math.log(2) / math.log(3))
    assert math.isnan(attention_entropy([0.4]))
    assert math.isnan(attention_entropy([0.0, 0.0, 0.0]))
    with pytest.raises(BadArgumentError, match=r"-0\.5"):
        attention_entropy([1.0, -0.5])


@given(hnp.arrays(np.float64, st.integers(3, 30), elements=st.floats(-5, 5), unique=True))
def test_correlation_sees_the_order_alone(values: np.ndarray) -> None:
    assert map_correlation(np.argsort(np.argsort(values)) ** 3, values) == pytest.approx(1.0)
    assert map_correlation(-values, values) == pytest.approx(-1.0)


@given(
    hnp.arrays(np.int64, 25, elements=st.integers(0, 6)),
    hnp.arrays(np.int64, 25, elements=st.integers(0, 6)),
)
def test_correlation_is_spearmans_also_with_ties(one: np.ndarray, other: np.ndarray) -> None:
    found = map_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


def test_correlation_is_over_tiles_that_both_maps_have() -> None:
    now = np.array([1.0, 2.0, 3.0, np.nan, 9.0])
    before = np.array([3.0, 2.0, 1.0, 5.0, np.nan])
    assert map_correlation(now, before) == pytest.approx(-1.0)
    assert math.isnan(map_correlation(now[:2], before[:2]))
    with pytest.raises(BadArgumentError, match=r"\(5,\) and \(2,\)"):
        map_correlation(now, before[:2])


def test_share_is_the_weight_that_lies_on_a_region() -> None:
    weights = np.array([[0.5, 0.25], [0.25, np.nan]])
    region = np.array([[1.0, 0.5], [0.0, 1.0]])
    assert share_on(weights, region) == pytest.approx(0.625)
    assert share_on(weights * 7, region) == pytest.approx(0.625)
    assert math.isnan(share_on(weights, None))
    assert math.isnan(share_on(np.zeros((2, 2)), region))
    with pytest.raises(BadArgumentError, match=r"\(2, 2\) and region \(2,\)"):
        share_on(weights, region[0])


@given(WEIGHTS, st.data())
def test_shares_of_a_region_and_the_rest_add_up(weights: np.ndarray, data: st.DataObject) -> None:
    region = data.draw(hnp.arrays(np.float64, len(weights), elements=st.floats(0, 1)))
    assert share_on(weights, region) + share_on(weights, 1 - region) == pytest.approx(1)


def test_localisation_is_the_auc_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    values, truth = rng.random((6, 5)), (rng.random((6, 5)) > 0.6).astype(float)
    values[0, 0] = np.nan
    assert localisation(values, truth) == localisation_auc(values, truth).auc
    assert localisation(truth, truth) == 1.0
    assert localisation(-truth, truth) == 0.0


def test_localisation_is_not_defined_without_both_sides() -> None:
    values = np.ones((2, 2))
    assert math.isnan(localisation(values, None))
    assert math.isnan(localisation(values, np.ones((2, 2))))
    assert math.isnan(localisation(values, np.zeros((2, 2))))
    with pytest.raises(BadArgumentError, match="one shape"):
        localisation(values, np.zeros((2, 3)))


def test_means_are_over_the_slides_that_have_the_figure() -> None:
    means = mean_figures([SlideFigures(entropy=0.2, excluded=0.5), SlideFigures(entropy=0.6)])
    assert means["entropy"] == pytest.approx(0.4)
    assert means["excluded"] == 0.5
    assert math.isnan(means["localisation"])
