from __future__ import annotations

import numpy as np
import pytest
import torch
from imagecodecs import bmp_encode
from scipy.io import savemat

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.models import EncoderSpec, build_encoder
from napari_wsi_xai.training import feature_facts, read_bag, read_public_set
from napari_wsi_xai.training.nuclei import encode_nuclei, nucleus_tiles

SPEC = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)

NUCLEI_XY = {
    "epithelial": [[20.4, 31.6], [0, 0]],
    "fibroblast": [],
    "inflammatory": [[49, 39]],
    "others": [[25, 25]],
}


def write_image(folder, number, nuclei) -> np.ndarray:
    """A (40, 50) image whose red, green and blue are row, column and number."""
    place = folder / "Classification" / f"img{number}"
    place.mkdir(parents=True)
    rows, cols = np.mgrid[:40, :50]
    rgb = np.stack([rows, cols, np.full_like(rows, number)], axis=-1).astype(np.uint8)
    (place / f"img{number}.bmp").write_bytes(bmp_encode(rgb))
    for kind, places in nuclei.items():
        table = {"detection": np.array(places, dtype=float).reshape(-1, 2)}
        savemat(place / f"img{number}_{kind}.mat", table)
    return rgb


@pytest.fixture
def images(tmp_path):
    write_image(tmp_path, 1, NUCLEI_XY)
    write_image(tmp_path, 2, NUCLEI_XY | {"epithelial": []})
    return tmp_path


def test_tiles_have_their_nucleus_in_the_middle(images):
    tiles, corners, kinds = nucleus_tiles(images / "Classification/img1/img1.bmp", 7)
    assert tiles.shape == (4, 7, 7, 3)
    np.testing.assert_array_equal(tiles[:, 3, 3, :2], [[32, 20], [0, 0], [39, 49], [25, 25]])
    np.testing.assert_array_equal(corners, [[29, 17], [-3, -3], [36, 46], [22, 22]])
    np.testing.assert_array_equal(kinds, [0, 0, 2, 3])
    np.testing.assert_array_equal(tiles[0, :, 3, 0], np.arange(29, 36))
    np.testing.assert_array_equal(tiles[0, 3, :, 1], np.arange(17, 24))


def test_edges_are_mirrored(images):
    tiles, _, _ = nucleus_tiles(images / "Classification/img1/img1.bmp", 7)
    np.testing.assert_array_equal(tiles[1, :, 3, 0], [3, 2, 1, 0, 1, 2, 3])
    np.testing.assert_array_equal(tiles[2, 3, :, 1], [46, 47, 48, 49, 48, 47, 46])


def test_images_are_encoded_once(images, tmp_path):
    cohort = read_public_set("crc-histophenotypes", images)
    assert cohort.labels.tolist() == [1, 0]
    encoded = encode_nuclei(cohort, SPEC, tmp_path / "out")
    tiles, corners, _ = nucleus_tiles(cohort.cases[0].features)
    assert tiles.shape[1:] == (27, 27, 3)
    bag = read_bag(encoded.cases[0])
    encoder = build_encoder(SPEC)
    with torch.inference_mode():
        expected = encoder.module(encoder.to_input(tiles))
    torch.testing.assert_close(bag.features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bag.coords_level0, corners)
    assert [len(read_bag(case).features) for case in encoded.cases] == [4, 2]
    facts = feature_facts(encoded)
    assert (facts.length, facts.encoder_hash, facts.tile_px) == (24, encoder.content_hash, 27)
    times = [case.features.stat().st_mtime_ns for case in encoded.cases]
    again = encode_nuclei(cohort, encoder, tmp_path / "out")
    assert [case.features.stat().st_mtime_ns for case in again.cases] == times
    other = encode_nuclei(cohort, encoder, tmp_path / "out", tile_px=15)
    assert feature_facts(other).tile_px == 15


def test_what_cannot_be_read_is_named(images, tmp_path):
    write_image(images, 3, {kind: [] for kind in NUCLEI_XY})
    cohort = read_public_set("crc-histophenotypes", images)
    with pytest.raises(CohortError, match="img3 have no marked nucleus"):
        encode_nuclei(cohort, SPEC, tmp_path / "out")
    image = cohort.cases[0].features
    with pytest.raises(BadArgumentError, match="tile_px=8"):
        nucleus_tiles(image, 8)
    image.write_bytes(b"no image")
    with pytest.raises(CohortError, match=r"img1\.bmp cannot be read as an image"):
        nucleus_tiles(image)
