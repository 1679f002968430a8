"""What is known of every metric: name, unit, direction, digits, what it compares, how it is averaged. One table.

Tables, charts, comparisons and the headers of csv files read it here; `evaluation` computes the values under these
names. A column is called by a metric's name and unit, "HD95 (px)", and holds the mean over the classes without
background; where there are several, "HD95 (px): nucleus" is that of one class.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pandas as pd

AS_PUBLISHED = "as published: mean over patches, classes without background"
BY_IMAGE = "standard: mean over images, classes without background"
BY_INSTANCE = "standard, on instances: mean over images, classes without background"
POOLED = "standard: pooled over the pixels of all images, mean over classes without background"
POOLED_INSTANCES = "standard, on instances: pooled over the objects of all images, mean over classes without background"
STANDARD_IN_PATCHES = "standard: "  # before standard metrics in patches.csv, where published ones have the same names
OF_CLASS = ": "  # between a metric and a class
UNDEFINED = "–"  # stands for a value that is NaN


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of merit, as those need to know it who show or compare its values."""

    name: str
    level: Literal["pixels", "objects", "image"]
    """what is compared: pixels, objects, or the masks that a class has in an image"""
    mean: str
    """how its mean over patches or images is called, above its rows in a table"""
    pooled: str | None = None
    """how its value from the sums over all images is called, likewise; None for what is not made of sums"""
    unit: str = ""
    """"px" for pixels; none for shares from 0 to 1"""
    higher_is_better: bool = True
    digits: int = 4
    """behind the point in a table"""

    @property
    def label(self) -> str:
        """Its name with the unit: "Dice", "HD95 (px)"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def columns(self, classes: list[str]) -> list[str]:
        """The headers of its columns: the mean over the classes without background, and of several, each by name."""
        of_class = classes[1:] if len(classes) > 2 else []
        return [self.label, *(f"{self.label}{OF_CLASS}{c}" for c in of_class)]

    def text(self, value: float, fewer: int = 0) -> str:
        """A value as people read it, with its digits or so many `fewer`."""
        return UNDEFINED if pd.isna(value) else f"{value:.{self.digits - fewer}f}"


def _by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


_DISTANCE = {"higher_is_better": False, "digits": 2}
_published = partial(Metric, level="pixels", mean=AS_PUBLISHED)
_pixels = partial(Metric, level="pixels", mean=BY_IMAGE, pooled=POOLED)
_masks = partial(Metric, level="image", mean=BY_IMAGE, unit="px", **_DISTANCE)
_objects = partial(Metric, level="objects", mean=BY_INSTANCE, pooled=POOLED_INSTANCES)

PUBLISHED = _by_name([
    *(_published(name=name) for name in ("AJI", "Jaccard_score", "F1_score")),
    Metric(name="Hausdorff_distance", level="image", mean=AS_PUBLISHED, **_DISTANCE),  # of image rows: no unit
    *(_published(name=name) for name in ("accuracy", "sensitivity", "precision", "specificity", "dice")),
])  # fmt: skip
"""The released code's metrics of a patch, under their published names."""
STANDARD = _by_name([
    *(_pixels(name=name) for name in ("Dice", "Jaccard", "precision", "sensitivity", "specificity", "accuracy")),
    *(_masks(name=name) for name in ("Hausdorff", "HD95")),
    *(_objects(name=name) for name in ("AJI", "PQ", "SQ", "RQ", "object F1", "GlaS F1", "object Dice")),
    _objects(name="object Hausdorff", unit="px", **_DISTANCE),
    _objects(name="AJI+"),  # last: columns of earlier versions keep their places
])  # fmt: skip
"""The metrics that other papers give."""


def of_row(averaging: str, column: str) -> Metric:
    """The metric of a row of a table: the one place where the header of a column is read back."""
    metrics = PUBLISHED if averaging == AS_PUBLISHED else STANDARD
    return {metric.label: metric for metric in metrics.values()}[column.partition(OF_CLASS)[0]]
