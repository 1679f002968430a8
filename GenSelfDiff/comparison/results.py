"""Results folders of tests, read and validated; which of them can be compared."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from GenSelfDiff.metrics import STANDARD
from utils_general import RESULTS, InputError, read_json

MetricName = Literal[
    "Dice", "Jaccard", "HD95", "AJI", "PQ", "object F1", "GlaS F1", "object Dice", "object Hausdorff"
]  # fmt: skip
"""The standard metrics that results are compared by"""
COLUMNS = ("source", "figure", "split")  # of `side_by_side`, beside a column a result
ROUNDING = 1e-9  # of shares above 1


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
        """Read a results folder; `InputError` where it is none, of an older version, or damaged: it says what is."""
        if not (folder / "summary.json").is_file():
            raise InputError(f"{folder} holds no results (no summary.json): run test_script.py or baselines.py first")
        try:
            summary = _checked_summary(read_json(folder / "summary.json"))
            images = _read_images(folder / "images.csv")
            _check_same_images(summary, images)
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{folder} is of another version of this project, or damaged: {reason}; test again"
            ) from None
        return cls(name or folder.name, folder, summary, images)

    def means(self) -> dict[str, float]:
        """The mean over all images of each metric."""
        return self.images.drop(columns="split").mean().to_dict()

    def true_pixels(self) -> dict[str, list[int]]:
        """How many pixels of each class the test images have, by split."""
        matrices = self.summary["confusion matrices"]
        return {split: np.sum(matrix, axis=1).tolist() for split, matrix in matrices.items()}


def _checked_summary(summary: Any) -> dict[str, Any]:
    """The content of summary.json with what is needed of it in its right form; `ValueError` names what is not."""

    def need(right: bool, key: str, wanted: str) -> None:
        if not right:
            raise ValueError(f"summary.json has no {wanted} under {key!r}")

    def names(value: Any, at_least: int) -> bool:
        return isinstance(value, list) and len(value) >= at_least and all(isinstance(n, str) and n for n in value)

    if not isinstance(summary, dict):
        raise ValueError("summary.json holds no object")
    classes, matrices = summary.get("classes"), summary.get("confusion matrices")
    need(names(classes, 2), "classes", "list of names of two classes or more")
    need(names(summary.get("images"), 1), "images", "list of images")
    need(isinstance(summary.get("true instances"), str), "true instances", "text")
    need(isinstance(matrices, dict), "confusion matrices", "table a split")
    for matrix in matrices.values():
        lists = isinstance(matrix, list) and all(isinstance(row, list) for row in matrix)
        need(lists and [len(row) for row in matrix] == [len(classes)] * len(classes), "confusion matrices", "C x C")
        counts = [count for row in matrix for count in row]
        need(all(type(n) is int and 0 <= n < 2**63 for n in counts), "confusion matrices", "numbers of pixels")
    return summary


def _read_images(path: Path) -> pd.DataFrame:
    """images.csv as in `Result.images`. Nothing but an empty cell is an undefined value: an image may be called NA."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    metrics = {name: STANDARD[name].label for name in get_args(MetricName)}
    if missing := [column for column in ("source", "split", *metrics.values()) if column not in header]:
        raise ValueError(f"{path.name} has no column {missing[0]}")
    if wrong := [i for i, row in enumerate(rows, 1) if len(row) != len(header)]:
        raise ValueError(f"row {wrong[0]} of {path.name} has {len(rows[wrong[0] - 1])} values, not {len(header)}")
    cells = {column: [row[header.index(column)] for row in rows] for column in ("source", "split", *metrics.values())}
    sources = cells["source"]
    if odd := [name for name in sources if not name or Path(name).name != name or sources.count(name) > 1]:
        raise ValueError(f"{path.name} has an image of no name, of a path, or twice: {odd[0]!r}")
    values = {
        name: [_value(cell, name, source, path) for cell, source in zip(cells[column], sources, strict=True)]
        for name, column in metrics.items()
    }
    return pd.DataFrame({"split": cells["split"], **values}, index=pd.Index(sources, name="source", dtype=object))


def _value(cell: str, metric: str, source: str, path: Path) -> float:
    """A cell of images.csv: a share or a distance, NaN where it is empty."""
    try:
        value = float(cell or "nan")
    except ValueError:
        value = math.inf
    if not math.isnan(value) and not 0 <= value <= (1 + ROUNDING if not STANDARD[metric].unit else 1e300):
        raise ValueError(f"{metric} of image {source} in {path.name} is {cell!r}")
    return value


def _check_same_images(summary: dict[str, Any], images: pd.DataFrame) -> None:
    if sorted(summary["images"]) != sorted(images.index):
        raise ValueError("summary.json and images.csv are of different images")
    if set(summary["confusion matrices"]) != set(images.split):
        raise ValueError("summary.json and images.csv are of different splits")


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
    """What each result is called: the name of its folder, with as many folders above it as make all differ.

    From each other, and from the other columns of `side_by_side`.
    """
    longest = max(len(folder.parts) for folder in folders)
    called = (["/".join(folder.parts[-parts:]) for folder in folders] for parts in range(1, longest + 1))
    return next(names for names in called if len({*names, *COLUMNS}) == len(folders) + len(COLUMNS))


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
    together = "all" if "all" not in splits else "all splits"
    return splits if len(splits) == 1 else {**splits, together: result.images.index}


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
