"""Figures of merit: those of the released code under their published names, and the standard ones beside them.

Convention for classes that are absent, in all standard figures: absent in truth and prediction, the figure is NaN and
left out of means; absent in one of them only, Dice, Jaccard, precision, sensitivity, AJI and PQ are 0 and distances are
the diagonal of the image (specificity and accuracy, which count the true background, are what they are).
"""

import math

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

ABSENT_CLASSES = (
    "a class absent from truth and prediction is left out; absent from one of them, overlap figures are 0 and "
    "distances the image's diagonal"
)
# Of the published Hausdorff distance: the rows that bound a row's distance, and how many are computed before the rest.
NEIGHBOURS = np.array([-1, 0, 1])
FIRST_ROWS = 8


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column), int64 (classes, classes); class maps of one shape.

    Raises `ValueError` for an index outside 0 .. classes - 1.
    """
    if truth.size and not 0 <= min(truth.min(), prediction.min()) <= max(truth.max(), prediction.max()) < classes:
        raise ValueError(f"class maps hold other indices than 0 to {classes - 1}")
    pairs = truth.ravel().astype(np.int64) * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _counts(matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """True positives, false positives, false negatives and true negatives of each class, (C,) each."""
    tp = np.diag(matrix)
    fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
    return tp, fp, fn, matrix.sum() - tp - fp - fn


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float) -> np.ndarray:
    """Quotient, `empty` where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), empty), where=denominator > 0)


# --- as published ---


def published_metrics(truth: np.ndarray, prediction: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The released code's figures of one patch, under their published names, for the classes 1 .. C-1, (C-1,) each.

    Class maps (H, W). An empty denominator gives 1. Two are not what their names say elsewhere: "AJI" takes every class
    as one object (one number, (1,)), and "Hausdorff_distance" compares the rows of the masks as points.
    """
    matrix = confusion_matrix(truth, prediction, classes)
    tp, fp, fn, tn = (counts[1:] for counts in _counts(matrix))
    masks = zip(_packed(truth, classes), _packed(prediction, classes), strict=True)
    return {
        "AJI": np.array([_class_map_aji(matrix)]),
        "Jaccard_score": ratio(tp, tp + fp + fn, 1.0),
        "F1_score": ratio(2 * tp, 2 * tp + fp + fn, 1.0),
        "Hausdorff_distance": np.array([_row_hausdorff(*pair) for pair in masks]),
        "accuracy": (tp + tn) / matrix.sum(),
        "sensitivity": ratio(tp, tp + fn, 1.0),
        "precision": ratio(tp, tp + fp, 1.0),
        "specificity": ratio(tn, tn + fp, 1.0),
        "dice": (2 * tp + 1) / (2 * tp + fp + fn + 1),
    }


def _class_map_aji(matrix: np.ndarray) -> float:
    """The released "AJI": each class is one object; see `instance_counts` for the real one."""
    foreground = matrix[1:, 1:]
    true_area, predicted_area = matrix[1:].sum(1), matrix[:, 1:].sum(0)
    intersection = union = 0
    used = np.zeros(len(predicted_area), bool)
    for c in np.flatnonzero(true_area):
        if not foreground[c].any():
            union += true_area[c]
            continue
        unions = true_area[c] + predicted_area - foreground[c]
        best = int(np.argmax(foreground[c] / unions))
        intersection, union, used[best] = intersection + foreground[c, best], union + unions[best], True
    union += predicted_area[~used].sum()
    return intersection / union if union else 1.0


def _packed(class_map: np.ndarray, classes: int) -> np.ndarray:
    """The masks of the classes 1 .. C-1 of a class map (H, W), 64 pixels of a row a number: uint64 (C-1, W / 64, H)."""
    masks = class_map.astype(np.uint8) == np.arange(1, classes, dtype=np.uint8)[:, None, None]
    packed = np.packbits(masks, axis=-1)
    filled = np.pad(packed, ((0, 0), (0, 0), (0, -packed.shape[-1] % 8)))
    return np.ascontiguousarray(np.ascontiguousarray(filled).view(np.uint64).swapaxes(1, 2))


def _row_hausdorff(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The released "Hausdorff": the rows of two masks as points of W coordinates, both ways; packed, (W / 64, H)."""
    one_way = _farthest_row(truth, prediction, 0)
    return math.sqrt(_farthest_row(prediction, truth, one_way))


def _farthest_row(a: np.ndarray, b: np.ndarray, farthest: int) -> int:
    """The largest squared distance from a row of `a` to the nearest of `b`, at least `farthest`; masks (W / 64, H).

    A squared distance is a number of differing pixels. The rows about the same height bound it for each row. Rows of
    the largest bounds come first; one whose bound is no larger than what was found already cannot change it.
    """
    height = a.shape[1]
    about = (np.arange(height) + NEIGHBOURS[:, None]) % height
    bounds = np.bitwise_count(a[:, None] ^ b[:, about]).sum(0, dtype=np.int32).min(0)
    order = np.argsort(-bounds)
    start, number = 0, FIRST_ROWS
    while start < height and bounds[order[start]] > farthest:
        rows = order[start : start + number]
        differing = np.zeros((len(rows), height), np.int32)
        for ours, others in zip(a[:, rows], b, strict=True):
            differing += np.bitwise_count(ours[:, None] ^ others)
        farthest = max(farthest, int(differing.min(1).max()))
        start, number = start + number, 2 * number
    return farthest


# --- standard ---


def overlap_metrics(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of every class, (C,) each, from a confusion matrix of one image, or of many added up.

    Specificity is NaN, too, where every pixel belongs to the class.
    """
    tp, fp, fn, tn = _counts(matrix)
    absent = tp + fp + fn == 0
    figures = {
        "Dice": ratio(2 * tp, 2 * tp + fp + fn, 0.0),
        "Jaccard": ratio(tp, tp + fp + fn, 0.0),
        "precision": ratio(tp, tp + fp, 0.0),
        "sensitivity": ratio(tp, tp + fn, 0.0),
        "specificity": ratio(tn, tn + fp, math.nan),
        "accuracy": (tp + tn) / matrix.sum(),
    }
    return {name: np.where(absent, np.nan, values) for name, values in figures.items()}


def boundary(mask: np.ndarray) -> np.ndarray:
    """Coordinates (N, 2) of the pixels of a boolean mask (H, W) with a neighbour (of 4) outside it or the image."""
    return np.argwhere(mask & ~binary_erosion(mask))


def hausdorff(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """Symmetric Hausdorff distance and HD95 between the boundaries of two boolean masks (H, W), in pixels.

    The larger of the two directed distances: the maximum, and the 95th percentile, of the distances from the boundary
    pixels of one mask to the nearest of the other.
    """
    if not truth.any() and not prediction.any():
        return math.nan, math.nan
    if not truth.any() or not prediction.any():
        diagonal = math.hypot(*truth.shape)
        return diagonal, diagonal
    a, b = boundary(truth), boundary(prediction)
    directed = KDTree(b).query(a)[0], KDTree(a).query(b)[0]
    return max(d.max() for d in directed), max(float(np.percentile(d, 95)) for d in directed)
