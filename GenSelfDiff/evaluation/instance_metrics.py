"""Figures of merit on objects: AJI, PQ, object F1, and the three criteria of the GlaS challenge.

Both maps hold numbers, one an object, 0 the background. Every figure is made of sums over objects (`INSTANCE_COUNTS`),
so that adding the sums of several images up gives the pooled figures. Conventions as in `metrics`.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pandas as pd
from scipy.spatial import KDTree
from skimage.measure import label

from GenSelfDiff.evaluation.pixel_metrics import ratio

# What figures on instances are made of; sums of these over images give the pooled figures.
INSTANCE_COUNTS = (
    *("intersection", "union"),  # of the AJI
    *("matched pairs", "IoU of matched pairs"),
    *("true objects", "predicted objects", "covered objects"),
    *("true area", "predicted area"),
    *("Dice of true objects", "Dice of predicted objects"),  # each times the object's area
    *("Hausdorff of true objects", "Hausdorff of predicted objects"),  # likewise, in pixels
)
INSTANCE_FIGURES = (
    *("AJI", "PQ", "SQ", "RQ", "object F1"),
    *("GlaS F1", "object Dice", "object Hausdorff (px)"),
)
MOST_PIECES = 10  # a gland that the image's border cuts has been seen in six


def instance_counts(truth: np.ndarray, prediction: np.ndarray, checked: bool = False) -> np.ndarray:
    """`INSTANCE_COUNTS` of two instance maps (H, W), float64 (13,): integers, 0 background, any numbers.

    Intersection and union are those of the AJI (Kumar et al., 2017): each true object takes the prediction of largest
    IoU, which several may take; missed objects, and predictions that none took, enter the union whole. Matched are
    pairs with IoU > 0.5 (Kirillov et al., 2019). The rest is the GlaS challenge's (Sirinukunwattana et al., 2017), see
    `_challenge_counts`. Raises `ValueError` for what is no instance map, see `check_instances`, unless that was
    `checked` for the maps that these are parts of.
    """
    if not checked:
        check_instances(truth, "truth")
        check_instances(prediction, "prediction")
    truth, prediction = _consecutive(truth), _consecutive(prediction)
    true_area, predicted_area = (np.bincount(m.ravel())[1:] for m in (truth, prediction))
    t, p, overlap = _pairs(truth, prediction)
    union = true_area[t] + predicted_area[p] - overlap
    iou = overlap / union
    best = _best_of_each(t, -iou)
    missed, unused = np.ones(len(true_area), bool), np.ones(len(predicted_area), bool)
    missed[t[best]], unused[p[best]] = False, False
    whole = true_area[missed].sum() + predicted_area[unused].sum()
    matched = iou > 0.5  # no object can be in two such pairs
    counts = [overlap[best].sum(), union[best].sum() + whole, matched.sum(), iou[matched].sum()]
    counts += [len(true_area), len(predicted_area)]
    return np.array([*counts, *_challenge_counts(truth, prediction, (t, p, overlap))], np.float64)


def instance_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """`INSTANCE_FIGURES` of `INSTANCE_COUNTS` (N, 13) of N classes or images, (N,) each; NaN where there is no object.

    PQ = SQ x RQ (Kirillov et al., 2019): SQ is the mean IoU of the matched pairs (NaN without any), RQ the F1 of
    finding objects; "object F1" at IoU 0.5 is the same number under its other name. "GlaS F1", object Dice and object
    Hausdorff are the criteria of the GlaS challenge; pooled over the objects of all images, they are as ranked there.
    """
    intersection, union, pairs, iou, true, predicted, covered, *by_area = counts.T
    true_area, predicted_area, *sums = by_area
    rq = ratio(2 * pairs, true + predicted, math.nan)
    figures = {
        "AJI": ratio(intersection, union, math.nan),
        "PQ": ratio(2 * iou, true + predicted, math.nan),
        "SQ": ratio(iou, pairs, math.nan),
        "RQ": rq,
        "object F1": rq,
        "GlaS F1": ratio(2 * covered, true + predicted, math.nan),
    }
    for name, of_true, of_predicted in (("object Dice", *sums[:2]), ("object Hausdorff (px)", *sums[2:])):
        ways = ratio(of_true, true_area, math.nan), ratio(of_predicted, predicted_area, math.nan)
        # without objects on one side there is nothing to average there: the other side alone tells
        figures[name] = np.where(np.isnan(ways[0]), ways[1], np.where(np.isnan(ways[1]), ways[0], sum(ways) / 2))
    return figures


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


def _consecutive(instances: np.ndarray) -> np.ndarray:
    """Numbers replaced by 1, 2, ... in the order in which they appear, 0 stays; (H, W)."""
    codes, _ = pd.factorize(np.append(0, instances.ravel()))  # the background comes first, present or not
    return codes[1:].reshape(instances.shape)


def _pairs(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every overlapping pair of two maps with consecutive numbers: indices of both objects, from 0, and its pixels."""
    both = (truth > 0) & (prediction > 0)
    width = int(prediction.max()) + 1
    pairs, pixels = np.unique_counts(truth[both] * width + prediction[both])
    return pairs // width - 1, pairs % width - 1, pixels


def _best_of_each(objects: np.ndarray, *costs: np.ndarray) -> np.ndarray:
    """Of the pairs of each object, the one of least cost (of several costs, the first decides): indices of pairs."""
    order = np.lexsort((*reversed(costs), objects))
    return order[np.unique(objects[order], return_index=True)[1]]


# --- the GlaS challenge ---


def _challenge_counts(
    truth: np.ndarray, prediction: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> list[float]:
    """The last seven of `INSTANCE_COUNTS`, of maps (H, W) with consecutive numbers and their overlapping pairs.

    To each object belongs the object of the other map that it shares most pixels with (of several, the smaller). A
    predicted object has found its true object if it covers at least half of it. Object Dice and object Hausdorff are
    means weighted by area, over the true objects and over the predicted ones; an object without partner has Dice 0.
    """
    t, p, overlap = pairs
    true_area, predicted_area = (np.bincount(m.ravel())[1:] for m in (truth, prediction))
    dice = 2 * overlap / (true_area[t] + predicted_area[p])
    of_true = _best_of_each(t, -overlap, predicted_area[p])
    of_predicted = _best_of_each(p, -overlap, true_area[t])
    covering = of_predicted[2 * overlap[of_predicted] >= true_area[t[of_predicted]]]
    partners = np.full(len(true_area), -1), np.full(len(predicted_area), -1)
    partners[0][t[of_true]], partners[1][p[of_predicted]] = p[of_true], t[of_predicted]
    true_distances, predicted_distances = object_distances(truth, prediction, *partners)
    return [
        len(np.unique(t[covering])),  # two halves of an object do not find it twice
        *(true_area.sum(), predicted_area.sum()),
        *((true_area[t] * dice)[of_true].sum(), (predicted_area[p] * dice)[of_predicted].sum()),
        *(true_area @ true_distances, predicted_area @ predicted_distances),
    ]


class _Objects:
    """The pixels of every object of one map, sorted by object, and what the other map has there."""

    DIRECTIONS = np.stack([f(np.arange(16) * np.pi / 8) for f in (np.cos, np.sin)])

    def __init__(self, numbers: np.ndarray, other: np.ndarray):
        """Two maps (H, W) with consecutive numbers."""
        self.points, self.ends, self.beneath = self._sorted(numbers, numbers > 0, other)
        framed = np.pad(numbers, 1)
        neighbours = framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]
        inner = np.logical_and.reduce([numbers == n for n in neighbours])
        self.edge, self.edge_ends, _ = self._sorted(numbers, (numbers > 0) & ~inner, other)
        # How far each object reaches in 16 directions, (N, 16): two objects are at least the largest difference apart.
        self.reach = np.maximum.reduceat(self.edge @ self.DIRECTIONS, self.edge_ends[:-1])
        self.tree = cache(self._tree)

    @staticmethod
    def _sorted(numbers: np.ndarray, mask: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates (N, 2) of a mask's pixels sorted by object; where each begins and ends; the other map there."""
        order = np.argsort(numbers[mask], kind="stable")
        return np.argwhere(mask)[order], np.bincount(numbers[mask]).cumsum(), other[mask][order]

    def _tree(self, i: int) -> KDTree:
        """The pixel of an object that is nearest to one outside it has a neighbour (of 4) that is not the object's."""
        return KDTree(self.edge[self.edge_ends[i] : self.edge_ends[i + 1]])

    def farthest(self, i: int, other: "_Objects", j: int) -> float:
        """The largest distance from a pixel of object i to the nearest of object j of the other map; both from 0."""
        mine = slice(self.ends[i], self.ends[i + 1])
        outside = self.points[mine][self.beneath[mine] != j + 1]
        return float(other.tree(j).query(outside)[0].max()) if len(outside) else 0.0


def object_distances(
    truth: np.ndarray, prediction: np.ndarray, partner_of_true: np.ndarray, partner_of_predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hausdorff distance of every true and every predicted object, in pixels, from its partner in the other map.

    Maps (H, W) with consecutive numbers; the partners are indices from 0, and -1 for an object without one: it has the
    distance from the object that is nearest by this distance. The distance is that of all pixels of two objects, as in
    the challenge, not of their boundaries. To an empty map it is the diagonal of the image.
    """
    if not len(partner_of_true) or not len(partner_of_predicted):
        diagonal = math.hypot(*truth.shape)
        return np.full(len(partner_of_true), diagonal), np.full(len(partner_of_predicted), diagonal)
    true, predicted = _Objects(truth, prediction), _Objects(prediction, truth)

    @cache  # most partners are each other's
    def distance(i: int, j: int) -> float:
        return max(true.farthest(i, predicted, j), predicted.farthest(j, true, i))

    def nearest(bounds: np.ndarray, distance_to: Callable[[int], float]) -> float:
        """The least distance of all, given lower bounds of each: those that cannot be the least are not computed."""
        best = math.inf
        for j in np.argsort(bounds):
            if bounds[j] >= best:
                break
            best = min(best, distance_to(int(j)))
        return best

    def of_all(mine: _Objects, other: _Objects, partners: np.ndarray, way: Callable[[int, int], float]) -> np.ndarray:
        distances = [
            way(i, j) if j >= 0 else nearest(np.abs(other.reach - mine.reach[i]).max(1), partial(way, i))
            for i, j in enumerate(partners.tolist())
        ]
        return np.array(distances)

    return (
        of_all(true, predicted, partner_of_true, distance),
        of_all(predicted, true, partner_of_predicted, lambda j, i: distance(i, j)),
    )
