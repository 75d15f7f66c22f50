from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohorts import make_cohort, write_bag, write_csv
from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training import Cohort, check_cohort, read_cohort, write_cohort
from napari_wsi_xai.training.cohort_features import feature_key, kind_of_features
from napari_wsi_xai.training.wording import listed


@pytest.fixture
def features(tmp_path):
    """Empty files with the names of features of slides a to h."""
    folder = tmp_path / "features"
    folder.mkdir()
    for name in "abcdefgh":
        (folder / f"{name}.h5").touch()
    return folder


ROWS = ("a,tumor,p1", "b,normal,p2", "c,tumor,p3", "d,normal,p4")


def refused(tmp_path, features, *rows, header="slide,label,patient", **options) -> str:
    with pytest.raises(CohortError) as caught:
        read_cohort(write_csv(tmp_path / "c.csv", *rows, header=header), features, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_cases_in_the_order_of_the_file(tmp_path, features):
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *ROWS), features)
    assert cohort.classes == ("normal", "tumor")
    assert [case.slide for case in cohort.cases] == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(cohort.labels, [1, 0, 1, 0])
    assert cohort.patients == ("p1", "p2", "p3", "p4")
    assert cohort.cases[2].features == features / "c.h5"
    assert cohort.cases[2].kind == "h5"
    assert cohort.cases[2].split is None
    assert cohort.cases[2].annotation is None
    assert len(cohort) == 4
    assert cohort.counts() == {"normal": 2, "tumor": 2}
    assert cohort.counts([0, 2, 3]) == {"normal": 1, "tumor": 2}


def test_columns_may_be_in_any_order_and_case_with_spaces_bom_and_blank_lines(tmp_path, features):
    text = "﻿Patient ; notes;SLIDE;Label;Split\np1;x; a.svs ;1;Training\n\n p2;;b;0;TEST\n"
    text += "p3;;c.h5;1;valid\r\np4;;d.wsixai.zarr;0;train\n"
    (tmp_path / "c.csv").write_text(text, encoding="utf-8")
    cohort = read_cohort(tmp_path / "c.csv", features)
    assert [case.slide for case in cohort.cases] == ["a", "b", "c", "d"]
    assert [case.split for case in cohort.cases] == ["train", "test", "val", "train"]
    assert [case.patient for case in cohort.cases] == ["p1", "p2", "p3", "p4"]


def test_quoted_commas(tmp_path, features):
    rows = ['"a","tumor, high","p,1"', "b,low,p2", '"c","tumor, high",p3', "d,low,p4"]
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *rows), features)
    assert cohort.classes == ("low", "tumor, high")
    assert cohort.cases[0].patient == "p,1"


def test_tables_whose_cells_are_not_told_apart_are_refused(tmp_path, features):
    """A value too many or a column twice would give a slide another's label or patient."""
    message = refused(tmp_path, features, "a,tumor,Doe, Jane", *ROWS[1:])
    assert "more values than its 3 columns on line 2: put a value that holds ','" in message
    message = refused(tmp_path, features, "a,tumor,p1,normal", header="slide,label,patient,Label ")
    assert "has several columns label" in message
    message = refused(tmp_path, features, '"a,tumor,p1', *ROWS[1:])
    assert "cannot be read as a CSV" in message
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *(f"{row},, " for row in ROWS)), features)
    assert len(cohort) == 4
    twice = write_csv(
        tmp_path / "c.csv", *(f"{r},x,y" for r in ROWS), header="slide,label,patient,n,n"
    )
    assert len(read_cohort(twice, features)) == 4


def test_of_two_slides_of_a_name_the_one_with_the_ending_given(tmp_path):
    for name in ("a.ndpi", "a.svs", "b.ndpi", "b.svs", "b.h5"):
        (tmp_path / name).touch()
    rows = ("a.svs,x,1", "b.svs,y,2")
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *rows), tmp_path, least=1)
    assert [case.features.name for case in cohort.cases] == ["a.svs", "b.h5"]
    rows = ("a.tiff,x,1", "b,y,2")
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *rows), tmp_path, least=1)
    assert cohort.cases[0].features.name == "a.ndpi"


def test_classes_as_given_and_numbers_by_size(tmp_path, features):
    path = write_csv(tmp_path / "c.csv", *ROWS)
    assert read_cohort(path, features, classes=["tumor", "normal"]).labels.tolist() == [0, 1, 0, 1]
    rows = [f"{name},{label},{name}" for name, label in zip("abcdef", [10, 9, 2] * 2, strict=True)]
    numbers = read_cohort(write_csv(tmp_path / "n.csv", *rows), features)
    assert numbers.classes == ("2", "9", "10")


def test_annotations_lie_beside_the_file(tmp_path, features):
    (tmp_path / "a.geojson").touch()
    header = "slide,label,patient,annotation"
    rows = ["a,t,1,a.geojson", "b,n,2,", "c,t,3,", "d,n,4,"]
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *rows, header=header), features)
    assert cohort.cases[0].annotation == tmp_path / "a.geojson"
    assert cohort.cases[1].annotation is None
    rows[1] = "b,n,2,elsewhere/b.xml"
    message = refused(tmp_path, features, *rows, header=header)
    assert f"{tmp_path / 'elsewhere/b.xml'} of b" in message


def test_run_stores_come_first_then_h5_pt_and_the_slide(tmp_path):
    folder = tmp_path / "f"
    (folder / "h5_files").mkdir(parents=True)
    (folder / "pt_files").mkdir()
    (folder / "a.wsixai.zarr").mkdir()
    for name in ("a.svs", "b.tif", "c.ndpi", "pt_files/b.pt", "h5_files/b.h5", "pt_files/c.pt"):
        (folder / name).touch()
    for name in ("d.svs", "d.csv", ".d.h5", "d"):
        (folder / name).touch()
    rows = ("a.svs,x,1", "b,y,2", "c,x,3", "d,y,4")
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *rows), folder)
    places = [case.features.relative_to(folder).as_posix() for case in cohort.cases]
    assert places == ["a.wsixai.zarr", "h5_files/b.h5", "pt_files/c.pt", "d.svs"]
    assert [case.kind for case in cohort.cases] == ["run", "h5", "pt", "slide"]


def test_slides_named_by_their_place(tmp_path):
    for name in ("site 1/a.svs", "site 2/b.wsixai.zarr/zarr.json", "b.h5", "notes/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows = ["site 1/a.svs,x,1", "site 2/b.wsixai.zarr,y,2"]
    cohort = read_cohort(write_csv(tmp_path / "c.csv", *rows), tmp_path, least=1)
    assert [case.slide for case in cohort.cases] == ["a", "b"]
    assert cohort.cases[0].features == tmp_path / "site 1" / "a.svs"
    assert cohort.cases[1].features == tmp_path / "site 2" / "b.wsixai.zarr"
    message = refused(tmp_path, tmp_path, *rows, "notes/c.txt,x,3")
    assert "1 of 3 slides: c.txt;" in message


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("TCGA-AA-0001-01Z-00-DX1.1f2e.svs", "TCGA-AA-0001-01Z-00-DX1.1f2e"),
        ("TCGA-AA-0001-01Z-00-DX1.1f2e", "TCGA-AA-0001-01Z-00-DX1.1f2e"),
        ("folder/tumor_001.ome.tif", "tumor_001"),
        ("folder\\tumor_001.wsixai.zarr", "tumor_001"),
        ("tumor_001.H5", "tumor_001"),
        ("v1.2.pt", "v1.2"),
    ],
)
def test_names_of_slides(name, key):
    assert feature_key(name) == key
    assert feature_key(key) == key


def test_missing_features_are_named_up_to_five(tmp_path, features):
    message = refused(tmp_path, features, *ROWS, "x,tumor,p5", "y,normal,p6")
    assert "2 of 6 slides: x, y;" in message
    many = [f"x{number},tumor,p{number}" for number in range(9)]
    message = refused(tmp_path, features, *ROWS, *many)
    assert "x0, x1, x2, x3, x4 and 4 more" in message
    assert "x5" not in message
    assert str(tmp_path / "no") in refused(tmp_path, tmp_path / "no", *ROWS)


def test_duplicate_slides_are_named(tmp_path, features):
    message = refused(tmp_path, features, *ROWS, "a.svs,normal,p5", "d,normal,p4")
    assert "several rows for a, d" in message


def test_patients_on_both_sides_are_named(tmp_path, features):
    rows = ("a,t,p1,train", "b,n,p2,train", "c,t,p1,test", "d,n,p4,test", "e,n,p2,val")
    message = refused(tmp_path, features, *rows, header="slide,label,patient,split")
    assert "p1 (train, test), p2 (train, val)" in message


def test_splits_that_are_none(tmp_path, features):
    header = "slide,label,patient,split"
    rows = ("a,t,p1,train", "b,n,p2,exam", "c,t,p3,test", "d,n,p4,test")
    assert "split exam" in refused(tmp_path, features, *rows, header=header)
    rows = ("a,t,p1,train", "b,n,p2,", "c,t,p3,test", "d,n,p4,test")
    assert "but not of b" in refused(tmp_path, features, *rows, header=header)


def test_classes_with_too_few_slides_are_named(tmp_path, features):
    message = refused(tmp_path, features, *ROWS, "e,rare,p5")
    assert "rare (1)" in message
    assert "at least 2" in message
    assert "normal (2), tumor (2)" in refused(tmp_path, features, *ROWS, least=3)
    message = refused(tmp_path, features, *ROWS, classes=["normal", "tumor", "none"])
    assert "none (0)" in message
    assert len(read_cohort(write_csv(tmp_path / "c.csv", *ROWS), features, least=2)) == 4


def test_labels_that_are_no_class(tmp_path, features):
    message = refused(tmp_path, features, *ROWS, "e,odd,p5", classes=["normal", "tumor"])
    assert "label odd (slides e)" in message
    assert "normal, tumor" in message
    assert "one label t" in refused(tmp_path, features, "a,t,1", "b,t,2")
    with pytest.raises(BadArgumentError, match="different names"):
        read_cohort(write_csv(tmp_path / "c.csv", *ROWS), features, classes=["t", "t"])


def test_values_and_columns_that_are_missing(tmp_path, features):
    assert "no patient on line 3, 5" in refused(
        tmp_path, features, "a,t,1", "b,t,", "c,n,2", "d,n,  "
    )
    assert "no patient on line 3" in refused(tmp_path, features, "a,t,1", "b,t")
    message = refused(tmp_path, features, "a,1", header="slide_id,label")
    assert "no column slide, patient" in message
    assert "slide_id, label" in message
    assert "no slides" in refused(tmp_path, features)


def test_files_that_cannot_be_read(tmp_path, features):
    with pytest.raises(CohortError, match="no cohort file at"):
        read_cohort(tmp_path / "none.csv", features)
    (tmp_path / "binary.csv").write_bytes(b"slide,label,patient\n\xff\xfe\x00")
    with pytest.raises(CohortError, match="cannot be read as a CSV"):
        read_cohort(tmp_path / "binary.csv", features)
    with pytest.raises(CohortError):
        read_cohort(tmp_path, features)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(CohortError, match="no column slide, label, patient"):
        read_cohort(tmp_path / "empty.csv", features)
    with pytest.raises(BadArgumentError, match="least=0"):
        read_cohort(write_csv(tmp_path / "c.csv", *ROWS), features, least=0)


def test_hash_tells_what_is_learnt_from_what_not_where_it_lies(tmp_path, features):
    path = write_csv(tmp_path / "c.csv", *ROWS)
    first = read_cohort(path, features)
    other = tmp_path / "other"
    features.rename(other)
    assert read_cohort(path, other).content_hash == first.content_hash
    changed = read_cohort(write_csv(path, *ROWS[:-1], "d,normal,p5"), other)
    assert changed.content_hash != first.content_hash
    swapped = read_cohort(write_csv(path, *ROWS), other, classes=["tumor", "normal"])
    assert swapped.content_hash != first.content_hash
    assert replace(first, classes=("a", "b")).content_hash != first.content_hash


@given(st.lists(st.text(min_size=1, alphabet="ab"), max_size=12))
def test_listed_tells_all_names_or_how_many_more(names):
    told = listed(names)
    assert told.startswith(", ".join(names[:5]))
    assert ("more" in told) == (len(names) > 5)
    if len(names) > 5:
        assert told.endswith(f"and {len(names) - 5} more")


def test_kinds_go_by_the_name(tmp_path):
    bag = write_bag(tmp_path / "x.pt")
    assert kind_of_features(bag) == "pt"
    assert kind_of_features(tmp_path / "x.wsixai.zarr") == "run"
    assert make_cohort([[0], [1]]).cases[0].kind == "pt"


def test_a_cohort_that_is_written_is_read_again(tmp_path, features):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").touch()
    (tmp_path / "b.xml").touch()
    header = "slide,label,patient,split,annotation"
    rows = ['a,"t, x",1,train,in/a.xml', "b,n,2,test,b.xml", 'c,"t, x",3,test,', "d,n,4,val,"]
    first = read_cohort(write_csv(tmp_path / "c.csv", *rows, header=header), features)
    (tmp_path / "in" / "deep").mkdir()
    for place in (tmp_path, tmp_path / "in", tmp_path / "in" / "deep"):
        again = read_cohort(write_cohort(first, place / "again.csv"), features)
        assert again.content_hash == first.content_hash
        assert [case.annotation and case.annotation.name for case in again.cases] == [
            "a.xml",
            "b.xml",
            None,
            None,
        ]
    assert ",in/a.xml\n" in (tmp_path / "again.csv").read_text()


def test_what_is_made_elsewhere_is_checked_too():
    sound = make_cohort([[0, 0], [1, 1]])
    assert check_cohort(sound) is sound
    with pytest.raises(CohortError, match="s0 come several times"):
        check_cohort(Cohort((sound.cases[0], *sound.cases), sound.classes))
    with pytest.raises(CohortError, match=r"class 1 \(1\)"):
        check_cohort(make_cohort([[0, 0], [1]]))
