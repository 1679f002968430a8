"""Figures of merit: those of the released code under their published names, and the standard ones beside them.

Convention for classes that are absent, in all standard figures: absent in truth and prediction, the figure is NaN and
left out of means; absent in one of them only, Dice, Jaccard, precision, sensitivity, AJI and PQ are 0 and distances are
the diagonal of the image (specificity and accuracy, which count the true background, are what they are).
"""

import math

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion
from scipy.sparse import coo_array
from scipy.spatial import KDTree
from skimage.measure import label

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


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float) -> np.ndarray:
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
    rows = [_row_hausdorff(truth == c, prediction == c) for c in range(1, classes)]
    return {
        "AJI": np.array([_class_map_aji(matrix)]),
        "Jaccard_score": _ratio(tp, tp + fp + fn, 1.0),
        "F1_score": _ratio(2 * tp, 2 * tp + fp + fn, 1.0),
        "Hausdorff_distance": np.array(rows),
        "accuracy": (tp + tn) / matrix.sum(),
        "sensitivity": _ratio(tp, tp + fn, 1.0),
        "precision": _ratio(tp, tp + fp, 1.0),
        "specificity": _ratio(tn, tn + fp, 1.0),
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


def _row_hausdorff(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The released "Hausdorff": the rows of two boolean masks (H, W) as points of W coordinates, both ways."""
    a, b = truth.astype(np.float32), prediction.astype(np.float32)  # counts up to 2^24 are exact
    squared = a.sum(1)[:, None] + b.sum(1)[None, :] - 2 * a @ b.T
    return math.sqrt(max(squared.min(1).max(), squared.min(0).max()))


# --- standard ---


def overlap_metrics(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of every class, (C,) each, from a confusion matrix of one image, or of many added up.

    Specificity is NaN, too, where every pixel belongs to the class.
    """
    tp, fp, fn, tn = _counts(matrix)
    absent = tp + fp + fn == 0
    figures = {
        "Dice": _ratio(2 * tp, 2 * tp + fp + fn, 0.0),
        "Jaccard": _ratio(tp, tp + fp + fn, 0.0),
        "precision": _ratio(tp, tp + fp, 0.0),
        "sensitivity": _ratio(tp, tp + fn, 0.0),
        "specificity": _ratio(tn, tn + fp, math.nan),
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


# What figures on instances are made of; sums of these over images give the pooled figures.
INSTANCE_COUNTS = (
    "intersection",
    "union",
    "matched pairs",
    "IoU of matched pairs",
    "true objects",
    "predicted objects",
)
INSTANCE_FIGURES = ("AJI", "PQ", "SQ", "RQ", "object F1")
MOST_PIECES = 10  # a gland that the image's border cuts has been seen in six


def instance_counts(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """`INSTANCE_COUNTS` of two instance maps (H, W), float64 (6,): integers, 0 background, any numbers.

    Intersection and union are those of the AJI (Kumar et al., 2017): each true object takes the prediction of largest
    IoU, which several may take; missed objects, and predictions that none took, enter the union whole. Matched are
    pairs with IoU > 0.5 (Kirillov et al., 2019). Raises `ValueError` for what is no instance map, see
    `check_instances`.
    """
    check_instances(truth, "truth")
    check_instances(prediction, "prediction")
    true_area, predicted_area, t, p, inter = _pairs(truth, prediction)
    union = true_area[t] + predicted_area[p] - inter
    iou = inter / union
    order = np.lexsort((-iou, t))  # by true object, best prediction first
    best = order[np.unique(t[order], return_index=True)[1]]
    missed, unused = np.ones(len(true_area), bool), np.ones(len(predicted_area), bool)
    missed[t[best]], unused[p[best]] = False, False
    whole = true_area[missed].sum() + predicted_area[unused].sum()
    matched = iou > 0.5  # no object can be in two such pairs
    return np.array(
        [
            *(inter[best].sum(), union[best].sum() + whole),
            *(matched.sum(), iou[matched].sum()),
            *(len(true_area), len(predicted_area)),
        ],
        np.float64,
    )


def instance_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """AJI, PQ, SQ, RQ and object F1 of `INSTANCE_COUNTS` (N, 6) of N classes or images, (N,) each.

    PQ = SQ x RQ (Kirillov et al., 2019): SQ is the mean IoU of the matched pairs (NaN without any), RQ the F1 of
    finding objects; "object F1" at IoU 0.5 is the same number under its other name. All are NaN where there is no
    object.
    """
    intersection, union, pairs, iou, true, predicted = counts.T
    rq = _ratio(2 * pairs, true + predicted, math.nan)
    figures = _ratio(intersection, union, math.nan), _ratio(2 * iou, true + predicted, math.nan)
    return dict(zip(INSTANCE_FIGURES, (*figures, _ratio(iou, pairs, math.nan), rq, rq), strict=True))


def check_instances(instances: np.ndarray, name: str) -> None:
    """Raise `ValueError` for what is no instance map (H, W), and above all for class maps.

    Masks of true and false, or with more than `MOST_PIECES` separate pieces a number: in a class map all nuclei share
    one. Figures on instances mean nothing there.
    """
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer) or instances.min() < 0:
        raise ValueError(f"{name} is no instance map: integers of 0 and above in two dimensions are wanted")
    numbers = len(pd.unique(instances[instances > 0]))
    if (pieces := label(instances, background=0, connectivity=2).max()) > MOST_PIECES * numbers:
        raise ValueError(f"{name} is no instance map but a class map: {pieces} pieces share {numbers} numbers")


def _pairs(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    """Areas of the true and predicted objects, and every overlapping pair: indices of both, and its pixels."""
    t, p = _consecutive(truth), _consecutive(prediction)
    overlaps = coo_array((np.ones(len(t), np.int64), (t, p))).tocsr().tocoo()  # equal pairs are added up
    pair_t, pair_p = overlaps.coords
    both = (pair_t > 0) & (pair_p > 0)
    return np.bincount(t)[1:], np.bincount(p)[1:], pair_t[both] - 1, pair_p[both] - 1, overlaps.data[both]


def _consecutive(instances: np.ndarray) -> np.ndarray:
    """Numbers replaced by 1, 2, ... in the order in which they appear, 0 stays; flat."""
    codes, numbers = pd.factorize(np.append(0, instances.ravel()))  # the background comes first, present or not
    return codes[1:]
