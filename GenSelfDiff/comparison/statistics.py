"""Is one of several tested methods better? Results of the same test images, and intervals of their differences.

All intervals are bootstrap intervals over images (Efron, 1987: bias-corrected and accelerated), differences are paired:
image by image. They tell what other images of the same kind would change, not what another seed of training would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from GenSelfDiff.intervals import mean_interval
from GenSelfDiff.metrics import STANDARD, Metric
from utils_general import RESULTS, InputError, read_json

MetricName = Literal[
    "Dice", "Jaccard", "HD95", "AJI", "PQ", "object F1", "GlaS F1", "object Dice", "object Hausdorff"
]  # fmt: skip
"""The standard metrics that results are compared by"""
FEWEST = 6  # five images that all agree do so by chance more often than one time in twenty: 2 / 2^5
BETTER, WORSE, NOT_TOLD = "better", "worse", "not told apart"


@dataclass(frozen=True)
class Result:
    """What test_script.py or baselines.py found out about one method."""

    name: str
    folder: Path
    summary: dict[str, Any]
    images: pd.DataFrame
    """by source image: split, and the standard metrics under their names in `MetricName`"""

    @classmethod
    def read(cls, folder: Path, name: str = "") -> "Result":
        """Read a results folder; `InputError` where it is none, or of an older version."""
        if not (folder / "summary.json").is_file():
            raise InputError(f"{folder} holds no results (no summary.json): run test_script.py or baselines.py first")
        summary = read_json(folder / "summary.json")
        try:
            images = pd.read_csv(folder / "images.csv", dtype={"source": str, "split": str}).set_index("source")
            columns = {name: STANDARD[name].label for name in get_args(MetricName)}
            images = images[["split", *columns.values()]].set_axis(["split", *columns], axis=1)
            known = [summary[key] for key in ("classes", "true instances", "confusion matrices")]
        except (OSError, ValueError, KeyError):
            known = []
        if not known:
            raise InputError(f"{folder} is of another version of this project, or not complete: test again")
        return cls(name or folder.name, folder, summary, images)

    def means(self) -> dict[str, float]:
        """The mean over all images of each metric."""
        return self.images.drop(columns="split").mean().to_dict()

    def true_pixels(self) -> dict[str, list[int]]:
        """How many pixels of each class the test images have, by split."""
        matrices = self.summary["confusion matrices"]
        return {split: np.sum(matrix, axis=1).tolist() for split, matrix in matrices.items()}


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
    def of(cls, values: np.ndarray) -> "Estimate":
        """Of one value an image (N,), NaN where undefined. The interval never exceeds the range of the values."""
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if len(known) else np.nan
        return cls(mean, *mean_interval(values), len(known), len(values) - len(known))

    def verdict(self, metric: Metric) -> str:
        """What a difference to another method says by a metric: better or worse only if 0 is outside the interval.

        Fewer than `FEWEST` images say nothing: the bootstrap knows no values but theirs.
        """
        if self.images < FEWEST or not (self.low > 0 or self.high < 0):
            return NOT_TOLD
        return BETTER if (self.mean > 0) == metric.higher_is_better else WORSE


def read_results(names: tuple[str, ...]) -> list[Result]:
    """Results of the same images: of folders, or of runs by their names under `RESULTS`.

    `InputError` for fewer than two, the same twice, and what cannot be compared: see `check_comparable`.
    """
    if len(names) < 2:
        raise InputError("name two or more results to compare, e.g. results/A results/B")
    folders = [path if (path := Path(name)).is_dir() else RESULTS / name for name in names]
    folders = [folder.absolute() for folder in folders]
    for i, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:i]]:
            raise InputError(f"the same results are named twice: {folder}")
    results = [Result.read(folder, title) for folder, title in zip(folders, titles(folders), strict=True)]
    for result in results[1:]:
        check_comparable(results[0], result)
    return results


def titles(folders: list[Path]) -> list[str]:
    """What each result is called: the name of its folder, with as many folders above it as make all differ."""
    longest = max(len(folder.parts) for folder in folders)
    called = (["/".join(folder.parts[-parts:]) for folder in folders] for parts in range(1, longest + 1))
    return next(names for names in called if len(set(names)) == len(folders))


def check_comparable(a: Result, b: Result) -> None:
    """`InputError` that names what differs: the images, their classes, their splits, or their truth."""
    pair = f"{a.folder} and {b.folder}"
    for one, other in ((a, b), (b, a)):
        if alone := [name for name in one.images.index if name not in other.images.index]:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            raise InputError(
                f"{pair} were tested on different images, they cannot be compared: only {one.folder} has "
                f"{', '.join(alone[:3])}{more}"
            )
    if a.summary["classes"] != b.summary["classes"]:
        classes = [", ".join(result.summary["classes"]) for result in (a, b)]
        raise InputError(f"{pair} are of different classes, they cannot be compared: {classes[0]}; {classes[1]}")
    splits = pd.DataFrame({"a": a.images.split, "b": b.images.split})
    if len(moved := splits[splits.a != splits.b]):
        name, one, other = next(moved.itertuples())
        raise InputError(f"{pair} cannot be compared: {name} is of split {one} in the first, of {other} in the second")
    for what, values in {
        "true objects from": [result.summary["true instances"] for result in (a, b)],
        "true pixels by class": [result.true_pixels() for result in (a, b)],
    }.items():
        if values[0] != values[1]:
            raise InputError(
                f"{pair} were not tested against the same truth, they cannot be compared: {what} {values[0]}; "
                f"{values[1]} (patches of another size may cover another part of an image: --border-windows)"
            )


def sections(result: Result) -> dict[str, pd.Index]:
    """The images of each split, and, where there are several splits, of all."""
    splits = {split: images.index for split, images in result.images.groupby("split", sort=False)}
    return splits if len(splits) == 1 else {**splits, "all": result.images.index}


def side_by_side(results: list[Result], metrics: tuple[MetricName, ...]) -> pd.DataFrame:
    """A row a metric and image: figure (its name), split, source, and the value of each result."""
    first = results[0].images
    tables = [
        pd.DataFrame({
            "figure": name, "split": first.split,
            **{result.name: result.images[name].reindex(first.index) for result in results},
        })
        for name in metrics
    ]  # fmt: skip
    return pd.concat(tables).reset_index().rename(columns={"index": "source"})


def estimates(table: pd.DataFrame, names: list[str]) -> Iterator[dict[str, Any]]:
    """Of each metric and result its mean: rows with figure, result, and the fields of `Estimate`."""
    for metric, values in table.groupby("figure", sort=False):
        for name in names:
            yield {"figure": metric, "result": name, **vars(Estimate.of(values[name].to_numpy(float)))}


def differences(table: pd.DataFrame, names: list[str]) -> Iterator[dict[str, Any]]:
    """Of each metric and result but the first its mean difference from the first, paired; an image undefined in one
    of the two is left out."""
    for metric, values in table.groupby("figure", sort=False):
        for name in names[1:]:
            difference = Estimate.of((values[name] - values[names[0]]).to_numpy(float))
            verdict = difference.verdict(STANDARD[str(metric)])
            yield {"figure": metric, "result": name, "against": names[0], **vars(difference), "verdict": verdict}
