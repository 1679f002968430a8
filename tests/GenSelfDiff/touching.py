"""Instance maps of objects that touch."""

import numpy as np


def ellipse(shape, centre, radii):
    """Where an ellipse is, bool (H, W); `centre` and `radii`: down and across."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def pair(radius, angle, apart=2.0, stretched=1.0):
    """Two discs, or ellipses `stretched` across, whose centres lie so many radii apart: numbers 1 and 2, (H, W)."""
    side = round(6 * radius * stretched) + 8
    step = radius * apart / 2 * np.array([np.sin(angle), stretched * np.cos(angle)])
    first, second = (
        ellipse((side, side), side / 2 + sign * step, (radius, radius * stretched)) for sign in (-1, 1)
    )  # fmt: skip
    return np.where(first, 1, 2 * second)


def crowd(size, number, seed, radii=(5, 12)):
    """Discs at random places, the later ones on top, int32 (size, size): many touch, some are covered in part."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((size, size), np.int32)
    for i in range(number):
        instances[ellipse((size, size), rng.uniform(0, size, 2), [rng.uniform(*radii)] * 2)] = i + 1
    return instances


def overlaps(found, truth):
    """The largest IoU of each true instance with one that was found, by number."""
    both = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(both, (truth.ravel(), found.ravel()), 1)
    either = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    there = np.unique(truth[truth > 0])
    return (both / np.maximum(either, 1))[there, 1:].max(1, initial=0)
