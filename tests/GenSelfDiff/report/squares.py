"""An image with one object of each kind of right and wrong."""

import numpy as np

from GenSelfDiff.evaluation.images import PredictedImage

TISSUE, CLASS_1, CLASS_2 = [200, 100, 150], [255, 69, 0], [127, 255, 0]


def squares():
    """A true square of class 1 that is missed, one that is found, and an object of class 2 that is not there."""
    truth, prediction = np.zeros((30, 30), int), np.zeros((30, 30), int)
    truth[2:8, 2:8] = truth[12:18, 12:18] = 1
    prediction[12:18, 12:18] = 1
    prediction[22:28, 2:8] = 2
    true_instances, instances = (np.zeros((30, 30), np.int32) for _ in range(2))
    true_instances[2:8, 2:8], true_instances[12:18, 12:18] = 5, 9
    instances[12:18, 12:18], instances[22:28, 2:8] = 1, 2
    return PredictedImage(
        source="a", split="test", pixels=np.full((30, 30, 3), TISSUE, np.uint8), covered=np.ones((30, 30), bool),
        truth=truth, prediction=prediction, true_instances=true_instances, instances=instances,
    )  # fmt: skip
