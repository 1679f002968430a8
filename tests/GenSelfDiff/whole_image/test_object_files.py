import json
import uuid

import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry import shape
from skimage.measure import regionprops_table

from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.object_files import write_objects
from GenSelfDiff.whole_image.objects import ImageFacts, join_blocks, label_blocks
from GenSelfDiff.whole_image.slides import DecodedImage, View
from tests.GenSelfDiff.whole_image.test_objects import blobs


def write(folder, class_map, size, method="components", scale=1.0, mpp=None, minimum_area=4):
    """Two classes; returns the table, the features and the map of numbers."""
    folder.mkdir(exist_ok=True)
    blocks = Blocks(folder / "state", *class_map.shape, size)
    probabilities = np.random.default_rng(0).integers(0, 256, (2, *class_map.shape), dtype=np.uint8)
    for i in range(len(blocks)):
        left, top, right, bottom = blocks.box(i)
        one, two = probabilities[:, top:bottom, left:right]
        blocks.write("classes", i, classes=class_map[top:bottom, left:right], probability_1=one, probability_2=two)
    settings = InstanceSettings(minimum_area=minimum_area)
    label_blocks(blocks, method, settings, lambda: None)
    objects = join_blocks(blocks, method, minimum_area, lambda: None)
    height, width = (round(side * scale) for side in class_map.shape)
    source = DecodedImage(None, np.zeros((height, width, 3), np.uint8), None)
    view = View(source, class_map.shape[1], class_map.shape[0])
    image = ImageFacts(name="a.png", classes=["b", "gland", 'tu"mour'], view=view, mpp=mpp)
    write_objects(blocks, objects, method, image, str(folder / "a"), lambda: None)
    rows = pd.read_csv(folder / "a_objects.csv")
    content = json.loads((folder / "a.geojson").read_text(), parse_constant=pytest.fail)
    everywhere = np.arange(class_map.shape[0]), np.arange(class_map.shape[1])
    return rows, content, blocks.gather("numbers", "numbers", *everywhere), probabilities


@pytest.mark.parametrize("size", [17, 100])
def test_the_table_says_what_scikit_image_measures(tmp_path, size):
    class_map = blobs(80, 90, 2, 0.3, 3, 2)
    rows, _, numbers, probabilities = write(tmp_path, class_map, size)
    p = np.where(class_map[..., None] == [1, 2], np.moveaxis(probabilities, 0, -1), 0).max(-1) / 255
    wanted = regionprops_table(numbers, p, properties=("label", "centroid", "area", "perimeter", "mean_intensity"))
    assert rows.object.tolist() == wanted["label"].tolist() and len(rows) > 20
    assert np.allclose(rows.x_px, wanted["centroid-1"] + 0.5) and np.allclose(rows.y_px, wanted["centroid-0"] + 0.5)
    assert np.allclose(rows.area_px, wanted["area"]) and np.allclose(rows.perimeter_px, wanted["perimeter"])
    solid = [n for n in rows.object if (class_map[numbers == n] > 0).all()]  # without holes, which have another class
    assert np.allclose(rows.mean_probability[np.array(solid) - 1], wanted["mean_intensity"][np.array(solid) - 1])
    classes = [{1: "gland", 2: 'tu"mour'}[class_map[numbers == n].max()] for n in rows.object]
    assert rows["class"].tolist() == classes and rows.area_um2.isna().all()


@pytest.mark.parametrize("size", [17, 100])
def test_the_geojson_has_the_form_that_qupath_documents(tmp_path, size):
    class_map = blobs(80, 90, 2, -0.3, 3, 2)
    rows, content, numbers, _ = write(tmp_path, class_map, size, mpp=0.5)
    assert content["type"] == "FeatureCollection" and len(content["features"]) == len(rows) > 10
    ids = set()
    for (_, row), feature in zip(rows.iterrows(), content["features"], strict=True):
        assert set(feature) == {"type", "id", "geometry", "properties"} and feature["type"] == "Feature"
        ids.add(uuid.UUID(feature["id"]))
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        colour = {"gland": [255, 69, 0], 'tu"mour': [127, 255, 0]}[row["class"]]
        assert properties["classification"] == {"name": row["class"], "color": colour}
        measured = properties["measurements"]
        assert measured["Area px^2"] == row.area_px and measured["Area µm^2"] == pytest.approx(row.area_px / 4)
        assert measured["Mean probability"] == pytest.approx(row.mean_probability)
        geometry = feature["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        assert all(ring[0] == ring[-1] and len(ring) >= 5 for rings in polygons for ring in rings)
        outline = shape(geometry)
        assert outline.is_valid and outline.area == row.area_px
        left, top, right, bottom = map(int, outline.bounds)
        y, x = np.nonzero(numbers == row.object)
        assert (left, top, right, bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert len(ids) == len(rows)


def test_what_was_resampled_is_in_pixels_of_the_image(tmp_path):
    class_map = np.zeros((30, 40), np.uint8)
    class_map[10:20, 10:30] = 1
    rows, content, *_ = write(tmp_path, class_map, 16, scale=2.5, mpp=0.2)
    row = rows.iloc[0]
    assert (row.x_px, row.y_px, row.area_px) == (20 * 2.5, 15 * 2.5, 200 * 2.5**2)
    assert (row.x_um, row.area_um2) == pytest.approx((10.0, 200 * 2.5**2 * 0.04))
    assert shape(content["features"][0]["geometry"]).equals(shapely.box(25, 25, 75, 50))


def test_a_hole_of_another_class_stays_a_hole(tmp_path):
    class_map = np.zeros((40, 40), np.uint8)
    class_map[5:35, 5:35] = 1
    class_map[15:25, 15:25] = 2
    _, content, *_ = write(tmp_path, class_map, 16)
    outer, inner = sorted((shape(f["geometry"]) for f in content["features"]), key=lambda s: -s.area)
    assert outer.equals(shapely.box(5, 5, 35, 35) - inner) and inner.equals(shapely.box(15, 15, 25, 25))


def test_no_object_is_an_empty_table_and_a_valid_file(tmp_path):
    rows, content, *_ = write(tmp_path, np.zeros((20, 20), np.uint8), 8)
    assert len(rows) == 0 and "area_px" in rows and content == {"type": "FeatureCollection", "features": []}
