"""Noise: values depend on the position alone, and are what they are said to be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_wsi_xai.demo.noise import Lattice, noise_at, noise_field, periodic_texture, uniform
from napari_wsi_xai.geometry import Region


def test_uniform_is_uniform_and_tells_all_its_arguments_apart():
    rows, columns = np.arange(300)[:, None], np.arange(300)[None, :]
    values = uniform(1, 2, rows, columns)
    assert values.shape == (300, 300)
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert np.abs(counts / values.size - 0.05).max() < 0.004
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.02
    others = [uniform(2, 2, rows, columns), uniform(1, 3, rows, columns), values.T]
    assert all(np.mean(values == other) < 0.01 for other in others)


@settings(max_examples=25, deadline=None)
@given(
    y=st.integers(-900, 900),
    x=st.integers(-900, 900),
    dy=st.integers(0, 60),
    dx=st.integers(0, 60),
    spacing=st.sampled_from([1, 4, 30, 90]),
)
def test_noise_of_a_region_is_a_part_of_the_noise_around_it(y, x, dy, dx, spacing):
    whole = noise_field(Region(y, x, 100, 110), spacing, seed=5, salt=6)
    part = noise_field(Region(y + dy, x + dx, 40, 50), spacing, seed=5, salt=6)
    np.testing.assert_array_equal(part, whole[dy : dy + 40, dx : dx + 50])


def test_noise_at_points_is_the_field_there():
    region = Region(-37, 411, 64, 80)
    field = noise_field(region, 30, seed=8, salt=1)
    y, x = np.mgrid[-37:27, 411:491].astype(float)
    points = noise_at(y.ravel(), x.ravel(), 30, seed=8, salt=1)
    np.testing.assert_allclose(points.reshape(field.shape), field, atol=1e-5)


def test_lattice_reproduces_straight_lines():
    for cubic in (False, True):
        lattice = Lattice(Region(13, -7, 50, 45), 8, cubic)
        rows, columns = lattice.nodes()
        plane = lattice.upsample(3.0 * (rows * 8) - 2.0 * (columns * 8))
        y, x = np.mgrid[13:63, -7:38]
        np.testing.assert_allclose(plane, 3.0 * y - 2.0 * x, atol=1e-3)


def test_periodic_texture_wraps_without_a_step():
    texture = periodic_texture(3, ((2.0, 4.0),), size=128)
    assert abs(texture.mean()) < 1e-3
    np.testing.assert_allclose(texture.std(), 1, atol=1e-3)
    inner = np.abs(np.diff(texture, axis=0)).mean()
    assert np.abs(texture[0] - texture[-1]).mean() < 1.5 * inner
