"""Runs a predictor over a folder of labelled patches and collects all metrics: by patch, by image, pooled.

The published metrics are of each patch's own prediction. All others are of whole images: put together from their
patches, and predicted as one, as a user has them predicted.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from GenSelfDiff import released_layout
from GenSelfDiff.data import labelled_folder
from GenSelfDiff.evaluation import pixel_metrics
from GenSelfDiff.evaluation.calibration import calibration_bins
from GenSelfDiff.evaluation.coverage import SIZES, source_areas
from GenSelfDiff.evaluation.images import ImagePatches, PredictedImage, enlarged, within
from GenSelfDiff.evaluation.instance_metrics import INSTANCE_COUNTS, instance_counts, instance_metrics
from GenSelfDiff.evaluation.object_fates import FATE_COUNTS
from GenSelfDiff.instances import InstanceSettings, of_class
from GenSelfDiff.intervals import mean_interval
from GenSelfDiff.metrics import PUBLISHED, STANDARD, STANDARD_IN_PATCHES
from GenSelfDiff.patches import Patches
from GenSelfDiff.predictor import Predictor, WholePredictor, as_one
from GenSelfDiff.targets import Targets, decode, from_bytes, instance_method, to_bytes
from utils_general import InputError

TestSplit = Literal["test", "val"]
COVERED = "covered share"
OBJECTS = ("true objects", "predicted objects", *FATE_COUNTS)
"""What is counted in every image, all classes together"""


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """What a test measured on one image, and what metrics over several images are made of."""

    patches: list[dict[str, object]]
    """a row a patch, see `Evaluation.patches`"""
    image: dict[str, object]
    """a row, see `Evaluation.images`"""
    matrix: np.ndarray
    """confusion matrix (C, C) of the stitched image"""
    counts: np.ndarray
    """`INSTANCE_COUNTS` of the classes without background (C - 1, 20)"""
    calibration: np.ndarray
    """float64 (20, 3), see `calibration_bins`"""
    area: float
    """pixels of the source image, of which `matrix` has those that patches cover; NaN where unknown"""
    seconds: float
    """that the prediction took, of the patches and of the whole"""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a test measured on all images."""

    patches: pd.DataFrame
    """a row a patch: patch, source, split, the published metrics and (named `STANDARD_IN_PATCHES`) the standard ones,
    means over the classes without background; of the standard ones those of each class too"""
    images: pd.DataFrame
    """a row an image: source, split, the standard metrics, means over the classes without background and of each"""
    tallies: pd.DataFrame
    """a row an image, as in `images`: what share of it patches cover (NaN where unknown), and numbers of `OBJECTS`"""
    covered: float
    """what share of all images' pixels patches cover; NaN where unknown"""
    matrices: dict[str, np.ndarray]
    """confusion matrix (C, C) of the stitched images, by split"""
    counts: dict[str, np.ndarray]
    """`INSTANCE_COUNTS` of the classes without background (C - 1, 20), by split"""
    calibration: np.ndarray
    """float64 (20, 3), see `calibration_bins`, of all stitched images"""
    classes: list[str]
    method: str
    """how class maps became instances"""
    truth_instances: str
    """where the true instances come from"""

    @classmethod
    def of(
        cls,
        scores: list[ImageScores],
        patches: Patches,
        classes: list[str],
        settings: InstanceSettings,
        targets: Targets = "classes",
    ) -> "Evaluation":
        """The scores of all images put together; the rest is what they were evaluated with."""
        splits = dict.fromkeys(str(s.image["split"]) for s in scores)
        of_split = {split: [s for s in scores if s.image["split"] == split] for split in splits}
        return cls(
            patches=pd.DataFrame([row for s in scores for row in s.patches]),
            images=pd.DataFrame([s.image for s in scores]),
            tallies=pd.DataFrame([tally(s) for s in scores]),
            covered=float(sum(s.matrix.sum() for s in scores) / sum(s.area for s in scores)),
            matrices={split: sum(s.matrix for s in chosen) for split, chosen in of_split.items()},
            counts={split: sum(s.counts for s in chosen) for split, chosen in of_split.items()},
            calibration=sum(s.calibration for s in scores),
            classes=classes,
            method=instance_method(settings, targets, patches.data_set.instances),
            truth_instances="the annotation" if patches.has_instances else "connected components of the class map",
        )

    def left_out(self) -> dict[str, int]:
        """In how many images a metric is undefined and so left out of its mean: those where it is in any."""
        undefined = self.images.isna().sum()
        return {name: int(number) for name, number in undefined.items() if number}

    def table(self) -> pd.DataFrame:
        """The metrics averaged: rows (averaging, metric), a column a split, and "all" where there are several."""
        splits = list(self.matrices)
        columns = {split: self._column([split]) for split in splits}
        if len(splits) > 1:
            columns["all"] = self._column(splits)
        return pd.DataFrame(columns)

    def objects(self) -> pd.DataFrame:
        """How many `OBJECTS` (rows) there are, a column a split, and "all" where there are several."""
        columns = self.tallies[list(OBJECTS)].groupby(self.images.split, sort=False).sum().T
        return columns if columns.shape[1] == 1 else columns.assign(all=columns.sum(axis=1))

    @cached_property
    def intervals(self) -> dict[tuple[str, str], tuple[float, float]]:
        """95 % intervals of the means over all images, by the rows of `table` that they belong to."""
        return {
            (metric.mean, name): mean_interval(self.images[name].to_numpy(float))
            for metric in STANDARD.values()
            for name in metric.columns(self.classes)
        }

    def _column(self, splits: list[str]) -> pd.Series:
        patches, images = (rows[rows.split.isin(splits)] for rows in (self.patches, self.images))
        of_patches = patches[[metric.label for metric in PUBLISHED.values()]].mean()
        of_images = images.drop(columns=["source", "split"]).mean()
        matrix, counts = (sum(sums[split] for split in splits) for sums in (self.matrices, self.counts))
        by_class = {name: values[1:] for name, values in pixel_metrics.overlap_metrics(matrix).items()}
        pooled = columns(by_class | instance_metrics(counts), self.classes)
        standard = [(metric, name) for metric in STANDARD.values() for name in metric.columns(self.classes)]
        rows = {(metric.mean, metric.label): of_patches[metric.label] for metric in PUBLISHED.values()}
        rows |= {(metric.mean, name): of_images[name] for metric, name in standard}
        return pd.Series(rows | {(metric.pooled, name): pooled[name] for metric, name in standard if metric.pooled})


def evaluate(
    predict: Predictor,
    patches: Patches,
    classes: list[str],
    settings: InstanceSettings,
    whole: WholePredictor | None = None,
    targets: Targets = "classes",
) -> Iterator[tuple[PredictedImage, ImageScores]]:
    """Predict the images of `patches` one by one; of each, the image and its scores (see `Evaluation.of`).

    `predict` is asked for the patches, `whole` for the images that they cover; without it `predict` is, each as one.
    `targets`: what both say beside class probabilities.
    """
    method, whole = instance_method(settings, targets, patches.data_set.instances), whole or as_one(predict)
    scale = patches.data_set.downscale
    areas = source_areas(patches.folder)
    groups = patches.index.groupby(["split", "source"], sort=False)
    for (_, source), rows in tqdm(groups, "images", groups.ngroups, disable=None):
        image_patches = ImagePatches.read(patches, rows)
        seen, annotated = image_patches.seen(), image_patches.annotated()
        start = time.perf_counter()
        of_patches, said = predict(image_patches.images)[:, : len(classes)].argmax(1), whole(seen)
        seconds = time.perf_counter() - start
        if not np.isfinite(said).all():
            raise InputError(f"the network says no numbers (NaN) of {source}: try --precision float32")
        probabilities, maps = np.split(said, [len(classes)])
        maps = from_bytes(to_bytes(maps))  # as segment.py keeps them
        probabilities, maps = (
            np.array([enlarged(channel, annotated.covered.shape) for channel in kind]) for kind in (probabilities, maps)
        )
        prediction = np.where(annotated.covered, probabilities.argmax(0), 0)
        instances = within(annotated.covered, decode(prediction, maps, method, settings, scale))
        image = PredictedImage(**vars(annotated), prediction=prediction, instances=instances)
        yield (
            image,
            score(
                image,
                probabilities.max(0),
                classes,
                patches=patch_rows(image_patches, of_patches, classes),
                area=_area(areas.get(source, math.nan), annotated.covered, patches.folder, source),
                seconds=seconds,
            ),
        )


def _area(area: float, covered: np.ndarray, folder: Path, source: str) -> float:
    """The pixels of a source image; `InputError` where its patches cover more than there are."""
    if covered.sum() > area:
        raise InputError(f"{folder / SIZES} says that {source} has {area} pixels; its patches cover {covered.sum()}")
    return area


def score(
    image: PredictedImage,
    confidence: np.ndarray,
    classes: list[str],
    *,
    patches: list[dict[str, object]],
    area: float,
    seconds: float,
) -> ImageScores:
    """Measure an image; `confidence` is the probability of its predicted class (H, W), the rest is taken over."""
    truth, prediction = image.truth[image.covered], image.prediction[image.covered]
    matrix = pixel_metrics.confusion_matrix(truth, prediction, len(classes))
    counts = class_instance_counts(image, len(classes))
    by_class = mask_metrics(image.truth, image.prediction, matrix) | instance_metrics(counts)
    return ImageScores(
        patches=patches,
        image={"source": image.source, "split": image.split, **columns(by_class, classes)},
        matrix=matrix,
        counts=counts,
        calibration=calibration_bins(image, confidence),
        area=area,
        seconds=seconds,
    )


def tally(scores: ImageScores) -> dict[str, float | int]:
    """The row of an image in `Evaluation.tallies`."""
    counts = dict(zip(INSTANCE_COUNTS, scores.counts.sum(0), strict=True))
    return {COVERED: scores.matrix.sum() / scores.area, **{name: int(counts[name]) for name in OBJECTS}}


def class_instance_counts(image: PredictedImage, classes: int) -> np.ndarray:
    """`INSTANCE_COUNTS` of each class without background (C - 1, 20): only objects of one class are compared."""
    return np.stack([
        instance_counts(
            of_class(image.true_instances, image.truth, c), of_class(image.instances, image.prediction, c), checked=True
        )
        for c in range(1, classes)
    ])  # fmt: skip


def patch_rows(patches: ImagePatches, predictions: np.ndarray, classes: list[str]) -> list[dict[str, object]]:
    """A row a patch, from the predicted classes (N, H, W): its published and its standard metrics."""
    rows = []
    for number, truth, prediction in zip(patches.numbers, patches.labels, predictions, strict=True):
        published = pixel_metrics.published_metrics(truth, prediction, len(classes))
        matrix = pixel_metrics.confusion_matrix(truth, prediction, len(classes))
        standard = columns(mask_metrics(truth, prediction, matrix), classes)
        rows.append(
            {"patch": number, "source": patches.source, "split": patches.split}
            | {metric.label: float(published[name].mean()) for name, metric in PUBLISHED.items()}
            | {STANDARD_IN_PATCHES + name: value for name, value in standard.items()}
        )
    return rows


def mask_metrics(truth: np.ndarray, prediction: np.ndarray, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """The standard metrics on class maps (H, W) and their confusion matrix (C, C), (C - 1,) each: no background."""
    by_class = {name: values[1:] for name, values in pixel_metrics.overlap_metrics(matrix).items()}
    distances = [pixel_metrics.hausdorff(truth == c, prediction == c) for c in range(1, len(matrix))]
    by_class["Hausdorff"], by_class["HD95"] = np.array(distances).T
    return by_class


def columns(by_class: dict[str, np.ndarray], classes: list[str]) -> dict[str, float]:
    """Standard metrics by name, (C - 1,) each, by the headers of their columns: the mean, NaN left out, and each."""
    row = {}
    for name, metric in STANDARD.items():
        if name in by_class:
            values = by_class[name]
            mean = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
            row |= zip(metric.columns(classes), [mean, *map(float, values)], strict=False)  # one class: the mean is it
    return row


def patches_to_test(root: Path, split: TestSplit = "test") -> Patches:
    """The labelled test patches of a data set, `root/test`; or `root` itself where that is a folder as released.

    "val": the images that are held out of training, among `root/labelled`.
    """
    if split == "val":
        patches = Patches(labelled_folder(root), labelled=True)
        patches.index = patches.index[patches.index.split == "val"]
        if not len(patches.index):
            raise InputError(f"{patches.folder} holds no image out of training: there is no --split val to test on")
        return patches
    folder = root if (root / released_layout.LABELS).is_file() else root / "test"
    if root.is_dir() and not folder.is_dir():  # else `Patches` says that it does not exist
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
