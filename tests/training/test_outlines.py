"""Outlines that lie beside a cohort's annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training.cohort import Case
from napari_wsi_xai.training.outlines import excluded_of_table, outlines_in_folder


def write_table(folder: Path, *rows: str, header: str = "slide;label;patient;excluded") -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_files_are_named_from_the_table_on(tmp_path: Path) -> None:
    (tmp_path / "pen").mkdir()
    for name in ("a", "b"):
        (tmp_path / "pen" / f"{name}.geojson").write_text("{}")
    rows = ("a.svs;x;p;pen/a.geojson", "site/b.tif;x;p;pen/b.geojson", "c;y;q;", "d;y;q;no.geojson")
    table = write_table(tmp_path, *rows)
    assert excluded_of_table(table, ("a", "b", "c")) == {
        "a": (tmp_path / "pen" / "a.geojson",),
        "b": (tmp_path / "pen" / "b.geojson",),
    }
    assert list(excluded_of_table(table, ["b"])) == ["b"]
    with pytest.raises(CohortError, match=r"missing: .*no\.geojson"):
        excluded_of_table(table, ["a", "d"])


def test_a_table_without_the_column(tmp_path: Path) -> None:
    table = write_table(tmp_path, "a,x,p", header="slide,label,patient")
    assert excluded_of_table(table, ["a"]) == {}


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.geojson", "b.json", "b.geojson", "other.geojson"):
        (tmp_path / name).write_text("{}")
    own = tmp_path / "a.geojson"
    cases = [Case(name, 0, "p", Path(f"{name}.h5")) for name in ("a", "b", "c")]
    found = outlines_in_folder(tmp_path, cases)
    assert found == {"a": (own,), "b": (tmp_path / "b.geojson", tmp_path / "b.json")}
    told = [Case("a", 0, "p", Path("a.h5"), annotation=tmp_path / "." / "a.geojson")]
    assert outlines_in_folder(tmp_path, told) == {"a": ()}
    with pytest.raises(BadArgumentError, match="outlines of none of the slides c"):
        outlines_in_folder(tmp_path, cases[2:])
    with pytest.raises(BadArgumentError, match="no folder of outlines"):
        outlines_in_folder(tmp_path / "no", cases)
