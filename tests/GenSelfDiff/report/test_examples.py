import math

import numpy as np
import pandas as pd
import pytest

from GenSelfDiff.evaluation.images import PredictedImage
from GenSelfDiff.report.examples import choose, data_uri, shrink


def ranks(*dice):
    images = pd.DataFrame({"source": list("abcdefg")[: len(dice)], "split": "test", "Dice": dice})
    return {rank: row.source for rank, row in choose(images).items()}


def test_best_median_worst():
    assert ranks(0.5, 0.9, 0.1, 0.7, 0.6) == {"best": "b", "median": "e", "worst": "c"}
    assert ranks(0.5, math.nan, 0.1, 0.7) == {"best": "d", "median": "a", "worst": "c"}
    assert ranks(0.5, 0.5, 0.5) == {"best": "a", "median": "b", "worst": "c"}  # equal ones are still three images
    assert ranks(0.5, 0.9) == {"best": "b", "worst": "a"}
    assert ranks(0.5) == {"only": "a"} == ranks(0.5, math.nan)
    assert ranks(math.nan, math.nan) == {"best": "a", "worst": "b"}


def test_shrinking_keeps_maps_whole():
    numbers = np.kron(np.arange(8).reshape(2, 4), np.ones((50, 50), int))  # (100, 200)
    pixels = np.full((100, 200, 3), 7, np.uint8)
    maps = dict.fromkeys(("truth", "prediction", "true_instances", "instances"), numbers)
    image = PredictedImage(source="a", split="test", pixels=pixels, covered=numbers >= 0, **maps)
    small = shrink(image, 40)
    assert small.pixels.shape == (20, 40, 3) and (small.pixels == 7).all()
    for name in ("truth", "prediction", "true_instances", "instances"):
        assert (getattr(small, name) == np.kron(np.arange(8).reshape(2, 4), np.ones((10, 10), int))).all()
    assert small.covered.all() and shrink(image, 500).truth.shape == (100, 200)
    assert shrink(image, 1).truth.shape == (1, 1)


@pytest.mark.parametrize(("kind", "channels"), [("jpeg", 3), ("png", 4)])
def test_a_picture_as_text(kind, channels):
    assert data_uri(np.zeros((4, 4, channels), np.uint8), kind).startswith(f"data:image/{kind};base64,")
