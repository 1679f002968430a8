"""Is one of several tested methods better? Means over images with intervals, and tests of paired differences.

All of it is over images: it tells what other images of the same kind would change, not what another seed of training
would. Intervals are Student's t: of samples of 6 to 80 values, normal, skewed, heavy-tailed and bounded ones, they held
the mean no less often than bootstrap intervals (BCa), at 6 values in 85 to 96 of 100 samples instead of in 78 to 89.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test

from GenSelfDiff.intervals import EQUAL, mean_interval
from GenSelfDiff.metrics import STANDARD, Metric
from utils_general import SPLIT_SEED

LEVEL = 0.05  # of all comparisons of a table together
EXACT = 14  # images, up to which all 2^n flips of signs are tried; beyond, as many random ones
BETTER, WORSE, NOT_TOLD = "better", "worse", "not told apart"


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % interval; NaN where there is nothing to tell it from."""

    mean: float
    low: float
    high: float
    images: int
    left_out: int
    """images in which the metric is undefined"""

    @classmethod
    def of(cls, values: np.ndarray, lowest: float = -math.inf, highest: float = math.inf) -> "Estimate":
        """Of one value an image (N,), NaN where undefined; the interval is cut to where a mean can be."""
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if len(known) else np.nan
        return cls(mean, *mean_interval(values, lowest, highest), len(known), len(values) - len(known))


def sign_flip_p(differences: np.ndarray) -> float:
    """p of the two-sided sign-flip test (Fisher, 1935) of paired differences (N,); NaN without a known one.

    If two methods are equally good, so that swapping their results in any image changes nothing, each difference is as
    likely to have the other sign: p is the share of all choices of signs for which the mean is as far from 0. Whatever
    the distribution of the values, p < 0.05 comes in at most one of twenty such cases. Of N images it is 2 / 2^N at
    least. Up to `EXACT` images it is exact.
    """
    known = differences[~np.isnan(differences)]
    known = np.where(np.abs(known) < EQUAL, 0.0, known)
    if len(known) < 2:
        return 1.0 if len(known) else math.nan
    rng = np.random.default_rng(SPLIT_SEED)
    test = permutation_test(
        (known,), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**EXACT, batch=2**12, rng=rng
    )
    return float(test.pvalue)


def holm(p: Sequence[float]) -> np.ndarray:
    """Values of p adjusted for their number (Holm, 1979), (N,): of true null hypotheses, in at most a share LEVEL of
    such families any has less than LEVEL. NaN, a comparison that could not be made, stays and is not counted."""
    adjusted = np.array(p, float)
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # NaN comes last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def fewest(comparisons: int) -> int:
    """The smallest number of images of which one of so many comparisons can be told: 2 / 2^n of each, below `LEVEL`."""
    return math.floor(math.log2(2 * comparisons / LEVEL)) + 1


def verdict(mean: float, p: float, metric: Metric) -> str:
    """What a mean difference to another method and its adjusted p say by a metric."""
    if not p < LEVEL:
        return NOT_TOLD
    return BETTER if (mean > 0) == metric.higher_is_better else WORSE


def estimates(table: pd.DataFrame, names: list[str]) -> Iterator[dict[str, Any]]:
    """Of each metric and result its mean: rows with figure, result, and the fields of `Estimate`."""
    for metric, values in table.groupby("figure", sort=False):
        for name in names:
            estimate = Estimate.of(values[name].to_numpy(float), 0, _largest(str(metric)))
            yield {"figure": metric, "result": name, **vars(estimate)}


def differences(table: pd.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    """Of each metric and result but the first its mean difference from the first, paired, and what it tells.

    Rows with figure, result, against, the fields of `Estimate`, p of `sign_flip_p`, adjusted_p of `holm` over all rows
    that have a p (their number: comparisons), and the verdict. An image undefined in one of the two is left out.
    """
    rows = []
    for metric, values in table.groupby("figure", sort=False):
        largest = _largest(str(metric))
        for name in names[1:]:
            paired = (values[name] - values[names[0]]).to_numpy(float)
            estimate = vars(Estimate.of(paired, -largest, largest))
            rows.append({"figure": metric, "result": name, "against": names[0], **estimate, "p": sign_flip_p(paired)})
    adjusted = holm([row["p"] for row in rows])
    comparisons = int(np.count_nonzero(~np.isnan(adjusted)))
    for row, p in zip(rows, adjusted.tolist(), strict=True):
        told = verdict(row["mean"], p, STANDARD[row["figure"]])
        row |= {"adjusted_p": p, "comparisons": comparisons, "verdict": told}
    return rows


def _largest(metric: str) -> float:
    """The largest value of a metric: shares end at 1, distances nowhere."""
    return math.inf if STANDARD[metric].unit else 1.0
