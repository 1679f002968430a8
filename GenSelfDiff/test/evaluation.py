"""Runs a predictor over a folder of labelled patches and collects all figures: by patch, by image, pooled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from GenSelfDiff.data import Patches
from GenSelfDiff.test import metrics
from GenSelfDiff.test.instances import InstanceSettings, to_instances
from utils_general import DataSet, InputError

Predictor = Callable[[np.ndarray], np.ndarray]
"""All patches of one source image, uint8 (N, H, W, 3), to class probabilities float32 (N, C, H, W)"""

AS_PUBLISHED = "as published: mean over patches, classes without background"
BY_IMAGE = "standard: mean over images, classes without background"
BY_INSTANCE = "standard, instances: mean over images"
POOLED = "standard: pooled over the pixels of all images"


@dataclass
class Image:
    """One source image, as far as its patches cover it; maps are (H, W)."""

    source: str
    split: str
    pixels: np.ndarray
    """uint8 (H, W, 3)"""
    truth: np.ndarray
    prediction: np.ndarray
    true_instances: np.ndarray
    instances: np.ndarray


@dataclass
class Figures:
    """All figures of a test."""

    patches: pd.DataFrame
    """a row a patch: the published figures, mean over the classes without background"""
    images: pd.DataFrame
    """a row an image: the standard figures, mean over the classes without background, and of each class"""
    matrices: dict[str, np.ndarray]
    """confusion matrix of the stitched images, by split"""
    classes: list[str]
    method: str
    """how class maps became instances"""
    truth_instances: str
    """where the true instances come from"""

    def table(self) -> pd.DataFrame:
        """The figures averaged: rows (averaging, figure), a column a split, and "all" where there are several."""
        splits = list(self.matrices)
        columns = {split: self._column([split]) for split in splits}
        if len(splits) > 1:
            columns["all"] = self._column(splits)
        return pd.DataFrame(columns)

    def _column(self, splits: list[str]) -> pd.Series:
        patches = self.patches[self.patches.split.isin(splits)].drop(columns=["patch", "source", "split"])
        images = self.images[self.images.split.isin(splits)].drop(columns=["source", "split"])
        on_instances = ["AJI", "PQ", "SQ", "RQ", "object F1"]
        rows = {(AS_PUBLISHED, name): value for name, value in patches.mean().items()}
        rows |= {(BY_IMAGE, n): v for n, v in images.drop(columns=on_instances).mean().items()}
        rows |= {(BY_INSTANCE, n): v for n, v in images[on_instances].mean().items()}
        pooled = metrics.overlap_metrics(sum(self.matrices[split] for split in splits))
        rows |= {(POOLED, n): float(np.nanmean(v[1:])) for n, v in pooled.items()}
        return pd.Series(rows)


def evaluate(
    predict: Predictor,
    patches: Patches,
    classes: list[str],
    settings: InstanceSettings,
    look: Callable[[Image], None],
) -> Figures:
    """Predict every image of `patches`, hand it to `look` (which may draw it), and collect the figures."""
    method = instance_method(settings, patches.data_set)
    patch_rows, image_rows, matrices = [], [], {}
    for image, rows in tqdm(
        _images(predict, patches, classes, method, settings), "images", patches.index.source.nunique(), disable=None
    ):
        patch_rows += rows
        matrix = metrics.confusion_matrix(image.truth, image.prediction, len(classes))
        matrices[image.split] = matrices.get(image.split, 0) + matrix
        image_rows.append({"source": image.source, "split": image.split, **image_figures(image, matrix, classes)})
        look(image)
    return Figures(
        pd.DataFrame(patch_rows),
        pd.DataFrame(image_rows),
        matrices,
        classes,
        method,
        "the annotation" if patches.has_instances else "connected components of the class map",
    )


def instance_method(settings: InstanceSettings, data_set: DataSet) -> str:
    """The method that the settings mean."""
    return data_set.instances if settings.instances == "auto" else settings.instances


def _images(
    predict: Predictor, patches: Patches, classes: list[str], method: str, settings: InstanceSettings
) -> Iterator[tuple[Image, list[dict[str, object]]]]:
    """Every source image, stitched, with the published figures of its patches."""
    for (split, source), rows in patches.index.groupby(["split", "source"], sort=False):
        corners = list(zip(rows.x - rows.x.min(), rows.y - rows.y.min(), strict=True))
        pixels = np.stack([patches.image(i) for i in rows.patch])
        truth = np.stack([patches.label(i) for i in rows.patch])
        probabilities = predict(pixels)
        figures = []
        for patch, true, predicted in zip(rows.patch, truth, probabilities.argmax(1), strict=True):
            published = metrics.published_metrics(true, predicted, len(classes))
            means = {name: float(values.mean()) for name, values in published.items()}
            figures.append({"patch": patch, "source": source, "split": split, **means})
        whole = stitch(truth, corners)
        prediction = stitch_probabilities(probabilities, corners).argmax(0)
        if patches.has_instances:
            true_instances = stitch(np.stack([patches.instances(i) for i in rows.patch]), corners)
        else:
            true_instances = to_instances(whole, "components", InstanceSettings(minimum_area=1))
        instances = to_instances(prediction, method, settings)
        yield Image(source, split, stitch(pixels, corners), whole, prediction, true_instances, instances), figures


def stitch(patches: np.ndarray, corners: list[tuple[int, int]]) -> np.ndarray:
    """Put patches (N, H, W, ...) of one image together at their corners (x, y); where they overlap they agree."""
    height, width = patches.shape[1:3]
    right, bottom = max(x for x, _ in corners) + width, max(y for _, y in corners) + height
    whole = np.zeros((bottom, right, *patches.shape[3:]), patches.dtype)
    for patch, (x, y) in zip(patches, corners, strict=True):
        whole[y : y + height, x : x + width] = patch
    return whole


def stitch_probabilities(probabilities: np.ndarray, corners: list[tuple[int, int]]) -> np.ndarray:
    """Mean of the probabilities (N, C, H, W) of all patches that cover a pixel, (C, H', W'); 0 where none does."""
    classes, height, width = probabilities.shape[1:]
    right, bottom = max(x for x, _ in corners) + width, max(y for _, y in corners) + height
    total, covered = np.zeros((classes, bottom, right)), np.zeros((bottom, right))
    for patch, (x, y) in zip(probabilities, corners, strict=True):
        total[:, y : y + height, x : x + width] += patch
        covered[y : y + height, x : x + width] += 1
    return total / np.maximum(covered, 1)


def image_figures(image: Image, matrix: np.ndarray, classes: list[str]) -> dict[str, float]:
    """The standard figures of one image: mean over the classes without background, then of each class by name."""
    by_class = {name: values[1:] for name, values in metrics.overlap_metrics(matrix).items()}
    distances = [metrics.hausdorff(image.truth == c, image.prediction == c) for c in range(1, len(classes))]
    by_class["Hausdorff (px)"], by_class["HD95 (px)"] = np.array(distances).T
    figures = {name: _mean(values) for name, values in by_class.items()}
    figures |= metrics.instance_metrics(image.true_instances, image.instances)
    if len(classes) > 2:
        for c, class_name in enumerate(classes[1:]):
            figures |= {f"{name}: {class_name}": float(values[c]) for name, values in by_class.items()}
    return figures


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def patches_to_test(root: Path) -> Patches:
    """The labelled test patches of a data set."""
    folder = root / "test"
    if not folder.is_dir():
        raise InputError(f"{root} has no folder test: its preprocessing made no labelled test patches")
    return Patches(folder, labelled=True)
