"""Means, intervals and the test of differences: by hand, and how often they err where the truth is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from GenSelfDiff.comparison import statistics
from GenSelfDiff.comparison.statistics import Estimate, differences, fewest, holm, sign_flip_p, verdict
from GenSelfDiff.metrics import STANDARD

METRICS = ("Dice", "AJI", "PQ", "object F1", "HD95")


# --- by hand ---


def test_p_is_the_share_of_signs_with_a_mean_as_far_from_zero():
    values = np.array([0.3, -0.1, 0.2, 0.05, 0.4])
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=5)]
    expected = np.mean([total >= abs(values.sum()) - 1e-12 for total in sums])
    assert sign_flip_p(values) == pytest.approx(expected) and expected == 6 / 32  # 1.05, 0.95 and 0.85 of 0.85
    assert sign_flip_p(-values) == pytest.approx(expected)


@pytest.mark.parametrize("number", [2, 5, 6, 14])
def test_the_smallest_p_is_two_of_all_choices_of_signs(number):
    assert sign_flip_p(np.linspace(0.1, 0.2, number)) == pytest.approx(2 / 2**number)


def test_p_of_nothing_of_one_image_and_of_no_difference():
    assert math.isnan(sign_flip_p(np.array([np.nan, np.nan]))) and math.isnan(sign_flip_p(np.array([])))
    assert sign_flip_p(np.array([0.3, np.nan])) == 1
    assert sign_flip_p(np.zeros(8)) == sign_flip_p(np.full(8, 1e-17)) == sign_flip_p(np.full(80, 0.0)) == 1


def test_p_of_many_images_is_the_same_each_time_and_never_zero():
    values = np.random.default_rng(0).normal(1, 1, 80)
    assert 0 < sign_flip_p(values) == sign_flip_p(values) < 0.001


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]).tolist() == [1, 1] and holm([]).tolist() == [] and holm([0.04]).tolist() == [0.04]
    adjusted = holm([math.nan, 0.01, 0.02])  # a comparison that could not be made is none
    assert math.isnan(adjusted[0]) and adjusted[1:].tolist() == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize(("comparisons", "images"), [(1, 6), (2, 7), (8, 9), (24, 10)])
def test_the_fewest_images_follow_from_the_smallest_p(comparisons, images):
    assert fewest(comparisons) == images
    assert comparisons * 2 / 2**images < 0.05 <= comparisons * 2 / 2 ** (images - 1)


def test_the_verdict_follows_p_and_the_direction():
    assert verdict(0.1, 0.049, STANDARD["Dice"]) == verdict(-1, 0.01, STANDARD["HD95"]) == "better"
    assert verdict(-0.1, 0.049, STANDARD["Dice"]) == verdict(1, 0.01, STANDARD["HD95"]) == "worse"
    assert verdict(0.1, 0.05, STANDARD["Dice"]) == verdict(math.nan, math.nan, STANDARD["Dice"]) == "not told apart"


def test_the_interval_is_students():
    """Of 1, 2, 3: 2 plus and minus 4.3027 (t of two degrees of freedom) times 1 / sqrt(3)."""
    estimate = Estimate.of(np.array([1.0, 2.0, np.nan, 3.0]))
    assert (estimate.mean, estimate.images, estimate.left_out) == (2, 3, 1)
    assert [estimate.low, estimate.high] == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5], abs=1e-6)
    assert Estimate.of(np.array([0.9, 0.99]), 0, 1).high == 1  # no share is above 1


def test_the_interval_of_equal_values_is_that_value():
    assert Estimate.of(np.full(7, 0.3)) == Estimate(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3), 7, 0)


def test_of_one_image_there_is_no_interval():
    assert np.isnan([Estimate.of(np.array([0.3])).low, Estimate.of(np.array([np.nan])).mean]).all()


# --- how often it errs ---

SCORES = {
    "normal": lambda rng, size: rng.normal(0.7, 0.1, size),
    "skewed": lambda rng, size: rng.lognormal(0, 1, size),
    "heavy-tailed": lambda rng, size: rng.standard_t(2, size),
    "bounded": lambda rng, size: rng.beta(9, 1, size),
}


def called(rng, draw, images, better=0.0):
    """What is called of two methods whose scores by several metrics, half of each their own, are of one kind."""
    tables = []
    common = draw(rng, (images, 2))
    for metric in METRICS:
        a, b = ((common + draw(rng, (images, 2))) / 2).T
        tables.append(pd.DataFrame({"figure": metric, "A": a, "B": b + better}))
    return [row["verdict"] for row in differences(pd.concat(tables), ["A", "B"])]


@pytest.mark.parametrize("images", [6, 14, 80])
@pytest.mark.parametrize("kind", SCORES)
def test_of_equal_methods_any_metric_is_called_in_one_table_of_twenty_at_most(kind, images, monkeypatch):
    """Familywise: any of five metrics. Of 200 tables 10 may, and of that many 20 come with a chance of 0.2 %."""
    monkeypatch.setattr(statistics, "EXACT", 9)  # random choices of signs above: fewer, no less right, and faster
    rng = np.random.default_rng(2023)
    wrong = sum(set(called(rng, SCORES[kind], images)) != {"not told apart"} for _ in range(200))
    assert wrong <= 20


@pytest.mark.parametrize("images", [6, 14, 80])
def test_one_metric_alone_errs_as_often_as_it_says(images, monkeypatch):
    """Not only seldom: a test that never calls anything is useless. Of 6 images, 2 of 64 choices of signs tell."""
    monkeypatch.setattr(statistics, "EXACT", 9)
    rng = np.random.default_rng(0)
    told = sum(sign_flip_p(rng.beta(9, 1, images) - rng.beta(9, 1, images)) < 0.05 for _ in range(400))
    expected = 400 * (2 / 64 if images == 6 else 0.05)
    assert abs(told - expected) <= 3 * math.sqrt(expected)


@pytest.mark.parametrize(("images", "better"), [(9, 0.3), (14, 0.15), (80, 0.05)])
def test_a_clear_difference_is_called(images, better, monkeypatch):
    """The deviation of a paired difference is 0.1 here: three, one and a half, and half of it."""
    monkeypatch.setattr(statistics, "EXACT", 10)
    rng = np.random.default_rng(1)
    rows = [told for _ in range(40) for told in called(rng, SCORES["normal"], images, better)[:4]]
    assert np.mean([told == "better" for told in rows]) > 0.9


def test_too_few_images_tell_nothing_however_clear():
    assert set(called(np.random.default_rng(0), SCORES["normal"], 7, better=5)) == {"not told apart"}


@pytest.mark.parametrize("images", [6, 14, 80])
@pytest.mark.parametrize(("kind", "mean"), [("normal", 0.7), ("bounded", 0.9)])
def test_the_interval_covers_the_mean_about_as_often_as_it_says(kind, mean, images):
    """The bounded one is skewed: there it is a little too narrow, as every interval of few values."""
    rng = np.random.default_rng(0)
    held = [(e := Estimate.of(SCORES[kind](rng, images))).low <= mean <= e.high for _ in range(1000)]
    assert (0.93 if kind == "normal" else 0.88) <= np.mean(held) <= 0.97
