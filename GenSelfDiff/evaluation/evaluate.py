"""Runs a predictor over a folder of labelled patches and collects all figures: by patch, by image, pooled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from GenSelfDiff import released_layout
from GenSelfDiff.data import Patches
from GenSelfDiff.evaluation import pixel_metrics as metrics
from GenSelfDiff.evaluation.instance_metrics import INSTANCE_FIGURES, check_instances, instance_counts, instance_figures
from GenSelfDiff.instances import InstanceSettings, of_class, to_instances
from GenSelfDiff.predictor import Predictor
from utils_general import DataSet, InputError

AS_PUBLISHED = "as published: mean over patches, classes without background"
BY_IMAGE = "standard: mean over images, classes without background"
BY_INSTANCE = "standard, on instances: mean over images, classes without background"
STANDARD = "standard: "  # before the standard figures in patches.csv, where published ones have the same names
POOLED = "standard: pooled over the pixels of all images, mean over classes without background"
POOLED_INSTANCES = "standard, on instances: pooled over the objects of all images, mean over classes without background"
CONFIDENCE_BINS = 20


@dataclass
class Image:
    """One source image, as far as its patches cover it; maps are (H, W)."""

    source: str
    split: str
    pixels: np.ndarray
    """uint8 (H, W, 3)"""
    covered: np.ndarray
    """bool: where there is a patch; the rest of the other maps is 0"""
    truth: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    """float32: the stitched probability of the predicted class"""
    true_instances: np.ndarray
    instances: np.ndarray


@dataclass
class Figures:
    """All figures of a test."""

    patches: pd.DataFrame
    """a row a patch: the published and (named `STANDARD`) the standard figures, mean over the classes without
    background; of the standard ones those of each class too"""
    images: pd.DataFrame
    """a row an image: the standard figures, mean over the classes without background, and of each class"""
    matrices: dict[str, np.ndarray]
    """confusion matrix (C, C) of the stitched images, by split"""
    counts: dict[str, np.ndarray]
    """`INSTANCE_COUNTS` of the classes without background (C - 1, 13), by split"""
    calibration: np.ndarray
    """float64 (20, 3), see `calibration_bins`, of all stitched images"""
    classes: list[str]
    method: str
    """how class maps became instances"""
    truth_instances: str
    """where the true instances come from"""

    def left_out(self) -> dict[str, int]:
        """In how many images a figure is undefined and so left out of its mean: those where it is in any."""
        undefined = self.images.isna().sum()
        return {name: int(number) for name, number in undefined.items() if number}

    def table(self) -> pd.DataFrame:
        """The figures averaged: rows (averaging, figure), a column a split, and "all" where there are several."""
        splits = list(self.matrices)
        columns = {split: self._column([split]) for split in splits}
        if len(splits) > 1:
            columns["all"] = self._column(splits)
        return pd.DataFrame(columns)

    def _column(self, splits: list[str]) -> pd.Series:
        published = [n for n in self.patches if n not in ("patch", "source", "split") and not n.startswith(STANDARD)]
        patches = self.patches.loc[self.patches.split.isin(splits), published]
        images = self.images[self.images.split.isin(splits)].drop(columns=["source", "split"])
        matrix, counts = (sum(sums[split] for split in splits) for sums in (self.matrices, self.counts))
        rows = {(AS_PUBLISHED, name): value for name, value in patches.mean().items()}
        for name, value in images.mean().items():
            on_instances = name.partition(":")[0] in INSTANCE_FIGURES
            rows[BY_INSTANCE if on_instances else BY_IMAGE, name] = value
        pooled = {name: values[1:] for name, values in metrics.overlap_metrics(matrix).items()}
        rows |= {(POOLED, name): value for name, value in named(pooled, self.classes).items()}
        pooled = named(instance_figures(counts), self.classes)
        return pd.Series(rows | {(POOLED_INSTANCES, name): value for name, value in pooled.items()})


def evaluate(
    predict: Predictor,
    patches: Patches,
    classes: list[str],
    settings: InstanceSettings,
    look: Callable[[Image], None],
) -> Figures:
    """Predict every image of `patches`, hand it to `look` (which may draw it), and collect the figures."""
    method = instance_method(settings, patches.data_set)
    patch_rows, image_rows, matrices, counts = [], [], {}, {}
    calibration = np.zeros((CONFIDENCE_BINS, 3))
    for image, rows in tqdm(
        _images(predict, patches, classes, method, settings), "images", patches.index.source.nunique(), disable=None
    ):
        patch_rows += rows
        matrix = metrics.confusion_matrix(image.truth[image.covered], image.prediction[image.covered], len(classes))
        objects = class_instance_counts(image, len(classes))
        matrices[image.split] = matrices.get(image.split, 0) + matrix
        counts[image.split] = counts.get(image.split, 0) + objects
        calibration += calibration_bins(image)
        by_class = mask_figures(image.truth, image.prediction, matrix) | instance_figures(objects)
        image_rows.append({"source": image.source, "split": image.split, **named(by_class, classes)})
        look(image)
    return Figures(
        pd.DataFrame(patch_rows),
        pd.DataFrame(image_rows),
        matrices,
        counts,
        calibration,
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
    """Every source image, stitched, with the rows of its patches."""
    for (split, source), rows in patches.index.groupby(["split", "source"], sort=False):
        corners = list(zip(rows.x - rows.x.min(), rows.y - rows.y.min(), strict=True))
        pixels = np.stack([patches.image(i) for i in rows.patch])
        truth = np.stack([patches.label(i) for i in rows.patch])
        probabilities = predict(pixels)
        patch_rows = [
            {"patch": patch, "source": source, "split": split, **patch_figures(true, predicted, classes)}
            for patch, true, predicted in zip(rows.patch, truth, probabilities.argmax(1), strict=True)
        ]
        whole, covered = stitch(truth, corners), stitch(np.ones_like(truth, bool), corners)
        probabilities = stitch_probabilities(probabilities, corners)
        prediction = probabilities.argmax(0)
        instances = _true_instances(patches, rows, corners, whole), to_instances(prediction, method, settings)
        image = Image(
            source,
            split,
            stitch(pixels, corners),
            covered,
            whole,
            prediction,
            probabilities.max(0),
            *(np.where(covered, m, 0) for m in instances),  # a gap between patches is no hole to be filled
        )
        yield image, patch_rows


def _true_instances(
    patches: Patches, rows: pd.DataFrame, corners: list[tuple[int, int]], truth: np.ndarray
) -> np.ndarray:
    """The annotated instances of one image; where they are unknown, the connected components of its class map."""
    if not patches.has_instances:
        return to_instances(truth, "components", InstanceSettings(minimum_area=1))
    instances = stitch(np.stack([patches.instances(i) for i in rows.patch]), corners)
    try:
        check_instances(instances, f"the annotation of {rows.source.iloc[0]} in {patches.folder}/instances")
    except ValueError as error:
        raise InputError(f"{error}; without that folder connected components are taken") from None
    return instances


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
    total, covered = np.zeros((classes, bottom, right), np.float32), np.zeros((bottom, right), np.float32)
    for patch, (x, y) in zip(probabilities, corners, strict=True):
        total[:, y : y + height, x : x + width] += patch
        covered[y : y + height, x : x + width] += 1
    return total / np.maximum(covered, 1)


def calibration_bins(image: Image) -> np.ndarray:
    """The covered pixels by confidence, in equal bins of [0, 1]: number, sum of confidences, right; float64 (20, 3).

    Right are those whose predicted class is the true one. A reliability diagram and the expected calibration error
    (Guo et al., 2017) follow from these, and sums over images are those of all their pixels.
    """
    confidence = image.confidence[image.covered].clip(0, 1)
    right = (image.prediction == image.truth)[image.covered]
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    columns = [np.bincount(bins, weights, CONFIDENCE_BINS) for weights in (None, confidence, right)]
    return np.stack(columns, axis=1).astype(np.float64)


def class_instance_counts(image: Image, classes: int) -> np.ndarray:
    """`INSTANCE_COUNTS` of each class without background (C - 1, 13): only objects of one class are compared."""
    return np.stack([
        instance_counts(
            of_class(image.true_instances, image.truth, c), of_class(image.instances, image.prediction, c), checked=True
        )
        for c in range(1, classes)
    ])  # fmt: skip


def patch_figures(truth: np.ndarray, prediction: np.ndarray, classes: list[str]) -> dict[str, float]:
    """The published and the standard figures of one patch, from its class maps (H, W)."""
    published = metrics.published_metrics(truth, prediction, len(classes))
    standard = mask_figures(truth, prediction, metrics.confusion_matrix(truth, prediction, len(classes)))
    means = {name: float(values.mean()) for name, values in published.items()}
    return means | {STANDARD + name: value for name, value in named(standard, classes).items()}


def mask_figures(truth: np.ndarray, prediction: np.ndarray, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """The standard figures on class maps (H, W) and their confusion matrix (C, C), (C - 1,) each: no background."""
    by_class = {name: values[1:] for name, values in metrics.overlap_metrics(matrix).items()}
    distances = [metrics.hausdorff(truth == c, prediction == c) for c in range(1, len(matrix))]
    by_class["Hausdorff (px)"], by_class["HD95 (px)"] = np.array(distances).T
    return by_class


def named(by_class: dict[str, np.ndarray], classes: list[str]) -> dict[str, float]:
    """Each figure's mean over the classes without background (C - 1,), NaN left out; of several, each by its name."""
    figures = {}
    for name, values in by_class.items():
        figures[name] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
        if len(classes) > 2:
            figures |= {f"{name}: {c}": float(value) for c, value in zip(classes[1:], values, strict=True)}
    return figures


def patches_to_test(root: Path) -> Patches:
    """The labelled test patches of a data set, `root/test`; or `root` itself where that is a folder as released."""
    folder = root if (root / released_layout.LABELS).is_file() else root / "test"
    if not folder.is_dir():
        raise InputError(f"{root} has no folder test: its preprocessing made no labelled test patches")
    patches = Patches(folder, labelled=True)
    if not patches.described:  # nothing was divided: all of it is to test
        patches.index["split"] = "test"
    return patches


def check_patches(patches: Patches, classes: int) -> None:
    """Read everything once: `InputError` names the first file that is broken, of another size or of a wrong class."""
    patches.check_labels(classes)
    size = (patches.data_set.patch_size, patches.data_set.patch_size)
    for patch in tqdm(patches.index.patch, "checking", disable=None):
        maps = {patches.file(patch).name: patches.image(patch), f"instance_{patch}.png": patches.instances(patch)}
        for name, array in maps.items():
            if array is not None and array.shape[:2] != size:
                found = f"{array.shape[1]}x{array.shape[0]}"
                raise InputError(f"{name} in {patches.folder} is {found} pixels, not {size[1]}x{size[0]}")
