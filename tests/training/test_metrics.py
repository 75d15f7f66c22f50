from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training import Estimate, classification_metrics


@st.composite
def predictions(draw):
    """Labels with every class there, and probabilities with ties."""
    classes, slides = draw(st.integers(2, 4)), draw(st.integers(8, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = np.r_[np.arange(classes), rng.integers(classes, size=slides)]
    scores = rng.integers(1, draw(st.integers(2, 50)), size=(len(labels), classes)).astype(float)
    return labels, scores / scores.sum(axis=1, keepdims=True)


@given(predictions())
def test_figures_are_those_of_scikit_learn(case):
    labels, scores = case
    metrics = classification_metrics(labels, scores, n_boot=0)
    predicted = scores.argmax(axis=1)
    every = np.arange(scores.shape[1])
    if len(every) == 2:
        auc = roc_auc_score(labels, scores[:, 1])
    else:
        auc = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    f1 = f1_score(labels, predicted, labels=every, average="weighted", zero_division=0)
    assert metrics.auc.value == pytest.approx(auc, abs=1e-12)
    assert metrics.accuracy.value == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
    assert metrics.weighted_f1.value == pytest.approx(f1, abs=1e-12)
    expected = confusion_matrix(labels, predicted, labels=every)
    np.testing.assert_array_equal(metrics.confusion, expected)
    assert metrics.slides == metrics.patients == len(labels)


@given(predictions(), st.integers(0, 20))
def test_every_bootstrap_sample_is_the_figure_of_its_patients(case, seed):
    """One sample drawn: the interval is that sample's figures, taken by repeating slides."""
    labels, scores = case
    patients = [f"p{slide // 2}" for slide in range(len(labels))]
    metrics = classification_metrics(labels, scores, seed, patients=patients, n_boot=1)
    names, who = np.unique(patients, return_inverse=True)
    count = len(names)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count))
    rows = np.repeat(np.arange(len(labels)), drawn[who])
    truth, predicted = labels[rows], scores[rows].argmax(axis=1)
    f1 = f1_score(truth, predicted, average="weighted", zero_division=0)
    assert metrics.accuracy.low == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert metrics.accuracy.high == metrics.accuracy.low
    assert metrics.weighted_f1.low == pytest.approx(f1, abs=1e-12)
    if len(np.unique(truth)) < scores.shape[1]:
        assert metrics.auc.low is None
    else:
        again = classification_metrics(truth, scores[rows], n_boot=0)
        assert metrics.auc.low == pytest.approx(again.auc.value, abs=1e-12)


def test_closed_forms():
    metrics = classification_metrics([0, 0, 1, 1], [0.1, 0.6, 0.6, 0.9], n_boot=0)
    assert metrics.auc == Estimate((1 + 1 + 1 + 0.5) / 4)
    assert metrics.accuracy == Estimate(0.75)
    assert metrics.weighted_f1.value == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics.confusion == ((1, 1), (0, 2))
    flipped = classification_metrics([1, 1, 0, 0], [0.1, 0.6, 0.6, 0.9], n_boot=0)
    assert flipped.auc.value == pytest.approx(1 - 3.5 / 4)


def test_constant_probabilities_are_chance():
    metrics = classification_metrics([0, 1, 2] * 5, np.full((15, 3), 1 / 3), n_boot=50)
    assert metrics.auc.value == 0.5
    assert (metrics.auc.low, metrics.auc.high) == (0.5, 0.5)
    assert metrics.accuracy.value == pytest.approx(1 / 3)


def test_probabilities_need_not_sum_to_one_and_one_column_is_class_1():
    rng = np.random.default_rng(0)
    labels, positive = rng.integers(2, size=30), rng.random(30)
    one = classification_metrics(labels, positive, 3)
    two = classification_metrics(labels, np.stack([1 - positive, positive], axis=1), 3)
    assert one == two
    doubled = classification_metrics(labels, 2 * np.stack([1 - positive, positive], axis=1), 3)
    assert doubled == two
    apart = np.stack([rng.random(30), positive], axis=1)  # a sigmoid a class
    assert classification_metrics(labels, apart, 3).auc == two.auc


def test_seeds_repeat():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=40), rng.random(40)
    first = classification_metrics(labels, scores, 5)
    assert first == classification_metrics(labels, scores, 5)
    assert first.auc != classification_metrics(labels, scores, 6).auc
    assert first.auc.low < first.auc.value < first.auc.high


def normal_cohort(rng, slides, shift):
    labels = np.r_[np.zeros(slides, int), np.ones(slides, int)]
    scores = rng.normal(size=2 * slides) + shift * labels
    return labels, norm.cdf(scores - shift / 2)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Two normal distributions: AUC = Phi(d / sqrt 2), accuracy = Phi(d / 2)."""
    shift, rng, turns = 1.2, np.random.default_rng(1), 300
    truth = {"auc": norm.cdf(shift / np.sqrt(2)), "accuracy": norm.cdf(shift / 2)}
    held = dict.fromkeys(truth, 0)
    for seed in range(turns):
        labels, scores = normal_cohort(rng, 60, shift)
        metrics = classification_metrics(labels, scores, seed, n_boot=300)
        for name, value in truth.items():
            told = getattr(metrics, name)
            held[name] += told.low <= value <= told.high
    for name, count in held.items():
        assert 0.90 <= count / turns <= 0.985, name


def test_intervals_are_over_patients_not_slides():
    """Slides of a patient that are copies of each other add nothing to what is known."""
    labels, scores = normal_cohort(np.random.default_rng(2), 30, 1.0)
    once = classification_metrics(labels, scores, 0)
    copies = np.repeat(np.arange(60), 8)
    patients = [f"p{number}" for number in copies]
    by_patient = classification_metrics(labels[copies], scores[copies], 0, patients=patients)
    by_slide = classification_metrics(labels[copies], scores[copies], 0)
    assert by_patient.patients == 60
    assert by_patient.slides == 480

    def width(told):
        return told.high - told.low

    assert width(by_patient.auc) == pytest.approx(width(once.auc), rel=0.15)
    assert width(by_slide.auc) == pytest.approx(width(once.auc) / np.sqrt(8), rel=0.25)


def test_one_class_has_no_auc_and_says_so():
    metrics = classification_metrics([1] * 6, [0.9] * 5 + [0.2], classes=["normal", "tumor"])
    assert metrics.auc == Estimate(None, note="all 6 slides are tumor")
    assert str(metrics.auc) == "not defined (all 6 slides are tumor)"
    assert metrics.accuracy.value == pytest.approx(5 / 6)
    assert metrics.accuracy.low < metrics.accuracy.high <= 1
    assert metrics.confusion == ((0, 0), (1, 5))


def test_a_class_without_slides_leaves_no_mean_auc():
    metrics = classification_metrics([0, 1, 0, 1], np.eye(3)[[0, 1, 2, 1]], classes=list("abc"))
    assert metrics.auc.note == "no slide is c"
    assert metrics.auc.value is None
    assert metrics.weighted_f1.value == pytest.approx((2 / 3 + 1) / 2)


def test_samples_without_a_class_are_counted():
    metrics = classification_metrics([0, 0, 1], [0.1, 0.4, 0.8], 0, n_boot=1000)
    left = int(metrics.auc.note.split()[0])
    # Chance that three draws of three never take the third, or take nothing else: (8 + 1) / 27.
    assert left == pytest.approx(1000 * 9 / 27, abs=60)
    assert metrics.accuracy.note == ""


def test_one_patient_has_no_interval():
    metrics = classification_metrics([0, 1], [0.2, 0.7], patients=["a", "a"])
    assert metrics.patients == 1
    assert metrics.accuracy == Estimate(1.0, note="one patient, so there is no interval")
    assert str(metrics.accuracy) == "1.000"


def test_as_json():
    told = classification_metrics([0, 1, 1], [0.2, 0.7, 0.4], classes=["n", "t"], n_boot=10)
    again = json.loads(json.dumps(told.to_dict()))
    assert again["accuracy"]["value"] == pytest.approx(2 / 3)
    assert again["confusion"] == [[1, 0], [1, 1]]
    assert again["classes"] == ["n", "t"]
    assert again["slides"] == 3
    assert " to " in str(told.accuracy)


@pytest.mark.parametrize(
    ("labels", "scores", "options", "message"),
    [
        ([0, 1], [[0.5, 0.5]], {}, r"labels \(2,\)"),
        ([], np.zeros((0, 2)), {}, r"labels \(0,\)"),
        ([0, 0], [[0.2], [0.8]], {}, r"\(2, 1\) must be .* at least 2 classes"),
        ([0, 2], [0.1, 0.2], {}, "labels=0, 2 must be from 0 to 1"),
        ([-1, 0], [0.1, 0.2], {}, "labels=-1, 0"),
        (["a", "b"], [0.1, 0.2], {}, "labels=a, b must be numbers"),
        ([0.5, 1], [0.1, 0.2], {}, "labels=0.5"),
        ([0, 1], [0.1, np.nan], {}, "1 of 2 slides are not finite"),
        ([0, 1], [0.1, 0.2], {"classes": ["a"]}, "classes=a must be 2"),
        ([0, 1], [0.1, 0.2], {"patients": ["a"]}, "name 1 of 2 slides"),
        ([0, 1], [0.1, 0.2], {"n_boot": -1}, "n_boot=-1"),
        ([0, 1], [0.1, 0.2], {"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_that_do_not_fit(labels, scores, options, message):
    with pytest.raises(BadArgumentError, match=message):
        classification_metrics(labels, scores, **options)
