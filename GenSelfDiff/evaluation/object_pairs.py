"""Which objects of two instance maps overlap, and by how many pixels: what every metric on objects starts from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

MATCH = 0.5  # IoU of a pair, above which it counts as one object found; no object can be in two such pairs


@dataclass(frozen=True)
class Pairs:
    """Every overlapping pair of a true and a predicted object; objects are indices from 0."""

    true: np.ndarray
    """the true object of each pair, (N,)"""
    predicted: np.ndarray
    """the predicted one, (N,)"""
    overlap: np.ndarray
    """the pixels that they share, (N,)"""
    true_area: np.ndarray
    """pixels of every true object, in a pair or not"""
    predicted_area: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, prediction: np.ndarray) -> "Pairs":
        """Of two maps (H, W) with consecutive numbers, see `consecutive`."""
        both = (truth > 0) & (prediction > 0)
        width = int(prediction.max()) + 1
        pairs, pixels = np.unique_counts(truth[both] * width + prediction[both])
        areas = (np.bincount(m.ravel())[1:] for m in (truth, prediction))
        return cls(pairs // width - 1, pairs % width - 1, pixels, *areas)

    @cached_property
    def union(self) -> np.ndarray:
        """The pixels of either object of each pair, (N,)."""
        return self.true_area[self.true] + self.predicted_area[self.predicted] - self.overlap

    @cached_property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, (N,)."""
        return self.overlap / self.union

    @cached_property
    def matched(self) -> np.ndarray:
        """Which pairs are one object found, bool (N,)."""
        return self.iou > MATCH


def consecutive(instances: np.ndarray) -> np.ndarray:
    """Numbers replaced by 1, 2, ... in the order in which they appear, 0 stays; (H, W)."""
    codes, _ = pd.factorize(np.append(0, instances.ravel()))  # the background comes first, present or not
    return codes[1:].reshape(instances.shape)


def best_of_each(objects: np.ndarray, *costs: np.ndarray) -> np.ndarray:
    """Of the pairs of each object, the one of least cost (of several costs, the first decides): indices of pairs."""
    order = np.lexsort((*reversed(costs), objects))
    return order[np.unique(objects[order], return_index=True)[1]]


def one_to_one(pairs: Pairs) -> np.ndarray:
    """The pairs of the one-to-one matching of largest summed IoU, indices of pairs: no object is in two of them.

    Only objects that overlap, directly or over others, compete: each such group is assigned on its own, exactly.
    """
    number, objects = len(pairs.true_area), len(pairs.true_area) + len(pairs.predicted_area)
    edges = coo_matrix((np.ones(len(pairs.true)), (pairs.true, number + pairs.predicted)), (objects, objects))
    group = connected_components(edges, directed=False)[1][pairs.true]
    order = np.argsort(group, kind="stable")
    chosen = [np.zeros(0, int)]
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) > 1:
            rows, columns = (np.unique(a[members], return_inverse=True)[1] for a in (pairs.true, pairs.predicted))
            pair = np.full((rows.max() + 1, columns.max() + 1), -1)
            pair[rows, columns] = members
            gain = np.where(pair >= 0, pairs.iou[pair], 0)
            members = pair[linear_sum_assignment(gain, maximize=True)]
        chosen.append(members[members >= 0])
    return np.concatenate(chosen)
