import numpy as np
import pytest

from GenSelfDiff.evaluation.instance_metrics import INSTANCE_COUNTS, instance_counts
from GenSelfDiff.evaluation.object_fates import FATE_COUNTS, FATES, fates, fates_by_number
from GenSelfDiff.evaluation.object_pairs import Pairs, consecutive


def in_words(truth, prediction):
    """The fates of the true and of the predicted objects, in the order in which they appear."""
    pairs = Pairs.of(*(consecutive(np.array([numbers])) for numbers in (truth, prediction)))
    return [[FATES[fate] for fate in of] for of in fates(pairs)]


@pytest.mark.parametrize(
    ("truth", "prediction", "of_true", "of_predicted"),
    [
        ([1, 1, 1, 0], [7, 7, 0, 0], ["found"], ["found"]),
        ([1, 1, 0, 0], [0, 0, 7, 7], ["missed"], ["false"]),
        ([1, 1, 1, 1], [7, 7, 0, 0], ["missed"], ["false"]),  # exactly half is no match, and one piece is no split
        ([1, 1, 2, 2], [7, 7, 7, 7], ["merged"] * 2, ["merged"]),
        ([1, 1, 2, 2, 3, 0], [7, 7, 7, 7, 7, 0], ["merged"] * 3, ["merged"]),
        ([1, 1, 1, 1, 2, 2], [7, 7, 7, 7, 7, 0], ["found", "missed"], ["found"]),  # only half of 2 is swallowed
        ([1, 1, 1, 1, 2, 0], [7, 7, 7, 7, 7, 0], ["found", "merged"], ["found"]),  # 1 is found all the same
        ([1, 1, 1, 1], [7, 7, 8, 8], ["split"], ["split"] * 2),
        ([1, 1, 1, 1, 1], [7, 7, 7, 8, 8], ["found"], ["found", "split"]),  # found, and a piece too many
        ([1, 1, 1, 1, 0, 0], [7, 7, 0, 8, 8, 8], ["missed"], ["false"] * 2),  # 8 is mostly elsewhere
        ([0, 0], [0, 0], [], []),
    ],
)
def test_every_fate_by_hand(truth, prediction, of_true, of_predicted):
    assert in_words(truth, prediction) == [of_true, of_predicted]
    counts = dict(
        zip(INSTANCE_COUNTS, instance_counts(*(np.array([a], int) for a in (truth, prediction))), strict=True)
    )
    expected = [of_true.count(fate) for fate in FATES[:-1]] + [of_predicted.count("false")]
    assert [counts[name] for name in FATE_COUNTS] == expected
    assert sum(expected[:-1]) == counts["true objects"] and expected[0] == counts["matched pairs"]


def test_fates_belong_to_the_numbers_of_a_map_and_to_one_class():
    truth, true_classes = np.array([[9, 9, 0, 4, 4, 0]]), np.array([[1, 1, 0, 2, 2, 0]])
    found, found_classes = np.array([[0, 0, 0, 2, 2, 5]]), np.array([[0, 0, 0, 1, 1, 1]])
    of_true, of_found = fates_by_number((truth, true_classes), (found, found_classes))
    assert {n: FATES[of_true[n]] for n in (4, 9)} == {4: "missed", 9: "missed"}  # 2 is there, but of another class
    assert {n: FATES[of_found[n]] for n in (2, 5)} == {2: "false", 5: "false"}
    assert of_true[[0, 1]].tolist() == [-1, -1] and len(of_true) == 10 and len(of_found) == 6
    of_true, of_found = fates_by_number((truth, true_classes), (found, 2 * found_classes))
    assert FATES[of_true[4]] == FATES[of_found[2]] == "found" and FATES[of_true[9]] == "missed"
