"""Figures of merit: those of the released code under their published names, and the standard ones beside them.

Convention for classes that are absent, in all standard figures: absent in truth and prediction, the figure is NaN and
left out of means; absent in one of them only, overlap figures are 0 and distances are the diagonal of the image.
"""

import math

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

ABSENT_CLASSES = (
    "a class absent from truth and prediction is left out; "
    "absent from one of them it counts 0, for distances the image's diagonal"
)


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column), int64 (classes, classes); class maps of one shape."""
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
    """The released "AJI": each class is one object; see `instance_metrics` for the real one."""
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
    """The released "Hausdorff": the rows of two boolean masks (H, W) as points of W coordinates."""
    a, b = truth.astype(np.float32), prediction.astype(np.float32)  # counts up to 2^24 are exact
    squared = a.sum(1)[:, None] + b.sum(1)[None, :] - 2 * a @ b.T
    return math.sqrt(max(squared.min(1).max(), squared.min(0).max()))


# --- standard ---


def overlap_metrics(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of every class, (C,) each, from a confusion matrix of one image, or of many added up."""
    tp, fp, fn, tn = _counts(matrix)
    absent = tp + fp + fn == 0
    figures = {
        "Dice": _ratio(2 * tp, 2 * tp + fp + fn, 0.0),
        "Jaccard": _ratio(tp, tp + fp + fn, 0.0),
        "precision": _ratio(tp, tp + fp, 0.0),
        "sensitivity": _ratio(tp, tp + fn, 0.0),
        "specificity": _ratio(tn, tn + fp, 0.0),
        "accuracy": (tp + tn) / matrix.sum(),
    }
    return {name: np.where(absent, np.nan, values) for name, values in figures.items()}


def boundary(mask: np.ndarray) -> np.ndarray:
    """Coordinates (N, 2) of the pixels of a boolean mask (H, W) that have a neighbour (of 4) outside it."""
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


def instance_metrics(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """AJI, PQ, SQ, RQ and object F1 of two instance maps (H, W): integers, 0 background, any numbers.

    AJI (Kumar et al., 2017): each true object takes the prediction of largest IoU; the intersections added up over the
    unions added up; missed objects and predictions that none took enter the union whole. PQ = SQ x RQ (Kirillov et al.,
    2019) over pairs with IoU > 0.5: SQ is their mean IoU (NaN without pairs), RQ the F1 of finding objects; "object F1"
    at IoU 0.5 is the same number under its other name. All NaN where neither map has an object.
    """
    for name, instances in (("truth", truth), ("prediction", prediction)):
        if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer) or instances.min() < 0:
            raise ValueError(f"{name} is no instance map: integers of 0 and above in two dimensions are wanted")
    true_area, predicted_area, t, p, inter = _pairs(truth, prediction)
    n_true, n_predicted = len(true_area), len(predicted_area)
    if n_true + n_predicted == 0:
        return dict.fromkeys(("AJI", "PQ", "SQ", "RQ", "object F1"), math.nan)
    union = true_area[t] + predicted_area[p] - inter
    iou = inter / union
    order = np.lexsort((-iou, t))  # by true object, best prediction first
    best = order[np.unique(t[order], return_index=True)[1]]
    missed, unused = np.ones(n_true, bool), np.ones(n_predicted, bool)
    missed[t[best]], unused[p[best]] = False, False
    whole = true_area[missed].sum() + predicted_area[unused].sum()
    matched = iou > 0.5  # no object can be in two such pairs
    rq = 2 * int(matched.sum()) / (n_true + n_predicted)
    sq = float(iou[matched].mean()) if matched.any() else math.nan
    return {
        "AJI": float(inter[best].sum() / (union[best].sum() + whole)),
        "PQ": sq * rq if matched.any() else 0.0,
        "SQ": sq,
        "RQ": rq,
        "object F1": rq,
    }


def _pairs(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    """Areas of the true and predicted objects, and every overlapping pair: indices of both, and its pixels."""
    true_ids, t = np.unique(truth, return_inverse=True)
    predicted_ids, p = np.unique(prediction, return_inverse=True)
    t, p = t.ravel() + (true_ids[0] > 0), p.ravel() + (predicted_ids[0] > 0)  # 0 is the background's, present or not
    n_predicted = int(p.max()) + 1
    codes, pixels = np.unique(t * n_predicted + p, return_counts=True)
    pair_t, pair_p = codes // n_predicted, codes % n_predicted
    both = (pair_t > 0) & (pair_p > 0)
    return np.bincount(t)[1:], np.bincount(p)[1:], pair_t[both] - 1, pair_p[both] - 1, pixels[both]
