import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff

from GenSelfDiff.test.metrics import (
    boundary,
    confusion_matrix,
    hausdorff,
    instance_counts,
    instance_figures,
    overlap_metrics,
)
from GenSelfDiff.test.metrics import published_metrics as published


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
def test_published_figures_are_the_released_ones(golden, maps, ours, released):
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
    for share in (0.5, 0.05, 0.01, 0):
        truth, prediction = (rng.random((2, 20, 30)) < share).astype(int)
        ways = directed_hausdorff(truth, prediction)[0], directed_hausdorff(prediction, truth)[0]
        assert published(truth, prediction, 2)["Hausdorff_distance"].tolist() == pytest.approx([max(ways)])


def test_published_figures_of_absent_classes_are_one():
    empty = np.zeros((4, 4), int)
    figures = published(empty, empty, 3)
    for name in ("AJI", "Jaccard_score", "F1_score", "precision", "sensitivity", "accuracy"):
        assert (figures[name] == 1).all()
    assert (figures["Hausdorff_distance"] == 0).all()


def test_published_aji_by_hand():
    """Class 2 is missed (its 2 pixels enter the union), class 3 is predicted where nothing is (its 1 pixel too)."""
    truth = np.array([[1, 1, 1, 0], [2, 2, 0, 0]])
    prediction = np.array([[1, 1, 0, 0], [0, 0, 0, 3]])
    assert published(truth, prediction, 4)["AJI"].tolist() == pytest.approx([2 / (3 + 2 + 1)])


def test_overlap_figures_by_hand():
    matrix = np.array([[50, 10], [5, 35]])
    figures = overlap_metrics(matrix)
    expected = {
        "Dice": 70 / 85, "Jaccard": 35 / 50, "precision": 35 / 45, "sensitivity": 35 / 40, "specificity": 50 / 60,
        "accuracy": 0.85,
    }  # fmt: skip
    assert {name: values[1] for name, values in figures.items()} == pytest.approx(expected)


def test_absent_classes_in_overlap_figures():
    """Class 1 is absent from both: left out. Class 2 is only true, class 3 only predicted: both count 0."""
    truth, prediction = np.array([[0, 0, 2, 2]]), np.array([[0, 3, 0, 0]])
    figures = overlap_metrics(confusion_matrix(truth, prediction, 4))
    for name in ("Dice", "Jaccard", "precision", "sensitivity"):
        assert math.isnan(figures[name][1]) and figures[name][2:].tolist() == [0, 0]
    assert math.isnan(figures["accuracy"][1])


def test_a_class_everywhere_has_no_specificity():
    """No pixel is outside it: 0 of 0 is neither right nor wrong, and a perfect prediction stays perfect."""
    everywhere = np.ones((4, 4), int)
    figures = overlap_metrics(confusion_matrix(everywhere, everywhere, 2))
    assert math.isnan(figures["specificity"][1]) and figures["accuracy"][1] == figures["Dice"][1] == 1
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


def instance_metrics(truth, prediction):
    """The figures of one pair of instance maps."""
    return {
        name: float(values[0]) for name, values in instance_figures(instance_counts(truth, prediction)[None]).items()
    }


def instance_metrics_in_words(truth, prediction):
    """Object by object, as the papers say it."""
    true_ids, predicted_ids = set(np.unique(truth)) - {0}, set(np.unique(prediction)) - {0}
    if not true_ids and not predicted_ids:
        return dict.fromkeys(("AJI", "PQ", "SQ", "RQ", "object F1"), math.nan)
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
        assert ours == pytest.approx(expected, nan_ok=True), i


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
    assert counts.tolist() == [[2, 2, 1, 1, 1, 1], [0, 6, 0, 0, 3, 0]]
    apart, pooled = instance_figures(counts), instance_figures(counts.sum(0, keepdims=True))
    assert apart["AJI"].tolist() == apart["RQ"].tolist() == [1, 0]
    assert pooled["AJI"].tolist() == [2 / 8] and pooled["RQ"].tolist() == [2 / 5]
    assert pooled["PQ"].tolist() == [2 / 5] and pooled["SQ"].tolist() == [1]


NUCLEI = np.zeros((9, 44), int)
NUCLEI[2:5, ::4] = NUCLEI[2:5, 1::4] = 1  # eleven nuclei, all of class 1


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.array([[-1, 0]]), np.zeros((2, 2, 2), int), NUCLEI > 0, NUCLEI])
def test_what_is_no_instance_map_is_refused(wrong):
    empty = np.zeros(wrong.shape[:2], int)
    for pair in ((empty, wrong), (wrong, empty)):
        with pytest.raises(ValueError, match="is no instance map"):
            instance_counts(*pair)


def test_an_object_in_pieces_is_none_the_less_an_instance():
    pieces = NUCLEI.copy()
    pieces[:, 24:] = 0  # six
    assert instance_metrics(pieces, pieces)["PQ"] == 1
    numbered = NUCLEI * np.arange(1, 45)
    assert instance_metrics(numbered, numbered)["RQ"] == 1
