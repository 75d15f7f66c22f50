"""Make the model that ships with the package, from nothing but seeds and slide labels.

    python tools/make_demo_model.py --folder DIR [--ship]

Three steps, each of which goes on where it was stopped: a cohort of procedural slides,
``napari-wsi-xai train`` with ``demo-model.yaml``, and the comparison of tile scores with the
outlines of the test slides. ``--ship`` puts the bundle into the package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from napari_wsi_xai import load_model, open_slide, save_model, score
from napari_wsi_xai.annotations import read_geojson
from napari_wsi_xai.demo.model import MODEL_PATH, RECIPE_PATH
from napari_wsi_xai.evaluate import localisation_auc, tile_truth

COHORT = ["--seed", "1", "--train", "60", "--test", "20", "--side-px", "3072"]
COHORT += ["--nests", "1", "4", "--nest-um", "140", "400", "--mimics", "0", "0"]
TRAIN = ["--encoder", "small", "--tile-px", "224", "--tile-mpp", "0.5"]


def run(*words: object) -> None:
    """A module of the package in a process of its own."""
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


def measured(model, cohort: Path, slides: Path) -> dict[str, object]:
    """AUC of tile scores against tiles half covered by a nest, in the tumour test slides."""
    from napari_wsi_xai.training import read_cohort

    found, by_chance, tiles = [], [], 0
    for case in read_cohort(cohort, slides).cases:
        if case.split != "test" or case.annotation is None:
            continue
        with open_slide(case.features) as slide:
            result = score(slide, model)
            result.compute()
        truth = tile_truth(read_geojson(case.annotation), result.grid)
        one = localisation_auc(result.maps["tile-scores/all"], truth)
        tiles += one.n_positive
        found.append(one.auc)
        by_chance.append(one.random_auc)
    return {
        "slides": len(found),
        "tumor_tiles": tiles,
        "localisation_auc_mean": statistics.fmean(found),
        "localisation_auc_lowest": min(found),
        "localisation_auc_random": statistics.fmean(by_chance),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--ship", action="store_true", help=f"write {MODEL_PATH.name}")
    given = parser.parse_args()
    cohort, slides = given.folder / "cohort" / "cohort.csv", given.folder / "cohort" / "slides"
    out = given.folder / "trained"
    run("napari_wsi_xai.demo.cohort", "--out", cohort.parent, *COHORT)
    run("napari_wsi_xai", "train", cohort, "--features", slides, *TRAIN, "--recipe", RECIPE_PATH,
        "--out", out)  # fmt: skip
    model = load_model(out / "model.safetensors")
    made = {
        "cohort": " ".join(["python -m napari_wsi_xai.demo.cohort", *COHORT]),
        "train": " ".join(["napari-wsi-xai train", *TRAIN, "--recipe", RECIPE_PATH.name]),
        "labels": "slide labels only",
    }
    held_out = measured(model, cohort, slides)
    print(json.dumps(held_out, indent=1))
    if given.ship:
        metadata = model.metadata | {"made_with": made, "held_out": held_out}
        path = save_model(replace(model, name="demo", metadata=metadata), MODEL_PATH)
        print(f"wrote {path.name} ({path.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
