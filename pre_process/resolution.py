"""Images and labels made smaller: at which resolution a network works is a choice of the preprocessing."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from GenSelfDiff.native import native_files
from utils_general import write_png


@dataclass(frozen=True)
class Maps:
    """A whole image and what is known of its pixels."""

    image: np.ndarray
    """uint8 (H, W, 3)"""
    classes: np.ndarray | None = None
    """class indices uint8 (H, W)"""
    instances: np.ndarray | None = None
    """instance numbers uint16 (H, W), 0 for the background"""


def reduced_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Height and width of an image of `shape` (H, W) that is made `factor` times smaller."""
    height, width = shape
    return max(1, round(height / factor)), max(1, round(width / factor))


def reduce(native: Maps, factor: float) -> Maps:
    """The same `factor` times smaller in each direction; itself where that changes nothing.

    The image by area averaging (OpenCV's INTER_AREA). A label cannot be averaged: a pixel has the class that most of
    its own pixels have, and of that class's instances the one that most of them have. So an object keeps its class
    where two of them share a pixel, and nothing gets a number that is not its own.
    """
    if factor == 1:
        return native
    height, width = shape = reduced_shape(native.image.shape[:2], factor)
    image = cv2.resize(native.image, (width, height), interpolation=cv2.INTER_AREA)
    if native.classes is None:
        return Maps(image)
    classes = most_frequent(native.classes, shape)
    if native.instances is None:
        return Maps(image, classes)
    cells = cells_of(native.classes.shape, shape)
    of_its_class = (classes.ravel()[cells] == native.classes) & (native.classes > 0)
    instances = most_frequent(native.instances, shape, of_its_class)
    return Maps(image, classes, instances)


def cells_of(native: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """For each of (H, W) pixels the number, row by row, of the larger pixel of `shape` in which its centre lies."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(native, shape, strict=True))
    return rows[:, None] * shape[1] + columns


def most_frequent(values: np.ndarray, shape: tuple[int, int], counts: np.ndarray | None = None) -> np.ndarray:
    """The value that most of a larger pixel's own pixels have, of equals the lowest: (H, W) to `shape`.

    `counts` (H, W): which pixels are asked; 0 where none of them is.
    """
    cells, asked = cells_of(values.shape, shape), np.full(values.shape, True) if counts is None else counts
    span = int(values.max()) + 1
    keys, numbers = np.unique(cells[asked] * span + values[asked], return_counts=True)
    cell, value = keys // span, keys % span
    order = np.lexsort((value, -numbers, cell))
    first = order[np.unique(cell[order], return_index=True)[1]]
    result = np.zeros(shape[0] * shape[1], values.dtype)
    result[cell[first]] = value[first]
    return result.reshape(shape)


def write_native(folder: Path, source: str, native: Maps) -> None:
    """Keep a labelled image as it is, to measure on."""
    files = native_files(folder, source)
    for file, array in zip(files, (native.image, native.classes, native.instances), strict=True):
        if array is not None:
            write_png(file, array)
