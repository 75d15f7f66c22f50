"""One measured job of ``encode.py``, in a process of its own; prints one line of JSON.

    python benchmarks/encode_jobs.py JOB SLIDE OUT ENCODER

Jobs: ``plain`` (a float32 PyTorch DataLoader loop over OpenSlide, as one writes it by hand),
``float32`` and ``bfloat16`` (this package's pipeline), ``read-openslide``, ``read-package``
(pixels only). Seconds run from opening the slide to the last byte written; imports and building
the network are left out of all jobs alike, and told apart as ``setup_s``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

TILE_PX, MPP = 224, 0.5


def tiles_of(slide_path: str):
    """Grid and tissue, as every job has to find them."""
    from napari_wsi_xai.slides import open_slide
    from napari_wsi_xai.tiles import tile_grid, tissue_tiles

    slide = open_slide(slide_path)
    grid = tile_grid(slide, TILE_PX, MPP)
    return slide, grid, tissue_tiles(slide, grid)


def plain(slide_path: str, out: str, encoder: str):
    import numpy as np
    import openslide
    import torch
    from torch.utils.data import DataLoader, Dataset

    from napari_wsi_xai.models.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision import models, transforms

    network = getattr(models, encoder)(weights=None)
    network.fc = torch.nn.Identity()
    network.eval()

    class Tiles(Dataset):
        def __init__(self, corners):
            self.corners = corners
            self.slide = None
            self.transform = transforms.Compose(
                [
                    transforms.ToTensor(),
                    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
                ]
            )

        def __len__(self):
            return len(self.corners)

        def __getitem__(self, i):
            if self.slide is None:
                self.slide = openslide.OpenSlide(slide_path)
            y, x = self.corners[i]
            tile = self.slide.read_region((int(x), int(y)), 0, (TILE_PX, TILE_PX))
            return self.transform(tile.convert("RGB"))

    ready = time.perf_counter()
    _, grid, tissue = tiles_of(slide_path)
    corners = grid.origins_level0(grid.indices(tissue.selected))
    features = []
    with torch.no_grad():
        for batch in DataLoader(Tiles(corners), batch_size=32, num_workers=1):
            features.append(network(batch).numpy())
    np.save(Path(out) / "features.npy", np.concatenate(features))
    return ready, len(corners), {}


def package(precision: str):
    def job(slide_path: str, out: str, encoder: str):
        from napari_wsi_xai.models import build_model
        from napari_wsi_xai.runs import score

        model = build_model(encoder, "abmil", ("normal", "tumor"), tile_px=TILE_PX, mpp=MPP)
        ready = time.perf_counter()
        run = score(slide_path, model, Path(out) / "run.wsixai.zarr", precision=precision)
        *_, last = run
        details = {"read_share": round(last.read_share, 4), "note": run.note}
        return ready, run.done, details

    return job


def read_openslide(slide_path: str, out: str, encoder: str):
    import numpy as np
    import openslide

    _, grid, tissue = tiles_of(slide_path)
    corners = grid.origins_level0(grid.indices(tissue.selected))
    slide = openslide.OpenSlide(slide_path)
    ready = time.perf_counter()
    for y, x in corners:
        np.asarray(slide.read_region((int(x), int(y)), 0, (TILE_PX, TILE_PX)).convert("RGB"))
    return ready, len(corners), {}


def read_package(slide_path: str, out: str, encoder: str):
    from napari_wsi_xai.models import Encoder
    from napari_wsi_xai.runs.plan import RunPlan, read_block

    slide, grid, tissue = tiles_of(slide_path)
    plan = RunPlan(slide.source, None, Encoder, grid, tissue.selected)
    ready = time.perf_counter()
    for block in plan.blocks:
        read_block(plan, slide, block)
    return ready, int(tissue.selected.sum()), {}


JOBS = {
    "plain": plain,
    "float32": package("float32"),
    "bfloat16": package("bfloat16"),
    "read-openslide": read_openslide,
    "read-package": read_package,
}


def main() -> None:
    start = time.perf_counter()
    job, slide_path, out, encoder = sys.argv[1:]
    ready, tiles, details = JOBS[job](slide_path, out, encoder)
    end = time.perf_counter()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "job": job,
                "tiles": tiles,
                "seconds": round(end - ready, 3),
                "setup_s": round(ready - start, 3),
                "tiles_per_s": round(tiles / (end - ready), 2),
                "peak_mib": round(peak_kib / 1024),
                **details,
            }
        )
    )


if __name__ == "__main__":
    main()
