"""What other images might have changed: intervals of a mean over images (Student's t, 95 %)."""

import math

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95
EQUAL = 1e-12  # values that differ by less, absolutely or relatively, are one


def mean_interval(values: np.ndarray, lowest: float = -math.inf, highest: float = math.inf) -> tuple[float, float]:
    """The 95 % interval of the mean of one value an image (N,), NaN, where undefined, left out.

    It is cut to where a mean can be, `lowest` to `highest`. NaN for fewer than two.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return math.nan, math.nan
    mean = float(known.mean())
    equal = np.ptp(known) < EQUAL * max(1.0, abs(mean))
    deviation = 0.0 if equal else known.std(ddof=1) / math.sqrt(len(known))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * deviation)
    return max(lowest, mean - reach), min(highest, mean + reach)
