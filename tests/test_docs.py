"""What the pages say is there."""

from pathlib import Path

from napari_wsi_xai.models import MIL_ARCHITECTURES

ROOT = Path(__file__).resolve().parents[1]


def test_every_head_is_described():
    rows = [
        line.split("|")[1]
        for line in (ROOT / "docs" / "heads.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    assert sorted(named) == sorted(MIL_ARCHITECTURES)
