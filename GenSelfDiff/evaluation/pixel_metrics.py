"""Metrics on pixels and masks: those of the released code under their published names, and the standard ones.

Convention for classes that are absent, in all standard metrics: absent in truth and prediction, the value is NaN and
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
    """The released code's metrics of one patch, under their published names, for the classes 1 .. C-1, (C-1,) each.

    Class maps (H, W). An empty denominator gives 1. Two are not what their names say elsewhere: "AJI" takes every class
    as one object (one number, (1,)), and "Hausdorff_distance" compares the rows of the masks as points.
    """
    matrix = confusion_matrix(truth, prediction, classes)
    tp, fp, fn, tn = (counts[1:] for counts in _counts(matrix))
    return {
        "AJI": np.array([_class_map_aji(matrix)]),
        "Jaccard_score": ratio(tp, tp + fp + fn, 1.0),
        "F1_score": ratio(2 * tp, 2 * tp + fp + fn, 1.0),
        "Hausdorff_distance": np.array([row_hausdorff(truth == c, prediction == c) for c in range(1, classes)]),
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


def row_hausdorff(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The released "Hausdorff": the rows of two boolean masks (H, W) as points of W coordinates, both ways.

    Squared distances are |a|^2 + |b|^2 - 2 a b^T: numbers of pixels, exact in float32.
    """
    a, b = truth.astype(np.float32), prediction.astype(np.float32)
    squared = a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T
    return math.sqrt(max(squared.min(0).max(), squared.min(1).max()))


# --- standard ---


def overlap_metrics(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of every class, (C,) each, from a confusion matrix of one image, or of many added up.

    Specificity is NaN, too, where every pixel belongs to the class.
    """
    tp, fp, fn, tn = _counts(matrix)
    absent = tp + fp + fn == 0
    metrics = {
        "Dice": ratio(2 * tp, 2 * tp + fp + fn, 0.0),
        "Jaccard": ratio(tp, tp + fp + fn, 0.0),
        "precision": ratio(tp, tp + fp, 0.0),
        "sensitivity": ratio(tp, tp + fn, 0.0),
        "specificity": ratio(tn, tn + fp, math.nan),
        "accuracy": (tp + tn) / matrix.sum(),
    }
    return {name: np.where(absent, np.nan, values) for name, values in metrics.items()}


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
