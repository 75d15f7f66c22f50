from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.evaluate import localisation_auc, tile_truth

TRUTH = np.array([[0, 0, 1], [0.4, 0.5, 0.9]], dtype=np.float32)


@dataclass
class Tiles:
    """The part of a tile grid that ground truth needs: 2 x 3 tiles of 10 px, from (5, 100)."""

    shape: tuple[int, int] = (2, 3)
    tile_size_level0: tuple[float, float] = (10.0, 10.0)

    def origins_level0(self):
        return np.stack(np.mgrid[0:2, 0:3], axis=-1).reshape(-1, 2) * 10 + (5, 100)


def test_tile_truth_lies_on_the_grid():
    truth = tile_truth([shapely.box(110, 5, 125, 15)], Tiles())
    assert truth.dtype == np.float32
    np.testing.assert_allclose(truth, [[0, 1, 0.5], [0, 0, 0]])


def test_perfect_inverted_and_constant_maps():
    perfect = localisation_auc(TRUTH, TRUTH)
    assert perfect.auc == 1
    assert perfect.ci == (1, 1)
    assert (perfect.n_positive, perfect.n_negative) == (3, 3)
    assert localisation_auc(-TRUTH, TRUTH).auc == 0
    flat = localisation_auc(np.ones_like(TRUTH), TRUTH)
    assert flat.auc == 0.5
    assert flat.ci == flat.random_ci == (0.5, 0.5)


def test_threshold_moves_tiles_between_the_sides():
    assert localisation_auc(TRUTH, TRUTH, threshold=0.4).n_positive == 4
    assert localisation_auc(TRUTH, TRUTH, threshold=1).n_positive == 1


def test_tiles_without_score_or_tissue_are_left_out():
    scores = TRUTH.copy()
    scores[0, 0] = np.nan
    tissue = np.ones(TRUTH.shape, bool)
    # Without this tile every negative scores below every positive.
    tissue[1, 0] = False
    scores[1, 0] = 99
    result = localisation_auc(scores, TRUTH, tissue)
    assert (result.auc, result.n_positive, result.n_negative) == (1, 3, 1)


maps = hnp.arrays(np.float64, (4, 5), elements=st.integers(-3, 3).map(float))
truths = hnp.arrays(np.float64, (4, 5), elements=st.sampled_from([0.0, 0.3, 0.5, 1.0]))


@settings(max_examples=60)
@given(maps, truths)
def test_same_as_mann_whitney_and_scikit_learn(scores, truth):
    positive = truth >= 0.5
    if positive.all() or not positive.any():
        with pytest.raises(BadArgumentError):
            localisation_auc(scores, truth, n_boot=1)
        return
    result = localisation_auc(scores, truth, n_boot=20)
    u = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert result.auc == pytest.approx(u / (positive.sum() * (~positive).sum()), abs=1e-12)
    assert result.auc == pytest.approx(roc_auc_score(positive.ravel(), scores.ravel()), abs=1e-12)
    assert result.ci[0] <= result.ci[1]
    # Only the order counts, and turning it round turns the AUC round.
    assert localisation_auc(np.exp(scores), truth, n_boot=1).auc == result.auc
    assert localisation_auc(-scores, truth, n_boot=1).auc == pytest.approx(1 - result.auc)


def test_intervals_are_seeded_and_of_the_right_width():
    rng = np.random.default_rng(7)
    truth = (rng.random((60, 60)) < 0.3).astype(float)
    scores = rng.normal(size=truth.shape) + truth
    result = localisation_auc(scores, truth, seed=3)
    assert result == localisation_auc(scores, truth, seed=3)
    assert result.ci[0] < result.auc < result.ci[1]
    # Two normal distributions one standard deviation apart: AUC = Phi(1 / sqrt(2)) = 0.7602.
    assert result.auc == pytest.approx(0.7602, abs=0.03)
    # The AUC of a random map has variance (n + 1) / (12 n_positive n_negative).
    n = result.n_positive + result.n_negative
    sigma = np.sqrt((n + 1) / (12 * result.n_positive * result.n_negative))
    assert result.random_auc == pytest.approx(0.5, abs=4 * sigma / np.sqrt(1000))
    assert result.random_ci == pytest.approx((0.5 - 1.96 * sigma, 0.5 + 1.96 * sigma), abs=0.004)


@pytest.mark.parametrize(
    ("truth", "words"),
    [(np.zeros((2, 3)), "6 scored tiles 0 lie"), (np.ones((2, 3)), "6 lie on .* 0 do not")],
)
def test_one_sided_truth_names_the_counts(truth, words):
    with pytest.raises(BadArgumentError, match=words):
        localisation_auc(TRUTH, truth)


def test_bad_arguments():
    with pytest.raises(BadArgumentError, match="one shape"):
        localisation_auc(TRUTH, TRUTH.T)
    with pytest.raises(BadArgumentError, match="threshold=0 "):
        localisation_auc(TRUTH, TRUTH, threshold=0)
    with pytest.raises(BadArgumentError, match="n_boot=0"):
        localisation_auc(TRUTH, TRUTH, n_boot=0)
