"""Score a slide without a window and print what the model says.

    python examples/score_headless.py SLIDE MODEL OUT [--mpp 0.25]

MODEL is a bundle (see `napari-wsi-xai models create`), OUT a folder NAME.wsixai.zarr to make, or
to go on with.
"""

from __future__ import annotations

import argparse

import numpy as np

from napari_wsi_xai import load_model, open_slide, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--mpp", type=float, help="micrometres per pixel, if the file lacks them")
    arguments = parser.parse_args()

    with open_slide(arguments.slide, mpp=arguments.mpp) as slide:
        run = score(slide, load_model(arguments.model), out=arguments.out)
        for progress in run:  # iterating does the work, block after block
            print(f"{progress.tiles_done} of {progress.tiles_total} tiles: {progress.message}")

    print("slide:", ", ".join(f"{name} {p:.3f}" for name, p in run.probabilities.items()))
    for name, tile_map in run.maps.items():
        row, col = np.unravel_index(np.nanargmax(tile_map), tile_map.shape)
        ((y, x),) = run.grid.origins_level0([(row, col)])
        print(f"{name}: highest, {tile_map[row, col]:.3g}, at level-0 pixel y={y}, x={x}")


if __name__ == "__main__":
    main()
