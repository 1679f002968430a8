"""Are synthetic structures copies of those that were learnt from? Nearest structures, areas and numbers of nuclei."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from GenSelfDiff.methods.nudiff.structure import areas_inside, pieces
from GenSelfDiff.predictor import VIEWS

ORIENTATIONS = VIEWS["all"]
"""Quarter turns, and then whether flipped from left to right: all that the augmentation can make of a patch."""
TOGETHER = 32  # structures that are compared with all others at once: what bounds the memory


class Nearest(NamedTuple):
    """Of each of some structures, the one of others that it overlaps most."""

    position: np.ndarray
    """in the others (N,)"""
    orientation: np.ndarray
    """of the other, in `ORIENTATIONS` (N,)"""
    overlap: np.ndarray
    """intersection over union of the nuclei's pixels (N,); of two empty ones 1"""


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, ...) turned and flipped."""
    turns, flip = ORIENTATIONS[orientation]
    turned = np.rot90(array, turns)
    return turned[:, ::-1] if flip else turned


def nearest(masks: np.ndarray, others: np.ndarray) -> Nearest:
    """For masks bool (N, H, W) the nearest of others (M, H, W), which may lie in all eight ways; both square."""
    ours = masks.reshape(len(masks), -1).astype(np.float32)
    best = Nearest(np.zeros(len(masks), int), np.zeros(len(masks), int), np.full(len(masks), -1.0))
    for start in range(0, len(others), TOGETHER):
        some = others[start : start + TOGETHER]
        for orientation in range(len(ORIENTATIONS)):
            theirs = np.stack([oriented(mask, orientation) for mask in some]).reshape(len(some), -1).astype(np.float32)
            both = ours @ theirs.T
            either = ours.sum(1, keepdims=True) + theirs.sum(1) - both
            overlap = np.where(either > 0, both / np.maximum(either, 1), 1.0)
            place = overlap.argmax(1)
            found = overlap[np.arange(len(ours)), place]
            better = found > best.overlap
            best.position[better], best.orientation[better] = start + place[better], orientation
            best.overlap[better] = found[better]
    return best


def nuclei(instances: list[np.ndarray]) -> dict[str, float]:
    """Numbers and areas (pixels) of the nuclei of some patches (H, W); areas of those that no border cuts."""
    counts = [int(pieces(one).max()) for one in instances]
    areas = np.concatenate([areas_inside(one) for one in instances])
    tenth, median, ninth = np.quantile(areas, (0.1, 0.5, 0.9)) if len(areas) else (np.nan,) * 3
    return {
        "patches": len(instances),
        "nuclei a patch": float(np.mean(counts)),
        "deviation": float(np.std(counts)),
        "area, lowest tenth": float(tenth),
        "area, median": float(median),
        "area, highest tenth": float(ninth),
        "covered": float(np.mean([(one > 0).mean() for one in instances])),
    }


def table_of(kind: str, patches: list[int], found: Nearest, numbers: np.ndarray) -> pd.DataFrame:
    """A row a structure: its patch, and of the training patches with these numbers the nearest."""
    turns, flips = zip(*(ORIENTATIONS[o] for o in found.orientation), strict=True) if len(patches) else ((), ())
    return pd.DataFrame(
        {
            "structures": kind,
            "patch": patches,
            "nearest training patch": numbers[found.position],
            "turned": turns,
            "flipped": flips,
            "overlap": found.overlap,
        }
    )
