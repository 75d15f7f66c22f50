"""Scenes: seams, stain, and a ground truth that is exact."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import shapely

from napari_wsi_xai.demo.layout import lay_out
from napari_wsi_xai.demo.render import Scene
from napari_wsi_xai.demo.shapes import Blobs
from napari_wsi_xai.demo.stain import slide_stain
from napari_wsi_xai.geometry import Region

SHAPE = (3000, 3000)
WHOLE = Region(0, 0, *SHAPE)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(4, SHAPE)


def of_kind(scene: Scene, kind: str, region: Region = WHOLE) -> np.ndarray:
    """Centres (n, 2) xy of the nuclei of a kind."""
    found = [p for p in scene.nuclei(region) if p.kind == kind]
    return np.concatenate([np.stack([p.x, p.y], axis=1) for p in found])


def around(blobs: Blobs) -> Region:
    """A rectangle with an odd corner around the middle of the first blob."""
    return Region(int(blobs.y[0]) - 151, int(blobs.x[0]) - 173, 333, 350)


@pytest.mark.parametrize("name", ["nests", "glands", "clusters", "vessels", "tissue"])
def test_a_tile_by_itself_is_the_same_as_in_its_surroundings(scene, name):
    tile = around(getattr(scene.layout, name))
    wide = Region(tile.y - 211, tile.x - 97, 750, 1300)  # more than is computed at once
    cut = scene.render(wide)[211 : 211 + tile.height, 97 : 97 + tile.width]
    np.testing.assert_array_equal(scene.render(tile), cut)


def test_fat_has_no_seams():
    scene = next(s for s in (Scene(seed, SHAPE) for seed in range(40)) if len(s.layout.fat))
    tile = around(scene.layout.fat)
    wide = Region(tile.y - 50, tile.x - 77, 500, 500)
    cut = scene.render(wide)[50 : 50 + tile.height, 77 : 77 + tile.width]
    np.testing.assert_array_equal(scene.render(tile), cut)


def test_same_seed_same_pixels_other_seed_other_pixels(scene):
    tile = around(scene.layout.nests)
    again = Scene(4, SHAPE).render(tile)
    assert hashlib.sha256(again).digest() == hashlib.sha256(scene.render(tile)).digest()
    assert not np.array_equal(again, Scene(5, SHAPE).render(tile))


def test_tumour_nuclei_lie_in_the_truth_and_fill_it(scene):
    nests = scene.layout.nests.polygons()
    truth = shapely.union_all(nests)
    centres = of_kind(scene, "tumour")
    assert len(centres) > 50
    assert shapely.contains_xy(truth, centres).all()
    # Every point well inside a nest has a tumour nucleus nearby: nothing in it is left empty.
    inner = truth.buffer(-25)
    left, top, right, bottom = inner.bounds
    y, x = np.mgrid[top:bottom:23, left:right:23]
    keep = shapely.contains_xy(inner, x, y)
    points = np.stack([x[keep], y[keep]], axis=1)
    nearest = np.linalg.norm(points[:, None] - centres[None], axis=2).min(axis=1)
    assert np.quantile(nearest, 0.95) < 45


def test_tumour_nuclei_asked_for_by_region_are_those_of_the_slide(scene):
    tile = around(scene.layout.nests)
    near = of_kind(scene, "tumour", tile)
    every = {tuple(centre) for centre in of_kind(scene, "tumour")}
    assert len(near)
    assert {tuple(centre) for centre in near} <= every


@pytest.mark.parametrize("seed", range(6))
def test_nests_are_valid_apart_and_inside_the_tissue(seed):
    layout = lay_out(seed, SHAPE, tumour=True)
    nests = layout.nests.polygons()
    tissue = shapely.union_all(layout.tissue.polygons())
    assert nests
    for nest in nests:
        assert nest.is_valid
        assert nest.area > 1000
        assert tissue.contains(nest)
    assert shapely.union_all(nests).area == pytest.approx(sum(nest.area for nest in nests))
    others = shapely.union_all(layout.glands.polygons() + layout.vessels.polygons())
    assert others.disjoint(shapely.union_all(nests))


def test_a_normal_slide_differs_by_its_nests_alone(scene):
    normal = Scene(4, SHAPE, tumour=False)
    assert not len(normal.layout.nests)
    assert not [p for p in normal.nuclei(WHOLE) if p.kind == "tumour"]
    assert len(normal.layout.glands)
    assert len(normal.layout.clusters)
    for name in ("tissue", "foci", "glands", "clusters", "vessels", "fat"):
        one, other = getattr(normal.layout, name), getattr(scene.layout, name)
        np.testing.assert_array_equal(one.radii, other.radii)
    gland = around(normal.layout.glands)
    np.testing.assert_array_equal(normal.render(gland), scene.render(gland))


def test_colours_are_those_of_haematoxylin_and_eosin(scene):
    glass = scene.render(Region(-500, -500, 64, 64)).mean(axis=(0, 1))
    assert glass.min() > 230
    nest = shapely.union_all(scene.layout.nests.polygons())
    y, x = (int(v) for v in (scene.layout.nests.y[0], scene.layout.nests.x[0]))
    assert nest.contains(shapely.Point(x, y))
    tumour = scene.render(Region(y - 60, x - 60, 120, 120)).reshape(-1, 3).mean(axis=0)
    tissue = scene.render(Region(1300, 1300, 400, 400)).reshape(-1, 3).mean(axis=0)
    assert tumour.mean() < tissue.mean() < glass.mean()
    assert tumour[0] - tumour[2] < tissue[0] - tissue[2]  # blue of nuclei, pink of stroma
    assert tissue[1] == tissue.min()


def test_stain_follows_beer_and_lambert():
    stain = slide_stain(3)
    h = np.full((2, 2), 0.4, dtype=np.float32)
    e = np.full((2, 2), 0.7, dtype=np.float32)
    light = stain.transmit(h, e, np.zeros((2, 2), dtype=np.float32))[0, 0]
    density = 0.4 * np.array(stain.haematoxylin) + 0.7 * np.array(stain.eosin)
    np.testing.assert_allclose(light, np.array(stain.white) * np.exp(-density), atol=1.0)


def test_seeds_keep_their_looks(scene):
    """Layout and mean colours around the first nest, as they always were."""
    layout = scene.layout
    counts = {name: len(getattr(layout, name)) for name in ("tissue", "foci", "nests", "glands")}
    assert counts == {"tissue": 2, "foci": 1, "nests": 1, "glands": 4}
    assert (len(layout.clusters), len(layout.vessels), len(layout.fat)) == (2, 4, 1)
    assert layout.nests.reach.sum() == pytest.approx(299.58, abs=0.01)
    y, x = int(layout.nests.y[0]), int(layout.nests.x[0])
    assert (y, x) == (1354, 1090)
    image = scene.render(Region(y - 256, x - 256, 512, 512)).astype(float)
    means = image.reshape(2, 256, 2, 256, 3).mean(axis=(1, 3))
    upper = [[163.0, 116.0, 161.5], [176.5, 126.8, 168.7]]
    lower = [[181.6, 126.4, 168.0], [172.3, 124.3, 167.3]]
    np.testing.assert_allclose(means, [upper, lower], atol=0.2)
