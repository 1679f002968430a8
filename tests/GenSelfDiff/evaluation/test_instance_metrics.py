import math

import numpy as np
import pytest

from GenSelfDiff.evaluation.instance_metrics import (
    INSTANCE_COUNTS,
    INSTANCE_FIGURES,
    instance_counts,
    instance_figures,
    object_distances,
)


def instance_metrics(truth, prediction):
    """The figures of one pair of instance maps."""
    return {
        name: float(values[0]) for name, values in instance_figures(instance_counts(truth, prediction)[None]).items()
    }


def instance_metrics_in_words(truth, prediction):
    """Object by object, as the papers say it."""
    true_ids, predicted_ids = set(np.unique(truth)) - {0}, set(np.unique(prediction)) - {0}
    if not true_ids and not predicted_ids:
        return dict.fromkeys(INSTANCE_FIGURES[:5], math.nan)
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


def test_instance_figures_against_the_papers_words():
    rng = np.random.default_rng(1)
    for i in range(300):
        truth = random_instances(rng)
        prediction = np.roll(truth, 1, axis=i % 2) * 3 if i % 3 else random_instances(rng)
        ours, expected = instance_metrics(truth, prediction), instance_metrics_in_words(truth, prediction)
        assert {name: ours[name] for name in expected} == pytest.approx(expected, nan_ok=True), i


def test_instance_figures_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3]])
    prediction = np.array([[5, 5, 5, 0, 0, 0, 6, 6, 0]])
    # 1 and 5: 3 of 4, a match; 2 and 6: 1 of 3, no match but in the AJI; 3 is missed
    figures = instance_metrics(truth, prediction)
    assert figures["AJI"] == pytest.approx((3 + 1) / (4 + 3 + 1))
    assert figures["SQ"] == pytest.approx(3 / 4) and figures["RQ"] == figures["object F1"] == pytest.approx(2 / 5)
    assert figures["PQ"] == pytest.approx(3 / 4 * 2 / 5)


def test_instance_figures_where_nothing_is_found():
    objects = np.array([[1, 1, 0, 2]])
    for pair in ((objects, objects * 0), (objects * 0, objects)):
        figures = instance_metrics(*pair)
        assert figures["AJI"] == figures["PQ"] == figures["RQ"] == 0 and math.isnan(figures["SQ"])
    assert all(math.isnan(v) for v in instance_metrics(objects * 0, objects * 0).values())


def test_one_prediction_is_taken_twice():
    """Both true objects take the one prediction over them, as in the paper that defines the AJI."""
    figures = instance_metrics(np.array([[1, 1, 2, 2]]), np.array([[9, 9, 9, 9]]))
    assert figures["AJI"] == pytest.approx((2 + 2) / (4 + 4)) and figures["PQ"] == 0  # IoU 0.5 is no match


def test_pooled_figures_weigh_objects_not_images():
    """One image with one object found, one with three of which none is found."""
    one, three = np.array([[1, 1, 0, 0, 0, 0]]), np.array([[1, 1, 2, 2, 3, 3]])
    counts = np.stack([instance_counts(one, one), instance_counts(three, three * 0)])
    diagonal = math.hypot(1, 6)
    assert counts.tolist() == [
        [2, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0],
        [0, 6, 0, 0, 3, 0, 0, 6, 0, 0, 0, 6 * diagonal, 0],
    ]
    apart, pooled = instance_figures(counts), instance_figures(counts.sum(0, keepdims=True))
    assert apart["AJI"].tolist() == apart["RQ"].tolist() == [1, 0]
    assert pooled["AJI"].tolist() == [2 / 8] and pooled["RQ"].tolist() == [2 / 5]
    assert pooled["PQ"].tolist() == [2 / 5] and pooled["SQ"].tolist() == [1]
    assert apart["object Dice"].tolist() == [1, 0] and pooled["object Dice"].tolist() == [(2 / 8 + 2 / 2) / 2]
    assert apart["object Hausdorff (px)"].tolist() == [0, diagonal]
    assert pooled["object Hausdorff (px)"].tolist() == [pytest.approx((6 * diagonal / 8 + 0) / 2)]


NUCLEI = np.zeros((9, 44), int)
NUCLEI[2:5, ::4] = NUCLEI[2:5, 1::4] = 1  # eleven nuclei, all of class 1


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.array([[-1, 0]]), np.zeros((2, 2, 2), int), NUCLEI > 0, NUCLEI])
def test_what_is_no_instance_map_is_refused(wrong):
    empty = np.zeros(wrong.shape[:2], int)
    for pair in ((empty, wrong), (wrong, empty)):
        with pytest.raises(ValueError, match="is no instance map"):
            instance_counts(*pair)
    assert len(instance_counts(NUCLEI, NUCLEI, checked=True)) == len(INSTANCE_COUNTS)


def test_an_object_in_pieces_is_none_the_less_an_instance():
    pieces = NUCLEI.copy()
    pieces[:, 24:] = 0  # six
    assert instance_metrics(pieces, pieces)["PQ"] == 1
    numbered = NUCLEI * np.arange(1, 45)
    assert instance_metrics(numbered, numbered)["RQ"] == 1


# --- the GlaS challenge ---


def test_object_dice_and_glas_f1_by_hand():
    """Of 1 (4 pixels) three are found; 2 (2) is half covered by 6, and so found; 3 (1) is missed, 7 (1) invented."""
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 0, 0]])
    prediction = np.array([[5, 5, 5, 0, 0, 0, 6, 6, 0, 0, 7]])
    figures = instance_metrics(truth, prediction)
    of_true = (4 * (6 / 7) + 2 * (2 / 4) + 1 * 0) / 7
    of_predicted = (3 * (6 / 7) + 2 * (2 / 4) + 1 * 0) / 6
    assert figures["object Dice"] == pytest.approx((of_true + of_predicted) / 2)
    assert figures["GlaS F1"] == pytest.approx(2 * 2 / (3 + 3))
    assert figures["object F1"] == pytest.approx(2 * 1 / (3 + 3))  # 2 and 6 have an IoU of a third


def test_object_hausdorff_by_hand():
    """Object 3 overlaps none: nearest to it is 6, by this distance; 7 is nearest to 3 and not to 2."""
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 0, 0]])
    prediction = np.array([[5, 5, 5, 0, 0, 0, 6, 6, 0, 0, 7]])
    of_true = (4 * 1 + 2 * 1 + 1 * 2) / 7  # 5 ends one pixel short of 1; 6 is 2 moved by one; from 3 to 6's far end 2
    of_predicted = (3 * 1 + 2 * 1 + 1 * 2) / 6  # 7 is two pixels from 3
    assert instance_metrics(truth, prediction)["object Hausdorff (px)"] == pytest.approx((of_true + of_predicted) / 2)


def test_object_hausdorff_is_of_all_pixels_not_of_boundaries():
    """A gland whose lumen (7 by 7) was not filled: its middle pixel is 4 from the ring; outlines would agree."""
    truth = np.zeros((15, 15), int)
    truth[2:13, 2:13] = 1
    ring = truth.copy()
    ring[4:11, 4:11] = 0
    assert instance_metrics(truth, ring)["object Hausdorff (px)"] == 4


def test_the_partner_is_the_one_of_largest_overlap_not_of_largest_iou():
    truth = np.array([[1, 1, 1, 1, 1, 2, 2]])
    prediction = np.array([[8, 8, 8, 8, 8, 8, 8]])  # 8 belongs to 1, both 1 and 2 to 8
    figures = instance_metrics(truth, prediction)
    assert figures["object Dice"] == pytest.approx(((5 * (10 / 12) + 2 * (4 / 9)) / 7 + 10 / 12) / 2)
    assert figures["GlaS F1"] == pytest.approx(2 / 3)  # 2 is covered, but 8 found 1 already


def test_two_halves_find_an_object_once():
    figures = instance_metrics(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]]))
    assert figures["GlaS F1"] == pytest.approx(2 / 3) and figures["object Dice"] == pytest.approx(4 / 6)


def test_just_less_than_half_is_not_found():
    truth = np.array([[1] * 5])
    assert instance_metrics(truth, np.array([[1, 1, 0, 0, 0]]))["GlaS F1"] == 0
    assert instance_metrics(truth, np.array([[1, 1, 1, 0, 0]]))["GlaS F1"] == 1
    assert instance_metrics(truth[:, :4], np.array([[1, 1, 0, 0]]))["GlaS F1"] == 1  # at least half


def test_of_equal_overlaps_the_smaller_object_is_the_partner():
    """Whatever the numbers: 2 pixels of each lie under the prediction, Dice with the smaller one is larger."""
    truth = np.array([[3, 3, 3, 3, 9, 9]])
    for swapped in (truth, 12 - truth):
        figures = instance_metrics(swapped, np.array([[0, 0, 1, 1, 1, 1]]))
        assert figures["object Dice"] == pytest.approx(((4 * (4 / 8) + 2 * (4 / 6)) / 6 + 4 / 6) / 2)


def test_glas_figures_where_nothing_is_found_and_where_nothing_is():
    objects, nothing = np.array([[1, 1, 0, 2]] * 3), np.zeros((3, 4), int)
    for pair in ((objects, nothing), (nothing, objects)):
        figures = instance_metrics(*pair)
        assert figures["object Dice"] == figures["GlaS F1"] == 0 and figures["object Hausdorff (px)"] == 5
    empty = instance_metrics(nothing, nothing)
    assert all(math.isnan(empty[name]) for name in INSTANCE_FIGURES)


def test_a_lone_object_far_from_a_crowd():
    """The nearest of many by the Hausdorff distance is not the one of the nearest pixel: that one is long."""
    truth = np.zeros((40, 60), int)
    truth[20:23, 30:33] = 1
    prediction = np.zeros_like(truth)
    prediction[24, 0:60] = 1  # one pixel away from it, and 30 at its end
    prediction[10:13, 30:33] = 2  # ten pixels above
    (of_true,), of_predicted = object_distances(truth, prediction, np.array([-1]), np.array([-1, -1]))
    assert of_true == 10 and of_predicted.tolist() == [pytest.approx(math.hypot(30, 2)), 10]
