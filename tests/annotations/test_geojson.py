from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.annotations import Annotation, read_geojson, write_geojson
from napari_wsi_xai.errors import AnnotationError

HOLED = shapely.Polygon(
    [(0, 0), (100, 0), (100, 50), (0, 50)], holes=[[(10, 10), (20, 10), (20, 20), (10, 20)]]
)


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def square(size=10.0):
    ring = [[0, 0], [size, 0], [size, size], [0, size], [0, 0]]
    return {"type": "Polygon", "coordinates": [ring]}


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "geometry",
    [
        HOLED,
        shapely.MultiPolygon([HOLED, shapely.box(200.25, 300.5, 210, 310)]),
        shapely.Point(1.5, 2.5),
        shapely.LineString([(0, 0), (3, 4)]),
    ],
    ids=lambda geometry: geometry.geom_type,
)
def test_round_trip_keeps_everything(tmp_path, geometry):
    written = [
        Annotation(geometry, "first", "Tumör", (200, 0, 10), {"objectType": "annotation", "x": 1}),
        Annotation(geometry, properties={"objectType": "annotation"}),
        Annotation(geometry, color=(1, 2, 3), properties={"objectType": "detection"}),
    ]
    assert read_geojson(write_geojson(tmp_path / "a.geojson", written)) == written


coordinates = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=12))
def test_coordinates_survive_bit_for_bit(tmp_path_factory, points):
    path = tmp_path_factory.mktemp("points") / "a.geojson"
    polygon = shapely.Polygon(points)
    (read,) = read_geojson(write_geojson(path, [Annotation(polygon)]))
    np.testing.assert_array_equal(
        shapely.get_coordinates(read.geometry), shapely.get_coordinates(polygon)
    )


def test_written_file_is_what_qupath_expects(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", [Annotation(HOLED, "n", "Tumor", (200, 0, 10))])
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection"
    (written,) = document["features"]
    assert written["type"] == "Feature"
    assert len(written["geometry"]["coordinates"]) == 2
    assert written["properties"] == {
        "objectType": "annotation",
        "name": "n",
        "classification": {"name": "Tumor", "color": [200, 0, 10]},
    }


def test_files_of_qupath(shared_data):
    folder = shared_data / "annotations"
    (holed,) = read_geojson(folder / "holed.geojson")
    outline, hole = shapely.Polygon(holed.geometry.exterior), holed.geometry.interiors[0]
    assert outline.area == (19491 - 16763) * (13369 - 10098)
    assert holed.geometry.area < outline.area - shapely.Polygon(hole).area + 1e-6

    cells = read_geojson(folder / "qupath-polygon-cell-classified.json")
    assert [cell.classification for cell in cells][:3] == ["Cell", "Cell", "Nucleus"]
    # -8397766 is 0xff7fdc3a.
    assert cells[0].color == (0x7F, 0xDC, 0x3A)

    named = read_geojson(folder / "qupath05.geojson")
    assert [a.name for a in named] == ["UT", "I", "I"]
    assert all(a.color == (255, 0, 0) and a.classification is None for a in named)


@pytest.mark.parametrize("kind", ["brush", "ellipse", "multipoint", "point", "polyline", "wand"])
def test_every_geometry_type_of_qupath(shared_data, kind):
    (annotation,) = read_geojson(shared_data / "annotations" / f"qupath-{kind}.json")
    assert annotation.name == kind
    assert not annotation.geometry.is_empty


def test_byte_order_mark_and_third_coordinate(tmp_path):
    path = tmp_path / "a.geojson"
    point = {"type": "Point", "coordinates": [1, 2, 3]}
    path.write_text(json.dumps(feature(point)), encoding="utf-8-sig")
    (annotation,) = read_geojson(path)
    assert annotation.geometry.coords[:] == [(1, 2)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"type": "Polygon"}, "not of type Feature"),
        (17, "not of type Feature"),
        ({"type": "Feature", "geometry": None, "properties": {}}, "no geometry"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}), "malformed"),
        (feature({"type": "Polygon", "coordinates": []}), "empty"),
        (feature({"type": "Circle", "coordinates": [0, 0]}), "malformed"),
        (feature({"type": "Point", "coordinates": [float("nan"), 0]}), "finite"),
        (feature({"type": "Point", "coordinates": ["a", "b"]}), "malformed"),
        (feature(square(), color=[1, 2]), "malformed"),
        (feature(square(), classification={"name": "T", "color": "red"}), "malformed"),
    ],
)
def test_malformed_feature_is_named_by_its_number(tmp_path, bad, reason):
    path = write(tmp_path / "a.geojson", [feature(square()), bad])
    with pytest.raises(AnnotationError, match=reason) as caught:
        read_geojson(path)
    assert "Feature 2 of" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "\x00\x01", '{"type": "Topology"}', "3", "[" * 100_000])
def test_what_is_no_geojson_is_refused(tmp_path, text):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(AnnotationError, match="GeoJSON"):
        read_geojson(path)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_geojson(tmp_path / "absent.geojson")
    with pytest.raises(AnnotationError, match="cannot be written"):
        write_geojson(tmp_path / "absent" / "a.geojson", [])
    assert list(tmp_path.iterdir()) == []
