"""The metrics of the GlaS challenge (Sirinukunwattana et al., 2017): its F1, object Dice and object Hausdorff.

Made of sums over objects (`GLAS_COUNTS`), so that adding the sums of several images up gives the pooled values, which
the challenge ranked.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import cv2
import numpy as np
from scipy.ndimage import find_objects

from GenSelfDiff.evaluation.object_pairs import Pairs, best_of_each
from GenSelfDiff.evaluation.pixel_metrics import ratio

GLAS_COUNTS = (
    "covered objects",
    *("true area", "predicted area"),
    *("Dice of true objects", "Dice of predicted objects"),  # each times the object's area
    *("Hausdorff of true objects", "Hausdorff of predicted objects"),  # likewise, in pixels
)
DIRECTIONS = 16  # in which the reach of an object is taken, to bound distances from below


def glas_counts(truth: np.ndarray, prediction: np.ndarray, pairs: Pairs) -> list[float]:
    """`GLAS_COUNTS` of maps (H, W) with consecutive numbers and their overlapping pairs.

    To each object belongs the object of the other map that it shares most pixels with (of several, the smaller). A
    predicted object has found its true object if it covers more than half of it: so says the challenge's code
    (F1score.m, as public copies have it); its page says "at least 50%", the two differ for exactly one half. Object
    Dice and object Hausdorff are means weighted by area, over the true objects and over the predicted ones; an object
    without partner has Dice 0.
    """
    t, p, true_area, predicted_area = pairs.true, pairs.predicted, pairs.true_area, pairs.predicted_area
    dice = 2 * pairs.overlap / (true_area[t] + predicted_area[p])
    of_true = best_of_each(t, -pairs.overlap, predicted_area[p])
    of_predicted = best_of_each(p, -pairs.overlap, true_area[t])
    covering = 2 * pairs.overlap[of_predicted] > true_area[t[of_predicted]]
    partners = np.full(len(true_area), -1), np.full(len(predicted_area), -1)
    partners[0][t[of_true]], partners[1][p[of_predicted]] = p[of_true], t[of_predicted]
    true_distances, predicted_distances = object_distances(truth, prediction, *partners)
    return [
        covering.sum(),  # no two cover more than half of the same object
        *(true_area.sum(), predicted_area.sum()),
        *((true_area[t] * dice)[of_true].sum(), (predicted_area[p] * dice)[of_predicted].sum()),
        *(true_area @ true_distances, predicted_area @ predicted_distances),
    ]


def glas_metrics(counts: np.ndarray, objects: np.ndarray) -> dict[str, np.ndarray]:
    """The three metrics, (N,) each, of `GLAS_COUNTS` (N, 7) and the number of all objects, true and predicted (N,)."""
    covered, true_area, predicted_area, *sums = counts.T
    metrics = {"GlaS F1": ratio(2 * covered, objects, math.nan)}
    for name, of_true, of_predicted in (("object Dice", *sums[:2]), ("object Hausdorff", *sums[2:])):
        ways = ratio(of_true, true_area, math.nan), ratio(of_predicted, predicted_area, math.nan)
        # without objects on one side there is nothing to average there: the other side alone tells
        metrics[name] = np.where(np.isnan(ways[0]), ways[1], np.where(np.isnan(ways[1]), ways[0], sum(ways) / 2))
    return metrics


class _Objects:
    """Every object of one map: where it lies, and how far it reaches."""

    def __init__(self, numbers: np.ndarray):
        """A map (H, W) with consecutive numbers."""
        self.numbers = numbers
        self.boxes = np.array([[(s.start, s.stop) for s in box] for box in find_objects(numbers)])  # (N, 2, 2)
        framed = np.pad(numbers, 1)
        neighbours = framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]
        edge = (numbers > 0) & ~np.logical_and.reduce([numbers == n for n in neighbours])
        order = np.argsort(numbers[edge], kind="stable")
        begins = np.searchsorted(numbers[edge][order], np.arange(1, 1 + len(self.boxes)))
        # How far each object reaches in some directions, (N, 16): two are at least the largest difference apart.
        angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
        directions = np.stack([np.cos(angles), np.sin(angles)])
        self.reach = np.maximum.reduceat(np.argwhere(edge)[order] @ directions, begins)

    def farthest(self, i: int, other: "_Objects", j: int) -> float:
        """The largest distance from a pixel of object i to the nearest of object j of the other map; both from 0."""
        boxes = np.stack([self.boxes[i], other.boxes[j]])
        both = tuple(slice(low, high) for low, high in zip(boxes[..., 0].min(0), boxes[..., 1].max(0), strict=True))
        theirs = other.numbers[both] == j + 1
        outside = (self.numbers[both] == i + 1) & ~theirs
        if not outside.any():
            return 0.0
        distances = cv2.distanceTransform((~theirs).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return math.sqrt(round(float(distances[outside].max()) ** 2))  # whole squares, but for float32's rounding


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
    true, predicted = _Objects(truth), _Objects(prediction)

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
