import math
from typing import get_args

import numpy as np
import pytest

from GenSelfDiff import metrics
from GenSelfDiff.comparison.results import MetricName
from GenSelfDiff.evaluation.evaluate import mask_metrics
from GenSelfDiff.evaluation.instance_metrics import instance_counts, instance_metrics
from GenSelfDiff.evaluation.pixel_metrics import confusion_matrix, overlap_metrics, published_metrics
from GenSelfDiff.metrics import PUBLISHED, STANDARD
from GenSelfDiff.report.page import HEADLINES

MAP = np.array([[0, 1, 1, 0], [0, 0, 0, 1]])


def test_what_is_computed_is_what_the_table_knows():
    """Names and their order; and what is pooled over images is what is made of sums."""
    matrix = confusion_matrix(MAP, MAP, 2)
    on_masks, on_objects = mask_metrics(MAP, MAP, matrix), instance_metrics(instance_counts(MAP, MAP)[None])
    assert [*on_masks, *on_objects] == list(STANDARD)
    assert list(published_metrics(MAP, MAP, 2)) == list(PUBLISHED)
    pooled = {level: [m.name for m in STANDARD.values() if m.level == level and m.pooled] for level in
              ("pixels", "objects", "image")}  # fmt: skip
    assert pooled == {"pixels": list(overlap_metrics(matrix)), "objects": list(on_objects), "image": []}
    assert {*get_args(MetricName), *sum(HEADLINES.values(), ())} <= set(STANDARD)


def test_lower_is_better_of_distances_and_of_nothing_else():
    distances = {name for name, metric in (PUBLISHED | STANDARD).items() if not metric.higher_is_better}
    assert distances == {"Hausdorff_distance", "Hausdorff", "HD95", "object Hausdorff"}
    assert {m.digits for m in (PUBLISHED | STANDARD).values() if m.name in distances} == {2}
    assert {m.digits for m in (PUBLISHED | STANDARD).values() if m.name not in distances} == {4}


def test_headers():
    dice, hd95 = STANDARD["Dice"], STANDARD["HD95"]
    assert dice.columns(["background", "nucleus"]) == ["Dice"]
    assert hd95.columns(["b", "x: y", "(px)"]) == ["HD95 (px)", "HD95 (px): x: y", "HD95 (px): (px)"]
    assert metrics.of_row(metrics.BY_IMAGE, "HD95 (px): x: y") is hd95
    assert metrics.of_row(metrics.POOLED, "Dice: Hausdorff (px)") is dice  # whatever a class is called
    assert metrics.of_row(metrics.AS_PUBLISHED, "AJI") is PUBLISHED["AJI"]
    assert metrics.of_row(metrics.BY_INSTANCE, "AJI") is STANDARD["AJI"]
    with pytest.raises(KeyError):
        metrics.of_row(metrics.BY_IMAGE, "AJIs")


def test_values_as_people_read_them():
    assert [STANDARD[name].text(1 / 3) for name in ("Dice", "HD95")] == ["0.3333", "0.33"]
    assert [STANDARD[name].text(2 / 3, fewer=1) for name in ("Dice", "HD95")] == ["0.667", "0.7"]
    assert STANDARD["Dice"].text(math.nan) == "–"
