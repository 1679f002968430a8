"""The GlaS challenge's metrics by hand."""

import math

import numpy as np
import pytest

from GenSelfDiff.evaluation.glas_metrics import object_distances
from tests.GenSelfDiff.evaluation.measured import OF_OBJECTS, metrics_of


def test_object_dice_and_glas_f1_by_hand():
    """Of 1 (4 pixels) three are found; 2 (2) is half covered by 6, too little; 3 (1) is missed, 7 (1) invented."""
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 0, 0]])
    prediction = np.array([[5, 5, 5, 0, 0, 0, 6, 6, 0, 0, 7]])
    metrics = metrics_of(truth, prediction)
    of_true = (4 * (6 / 7) + 2 * (2 / 4) + 1 * 0) / 7
    of_predicted = (3 * (6 / 7) + 2 * (2 / 4) + 1 * 0) / 6
    assert metrics["object Dice"] == pytest.approx((of_true + of_predicted) / 2)
    assert metrics["GlaS F1"] == pytest.approx(2 * 1 / (3 + 3))
    assert metrics["object F1"] == pytest.approx(2 * 1 / (3 + 3))  # 2 and 6 have an IoU of a third


def test_object_hausdorff_by_hand():
    """Object 3 overlaps none: nearest to it is 6, by this distance; 7 is nearest to 3 and not to 2."""
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 0, 0]])
    prediction = np.array([[5, 5, 5, 0, 0, 0, 6, 6, 0, 0, 7]])
    of_true = (4 * 1 + 2 * 1 + 1 * 2) / 7  # 5 ends one pixel short of 1; 6 is 2 moved by one; from 3 to 6's far end 2
    of_predicted = (3 * 1 + 2 * 1 + 1 * 2) / 6  # 7 is two pixels from 3
    assert metrics_of(truth, prediction)["object Hausdorff"] == pytest.approx((of_true + of_predicted) / 2)


def test_object_hausdorff_is_of_all_pixels_not_of_boundaries():
    """A gland whose lumen (7 by 7) was not filled: its middle pixel is 4 from the ring; outlines would agree."""
    truth = np.zeros((15, 15), int)
    truth[2:13, 2:13] = 1
    ring = truth.copy()
    ring[4:11, 4:11] = 0
    assert metrics_of(truth, ring)["object Hausdorff"] == 4


def test_the_partner_is_the_one_of_largest_overlap_not_of_largest_iou():
    truth = np.array([[1, 1, 1, 1, 1, 2, 2]])
    prediction = np.array([[8, 8, 8, 8, 8, 8, 8]])  # 8 belongs to 1, both 1 and 2 to 8
    metrics = metrics_of(truth, prediction)
    assert metrics["object Dice"] == pytest.approx(((5 * (10 / 12) + 2 * (4 / 9)) / 7 + 10 / 12) / 2)
    assert metrics["GlaS F1"] == pytest.approx(2 / 3)  # 2 is covered, but 8 found 1 already


def test_two_halves_do_not_find_an_object():
    metrics = metrics_of(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]]))
    assert metrics["GlaS F1"] == 0 and metrics["object Dice"] == pytest.approx(4 / 6)
    metrics = metrics_of(np.array([[1, 1, 1, 1, 1]]), np.array([[1, 1, 1, 2, 2]]))
    assert metrics["GlaS F1"] == pytest.approx(2 * 1 / (1 + 2))  # 2 is a false positive


def test_exactly_half_is_not_found_and_a_pixel_more_is():
    """F1score.m of the challenge: areaOverlap / areaGTObj > 0.5."""
    truth = np.array([[1] * 5])
    assert metrics_of(truth, np.array([[1, 1, 0, 0, 0]]))["GlaS F1"] == 0
    assert metrics_of(truth, np.array([[1, 1, 1, 0, 0]]))["GlaS F1"] == 1
    assert metrics_of(truth[:, :4], np.array([[1, 1, 0, 0]]))["GlaS F1"] == 0
    assert metrics_of(truth[:, :4], np.array([[1, 1, 1, 0]]))["GlaS F1"] == 1
    assert metrics_of(truth[:, :4], np.array([[1, 1, 1, 1]]))["GlaS F1"] == 1


def test_of_equal_overlaps_the_smaller_object_is_the_partner():
    """Whatever the numbers: 2 pixels of each lie under the prediction, Dice with the smaller one is larger."""
    truth = np.array([[3, 3, 3, 3, 9, 9]])
    for swapped in (truth, 12 - truth):
        metrics = metrics_of(swapped, np.array([[0, 0, 1, 1, 1, 1]]))
        assert metrics["object Dice"] == pytest.approx(((4 * (4 / 8) + 2 * (4 / 6)) / 6 + 4 / 6) / 2)


def test_glas_metrics_where_nothing_is_found_and_where_nothing_is():
    objects, nothing = np.array([[1, 1, 0, 2]] * 3), np.zeros((3, 4), int)
    for pair in ((objects, nothing), (nothing, objects)):
        metrics = metrics_of(*pair)
        assert metrics["object Dice"] == metrics["GlaS F1"] == 0 and metrics["object Hausdorff"] == 5
    empty = metrics_of(nothing, nothing)
    assert all(math.isnan(empty[name]) for name in OF_OBJECTS)


def test_a_lone_object_far_from_a_crowd():
    """The nearest of many by the Hausdorff distance is not the one of the nearest pixel: that one is long."""
    truth = np.zeros((40, 60), int)
    truth[20:23, 30:33] = 1
    prediction = np.zeros_like(truth)
    prediction[24, 0:60] = 1  # one pixel away from it, and 30 at its end
    prediction[10:13, 30:33] = 2  # ten pixels above
    (of_true,), of_predicted = object_distances(truth, prediction, np.array([-1]), np.array([-1, -1]))
    assert of_true == 10 and of_predicted.tolist() == [pytest.approx(math.hypot(30, 2)), 10]
