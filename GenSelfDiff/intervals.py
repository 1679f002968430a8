"""What other images might have changed: bootstrap intervals of a mean over images (Efron, 1987: BCa, 95 %)."""

import math

import numpy as np
from scipy.stats import bootstrap

from utils_general import SPLIT_SEED

RESAMPLES = 9999
EQUAL = 1e-12  # relative: values that differ by less are one
MANY = 1000  # values, of which the mean is normally distributed for any purpose here; the bootstrap would take minutes
NORMAL = 1.959964  # standard errors to each side that make 95 %


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of one value an image (N,), NaN, where undefined, left out; the same each time.

    It never exceeds the range of the values, which are all that the bootstrap knows. NaN for fewer than two.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return np.nan, np.nan
    mean = float(known.mean())
    if np.ptp(known) < EQUAL * max(1.0, abs(mean)):  # nothing to resample
        return mean, mean
    if len(known) > MANY:
        half = NORMAL * float(known.std(ddof=1)) / math.sqrt(len(known))
        return mean - half, mean + half
    rng = np.random.default_rng(SPLIT_SEED)
    interval = bootstrap((known,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=rng).confidence_interval
    return float(interval.low), float(interval.high)
