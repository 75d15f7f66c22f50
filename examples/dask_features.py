"""Use the features of a slide as a dask array: nothing is computed before it is asked for.

    python examples/dask_features.py SLIDE MODEL [--mpp 0.25]

One chunk is one block of tiles. What has been computed once is kept in the run's store, so with
`out="slide.wsixai.zarr"` the second call would only read.
"""

from __future__ import annotations

import argparse

import dask.array as da
import numpy as np

from napari_wsi_xai import load_model, open_slide, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("model")
    parser.add_argument("--mpp", type=float, help="micrometres per pixel, if the file lacks them")
    arguments = parser.parse_args()

    with open_slide(arguments.slide, mpp=arguments.mpp) as slide:
        run = score(slide, load_model(arguments.model))
        features = run.features  # (rows, cols, N) float32, NaN where there is no tissue
        print(f"features {features.shape} in {features.npartitions} blocks, none computed yet")

        rows, cols = features.chunks[0][0], features.chunks[1][0]
        corner = features[:rows, :cols].compute()  # encodes the first block of tiles, no other
        tiles = int(np.isfinite(corner[..., 0]).sum())
        print(f"first block {corner.shape}: {tiles} of {run.total} tissue tiles computed")

        mean = da.nanmean(features.reshape(-1, features.shape[-1]), axis=0).compute()
        print(f"mean descriptor of {run.total} tissue tiles: {mean[:4].round(3)} ...")


if __name__ == "__main__":
    main()
