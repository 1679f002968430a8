"""What became of every object: found, missed, merged with others, split into several, or not there at all.

A pair with IoU > 0.5 is found. Of the others, a prediction merges when it holds more than half of each of two or more
true objects, and a true object is split when two or more predictions have more than half of their pixels in it. True
objects that are none of this are missed (also where a prediction touches them), predicted ones are false.
"""

import numpy as np

from GenSelfDiff.evaluation.object_pairs import Pairs, consecutive
from GenSelfDiff.instances import of_class

FATES = ("found", "missed", "merged", "split", "false")
FOUND, MISSED, MERGED, SPLIT, FALSE = range(len(FATES))
FATE_COUNTS = ("objects found", "objects missed", "objects merged", "objects split", "objects false")
"""True objects by their fate, which add up to all of them; and the predictions that are false"""


def fates(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The fate of every true and of every predicted object, indices of `FATES`, each (N,).

    Of the true ones found, missed, merged or split; of the predicted ones found, merged (it joins several), split (a
    piece of one) or false. What fits two of these is the first of found, merged, split.
    """
    t, p = pairs.true, pairs.predicted
    swallowed, inside = 2 * pairs.overlap > pairs.true_area[t], 2 * pairs.overlap > pairs.predicted_area[p]
    merging = np.bincount(p[swallowed], minlength=len(pairs.predicted_area)) > 1
    in_pieces = np.bincount(t[inside], minlength=len(pairs.true_area)) > 1
    of_true = np.where(in_pieces, SPLIT, MISSED)
    of_true[t[swallowed & merging[p]]] = MERGED
    of_true[t[pairs.matched]] = FOUND
    of_predicted = np.full(len(merging), FALSE)
    of_predicted[p[inside & in_pieces[t]]] = SPLIT
    of_predicted[merging] = MERGED
    of_predicted[p[pairs.matched]] = FOUND
    return of_true, of_predicted


def fate_counts(pairs: Pairs) -> list[int]:
    """`FATE_COUNTS` of the objects of two maps."""
    of_true, of_predicted = fates(pairs)
    return [*np.bincount(of_true, minlength=FALSE)[:FALSE].tolist(), int((of_predicted == FALSE).sum())]


def fates_by_number(
    truth: tuple[np.ndarray, np.ndarray], prediction: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The fate of every number of two instance maps, each (n + 1,), -1 for the background and numbers not there.

    Each argument is an instance map and its class map, (H, W): only objects of one class are compared. An object with
    pixels of several classes has the first fate of `FATES` that it has in any.
    """
    found = [np.full(int(instances.max()) + 1, len(FATES)) for instances, _ in (truth, prediction)]
    for c in range(1, 1 + max(int(class_map.max()) for _, class_map in (truth, prediction))):
        maps = [of_class(instances, class_map, c) for instances, class_map in (truth, prediction)]
        for by_number, of_map, fate in zip(found, maps, fates(Pairs.of(*map(consecutive, maps))), strict=True):
            first = numbers_in_order(of_map)
            by_number[first] = np.minimum(by_number[first], fate)
    return tuple(np.where(by_number < len(FATES), by_number, -1) for by_number in found)


def numbers_in_order(instances: np.ndarray) -> np.ndarray:
    """The numbers of a map but 0 in the order in which they appear: `consecutive` calls them 1, 2, ..."""
    numbers, first = np.unique(instances, return_index=True)
    return numbers[np.argsort(first)][numbers[np.argsort(first)] > 0]
