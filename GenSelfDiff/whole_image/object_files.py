"""Objects as tables and outlines: one csv row and one GeoJSON feature each, as QuPath reads them."""

import contextlib
import json
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import shapely

from GenSelfDiff.instances import InstanceMethod
from GenSelfDiff.palette import colours
from GenSelfDiff.whole_image.objects import MARGINS, Objects, Progress, inner
from GenSelfDiff.whole_image.slides import View
from GenSelfDiff.whole_image.windows import Blocks
from utils_general import replace_file

MEASUREMENTS = {
    "area_px": "Area px^2",
    "perimeter_px": "Perimeter px",
    "mean_probability": "Mean probability",
    "area_um2": "Area µm^2",
    "perimeter_um": "Perimeter µm",
}


@dataclass
class Sums:
    """Sums over the pixels of each object, by number (n + 1,); what two blocks see of an object adds up."""

    x: np.ndarray
    y: np.ndarray
    probability: np.ndarray
    perimeter: np.ndarray

    @classmethod
    def none(cls, objects: int) -> "Sums":
        """Nothing added up yet."""
        return cls(*(np.zeros(objects + 1) for _ in range(4)))

    def add(self, numbers: np.ndarray, corner: tuple[int, int], probability: np.ndarray, lengths: np.ndarray) -> None:
        """Take in a block at `corner` (x, y): numbers, the probability of each pixel's class, `contour_lengths`."""
        y, x = np.nonzero(numbers)
        present, local = np.unique(numbers[y, x], return_inverse=True)
        terms = (x + corner[0] + 0.5, y + corner[1] + 0.5, probability[y, x], lengths[y, x])
        for total, values in zip((self.x, self.y, self.probability, self.perimeter), terms, strict=True):
            total[present] += np.bincount(local, weights=values, minlength=len(present))


def contour_lengths(numbers: np.ndarray) -> np.ndarray:
    """How much each pixel adds to the perimeter of its object, float64 (H, W): 0 inside.

    The estimate of Benkrid and Crookes (2000), as in `skimage.measure.perimeter`: a pixel of the contour counts 1,
    sqrt(2) or their mean, by whether its neighbours on the contour are beside it or at its corners.
    """
    padded = np.pad(numbers, 2)
    height, width = padded.shape
    inside = np.s_[1 : height - 1, 1 : width - 1]

    def moved(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
        return array[1 + dy : array.shape[0] - 1 + dy, 1 + dx : array.shape[1] - 1 + dx]

    beside = ((0, 1), (1, 0), (0, -1), (-1, 0))
    corners = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    same = np.logical_and.reduce([moved(padded, *d) == padded[inside] for d in beside])
    contour = np.where((padded[inside] > 0) & ~same, padded[inside], 0)  # its number on the contour, else 0
    middle = contour[1:-1, 1:-1]
    code = np.ones(middle.shape, np.uint8)
    for weight, directions in ((2, beside), (10, corners)):
        for d in directions:
            code += np.uint8(weight) * (moved(contour, *d) == middle)
    length = np.zeros(50)
    length[[5, 7, 15, 17, 25, 27]], length[[21, 33]], length[[13, 23]] = 1, math.sqrt(2), (1 + math.sqrt(2)) / 2
    return np.where(middle > 0, length[code], 0)


def outlines(numbers: np.ndarray, corner: tuple[int, int]) -> Iterator[tuple[int, shapely.Geometry]]:
    """Each number and the outline of its pixels (with holes), along the edges of the pixels; the map is at `corner`."""
    padded = np.pad(numbers, ((0, 0), (1, 1)))
    y, x = np.nonzero(padded[:, 1:] != padded[:, :-1])  # where runs begin and end, row by row
    begins = padded[y, x + 1] > 0
    number, ends = padded[y, x + 1][begins], np.append(x[1:], 0)[begins]
    x, y = x[begins], y[begins]
    order = np.argsort(number, kind="stable")
    runs = shapely.box(x + corner[0], y + corner[1], ends + corner[0], y + 1 + corner[1])[order]
    number = number[order]
    starts = np.flatnonzero(np.diff(number, prepend=0))
    for n, group in zip(number[starts], np.split(runs, starts[1:]), strict=True):
        yield int(n), shapely.union_all(group)


@dataclass
class Table:
    """Where the objects of one image are written, in pixels of the image: `<name>_objects.csv`, `<name>.geojson`."""

    csv: TextIO
    geojson: TextIO
    name: str
    """of the image's file: with an object's number it makes the object's id"""
    classes: list[str]
    kind: str
    """what QuPath calls such objects: "detection" (small and many, as nuclei) or "annotation" """
    view: View
    mpp: float | None
    """micrometres a pixel of the image"""
    written: int = field(default=0, init=False)

    def write(self, objects: Objects, sums: Sums, numbers: range, pieces: dict[int, list[shapely.Geometry]]) -> None:
        """Write some objects, whose sums and pieces of outlines are complete."""
        rows = self._rows(objects, sums, np.asarray(numbers, np.int64))
        rows.to_csv(self.csv, index=False, header=self.csv.tell() == 0, float_format="%.9g")
        if not len(rows):
            return
        whole = np.array([shapely.union_all(p) if len(p) > 1 else p[0] for p in (pieces[n] for n in numbers)])
        shapes = shapely.transform(shapely.simplify(whole, 0), lambda c: np.round(c * self.view.scale, 3))
        names = [name for name in MEASUREMENTS if rows[name].notna().all()]
        kinds = [self._properties(c) for c in range(len(self.classes))]
        columns = (objects.class_of[rows.object], shapely.to_geojson(shapes), rows[names].to_numpy())
        for number, c, shape, values in zip(rows.object, *columns, strict=True):
            measured = ", ".join(f'"{MEASUREMENTS[n]}": {v:.9g}' for n, v in zip(names, values, strict=True))
            self.geojson.write(",\n" if self.written else "\n")
            self.geojson.write(
                f'{{"type": "Feature", "id": "{uuid.uuid5(uuid.NAMESPACE_URL, f"{self.name}#{number}")}", '
                f'"geometry": {shape}, "properties": {{{kinds[c]}, "measurements": {{{measured}}}}}}}'
            )
            self.written += 1

    def _properties(self, c: int) -> str:
        colour = colours(np.array(c)).tolist()
        properties = {"objectType": self.kind, "classification": {"name": self.classes[c], "color": colour}}
        return json.dumps(properties)[1:-1]

    def _rows(self, objects: Objects, sums: Sums, numbers: np.ndarray) -> pd.DataFrame:
        """Centroid and sizes in pixels of the image, from its top left corner; in micrometres where known."""
        scale_x, scale_y = self.view.scale
        area = objects.area[numbers]
        rows = pd.DataFrame({
            "object": numbers,
            "class": [self.classes[c] for c in objects.class_of[numbers]],
            "x_px": sums.x[numbers] / area * scale_x,
            "y_px": sums.y[numbers] / area * scale_y,
            "area_px": area * (scale_x * scale_y),
            "perimeter_px": sums.perimeter[numbers] * math.sqrt(scale_x * scale_y),
            "mean_probability": sums.probability[numbers] / area,
        })  # fmt: skip
        micrometres = math.nan if self.mpp is None else self.mpp
        for name, power in (("x", 1), ("y", 1), ("area", 2), ("perimeter", 1)):
            rows[f"{name}_um{2 if power == 2 else ''}"] = rows[f"{name}_px"] * micrometres**power
        return rows


def write_objects(
    blocks: Blocks,
    objects: Objects,
    method: InstanceMethod,
    table_of: Callable[[TextIO, TextIO], Table],
    base: str,
    progress: Progress,
) -> None:
    """Measure all objects and write `<base>_objects.csv` and `<base>.geojson`; keep the map "numbers" of each block.

    An object is written as soon as the last block that it reaches is known, so memory holds few outlines.
    """
    sums, pieces = Sums.none(len(objects)), defaultdict(list)
    complete = np.searchsorted(objects.last[1:], np.arange(len(blocks)), side="right") + 1
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(replace_file(Path(base + end))) for end in ("_objects.csv", ".geojson")]
        csv, geojson = (stack.enter_context(path.open("w", newline="", encoding="utf-8")) for path in paths)
        table, first = table_of(csv, geojson), 1
        geojson.write('{"type": "FeatureCollection", "features": [')
        for block in range(len(blocks)):
            numbers = objects.renumber(block, blocks.read("labels", block, "labels"))
            here, corner = inner(blocks, block, blocks.box(block, MARGINS[method])), blocks.box(block)[:2]
            blocks.write("numbers", block, numbers=numbers[here])
            if numbers[here].any():
                probability = _own_probability(blocks, block, objects.class_of[numbers[here]])
                sums.add(numbers[here], corner, probability, contour_lengths(numbers)[here])
                for number, shape in outlines(numbers[here], corner):
                    pieces[number].append(shape)
            table.write(objects, sums, range(first, complete[block]), pieces)
            for number in range(first, complete[block]):
                del pieces[number]
            first = complete[block]
            progress()
        geojson.write("\n]}\n")


def _own_probability(blocks: Blocks, block: int, class_of: np.ndarray) -> np.ndarray:
    """The probability of each pixel's class `class_of` (H, W), 0 where that is the background; float32 (H, W)."""
    probability = np.zeros(class_of.shape, np.float32)
    for c in np.unique(class_of[class_of > 0]):
        mask = class_of == c
        probability[mask] = blocks.read("classes", block, f"probability_{c}")[mask] / np.float32(255)
    return probability
