"""Is a network as sure as it is right? Pixels by confidence, and the expected calibration error."""

import numpy as np

from GenSelfDiff.evaluation.images import PredictedImage

CONFIDENCE_BINS = 20


def calibration_bins(image: PredictedImage, confidence: np.ndarray) -> np.ndarray:
    """The covered pixels by confidence, in equal bins of [0, 1]: number, sum of confidences, right; float64 (20, 3).

    `confidence` is the stitched probability of the predicted class, float32 (H, W). Right are those whose predicted
    class is the true one. A reliability diagram and the expected calibration error (Guo et al., 2017) follow from
    these, and sums over images are those of all their pixels.
    """
    confidence = confidence[image.covered].clip(0, 1)
    right = (image.prediction == image.truth)[image.covered]
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    sums = [np.bincount(bins, weights, CONFIDENCE_BINS) for weights in (None, confidence, right)]
    return np.stack(sums, axis=1).astype(np.float64)


def calibration_error(calibration: np.ndarray) -> float:
    """Expected calibration error (Guo et al., 2017) of `calibration_bins` (bins, 3), of one image or added up.

    The mean over all pixels of the gap, bin by bin, between how sure the network was and how often it was right. NaN
    without a pixel.
    """
    number, confidence, right = calibration.T
    return float(np.abs(confidence - right).sum() / number.sum()) if number.sum() else float("nan")


def tells_how_sure(calibration: np.ndarray) -> bool:
    """Whether not every pixel has a probability of 1: a method that says only classes has no calibration to tell."""
    number, confidence, _ = calibration.sum(0)
    return bool(confidence < number or not number)
