"""Which objects of two instance maps overlap, and by how many pixels: what every metric on objects starts from."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


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


def consecutive(instances: np.ndarray) -> np.ndarray:
    """Numbers replaced by 1, 2, ... in the order in which they appear, 0 stays; (H, W)."""
    codes, _ = pd.factorize(np.append(0, instances.ravel()))  # the background comes first, present or not
    return codes[1:].reshape(instances.shape)


def best_of_each(objects: np.ndarray, *costs: np.ndarray) -> np.ndarray:
    """Of the pairs of each object, the one of least cost (of several costs, the first decides): indices of pairs."""
    order = np.lexsort((*reversed(costs), objects))
    return order[np.unique(objects[order], return_index=True)[1]]
