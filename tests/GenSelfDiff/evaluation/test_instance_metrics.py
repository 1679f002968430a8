import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from GenSelfDiff.evaluation.instance_metrics import INSTANCE_COUNTS, instance_counts, instance_metrics
from tests.GenSelfDiff.evaluation.measured import OF_OBJECTS, metrics_of


def metrics_in_words(truth, prediction):
    """Object by object, as the papers say it."""
    true_ids, predicted_ids = set(np.unique(truth)) - {0}, set(np.unique(prediction)) - {0}
    if not true_ids and not predicted_ids:
        return dict.fromkeys(OF_OBJECTS[:5], math.nan)
    intersection = union = 0
    used, ious = set(), []
    for t in sorted(true_ids):
        best = None
        for p in sorted(predicted_ids):
            both = int(((truth == t) & (prediction == p)).sum())
            either = int(((truth == t) | (prediction == p)).sum())
            if both and (best is None or both / either > best[0]):
                best = both / either, both, either, p
            if both / either > 0.5:
                ious.append(both / either)
        if best is None:
            union += int((truth == t).sum())
        else:
            intersection, union = intersection + best[1], union + best[2]
            used.add(best[3])
    union += sum(int((prediction == p).sum()) for p in predicted_ids - used)
    rq = len(ious) / (len(ious) + 0.5 * (len(predicted_ids) - len(ious)) + 0.5 * (len(true_ids) - len(ious)))
    sq = sum(ious) / len(ious) if ious else math.nan
    return {"AJI": intersection / union, "PQ": sq * rq if ious else 0.0, "SQ": sq, "RQ": rq, "object F1": rq}


def random_instances(rng):
    """A few rectangles with arbitrary numbers, the later ones on top; sometimes none, sometimes no background."""
    numbers = np.zeros((14, 12), np.int32)
    if rng.random() < 0.1:
        numbers[:] = 7
    for _ in range(rng.integers(0, 7)):
        top, left = rng.integers(0, 12), rng.integers(0, 10)
        numbers[top : top + rng.integers(1, 8), left : left + rng.integers(1, 8)] = rng.integers(1, 50_000)
    return numbers


def test_instance_metrics_against_the_papers_words():
    rng = np.random.default_rng(1)
    for i in range(300):
        truth = random_instances(rng)
        prediction = np.roll(truth, 1, axis=i % 2) * 3 if i % 3 else random_instances(rng)
        ours, expected = metrics_of(truth, prediction), metrics_in_words(truth, prediction)
        assert {name: ours[name] for name in expected} == pytest.approx(expected, nan_ok=True), i


def test_instance_metrics_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3]])
    prediction = np.array([[5, 5, 5, 0, 0, 0, 6, 6, 0]])
    # 1 and 5: 3 of 4, a match; 2 and 6: 1 of 3, no match but in the AJI; 3 is missed
    metrics = metrics_of(truth, prediction)
    assert metrics["AJI"] == pytest.approx((3 + 1) / (4 + 3 + 1))
    assert metrics["SQ"] == pytest.approx(3 / 4) and metrics["RQ"] == metrics["object F1"] == pytest.approx(2 / 5)
    assert metrics["PQ"] == pytest.approx(3 / 4 * 2 / 5)


def test_instance_metrics_where_nothing_is_found():
    objects = np.array([[1, 1, 0, 2]])
    for pair in ((objects, objects * 0), (objects * 0, objects)):
        metrics = metrics_of(*pair)
        assert metrics["AJI"] == metrics["PQ"] == metrics["RQ"] == 0 and math.isnan(metrics["SQ"])
    assert all(math.isnan(v) for v in metrics_of(objects * 0, objects * 0).values())


def test_one_prediction_is_taken_twice():
    """Both true objects take the one prediction over them, as in the paper that defines the AJI."""
    metrics = metrics_of(np.array([[1, 1, 2, 2]]), np.array([[9, 9, 9, 9]]))
    assert metrics["AJI"] == pytest.approx((2 + 2) / (4 + 4)) and metrics["PQ"] == 0  # IoU 0.5 is no match


def aji_plus_in_words(truth, prediction):
    """Graham et al. (2019), as their code has it: one assignment over all objects, then every pixel once."""
    true_ids, predicted_ids = (sorted(set(np.unique(a)) - {0}) for a in (truth, prediction))
    if not true_ids and not predicted_ids:
        return math.nan
    both, either = (
        np.array([[f(truth == t, prediction == p).sum() for p in predicted_ids] for t in true_ids], float).reshape(
            len(true_ids), len(predicted_ids)
        )
        for f in (np.logical_and, np.logical_or)
    )
    iou = both / np.maximum(either, 1)
    rows, columns = linear_sum_assignment(-iou)
    paired = [(i, j) for i, j in zip(rows, columns, strict=True) if iou[i, j] > 0]
    union = sum(either[pair] for pair in paired)
    union += sum((truth == t).sum() for i, t in enumerate(true_ids) if i not in [i for i, _ in paired])
    union += sum((prediction == p).sum() for j, p in enumerate(predicted_ids) if j not in [j for _, j in paired])
    return sum(both[pair] for pair in paired) / union


def test_aji_plus_against_its_papers_words():
    rng = np.random.default_rng(2)
    differs = 0
    for i in range(300):
        truth = random_instances(rng)
        prediction = np.roll(truth, 1, axis=i % 2) * 3 if i % 3 else random_instances(rng)
        metrics = metrics_of(truth, prediction)
        assert metrics["AJI+"] == pytest.approx(aji_plus_in_words(truth, prediction), nan_ok=True), i
        differs += metrics["AJI+"] != metrics["AJI"] and not math.isnan(metrics["AJI"])
    assert differs > 20


def test_aji_plus_lets_a_prediction_be_taken_once():
    """Of two true objects under one prediction one is paired, the other enters the union whole."""
    metrics = metrics_of(np.array([[1, 1, 2, 2]]), np.array([[9, 9, 9, 9]]))
    assert metrics["AJI+"] == pytest.approx(2 / (4 + 2)) and metrics["AJI"] == pytest.approx(4 / 8)


def test_aji_plus_wants_the_largest_sum_not_the_largest_pair():
    """The best pair of all, 1 and 5 (IoU 3/7), would leave 2 and 6 alone: 1 with 6 and 2 with 5 are worth more."""
    truth = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 0, 0]])
    prediction = np.array([[6, 6, 5, 5, 5, 5, 5, 0, 0, 0]])
    # 1-5: 3 of 7, 1-6: 2 of 5, 2-5: 2 of 6
    assert metrics_of(truth, prediction)["AJI+"] == pytest.approx((2 + 2) / (5 + 6))


def test_pooled_metrics_weigh_objects_not_images():
    """One image with one object found, one with three of which none is found."""
    one, three = np.array([[1, 1, 0, 0, 0, 0]]), np.array([[1, 1, 2, 2, 3, 3]])
    counts = np.stack([instance_counts(one, one), instance_counts(three, three * 0)])
    diagonal = math.hypot(1, 6)
    assert counts.tolist() == [
        [2, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 2, 2, 1, 0, 0, 0, 0],
        [0, 6, 0, 0, 3, 0, 0, 6, 0, 0, 0, 6 * diagonal, 0, 0, 6, 0, 3, 0, 0, 0],
    ]
    apart, pooled = instance_metrics(counts), instance_metrics(counts.sum(0, keepdims=True))
    assert apart["AJI"].tolist() == apart["RQ"].tolist() == [1, 0]
    assert pooled["AJI"].tolist() == [2 / 8] and pooled["RQ"].tolist() == [2 / 5]
    assert pooled["PQ"].tolist() == [2 / 5] and pooled["SQ"].tolist() == [1]
    assert apart["object Dice"].tolist() == [1, 0] and pooled["object Dice"].tolist() == [(2 / 8 + 2 / 2) / 2]
    assert apart["object Hausdorff"].tolist() == [0, diagonal]
    assert pooled["object Hausdorff"].tolist() == [pytest.approx((6 * diagonal / 8 + 0) / 2)]


NUCLEI = np.zeros((9, 44), int)
NUCLEI[2:5, ::4] = NUCLEI[2:5, 1::4] = 1  # eleven nuclei, all of class 1


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.array([[-1, 0]]), np.zeros((2, 2, 2), int), NUCLEI > 0, NUCLEI])
def test_what_is_no_instance_map_is_refused(wrong):
    empty = np.zeros(wrong.shape[:2], int)
    for pair in ((empty, wrong), (wrong, empty)):
        with pytest.raises(ValueError, match="is no instance map"):
            instance_counts(*pair)
    assert len(instance_counts(NUCLEI, NUCLEI, checked=True)) == len(INSTANCE_COUNTS)


def test_a_negative_number_among_others_is_refused():
    with pytest.raises(ValueError, match="truth is no instance map: integers of 0 and above"):
        instance_counts(np.array([[-1, 0, 1]]), np.array([[0, 0, 1]]))


def test_a_line_of_pixels_that_touch_at_corners_is_one_piece():
    line = np.eye(25, dtype=int)
    assert metrics_of(line, line)["PQ"] == 1


def test_an_object_in_pieces_is_none_the_less_an_instance():
    pieces = NUCLEI.copy()
    pieces[:, 24:] = 0  # six
    assert metrics_of(pieces, pieces)["PQ"] == 1
    numbered = NUCLEI * np.arange(1, 45)
    assert metrics_of(numbered, numbered)["RQ"] == 1
