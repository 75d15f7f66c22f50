from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given as having
from hypothesis import strategies as st

from cohorts import make_cohort
from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training import Split, check_patients, given, hold_out, k_fold, repeated
from napari_wsi_xai.training.splits import SIDES


@st.composite
def cohorts(draw, least=4, mixed=False):
    """Every class has ``least`` patients or more with 1 to 4 slides of it alone; some are mixed."""
    patients = []
    for label in range(draw(st.integers(2, 3))):
        sizes = draw(st.lists(st.integers(1, 4), min_size=least, max_size=14))
        patients += [[label] * size for size in sizes]
    classes = max(max(labels) for labels in patients) + 1
    if mixed:
        any_label = st.integers(0, classes - 1)
        patients += draw(st.lists(st.lists(any_label, min_size=2, max_size=4), max_size=6))
    return make_cohort(draw(st.permutations(patients)), classes)


def patients_on(cohort, side) -> set[str]:
    return {cohort.cases[index].patient for index in side}


def is_partition(cohort, split) -> bool:
    """Every case on exactly one side, in order, and no patient on two."""
    sides = [getattr(split, side) for side in SIDES]
    whole = sorted(index for side in sides for index in side) == list(range(len(cohort)))
    ordered = all(list(side) == sorted(side) for side in sides)
    people = [patients_on(cohort, side) for side in sides]
    apart = sum(map(len, people)) == len(set().union(*people))
    return whole and ordered and apart


def patients_of(cohort, indices, label) -> int:
    cases = (cohort.cases[index] for index in indices)
    return len({case.patient for case in cases if case.label == label})


@having(cohorts(mixed=True), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5]))
def test_hold_out_splits_by_patient(cohort, seed, test):
    split = hold_out(cohort, test=test, val=0.2, seed=seed)
    assert is_partition(cohort, split)
    assert split == hold_out(cohort, test=test, val=0.2, seed=seed)
    assert split.name == "hold-out"


@having(cohorts(), st.integers(0, 5), st.sampled_from([0.1, 0.25, 0.4]))
def test_hold_out_is_stratified_to_a_patient(cohort, seed, share):
    split = hold_out(cohort, test=share, val=share, seed=seed)
    for label in range(len(cohort.classes)):
        every = patients_of(cohort, range(len(cohort)), label)
        for side in (split.test, split.val):
            assert abs(patients_of(cohort, side, label) - share * every) <= 1
            assert patients_of(cohort, side, label) >= 1
        assert patients_of(cohort, split.train, label) >= 1


@having(cohorts(mixed=True), st.integers(2, 4), st.integers(0, 5))
def test_folds_cover_every_case_once(cohort, k, seed):
    splits = k_fold(cohort, k, val=0, seed=seed)
    assert len(splits) == k
    assert all(is_partition(cohort, split) for split in splits)
    tested = Counter(index for split in splits for index in split.test)
    assert tested == Counter(range(len(cohort)))
    assert all(split.val == () for split in splits)
    assert splits == k_fold(cohort, k, val=0, seed=seed)


@having(cohorts(), st.integers(2, 4), st.integers(0, 5))
def test_folds_are_stratified_to_one_patients_slides(cohort, k, seed):
    splits = k_fold(cohort, k, val=0, seed=seed)
    for label, name in enumerate(cohort.classes):
        slides = Counter(case.patient for case in cohort.cases if case.label == label)
        counts = [cohort.counts(split.test)[name] for split in splits]
        assert max(counts) - min(counts) <= max(slides.values())


@having(cohorts(least=8), st.integers(0, 3))
def test_folds_with_validation(cohort, seed):
    splits = k_fold(cohort, 2, val=0.3, seed=seed)
    for split in splits:
        assert is_partition(cohort, split)
        for label in range(len(cohort.classes)):
            assert patients_of(cohort, split.val, label) >= 1
            assert patients_of(cohort, split.train, label) >= 1
    tests = [split.test for split in k_fold(cohort, 2, val=0, seed=seed)]
    assert [split.test for split in splits] == tests


def test_other_seeds_give_other_splits():
    cohort = make_cohort([[0], [1]] * 20)
    assert len({hold_out(cohort, seed=seed).test for seed in range(5)}) == 5
    assert len({hold_out(cohort, seed=seed).val for seed in range(5)}) == 5
    assert len({k_fold(cohort, 4, seed=seed)[0].test for seed in range(5)}) == 5


def test_hold_out_of_one_slide_a_patient_is_exact():
    cohort = make_cohort([[0]] * 50 + [[1]] * 10)
    split = hold_out(cohort, test=0.2, val=0.1)
    assert cohort.counts(split.test) == {"class 0": 10, "class 1": 2}
    assert cohort.counts(split.val) == {"class 0": 5, "class 1": 1}
    assert cohort.counts(split.train) == {"class 0": 35, "class 1": 7}


def test_a_rare_class_is_on_every_side():
    cohort = make_cohort([[0]] * 100 + [[1]] * 3)
    split = hold_out(cohort, test=0.1, val=0.1)
    for side in SIDES:
        assert cohort.counts(getattr(split, side))["class 1"] == 1


def test_something_is_left_to_train_with():
    split = hold_out(make_cohort([[0], [1]] * 2), test=0.9, val=0)
    assert [len(getattr(split, side)) for side in SIDES] == [2, 0, 2]
    split = hold_out(make_cohort([[0], [1]] * 3), test=0.1, val=0.85)
    assert [len(getattr(split, side)) for side in SIDES] == [2, 2, 2]


def test_mixed_patients_count_for_their_rarest_class():
    cohort = make_cohort([[0]] * 10 + [[0, 0, 1]] * 4)
    split = hold_out(cohort, test=0.25, val=0)
    assert cohort.counts(split.test)["class 1"] == 1
    assert len(patients_on(cohort, split.test)) == 4


def test_repeated_gives_new_folds_every_time():
    cohort = make_cohort([[0], [1]] * 12)
    splits = repeated(cohort, 3, 4, val=0, seed=7)
    assert len(splits) == 12
    assert len({split.name for split in splits}) == 12
    assert splits[4].name == "repeat 2 of 4, fold 2 of 3"
    tested = Counter(index for split in splits for index in split.test)
    assert set(tested.values()) == {4}
    assert {split.test for split in splits[:3]} != {split.test for split in splits[3:6]}
    assert splits[3].test == k_fold(cohort, 3, val=0, seed=8)[0].test


def test_the_given_split_is_taken():
    cohort = make_cohort([[0, 0], [1], [1], [0], [1]], split=["train", "train", "val", "test"] * 2)
    split = given(cohort)
    assert split == Split("given", (0, 1, 2, 5), (3,), (4,))


def test_validation_is_drawn_where_none_is_given():
    sides = ["train"] * 20 + ["test"] * 4
    cohort = make_cohort([[0], [1]] * 12, split=sides)
    split = given(cohort, val=0.2, seed=1)
    assert cohort.counts(split.val) == {"class 0": 2, "class 1": 2}
    assert split.test == (20, 21, 22, 23)
    assert is_partition(cohort, split)
    assert given(cohort, val=0).val == ()
    assert given(cohort, val=0.2, seed=2).val != split.val


def test_a_cohort_without_a_split_has_none_to_give():
    with pytest.raises(CohortError, match="no slides to train and none to test with"):
        given(make_cohort([[0], [1]]))
    with pytest.raises(CohortError, match="no slides to test with"):
        given(make_cohort([[0], [1]], split=["train", "val"]))


def test_patients_on_several_sides_are_named():
    cohort = make_cohort([[0, 0], [1], [0, 1]])
    with pytest.raises(CohortError, match=r"'mine' .*: p0 \(train, test\), p2 \(train, val\);"):
        check_patients(cohort, Split("mine", (0, 2, 3), (4,), (1,)))
    with pytest.raises(CohortError, match=r"p1 \(train, test\)"):
        check_patients(cohort, Split("mine", (2,), (), (2,)))
    assert check_patients(cohort, Split("mine", (0, 1), (3, 4), (2,))) is None


def test_cases_that_there_are_not_or_twice():
    cohort = make_cohort([[0], [1], [0]])
    with pytest.raises(CohortError, match=r"has the cases -1, 3: those of the cohort are 0 to 2"):
        check_patients(cohort, Split("mine", (0, 3), (), (-1,)))
    with pytest.raises(CohortError, match="has s1 several times to train with"):
        check_patients(cohort, Split("mine", (0, 1, 1), (), (2,)))


def test_too_few_patients_are_told():
    with pytest.raises(CohortError, match=r"class 1 \(2\) for 3 folds"):
        k_fold(make_cohort([[0]] * 9 + [[1]] * 2), 3)
    with pytest.raises(CohortError, match=r"too few patients of class 1 \(1\) .* \(val=0\)"):
        k_fold(make_cohort([[0]] * 9 + [[1]] * 2), 2)
    with pytest.raises(CohortError, match=r"too few patients of class 0 \(1\)"):
        hold_out(make_cohort([[0] * 9] + [[1]] * 5))
    few = k_fold(make_cohort([[0]] * 9 + [[1]] * 2), 2, val=0)
    assert len(few) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: hold_out(c, test=0), "test=0"),
        (lambda c: hold_out(c, test=1.5), "test=1.5"),
        (lambda c: hold_out(c, test=0.5, val=0.5), "val=0.5"),
        (lambda c: hold_out(c, val=-0.1), "val=-0.1"),
        (lambda c: hold_out(c, seed=-1), "seed=-1"),
        (lambda c: k_fold(c, 2, seed=2**32), "seed=4294967296"),
        (lambda c: given(c, seed=-2), "seed=-2"),
        (lambda c: k_fold(c, 1), "k=1"),
        (lambda c: k_fold(c, 2, val=1), "val=1"),
        (lambda c: repeated(c, 2, 0), "times=0"),
        (lambda c: given(c, val=2), "val=2"),
    ],
)
def test_numbers_out_of_their_limits(make, message):
    with pytest.raises(BadArgumentError, match=message):
        make(make_cohort([[0], [1]] * 8))
