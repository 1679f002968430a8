"""All metrics against implementations by others, on hundreds of random pairs of maps.

MONAI for overlap, distances and panoptic quality, scikit-image for counting and for the distance of two objects. The
AJI and the criteria of the GlaS challenge exist in no package; here they are written word by word, object by object.
"""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import contingency_table, hausdorff_distance

from GenSelfDiff.evaluation.pixel_metrics import confusion_matrix, hausdorff, overlap_metrics, published_metrics
from tests.GenSelfDiff.evaluation.measured import metrics_of

monai = pytest.importorskip("monai.metrics")
PAIRS = 300


def random_blobs(rng, height, width, number):
    """Rectangles and discs, the later ones on top, with arbitrary numbers; (H, W)."""
    numbers = np.zeros((height, width), np.int64)
    y, x = np.mgrid[:height, :width]
    for _ in range(number):
        top, left, reach = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.5, 0.2 * width, 2)
        if rng.random() < 0.5:
            blob = ((y - top) / reach[0]) ** 2 + ((x - left) / reach[1]) ** 2 <= 1
        else:
            blob = (abs(y - top) <= reach[0]) & (abs(x - left) <= reach[1])
        numbers[blob] = rng.integers(1, 60_000)
    return numbers


def random_pair(rng, most=9):
    """Two instance maps of one random size: unrelated ones, or one a moved, torn and merged copy of the other."""
    height, width = rng.integers(8, 40, 2)
    truth = random_blobs(rng, height, width, rng.integers(0, most))
    if rng.random() < 0.4:
        return truth, random_blobs(rng, height, width, rng.integers(0, most))
    prediction = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
    for number in np.unique(prediction[prediction > 0]):
        if (chance := rng.random()) < 0.15:
            prediction[prediction == number] = 0
        elif chance < 0.3:
            prediction[prediction == number] = prediction.max()
    prediction[:, rng.integers(0, width)] *= rng.integers(0, 2)
    return truth, prediction


def pairs(seed, number=PAIRS, **options):
    rng = np.random.default_rng(seed)
    return [random_pair(rng, **options) for _ in range(number)]


OVERLAP = {
    "Dice": "f1 score", "Jaccard": "threat score", "precision": "precision", "sensitivity": "sensitivity",
    "specificity": "specificity", "accuracy": "accuracy",
}  # fmt: skip
PUBLISHED = {
    "F1_score": "f1 score", "Jaccard_score": "threat score", "precision": "precision", "sensitivity": "sensitivity",
    "specificity": "specificity", "accuracy": "accuracy",
}  # fmt: skip


def test_overlap_is_that_of_monai():
    for truth, prediction in pairs(0):
        truth, prediction = truth % 4, prediction % 4
        matrix = confusion_matrix(truth, prediction, 4)
        counted = contingency_table(truth, prediction).toarray()  # as large as the largest class
        assert (matrix[: counted.shape[0], : counted.shape[1]] == counted).all() and counted.sum() == matrix.sum()
        one_hot = [np.stack([m == c for c in range(4)])[None] for m in (prediction, truth)]
        counts = monai.get_confusion_matrix(*(torch.from_numpy(m).double() for m in one_hot))[0].double()
        theirs = {name: monai.compute_confusion_matrix_metric(name, counts).numpy() for name in OVERLAP.values()}
        ours, published = overlap_metrics(matrix), published_metrics(truth, prediction, 4)
        absent = np.isnan(ours["Dice"])
        assert absent.tolist() == [not ((truth == c) | (prediction == c)).any() for c in range(4)]
        for name, their_name in OVERLAP.items():  # ours are 0 where a class is in one of the two maps only
            empty = math.nan if name == "specificity" else 0
            expected = np.where(np.isnan(theirs[their_name]), empty, theirs[their_name])[~absent]
            assert ours[name][~absent] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        for name, their_name in PUBLISHED.items():  # published ones are 1 where nothing can be divided by
            expected = np.where(np.isnan(theirs[their_name]), 1, theirs[their_name])[1:]
            assert published[name] == pytest.approx(expected, abs=1e-12)


def test_hausdorff_and_hd95_are_those_of_monai():
    compared = 0
    for truth, prediction in pairs(1):
        masks = [(m > 0)[None, None] for m in (prediction, truth)]
        if all(mask.any() for mask in masks):
            masks = [torch.from_numpy(mask) for mask in masks]
            expected = [monai.compute_hausdorff_distance(*masks, True, percentile=q).item() for q in (None, 95)]
            assert hausdorff(truth > 0, prediction > 0) == pytest.approx(expected, abs=1e-4)
            compared += 1
    assert compared > PAIRS / 2


def test_panoptic_quality_is_that_of_monai():
    for truth, prediction in pairs(2):
        true_positive, false_positive, false_negative, iou = monai.panoptic_quality.compute_panoptic_quality(
            torch.from_numpy(prediction), torch.from_numpy(truth), output_confusion_matrix=True
        ).tolist()
        ours = metrics_of(truth, prediction)
        if objects := true_positive + 0.5 * false_positive + 0.5 * false_negative:
            assert ours["PQ"] == pytest.approx(iou / objects, abs=1e-6)
            assert ours["RQ"] == ours["object F1"] == pytest.approx(true_positive / objects)
            assert math.isnan(ours["SQ"]) if not true_positive else ours["SQ"] == pytest.approx(iou / true_positive)
        else:
            assert math.isnan(ours["PQ"]) and math.isnan(ours["RQ"])


def numbers_of(instances):
    return [int(n) for n in np.unique(instances) if n]


def aji_word_by_word(truth, prediction):
    """Kumar et al., 2017, algorithm 1."""
    intersection, union, used = 0, 0, set()
    for i in numbers_of(truth):
        ious = {}
        for j in numbers_of(prediction):
            both, either = (truth == i) & (prediction == j), (truth == i) | (prediction == j)
            ious[j] = both.sum() / either.sum()
        best = max(ious, key=ious.get, default=None)
        if best is None or ious[best] == 0:
            union += (truth == i).sum()
            continue
        intersection += ((truth == i) & (prediction == best)).sum()
        union += ((truth == i) | (prediction == best)).sum()
        used.add(best)
    union += sum((prediction == j).sum() for j in numbers_of(prediction) if j not in used)
    return intersection / union if union else math.nan


def test_aji_is_that_of_its_definition():
    for truth, prediction in pairs(3):
        assert metrics_of(truth, prediction)["AJI"] == pytest.approx(aji_word_by_word(truth, prediction), nan_ok=True)


def partner(objects, number, others):
    """The mask of the object of `others` that one object shares most pixels with (of several, the smaller)."""
    mask = objects == number
    shared = {j: ((others == j) & mask).sum() for j in numbers_of(others)}
    shared = {j: (pixels, -(others == j).sum()) for j, pixels in shared.items() if pixels}
    return others == max(shared, key=shared.get) if shared else None


def one_way(objects, others, distance):
    """Mean, weighted by area, of `distance` from each object to its partner; None stands for no partner."""
    area = (objects > 0).sum()
    return sum(
        (objects == i).sum() / area * distance(objects == i, partner(objects, i, others)) for i in numbers_of(objects)
    )


def glas_word_by_word(truth, prediction):
    """Sirinukunwattana et al., 2017: object Dice, object Hausdorff and F1, of two maps with objects."""

    def dice(mask, other):
        return 0 if other is None else 2 * (mask & other).sum() / (mask.sum() + other.sum())

    def distance_among(others):
        def distance(mask, other):
            if other is not None:
                return hausdorff_distance(mask, other)
            return min(hausdorff_distance(mask, others == j) for j in numbers_of(others))

        return distance

    object_dice = (one_way(truth, prediction, dice) + one_way(prediction, truth, dice)) / 2
    object_hausdorff = (
        one_way(truth, prediction, distance_among(prediction)) + one_way(prediction, truth, distance_among(truth))
    ) / 2
    found = set()
    for j in numbers_of(prediction):
        true = partner(prediction, j, truth)
        if true is not None and (true & (prediction == j)).sum() > 0.5 * true.sum():  # as the code of the challenge
            found.add(true.tobytes())
    false_positive = len(numbers_of(prediction)) - len(found)
    false_negative = len(numbers_of(truth)) - len(found)
    f1 = 2 * len(found) / (2 * len(found) + false_positive + false_negative)
    return {"object Dice": object_dice, "object Hausdorff": object_hausdorff, "GlaS F1": f1}


def test_glas_metrics_are_those_of_their_definition():
    compared = 0
    for truth, prediction in pairs(4):
        if truth.any() and prediction.any():
            ours, expected = metrics_of(truth, prediction), glas_word_by_word(truth, prediction)
            assert {name: ours[name] for name in expected} == pytest.approx(expected)
            compared += 1
    assert compared > PAIRS / 2


def test_many_small_objects_too():
    """Where most have no partner: the nearest is looked for among dozens."""
    rng = np.random.default_rng(5)
    for _ in range(6):
        truth, prediction = (random_blobs(rng, 90, 40, 60) for _ in range(2))
        truth[:45], prediction[45:] = 0, 0
        ours, expected = metrics_of(truth, prediction), glas_word_by_word(truth, prediction)
        assert {name: ours[name] for name in expected} == pytest.approx(expected)
