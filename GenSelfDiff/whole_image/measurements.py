"""What is measured of the objects of a whole image: place, size, probability, outline; in pixels that are worked on.

It goes block by block. What two blocks see of an object adds up, and an object is given out as soon as the last block
that it reaches is known: so memory holds few outlines.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from GenSelfDiff.instances import InstanceMethod
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.objects import MARGINS, Objects, Progress, inner

BESIDE = ((0, 1), (1, 0), (0, -1), (-1, 0))  # the neighbours of a pixel, (y, x)
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
# How long a pixel of a contour is, by 1 + 2 x its neighbours beside it on the contour + 10 x those at its corners
LENGTHS = np.zeros(1 + 2 * len(BESIDE) + 10 * len(CORNERS) + 1)
LENGTHS[[5, 7, 15, 17, 25, 27]] = 1
LENGTHS[[21, 33]] = math.sqrt(2)
LENGTHS[[13, 23]] = (1 + math.sqrt(2)) / 2


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Some objects and what was measured of them, (n,) each; in pixels, from the top left corner of the image."""

    numbers: np.ndarray
    class_of: np.ndarray
    x: np.ndarray
    """of the centroid"""
    y: np.ndarray
    area: np.ndarray
    perimeter: np.ndarray
    probability: np.ndarray
    """mean over the object's pixels, 0 to 1"""
    outlines: np.ndarray
    """shapely's (multi)polygons, with holes, along the edges of the pixels"""


class _Sums:
    """Sums over the pixels of each object, by its number (n + 1,)."""

    def __init__(self, objects: int):
        self.x, self.y, self.probability, self.perimeter = (np.zeros(objects + 1) for _ in range(4))

    def add(self, numbers: np.ndarray, corner: tuple[int, int], probability: np.ndarray, lengths: np.ndarray) -> None:
        """Take in a block at `corner` (x, y): numbers, the probability of each pixel's class, `contour_lengths`."""
        y, x = np.nonzero(numbers)
        present, local = np.unique(numbers[y, x], return_inverse=True)
        terms = (x + corner[0] + 0.5, y + corner[1] + 0.5, probability[y, x], lengths[y, x])
        for total, values in zip((self.x, self.y, self.probability, self.perimeter), terms, strict=True):
            total[present] += np.bincount(local, weights=values, minlength=len(present))


def measure_objects(blocks: Blocks, objects: Objects, method: InstanceMethod, progress: Progress) -> Iterator[Measured]:
    """All objects in the order of their numbers: of each block those that end there. Keeps its map "numbers"."""
    sums, pieces = _Sums(len(objects)), defaultdict(list)
    ends = np.searchsorted(objects.last[1:], np.arange(len(blocks)), side="right") + 1  # objects before it are complete
    for block, (first, end) in enumerate(zip([1, *ends[:-1]], ends, strict=True)):
        numbers = objects.renumber(block, blocks.read("labels", block, "labels"))
        here, corner = inner(blocks, block, blocks.box(block, MARGINS[method])), blocks.box(block)[:2]
        blocks.write("numbers", block, numbers=numbers[here])
        if numbers[here].any():
            probability = _own_probability(blocks, block, objects.class_of[numbers[here]])
            sums.add(numbers[here], corner, probability, contour_lengths(numbers)[here])
            for number, shape in outlines(numbers[here], corner):
                pieces[number].append(shape)
        yield _measured(objects, sums, np.arange(first, end), [pieces.pop(number) for number in range(first, end)])
        progress()


def _measured(objects: Objects, sums: _Sums, numbers: np.ndarray, pieces: list[list[shapely.Geometry]]) -> Measured:
    """Objects whose sums and pieces of outlines are complete."""
    area = objects.area[numbers]
    return Measured(
        numbers=numbers,
        class_of=objects.class_of[numbers],
        x=sums.x[numbers] / area,
        y=sums.y[numbers] / area,
        area=area,
        perimeter=sums.perimeter[numbers],
        probability=sums.probability[numbers] / area,
        outlines=np.array([shapely.union_all(some) if len(some) > 1 else some[0] for some in pieces], object),
    )


def _own_probability(blocks: Blocks, block: int, class_of: np.ndarray) -> np.ndarray:
    """The probability of each pixel's class `class_of` (H, W), 0 where that is the background; float32 (H, W)."""
    probability = np.zeros(class_of.shape, np.float32)
    for c in np.unique(class_of[class_of > 0]):
        mask = class_of == c
        probability[mask] = blocks.read("classes", block, f"probability_{c}")[mask] / np.float32(255)
    return probability


def contour_lengths(numbers: np.ndarray) -> np.ndarray:
    """How much each pixel adds to the perimeter of its object, float64 (H, W): 0 inside.

    The estimate of Benkrid and Crookes (2000), as in `skimage.measure.perimeter`: a pixel of the contour counts 1,
    sqrt(2) or their mean, by whether its neighbours on the contour are beside it or at its corners.
    """
    padded = np.pad(numbers, 2)
    number = padded[1:-1, 1:-1]
    enclosed = np.logical_and.reduce([_neighbour(padded, *d) == number for d in BESIDE])
    contour = np.where((number > 0) & ~enclosed, number, 0)  # its number on the contour, else 0
    own = contour[1:-1, 1:-1]
    code = np.ones(own.shape, np.uint8)
    for weight, directions in ((2, BESIDE), (10, CORNERS)):
        for d in directions:
            code += np.uint8(weight) * (_neighbour(contour, *d) == own)
    return np.where(own > 0, LENGTHS[code], 0)


def _neighbour(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """What lies (dy, dx) from each pixel but those at the border, (H - 2, W - 2)."""
    height, width = array.shape
    return array[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]


def outlines(numbers: np.ndarray, corner: tuple[int, int]) -> Iterator[tuple[int, shapely.Geometry]]:
    """Each number and the outline of its pixels (with holes), along their edges; the map (H, W) is at `corner` (x, y).

    It is the union of the object's runs: of its rows of neighbouring pixels, each a rectangle.
    """
    padded = np.pad(numbers, ((0, 0), (1, 1)))
    y, x = np.nonzero(padded[:, 1:] != padded[:, :-1])  # where runs begin and end, row by row
    begins = padded[y, x + 1] > 0
    number, ends = padded[y, x + 1][begins], np.append(x[1:], 0)[begins]  # a run ends where the next begins
    x, y = x[begins], y[begins]
    order = np.argsort(number, kind="stable")
    runs = shapely.box(x + corner[0], y + corner[1], ends + corner[0], y + 1 + corner[1])[order]
    number = number[order]
    starts = np.flatnonzero(np.diff(number, prepend=0))
    for n, group in zip(number[starts], np.split(runs, starts[1:]), strict=True):
        yield int(n), shapely.union_all(group)
