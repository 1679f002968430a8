"""Horizontal and vertical distance maps of instances, and instances from such maps (HoVer-Net, Graham et al., 2019).

In a pair of maps (2, H, W) the first, horizontal one says of each pixel of an object how far right of the object's
centre of mass it lies, the second one how far below: -1 at the leftmost (topmost) pixels, 0 at the centre, 1 at the
rightmost (lowest). Background is 0. Where objects touch the maps fall from 1 to -1: there they are divided.
"""

import math

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.measure import label

from GenSelfDiff.instances import EDGE, InstanceSettings, to_instances

# Chosen on six validation images of MoNuSeg at 20x, from true maps that were blurred and made noisy.
SMOOTHING = 1.25  # pixels: deviation of the Gaussian whose derivative finds the edges
FALL = 0.2  # by which a map falls where objects touch, at least: sharp maps do by up to 2


def hv_maps(instances: np.ndarray) -> np.ndarray:
    """Instance numbers (H, W), 0 for background, to their two maps, float32 (2, H, W) in [-1, 1].

    Each piece of an instance that hangs together (8 neighbours) counts for itself: what the border of a patch, or
    another nucleus, has cut in two has two centres. Distances to the left of the centre are divided by the largest of
    them, those to the right by theirs; so are those above and below.
    """
    pieces = label(instances, connectivity=2)
    rows, columns = np.nonzero(pieces)
    numbers = pieces[rows, columns]
    maps = np.zeros((2, *instances.shape), np.float32)
    maps[:, rows, columns] = _distances(columns, numbers), _distances(rows, numbers)
    return maps


def _distances(places: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """From the mean place of all pixels of the same number to each pixel (n,), by the largest to the same side."""
    total, count = np.bincount(numbers, places), np.bincount(numbers)
    distance = places - (total / np.maximum(count, 1))[numbers]
    farthest = np.zeros((2, len(count)))
    for side, sign in zip(farthest, (-1, 1), strict=True):
        np.maximum.at(side, numbers, sign * distance)
    largest = np.where(distance < 0, farthest[0][numbers], farthest[1][numbers])
    return distance / np.where(largest > 0, largest, 1)


def seen_from_before(maps: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    """What maps (..., 2, H, W) of a changed image say of the image before.

    It was turned by so many quarters (counter-clockwise, as `numpy.rot90`), and then, with `flip`, flipped from left to
    right. Pixels go back to their places, and what was right, left, below or above becomes so again.
    """
    maps = np.rot90(maps[..., ::-1] if flip else maps, -turns, axes=(-2, -1))
    h, v = -maps[..., 0, :, :] if flip else maps[..., 0, :, :], maps[..., 1, :, :]
    for _ in range(turns % 4):
        h, v = -v, h
    return np.stack((h, v), axis=-3)


def hv_edges(maps: np.ndarray, inside: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """How much of an edge between two objects each pixel of two maps (2, H, W) is: float32 (H, W), see `EDGE`.

    Seen as one field of vectors away from the centres, the maps diverge in an object, in all directions; where two
    objects touch they fall, most of all across the edge, whatever its direction. That fall is minus the smaller
    eigenvalue of the symmetric part of the field's Jacobian; its derivatives are smoothed by a Gaussian and multiplied
    so that a sudden fall by 1 counts as 1. (HoVer-Net takes the larger of Sobel's derivatives of each map along its own
    axis, relative to the largest of the image: less on oblique edges, and not the same for a part of an image.)

    What lies outside of all objects (`inside` is where they are, (H, W)) takes the values of the nearest pixel inside,
    so that the ends of an edge are as clear as its middle. `scale`: how many times the maps were enlarged since the
    network said them.
    """
    if not inside.any():
        return np.zeros(inside.shape, np.float32)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    maps, deviation = maps[:, *nearest], SMOOTHING * scale
    (hx, hy), (vx, vy) = (
        [gaussian_filter(of_axis, deviation, order=order, mode="nearest") for order in ((0, 1), (1, 0))]
        for of_axis in maps
    )
    smaller = (hx + vy) / 2 - np.hypot((hx - vy) / 2, (hy + vx) / 2)
    height = deviation * math.sqrt(2 * math.pi)  # the inverse of the Gaussian's peak: a sudden fall's derivative there
    return (-height * EDGE / FALL * smaller).astype(np.float32)


def decode(
    class_map: np.ndarray, maps: np.ndarray, settings: InstanceSettings | None = None, scale: float = 1.0
) -> np.ndarray:
    """Class indices (H, W) and two maps (2, H, W) to instances 1, 2, ... int32 (H, W); see `to_instances`."""
    edges = hv_edges(maps, class_map > 0, scale)
    return to_instances(class_map, "hv", settings or InstanceSettings(), edges)
