"""Tiny folders of the shape that data sets are distributed in."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from scipy.io import savemat

from napari_wsi_xai.errors import BadArgumentError, CohortError, WsiXaiWarning
from napari_wsi_xai.training import Cohort, read_public_set
from napari_wsi_xai.training.public_crc import read_nuclei
from napari_wsi_xai.training.public_files import read_sheet


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def told(cohort: Cohort) -> list[tuple[str, str, str, str | None]]:
    """Slide, class, patient and side of every case, by slide."""
    rows = ((c.slide, cohort.classes[c.label], c.patient, c.split) for c in cohort.cases)
    return sorted(rows)


def refused(name: str, data: Path, **options) -> str:
    with pytest.raises(CohortError) as caught:
        read_public_set(name, data, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# -- CAMELYON16 ----------------------------------------------------------------------------


def camelyon(root: Path) -> Path:
    touch(root, "training/normal/normal_001.tif", "training/normal/normal_002.tif")
    touch(root, "training/tumor/tumor_001.tif", "training/tumor/tumor_009.tif")
    touch(root, "training/tumor/tumor_001_mask.tif", "training/lesion_annotations.zip")
    touch(root, "testing/images/test_001.tif", "testing/images/test_002.tif")
    touch(root, "annotations/tumor_001.xml", "annotations/tumor_009.xml")
    touch(root, "annotations/test_001.xml")
    write(root / "testing/reference.csv", "test_001,Tumor,IDC,Macro", "test_002,Normal,None,None")
    return root


CAMELYON = [
    ("normal_001", "normal", "normal_001", "train"),
    ("normal_002", "normal", "normal_002", "train"),
    ("test_001", "tumor", "test_001", "test"),
    ("test_002", "normal", "test_002", "test"),
    ("tumor_001", "tumor", "tumor_001", "train"),
    ("tumor_009", "tumor", "tumor_009", "train"),
]


def test_camelyon16(tmp_path):
    cohort = read_public_set("camelyon16", camelyon(tmp_path))
    assert cohort.classes == ("normal", "tumor")
    assert told(cohort) == CAMELYON
    of = {case.slide: case for case in cohort.cases}
    assert of["tumor_009"].features == tmp_path / "training/tumor/tumor_009.tif"
    assert of["tumor_009"].annotation == tmp_path / "annotations/tumor_009.xml"
    assert of["test_001"].annotation == tmp_path / "annotations/test_001.xml"
    assert of["test_002"].annotation is None
    assert {case.kind for case in cohort.cases} == {"slide"}


def test_camelyon16_in_a_folder_of_its_name(tmp_path):
    camelyon(tmp_path / "CAMELYON16")
    assert told(read_public_set("camelyon16", str(tmp_path))) == CAMELYON


def test_camelyon16_with_all_images_in_one_folder(tmp_path):
    names = [f"images/{slide}.tif" for slide, *_ in CAMELYON]
    touch(tmp_path, *names, "training_not/x", "images/tumor_001_mask.tif")
    touch(tmp_path, *(f"annotations/{name}.xml" for name in ("tumor_001", "tumor_009", "test_001")))
    lines = ("image,type", "test_001.tif,Tumor", "test_002.tif,Normal")
    write(tmp_path / "evaluation/reference.csv", *lines)
    assert told(read_public_set("camelyon16", tmp_path)) == CAMELYON


def test_camelyon16_outlines_as_they_are_unpacked(tmp_path):
    camelyon(tmp_path)
    for name, place in (("tumor_001", "training"), ("test_001", "testing")):
        target = tmp_path / place / "lesion_annotations" / f"{name}.xml"
        target.parent.mkdir()
        (tmp_path / "annotations" / f"{name}.xml").rename(target)
    cohort = read_public_set("camelyon16", tmp_path)
    assert sum(case.annotation is not None for case in cohort.cases) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("testing/reference.csv", "1 file of CAMELYON16 missing in {}: testing/reference.csv."),
        ("testing/images/test_002.tif", "{}: testing/images/test_002.tif."),
        ("annotations/tumor_009.xml", "{}: annotations/tumor_009.xml."),
        ("annotations/test_001.xml", "{}: annotations/test_001.xml."),
    ],
)
def test_camelyon16_says_which_file_is_missing(tmp_path, name, message):
    (camelyon(tmp_path) / name).unlink()
    assert refused("camelyon16", tmp_path).endswith(message.format(tmp_path))


def test_camelyon16_without_slides_of_a_class(tmp_path):
    camelyon(tmp_path)
    for number in (1, 2):
        (tmp_path / f"training/normal/normal_00{number}.tif").unlink()
    assert "training/normal/normal_001.tif" in refused("camelyon16", tmp_path)


def test_camelyon16_complete(tmp_path):
    message = refused("camelyon16", camelyon(tmp_path), complete=True)
    # 159 normal and 111 tumour slides, two of each are there.
    assert message.startswith("266 files of CAMELYON16 missing")
    assert "training/normal/normal_003.tif, " in message
    every = [f"training/normal/normal_{n:03d}.tif" for n in range(1, 161) if n != 86]
    every += [f"training/tumor/tumor_{n:03d}.tif" for n in range(1, 112)]
    touch(tmp_path, *every, *(f"annotations/tumor_{n:03d}.xml" for n in range(1, 112)))
    cohort = read_public_set("camelyon16", tmp_path, complete=True)
    train = [index for index, case in enumerate(cohort.cases) if case.split == "train"]
    assert cohort.counts(train) == {"normal": 159, "tumor": 111}


def test_camelyon16_without_outlines(tmp_path):
    camelyon(tmp_path)
    touch(tmp_path, "annotations/normal_001.xml")  # nothing of a normal slide is an outline
    (tmp_path / "annotations/test_001.xml").unlink()
    cohort = read_public_set("camelyon16", tmp_path, outlines=False)
    assert [c.slide for c in cohort.cases if c.annotation] == ["tumor_001", "tumor_009"]


def test_camelyon16_test_slides_need_a_label(tmp_path):
    camelyon(tmp_path)
    touch(tmp_path, "testing/images/test_003.tif")
    assert "does not tell the label of test_003" in refused("camelyon16", tmp_path)
    write(tmp_path / "testing/reference.csv", "nothing here")
    assert "no rows of slide and label" in refused("camelyon16", tmp_path)


def test_camelyon16_references_as_people_save_them(tmp_path):
    table = camelyon(tmp_path) / "testing/reference.csv"
    write(table, "image,type", "test_001.TIF,TUMOR", "test_002.tif,Normal", "test_002,normal")
    assert told(read_public_set("camelyon16", tmp_path)) == CAMELYON
    write(table, "test_001,Tumor", "test_002,Normal", "test_001,Normal")
    assert "reference.csv tells two labels of test_001" in refused("camelyon16", tmp_path)
    table.write_text("test_001,Tumor", encoding="utf-16")
    assert "reference.csv cannot be read as a table" in refused("camelyon16", tmp_path)


# -- CRCHistoPhenotypes --------------------------------------------------------------------


def crc(root: Path, counts=((3, 2), (0, 4), (1, 0))) -> Path:
    folder = root / "CRCHistoPhenotypes_2016_04_28" / "Classification"
    for number, (epithelial, others) in enumerate(counts, 1):
        place = folder / f"img{number}"
        touch(place, f"img{number}.bmp")
        kinds = {"epithelial": epithelial, "fibroblast": 0, "inflammatory": 1, "others": others}
        for kind, count in kinds.items():
            places = np.stack([np.arange(count) + 0.5, np.arange(count) + 100], axis=1)
            savemat(place / f"img{number}_{kind}.mat", {"detection": places})
    return folder


def test_crc_histophenotypes(tmp_path):
    folder = crc(tmp_path)
    cohort = read_public_set("crc-histophenotypes", tmp_path)
    assert told(cohort) == [
        ("img1", "epithelial", "img1", None),
        ("img2", "other", "img2", None),
        ("img3", "epithelial", "img3", None),
    ]
    assert cohort.cases[0].features == folder / "img1" / "img1.bmp"
    assert told(read_public_set("crc-histophenotypes", folder.parent)) == told(cohort)


def test_nuclei_are_given_as_y_and_x(tmp_path):
    nuclei = read_nuclei(crc(tmp_path) / "img1" / "img1.bmp")
    assert list(nuclei) == ["epithelial", "fibroblast", "inflammatory", "others"]
    np.testing.assert_array_equal(nuclei["epithelial"], [[100, 0.5], [101, 1.5], [102, 2.5]])
    assert nuclei["fibroblast"].shape == (0, 2)


def test_crc_histophenotypes_says_which_file_is_missing(tmp_path):
    folder = crc(tmp_path)
    (folder / "img2" / "img2_epithelial.mat").unlink()
    (folder / "img3" / "img3.bmp").unlink()
    message = refused("crc-histophenotypes", tmp_path)
    assert message.startswith("2 files of CRCHistoPhenotypes missing")
    assert "Classification/img2/img2_epithelial.mat, Classification/img3/img3.bmp." in message


def test_crc_histophenotypes_complete(tmp_path):
    crc(tmp_path)
    message = refused("crc-histophenotypes", tmp_path, complete=True)
    assert message.startswith(f"{97 * 5} files")
    assert "Classification/img4/img4.bmp" in message
    message = refused("crc-histophenotypes", tmp_path / "none")
    assert "there is no folder" in message


def test_tables_of_nuclei_that_are_none(tmp_path):
    table = crc(tmp_path) / "img1" / "img1_epithelial.mat"
    table.write_bytes(b"no table at all" * 20)
    assert "img1_epithelial.mat is no table of nuclei" in refused("crc-histophenotypes", tmp_path)
    savemat(table, {"other": 1})
    assert "img1_epithelial.mat is no table of nuclei" in refused("crc-histophenotypes", tmp_path)


# -- BRACS ---------------------------------------------------------------------------------

BRACS = {
    "BRACS_1": ("train", "BT", "N", "10"),
    "BRACS_2": ("train", "BT", "PB", "11"),
    "BRACS_3": ("train", "AT", "ADH", "11"),
    "BRACS_4": ("train", "MT", "IC", "12"),
    "BRACS_5": ("val", "MT", "DCIS", "13"),
    "BRACS_6": ("test", "AT", "FEA", "14"),
}


def bracs(root: Path, *without: str) -> Path:
    for slide, (side, group, kind, _) in BRACS.items():
        if slide not in without:
            place = f"BRACS_WSI/{side}/Group_{group}/Type_{kind}"
            touch(root, f"{place}/{slide}.svs", f"{place}/{slide}.qpdata")
    return root


def write_xlsx(path: Path, *sheets: list[list[str]]) -> None:
    """A workbook as spreadsheet programs write it: shared strings, sparse cells."""
    strings = sorted({text for rows in sheets for row in rows for text in row})
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as book:
        for number, rows in enumerate(sheets, 1):
            text = ""
            for line, row in enumerate(rows, 1):
                cells = ""
                for column, value in enumerate(row):
                    place = f"{'ABCDEFG'[column]}{line}"
                    if value.isdecimal():
                        cells += f'<c r="{place}"><v>{value}</v></c>'
                    elif value:
                        cells += f'<c r="{place}" t="s"><v>{strings.index(value)}</v></c>'
                text += f'<row r="{line}">{cells}</row>'
            body = f"<worksheet {space}><sheetData>{text}</sheetData></worksheet>"
            book.writestr(f"xl/worksheets/sheet{number}.xml", body)
        items = "".join(f"<si><t>{escape(value)}</t></si>" for value in strings)
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{items}</sst>")


def write_bracs_table(path: Path, **patients: str) -> None:
    sides = {"train": "Training", "val": "Validation", "test": "Testing"}
    rows = [["WSI Filename", "Patient Id", "", "WSI label", "RoI label", "Set"]]
    rows += [
        [s, patients.get(s, patient), "", kind, "", sides[side]]
        for s, (side, _, kind, patient) in BRACS.items()
    ]
    write_xlsx(path, [["About"], ["& more"]], [["Title"], *rows, ["", ""]])


def test_sheets_of_other_programs(tmp_path):
    """Strings in the cells, columns beyond Z, cells that do not say where they are."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'

    def cell(text: str, place: str = "") -> str:
        parts = f"<r><t>{text[:1]}</t></r><r><t>{text[1:]}</t></r>"
        return f'<c {place} t="inlineStr"><is>{parts}</is></c>'

    rows = [
        cell("slide") + cell("of"),
        cell("a", 'r="A2"') + '<c r="B2"><v>7.0</v></c>' + cell("far", 'r="AB2"'),
    ]
    body = "".join(f"<row>{row}</row>" for row in rows)
    with zipfile.ZipFile(tmp_path / "s.xlsx", "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}>{body}</worksheet>")
    (row,) = read_sheet(tmp_path / "s.xlsx", lambda header: header == ["slide", "of"])
    assert row == {"slide": "a", "of": "7"}
    with zipfile.ZipFile(tmp_path / "w.xlsx", "w") as book:
        first, second = cell("far", 'r="AB1"'), cell("x", 'r="AB2"')
        body = f"<worksheet {space}><row>{first}</row><row>{second}</row></worksheet>"
        book.writestr("xl/worksheets/sheet1.xml", body)
    (row,) = read_sheet(tmp_path / "w.xlsx", lambda header: len(header) == 28)
    assert row["far"] == "x"


def test_bracs_by_groups_and_types(tmp_path):
    cohort = read_public_set("bracs", bracs(tmp_path))
    assert cohort.classes == ("BT", "AT", "MT")
    assert told(cohort) == [(s, group, s, side) for s, (side, group, _, _) in BRACS.items()]
    types = read_public_set("bracs", tmp_path / "BRACS_WSI", labels="type")
    assert types.classes == ("N", "PB", "UDH", "FEA", "ADH", "DCIS", "IC")
    assert told(types) == [(s, kind, s, side) for s, (side, _, kind, _) in BRACS.items()]


def test_bracs_table_tells_the_patients(tmp_path):
    write_bracs_table(bracs(tmp_path) / "BRACS.xlsx")
    cohort = read_public_set("bracs", tmp_path)
    assert {c.slide: c.patient for c in cohort.cases} == {s: row[3] for s, row in BRACS.items()}


def test_bracs_patients_on_several_sides_stay_on_the_last(tmp_path):
    table = bracs(tmp_path) / "BRACS.xlsx"
    write_bracs_table(table, BRACS_1="13", BRACS_4="14")
    with pytest.warns(WsiXaiWarning, match=r"BRACS_1 \(train\), BRACS_4 \(train\) left out"):
        cohort = read_public_set("bracs", tmp_path)
    assert [case.slide for case in cohort.cases] == ["BRACS_2", "BRACS_3", "BRACS_5", "BRACS_6"]


def test_bracs_as_mirrored(tmp_path):
    bracs(tmp_path / "histoimage.na.icar.cnr.it")
    write_bracs_table(tmp_path / "BRACS.xlsx")
    assert len(read_public_set("bracs", tmp_path)) == 6


def test_bracs_says_which_file_is_missing(tmp_path):
    write_bracs_table(bracs(tmp_path, "BRACS_2") / "BRACS.xlsx")
    assert refused("bracs", tmp_path).endswith(": train/Group_BT/Type_PB/BRACS_2.svs.")
    message = refused("bracs", bracs(tmp_path / "other", "BRACS_6"))
    assert "test/Group_*/Type_*/*.svs" in message
    (tmp_path / "empty").mkdir()
    assert "train or val or test is missing" in refused("bracs", tmp_path / "empty")


def test_bracs_tables_that_are_none(tmp_path):
    bracs(tmp_path)
    (tmp_path / "BRACS.xlsx").write_text("hello")
    assert "cannot be read as an .xlsx" in refused("bracs", tmp_path)
    write_xlsx(tmp_path / "BRACS.xlsx", [["nothing", "here"]])
    assert "no sheet with the columns" in refused("bracs", tmp_path)
    with pytest.raises(BadArgumentError, match="labels='kind'"):
        read_public_set("bracs", tmp_path, labels="kind")


# -- TCGA ----------------------------------------------------------------------------------

TCGA = {
    "TCGA-AA-0001-01Z-00-DX1.1F": "TCGA-LUAD",
    "TCGA-AA-0001-01A-01-TS1.2F": "TCGA-LUAD",
    "TCGA-BB-0002-01Z-00-DX1.3F": "TCGA-LUSC",
    "TCGA-CC-0003-01Z-00-DX1.4F": "TCGA-MESO",
}


def tcga(root: Path, case="case_submitter_id", column="project_id") -> Path:
    manifest, clinical = ["id\tfilename\tmd5\tsize\tstate"], [f"case_id\t{case}\t{column}\tage"]
    for number, (slide, project) in enumerate(TCGA.items()):
        touch(root, f"uuid-{number}/{slide}.svs")
        manifest.append(f"uuid-{number}\t{slide}.svs\tx\t1\treleased")
        clinical += [f"c{number}\t{slide[:12]}\t{project}\t{number}"] * 2
    manifest.append("uuid-9\tTCGA-AA-0001-01A.report.pdf\tx\t1\treleased")
    write(root / "gdc_manifest.2026-01-01.txt", *manifest)
    write(root / "clinical.tsv", *clinical)
    return root


def test_tcga(tmp_path):
    cohort = read_public_set("tcga", tcga(tmp_path))
    assert cohort.classes == ("TCGA-LUAD", "TCGA-LUSC", "TCGA-MESO")
    assert told(cohort) == sorted((s, project, s[:12], None) for s, project in TCGA.items())
    assert cohort.cases[0].features == tmp_path / "uuid-0/TCGA-AA-0001-01Z-00-DX1.1F.svs"


def test_tcga_classes_and_diagnostic_slides(tmp_path):
    classes = ["TCGA-LUSC", "TCGA-LUAD"]
    with pytest.warns(WsiXaiWarning, match=r"1 patient is .*: TCGA-CC-0003 \(TCGA-MESO\)\."):
        cohort = read_public_set("tcga", tcga(tmp_path), classes=classes, slides="DX")
    assert cohort.classes == tuple(classes)
    assert [row[0][-2:] for row in told(cohort)] == ["1F", "3F"]
    message = refused("tcga", tmp_path, classes=["TCGA-LUAD", "TCGA-UCEC"])
    assert "TCGA-UCEC (0)" in message
    assert "'XY'" in refused("tcga", tmp_path, slides="XY")


def test_tcga_newer_tables_and_one_folder(tmp_path):
    tcga(tmp_path, "cases.submitter_id", "project.project_id")
    for number, slide in enumerate(TCGA):
        (tmp_path / f"uuid-{number}/{slide}.svs").rename(tmp_path / f"{slide}.svs")
    assert len(read_public_set("tcga", tmp_path)) == 4


def test_tcga_says_which_file_is_missing(tmp_path):
    tcga(tmp_path)
    (tmp_path / "uuid-2/TCGA-BB-0002-01Z-00-DX1.3F.svs").unlink()
    message = refused("tcga", tmp_path)
    assert message == (
        f"1 file of TCGA missing in {tmp_path}: uuid-2/TCGA-BB-0002-01Z-00-DX1.3F.svs."
    )
    (tmp_path / "clinical.tsv").unlink()
    assert refused("tcga", tmp_path).endswith(": clinical.tsv.")
    (tmp_path / "gdc_manifest.2026-01-01.txt").unlink()
    assert refused("tcga", tmp_path).endswith(": gdc_manifest*.txt, clinical.tsv.")
    assert "there is no folder" in refused("tcga", tmp_path / "none")


def test_tcga_labels_that_are_not_told(tmp_path):
    tcga(tmp_path)
    assert "no column primary_diagnosis" in refused("tcga", tmp_path, label="primary_diagnosis")
    assert "several values of age: TCGA-AA-0001 (0, 1)" in refused("tcga", tmp_path, label="age")
    lines = (tmp_path / "clinical.tsv").read_text().splitlines()
    write(tmp_path / "clinical.tsv", *(line.replace("TCGA-MESO", "'--") for line in lines))
    assert "tells no project_id of TCGA-CC-0003" in refused("tcga", tmp_path)
    write(tmp_path / "clinical.tsv", "a\tb", "1\t2")
    assert "no column case_submitter_id" in refused("tcga", tmp_path)
    write(tmp_path / "gdc_manifest.2026-01-01.txt", "a\tb", "1\t2")
    assert "no manifest" in refused("tcga", tmp_path)


def test_tcga_values_that_say_nothing_are_no_class(tmp_path):
    tcga(tmp_path)
    text = (tmp_path / "clinical.tsv").read_text()
    (tmp_path / "clinical.tsv").write_text(text.replace("TCGA-MESO", "Unknown"))
    assert "tells no project_id of TCGA-CC-0003" in refused("tcga", tmp_path)


def test_tcga_with_classes_leaves_out_patients_of_none_of_them(tmp_path):
    tcga(tmp_path)
    lines = (tmp_path / "clinical.tsv").read_text().splitlines()
    kept = [line.replace("TCGA-MESO", "'--") for line in lines]
    write(tmp_path / "clinical.tsv", *(line for line in kept if "TCGA-BB-0002" not in line))
    classes = ["TCGA-LUAD", "TCGA-LUSC"]
    message = refused("tcga", tmp_path, classes=classes)
    assert "too few slides of TCGA-LUSC (0)" in message  # and no warning before
    write(tmp_path / "clinical.tsv", *kept, "c9\tTCGA-CC-0003\tTCGA-UCEC\t7", *kept[-2:])
    with pytest.warns(WsiXaiWarning, match="left out") as caught:
        cohort = read_public_set("tcga", tmp_path, classes=classes)
    assert [case.slide[-2:] for case in cohort.cases] == ["1F", "2F", "3F"]
    (told_once,) = caught
    assert "TCGA-CC-0003 (TCGA-UCEC)" in str(told_once.message)
    assert told_once.filename == __file__
    write(tmp_path / "clinical.tsv", *kept)
    with pytest.warns(WsiXaiWarning, match=r"TCGA-CC-0003 \(not told\)"):
        read_public_set("tcga", tmp_path, classes=classes)
    write(tmp_path / "clinical.tsv", *kept, "c0\tTCGA-AA-0001\tTCGA-UCEC\t0")
    message = refused("tcga", tmp_path, classes=classes)
    assert "several values of project_id: TCGA-AA-0001 (TCGA-LUAD, TCGA-UCEC)" in message


def test_tcga_columns_whose_names_end_alike(tmp_path):
    tcga(tmp_path)
    rows = [line.split("\t") for line in (tmp_path / "clinical.tsv").read_text().splitlines()]

    def written(first: str, second: str) -> None:
        columns = [
            ["x", *row, "y"] if i else [first, *row, "old_project_id"] for i, row in enumerate(rows)
        ]
        columns[0][3] = second
        write(tmp_path / "clinical.tsv", *("\t".join(row) for row in columns))

    written("diagnoses.project_id", "project_id")
    assert len(read_public_set("tcga", tmp_path)) == 4
    written("diagnoses.project_id", "project.project_id")
    message = refused("tcga", tmp_path)
    assert message.endswith("name one, diagnoses.project_id or project.project_id.")
    assert len(read_public_set("tcga", tmp_path, label="project.project_id")) == 4


def test_tcga_names_of_slides(tmp_path):
    tcga(tmp_path)
    touch(tmp_path, "x/other.svs")
    write(tmp_path / "gdc_manifest.2026-01-01.txt", "id\tfilename", "x\tother.svs")
    assert "other.svs is no slide of TCGA" in refused("tcga", tmp_path)


def test_sets_that_there_are_not(tmp_path):
    with pytest.raises(BadArgumentError, match=r"'camelyon', perhaps camelyon16: .*tcga"):
        read_public_set("camelyon", tmp_path)
    with pytest.raises(BadArgumentError, match=r"bracs has no option 'label'; it takes labels\."):
        read_public_set("bracs", tmp_path, label="type")
