import math

import numpy as np
import pytest

from GenSelfDiff.intervals import mean_interval


def test_undefined_values_are_left_out_and_few_tell_nothing():
    assert mean_interval(np.array([0.2, math.nan, 0.4, 0.7])) == mean_interval(np.array([0.2, 0.4, 0.7]))
    for values in ([], [0.5], [0.5, math.nan]):
        assert np.isnan(mean_interval(np.array(values))).all()
    assert mean_interval(np.array([0.3, 0.3, 0.3])) == pytest.approx((0.3, 0.3))


def test_it_holds_the_true_mean_19_times_of_20():
    rng = np.random.default_rng(0)
    held = [low <= 0.5 <= high for low, high in (mean_interval(rng.random(30)) for _ in range(200))]
    assert 0.91 <= np.mean(held) <= 0.99


def test_by_hand_and_cut_to_where_a_mean_can_be():
    """0, 1, 2: mean 1, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.303."""
    values = np.array([0.0, 1.0, 2.0])
    assert mean_interval(values) == pytest.approx((1 - 4.303 / 3**0.5, 1 + 4.303 / 3**0.5), abs=1e-3)
    assert mean_interval(values, 0, 2) == (0, 2)
