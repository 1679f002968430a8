import math
from dataclasses import replace

import numpy as np
import pytest

from GenSelfDiff.evaluation.calibration import calibration_bins, calibration_error, tells_how_sure
from tests.GenSelfDiff.report.squares import squares


def test_calibration_error_by_hand():
    """90 pixels said 0.9 of which 81 are right, 10 said 0.6 of which 3 are: 10 % of the pixels are 0.3 off."""
    bins = np.zeros((20, 3))
    bins[18], bins[12] = (90, 81.0, 81), (10, 6.0, 3)
    assert calibration_error(bins) == pytest.approx(0.03)
    assert calibration_error(bins[:, [0, 2, 1]]) == pytest.approx(0.03)  # too careful is as wrong as too sure
    assert math.isnan(calibration_error(np.zeros((20, 3))))


def test_bins_by_hand():
    """900 pixels, 36 missed and 36 invented; the last row is in no patch, of the first the network is less sure."""
    covered, confidence = np.ones((30, 30), bool), np.ones((30, 30), np.float32)
    covered[29], confidence[0] = False, 0.62
    bins = calibration_bins(replace(squares(), covered=covered), confidence)
    expected = np.zeros((20, 3))
    expected[12], expected[19] = (30, 30 * 0.62, 30), (840, 840, 840 - 2 * 36)
    assert bins == pytest.approx(expected)


def test_a_method_that_says_only_classes_does_not_tell_how_sure_it_is():
    calibration = np.zeros((20, 3))
    calibration[19] = 100, 100, 60
    assert not tells_how_sure(calibration)
    calibration[19, 1] -= 1e-3
    assert tells_how_sure(calibration)


def test_nothing_is_surer_than_sure():
    """A mean of probabilities may round to a little more than 1."""
    confidence = np.full((30, 30), np.nextafter(np.float32(1), np.float32(2)))
    bins = calibration_bins(squares(), confidence)
    assert bins[19].tolist() == [900, 900, 900 - 2 * 36]
