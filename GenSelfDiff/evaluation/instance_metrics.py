"""Metrics on objects: AJI, PQ and object F1; those of the GlaS challenge join them, see `glas_metrics`.

Both maps hold numbers, one an object, 0 the background. Every metric is made of sums over objects (`INSTANCE_COUNTS`),
so that adding the sums of several images up gives the pooled values. Conventions as in `pixel_metrics`.
"""

import math

import numpy as np
import pandas as pd
from skimage.measure import label

from GenSelfDiff.evaluation.glas_metrics import GLAS_COUNTS, glas_counts, glas_metrics
from GenSelfDiff.evaluation.object_pairs import Pairs, best_of_each, consecutive
from GenSelfDiff.evaluation.pixel_metrics import ratio

# What metrics on objects are made of; sums of these over images give the pooled values.
INSTANCE_COUNTS = (
    *("intersection", "union"),  # of the AJI
    *("matched pairs", "IoU of matched pairs"),
    *("true objects", "predicted objects"),
    *GLAS_COUNTS,
)
MATCH = 0.5  # of a pair, above which IoU it counts as one object found
MOST_PIECES = 10  # a gland that the image's border cuts has been seen in six


def instance_counts(truth: np.ndarray, prediction: np.ndarray, checked: bool = False) -> np.ndarray:
    """`INSTANCE_COUNTS` of two instance maps (H, W), float64 (13,): integers, 0 background, any numbers.

    Intersection and union are those of the AJI (Kumar et al., 2017): each true object takes the prediction of largest
    IoU, which several may take; missed objects, and predictions that none took, enter the union whole. Matched are
    pairs with IoU > 0.5 (Kirillov et al., 2019). The rest is the GlaS challenge's, see `glas_counts`. Raises
    `ValueError` for what is no instance map, see `check_instances`, unless that was `checked` for the maps that these
    are parts of.
    """
    if not checked:
        check_instances(truth, "truth")
        check_instances(prediction, "prediction")
    truth, prediction = consecutive(truth), consecutive(prediction)
    pairs = Pairs.of(truth, prediction)
    union = pairs.true_area[pairs.true] + pairs.predicted_area[pairs.predicted] - pairs.overlap
    iou = pairs.overlap / union
    best = best_of_each(pairs.true, -iou)
    missed, unused = np.ones(len(pairs.true_area), bool), np.ones(len(pairs.predicted_area), bool)
    missed[pairs.true[best]], unused[pairs.predicted[best]] = False, False
    whole = pairs.true_area[missed].sum() + pairs.predicted_area[unused].sum()
    matched = iou > MATCH  # no object can be in two such pairs
    counts = [pairs.overlap[best].sum(), union[best].sum() + whole, matched.sum(), iou[matched].sum()]
    counts += [len(pairs.true_area), len(pairs.predicted_area)]
    return np.array([*counts, *glas_counts(truth, prediction, pairs)], np.float64)


def instance_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of `INSTANCE_COUNTS` (N, 13) of N classes or images, (N,) each; NaN where there is no object.

    PQ = SQ x RQ (Kirillov et al., 2019): SQ is the mean IoU of the matched pairs (NaN without any), RQ the F1 of
    finding objects; "object F1" at IoU 0.5 is the same number under its other name.
    """
    of_glas = counts[:, -len(GLAS_COUNTS) :]
    intersection, union, pairs, iou, true, predicted = counts[:, : -len(GLAS_COUNTS)].T
    objects = true + predicted
    rq = ratio(2 * pairs, objects, math.nan)
    metrics = {
        "AJI": ratio(intersection, union, math.nan),
        "PQ": ratio(2 * iou, objects, math.nan),
        "SQ": ratio(iou, pairs, math.nan),
        "RQ": rq,
        "object F1": rq,
    }
    return metrics | glas_metrics(of_glas, objects)


def check_instances(instances: np.ndarray, name: str) -> None:
    """Raise `ValueError` for what is no instance map (H, W), and above all for class maps.

    Masks of true and false, or with more than `MOST_PIECES` separate pieces a number: in a class map all nuclei share
    one. Metrics on instances mean nothing there.
    """
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer) or instances.min() < 0:
        raise ValueError(f"{name} is no instance map: integers of 0 and above in two dimensions are wanted")
    numbers = len(pd.unique(instances[instances > 0]))
    if (pieces := label(instances, background=0, connectivity=2).max()) > MOST_PIECES * numbers:
        raise ValueError(f"{name} is no instance map but a class map: {pieces} pieces share {numbers} numbers")
