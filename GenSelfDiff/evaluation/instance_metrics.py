"""Metrics on objects: AJI, AJI+, PQ and object F1; those of the GlaS challenge join them, see `glas_metrics`.

Both maps hold numbers, one an object, 0 the background. Every metric is made of sums over objects (`INSTANCE_COUNTS`),
so that adding the sums of several images up gives the pooled values. Conventions as in `pixel_metrics`.
"""

import math

import numpy as np
import pandas as pd
from skimage.measure import label

from GenSelfDiff.evaluation.glas_metrics import GLAS_COUNTS, glas_counts, glas_metrics
from GenSelfDiff.evaluation.object_fates import FATE_COUNTS, fate_counts
from GenSelfDiff.evaluation.object_pairs import Pairs, best_of_each, consecutive, one_to_one
from GenSelfDiff.evaluation.pixel_metrics import ratio

# What metrics on objects are made of; sums of these over images give the pooled values.
INSTANCE_COUNTS = (
    *("intersection", "union"),  # of the AJI
    *("matched pairs", "IoU of matched pairs"),
    *("true objects", "predicted objects"),
    *GLAS_COUNTS,
    *("intersection of one-to-one pairs", "union with one-to-one pairs"),  # of the AJI+
    *FATE_COUNTS,
)
MOST_PIECES = 10  # a gland that the image's border cuts has been seen in six


def instance_counts(truth: np.ndarray, prediction: np.ndarray, checked: bool = False) -> np.ndarray:
    """`INSTANCE_COUNTS` of two instance maps (H, W), float64 (20,): integers, 0 background, any numbers.

    Intersection and union are those of the AJI (Kumar et al., 2017): each true object takes the prediction of largest
    IoU, which several may take; missed objects, and predictions that none took, enter the union whole. For the AJI+
    (Graham et al., 2019) true objects and predictions are paired one to one. Matched are pairs with IoU > 0.5 (Kirillov
    et al., 2019). See `glas_counts` and `object_fates` for the rest. Raises `ValueError` for what is no instance map,
    see `check_instances`, unless that was `checked` for the maps that these are parts of.
    """
    if not checked:
        check_instances(truth, "truth")
        check_instances(prediction, "prediction")
    truth, prediction = consecutive(truth), consecutive(prediction)
    pairs = Pairs.of(truth, prediction)
    best = best_of_each(pairs.true, -pairs.iou)
    counts = [*_jaccard(pairs, best), pairs.matched.sum(), pairs.iou[pairs.matched].sum()]
    counts += [len(pairs.true_area), len(pairs.predicted_area), *glas_counts(truth, prediction, pairs)]
    return np.array([*counts, *_jaccard(pairs, one_to_one(pairs)), *fate_counts(pairs)], np.float64)


def _jaccard(pairs: Pairs, chosen: np.ndarray) -> tuple[int, int]:
    """Intersection and union of some pairs; all objects in none of them enter the union whole."""
    missed, unused = np.ones(len(pairs.true_area), bool), np.ones(len(pairs.predicted_area), bool)
    missed[pairs.true[chosen]], unused[pairs.predicted[chosen]] = False, False
    whole = pairs.true_area[missed].sum() + pairs.predicted_area[unused].sum()
    return pairs.overlap[chosen].sum(), pairs.union[chosen].sum() + whole


def instance_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of `INSTANCE_COUNTS` (N, 20) of N classes or images, (N,) each; NaN where there is no object.

    PQ = SQ x RQ (Kirillov et al., 2019): SQ is the mean IoU of the matched pairs (NaN without any), RQ the F1 of
    finding objects; "object F1" at IoU 0.5 is the same number under its other name.
    """
    of = dict(zip(INSTANCE_COUNTS, counts.T, strict=True))
    pairs, iou, objects = of["matched pairs"], of["IoU of matched pairs"], of["true objects"] + of["predicted objects"]
    rq = ratio(2 * pairs, objects, math.nan)
    metrics = {
        "AJI": ratio(of["intersection"], of["union"], math.nan),
        "PQ": ratio(2 * iou, objects, math.nan),
        "SQ": ratio(iou, pairs, math.nan),
        "RQ": rq,
        "object F1": rq,
        **glas_metrics(np.stack([of[name] for name in GLAS_COUNTS], axis=1), objects),
    }
    one_to_one_pairs = of["intersection of one-to-one pairs"], of["union with one-to-one pairs"]
    return metrics | {"AJI+": ratio(*one_to_one_pairs, math.nan)}


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
