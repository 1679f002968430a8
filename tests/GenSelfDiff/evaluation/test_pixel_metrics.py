import math
from itertools import product

import numpy as np
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff

from GenSelfDiff.evaluation.pixel_metrics import boundary, confusion_matrix, hausdorff, overlap_metrics
from GenSelfDiff.evaluation.pixel_metrics import published_metrics as published


@pytest.fixture
def maps(golden):
    return golden["m_true"], golden["m_pred"]


@pytest.mark.parametrize(
    ("ours", "released"),
    [
        ("precision", "m_precision"), ("sensitivity", "m_sensitivity"), ("specificity", "m_specificity"),
        ("accuracy", "m_accuracy"), ("F1_score", "m_F1_score"), ("Jaccard_score", "m_Jaccard_score"),
        ("Hausdorff_distance", "m_Hausdorff_distance"), ("dice", "m_dice"), ("AJI", "m_class_map_aji"),
    ],
)  # fmt: skip
def test_published_metrics_are_the_released_ones(golden, maps, ours, released):
    assert published(*maps, classes=4)[ours].tolist() == pytest.approx(
        np.atleast_1d(golden[released]).tolist(), rel=1e-6
    )


def test_confusion_matrix(golden, maps):
    assert (confusion_matrix(*maps, 4) == golden["m_cm"]).all()
    by_hand = confusion_matrix(np.array([[0, 0], [1, 2]]), np.array([[0, 1], [1, 1]]), 3)
    assert by_hand.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("wrong", [3, -1])
def test_confusion_matrix_refuses_a_class_too_many(wrong):
    with pytest.raises(ValueError, match="other indices than 0 to 2"):
        confusion_matrix(np.array([[0, 1]]), np.array([[0, wrong]]), 3)


def test_published_hausdorff_is_that_of_rows_also_of_empty_masks():
    rng = np.random.default_rng(2)
    for height, width, share in product((1, 20, 70), (1, 30, 64, 131), (0.5, 0.05, 0.01, 0)):
        truth, prediction = (rng.random((2, height, width)) < share).astype(int)
        ways = directed_hausdorff(truth, prediction)[0], directed_hausdorff(prediction, truth)[0]
        assert published(truth, prediction, 2)["Hausdorff_distance"].tolist() == [max(ways)]


def test_published_hausdorff_finds_a_row_again_elsewhere():
    """Turned upside down a mask has the same rows: the distance from row to row of the same number says nothing."""
    truth = (np.random.default_rng(3).random((64, 64)) < 0.4).astype(int)
    assert published(truth, truth[::-1], 2)["Hausdorff_distance"].tolist() == [0]
    other = truth[::-1].copy()
    other[5, :7] ^= 1  # the row that has these is now 7 pixels off, unless another is nearer
    expected = max(directed_hausdorff(truth, other)[0], directed_hausdorff(other, truth)[0])
    assert published(truth, other, 2)["Hausdorff_distance"].tolist() == [expected]


def test_published_metrics_of_absent_classes_are_one():
    empty = np.zeros((4, 4), int)
    metrics = published(empty, empty, 3)
    for name in ("AJI", "Jaccard_score", "F1_score", "precision", "sensitivity", "accuracy"):
        assert (metrics[name] == 1).all()
    assert (metrics["Hausdorff_distance"] == 0).all()


def test_published_specificity_of_a_class_everywhere_is_one():
    everywhere = np.ones((4, 4), int)
    assert published(everywhere, everywhere, 2)["specificity"].tolist() == [1]
    assert published(everywhere, 0 * everywhere, 2)["specificity"].tolist() == [1]


def test_published_aji_by_hand():
    """Class 2 is missed (its 2 pixels enter the union), class 3 is predicted where nothing is (its 1 pixel too)."""
    truth = np.array([[1, 1, 1, 0], [2, 2, 0, 0]])
    prediction = np.array([[1, 1, 0, 0], [0, 0, 0, 3]])
    assert published(truth, prediction, 4)["AJI"].tolist() == pytest.approx([2 / (3 + 2 + 1)])


def test_overlap_metrics_by_hand():
    matrix = np.array([[50, 10], [5, 35]])
    metrics = overlap_metrics(matrix)
    expected = {
        "Dice": 70 / 85, "Jaccard": 35 / 50, "precision": 35 / 45, "sensitivity": 35 / 40, "specificity": 50 / 60,
        "accuracy": 0.85,
    }  # fmt: skip
    assert {name: values[1] for name, values in metrics.items()} == pytest.approx(expected)


def test_absent_classes_in_overlap_metrics():
    """Class 1 is absent from both: left out. Class 2 is only true, class 3 only predicted: both count 0."""
    truth, prediction = np.array([[0, 0, 2, 2]]), np.array([[0, 3, 0, 0]])
    metrics = overlap_metrics(confusion_matrix(truth, prediction, 4))
    for name in ("Dice", "Jaccard", "precision", "sensitivity"):
        assert math.isnan(metrics[name][1]) and metrics[name][2:].tolist() == [0, 0]
    assert math.isnan(metrics["accuracy"][1])


def test_a_class_everywhere_has_no_specificity():
    """No pixel is outside it: 0 of 0 is neither right nor wrong, and a perfect prediction stays perfect."""
    everywhere = np.ones((4, 4), int)
    metrics = overlap_metrics(confusion_matrix(everywhere, everywhere, 2))
    assert math.isnan(metrics["specificity"][1]) and metrics["accuracy"][1] == metrics["Dice"][1] == 1
    half = np.array([[1, 1, 0, 0]] * 4)
    assert math.isnan(overlap_metrics(confusion_matrix(everywhere, half, 2))["specificity"][1])
    assert overlap_metrics(confusion_matrix(half, everywhere, 2))["specificity"][1] == 0


def square(size, top, left, side):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_hausdorff_by_hand():
    a, b = square(40, 5, 5, 10), square(40, 5, 9, 10)  # moved by four pixels
    assert hausdorff(a, b) == (4, 4) and hausdorff(a, a) == (0, 0)
    speck = a.copy()
    speck[35, 10] = True  # one pixel 21 below the square, of 37 on the boundary: HD95 does not see it
    assert hausdorff(a, speck) == (21, 0) and hausdorff(speck, a) == (21, 0)


def test_hausdorff_of_absent_classes():
    empty = np.zeros((30, 40), bool)
    full = ~empty
    assert all(math.isnan(d) for d in hausdorff(empty, empty))
    assert hausdorff(empty, full) == hausdorff(full, empty) == (50, 50)


def test_hausdorff_against_all_distances():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.random((2, 12, 15)) < 0.2
        distances = cdist(boundary(a), boundary(b))
        directed = distances.min(1), distances.min(0)
        expected = max(d.max() for d in directed), max(np.percentile(d, 95) for d in directed)
        assert hausdorff(a, b) == pytest.approx(expected)


def test_boundary_has_the_pixels_at_the_border_of_the_image():
    assert len(boundary(np.ones((5, 6), bool))) == 2 * 5 + 2 * 6 - 4
