"""Objects as tables and outlines: one csv row and one GeoJSON feature each, as QuPath reads them."""

import contextlib
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from GenSelfDiff.instances import InstanceMethod
from GenSelfDiff.palette import colours
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.measurements import Measured, measure_objects
from GenSelfDiff.whole_image.objects import ImageFacts, Objects, Progress
from utils_general import replace_file

# Columns of the table that QuPath gets too, and how they are called there
MEASUREMENTS = {
    "area_px": "Area px^2",
    "perimeter_px": "Perimeter px",
    "mean_probability": "Mean probability",
    "area_um2": "Area µm^2",
    "perimeter_um": "Perimeter µm",
}
# What QuPath calls objects: those that are divided from each other are small and many, as nuclei
OBJECT_TYPES: dict[InstanceMethod, str] = {
    "components": "annotation", "watershed": "detection", "border": "detection", "hv": "detection"
}  # fmt: skip
DECIMALS = 3  # of a pixel, in outlines


def write_objects(
    blocks: Blocks, objects: Objects, method: InstanceMethod, image: ImageFacts, base: str, progress: Progress
) -> None:
    """Measure all objects and write `<base>_objects.csv` and `<base>.geojson`; keep the map "numbers" of each block."""
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(replace_file(Path(base + end))) for end in ("_objects.csv", ".geojson")]
        csv, geojson = (stack.enter_context(path.open("w", newline="", encoding="utf-8")) for path in paths)
        geojson.write('{"type": "FeatureCollection", "features": [')
        before = "\n"
        for measured in measure_objects(blocks, objects, method, progress):
            rows = table(measured, image)
            rows.to_csv(csv, index=False, header=csv.tell() == 0, float_format="%.9g")
            for feature in features(measured, rows, image, OBJECT_TYPES[method]):
                geojson.write(before + feature)
                before = ",\n"
        geojson.write("\n]}\n")


def table(measured: Measured, image: ImageFacts) -> pd.DataFrame:
    """A row an object: place and sizes in pixels of the image, from its top left corner; in micrometres where known."""
    scale_x, scale_y = image.view.scale
    rows = pd.DataFrame({
        "object": measured.numbers,
        "class": [image.classes[c] for c in measured.class_of],
        "x_px": measured.x * scale_x,
        "y_px": measured.y * scale_y,
        "area_px": measured.area * (scale_x * scale_y),
        "perimeter_px": measured.perimeter * math.sqrt(scale_x * scale_y),
        "mean_probability": measured.probability,
    })  # fmt: skip
    mpp = math.nan if image.mpp is None else image.mpp
    return rows.assign(
        x_um=rows.x_px * mpp, y_um=rows.y_px * mpp, area_um2=rows.area_px * mpp**2, perimeter_um=rows.perimeter_px * mpp
    )


def features(measured: Measured, rows: pd.DataFrame, image: ImageFacts, object_type: str) -> Iterator[str]:
    """A GeoJSON feature an object, as text; its outline is in pixels of the image."""
    if not len(rows):
        return
    straight = shapely.simplify(measured.outlines, 0)  # without the corners of pixels along a straight edge
    shapes = shapely.transform(straight, lambda points: np.round(points * image.view.scale, DECIMALS))
    names = [name for name in MEASUREMENTS if rows[name].notna().all()]
    kinds = [json.dumps({"name": c, "color": colours(np.array(i)).tolist()}) for i, c in enumerate(image.classes)]
    columns = (rows.object, measured.class_of, shapely.to_geojson(shapes), rows[names].to_numpy())
    for number, c, shape, values in zip(*columns, strict=True):
        id_ = uuid.uuid5(uuid.NAMESPACE_URL, f"{image.name}#{number}")
        measurements = ", ".join(f'"{MEASUREMENTS[n]}": {v:.9g}' for n, v in zip(names, values, strict=True))
        yield (
            f'{{"type": "Feature", "id": "{id_}", "geometry": {shape}, "properties": {{'
            f'"objectType": "{object_type}", "classification": {kinds[c]}, "measurements": {{{measurements}}}}}}}'
        )
