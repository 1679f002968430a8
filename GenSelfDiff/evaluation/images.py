"""Source images put together from their patches: what is known of them, and what was predicted."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from file_contents import DataSet
from GenSelfDiff.evaluation.instance_metrics import check_instances
from GenSelfDiff.instances import InstanceSettings, to_instances
from GenSelfDiff.native import native_files
from GenSelfDiff.patches import Patches
from utils_general import InputError, read_index_map, read_rgb, write_png

LABEL_MAPS = "label_maps"  # folder of the predicted maps in that of the results
SPARSE, SMALL = 100, 10**8  # how many times more pixels than they have patches may span; that many they may always
Corners = list[tuple[int, int]]
"""x, y of the upper left corner of each patch of an image, pixels; the image begins with the first patch"""


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """One source image, as far as its patches cover it; maps are (H, W)."""

    source: str
    split: str
    pixels: np.ndarray
    """uint8 (H, W, 3), white where there is no patch"""
    covered: np.ndarray
    """bool: where there is a patch; the rest of the other maps is 0"""
    truth: np.ndarray
    """class indices"""
    true_instances: np.ndarray
    """numbers, one an object"""


@dataclass(frozen=True, kw_only=True)
class PredictedImage(AnnotatedImage):
    """The same with what was predicted for it."""

    prediction: np.ndarray
    """class indices"""
    instances: np.ndarray
    """numbers, one an object"""


@dataclass(frozen=True, kw_only=True)
class ImagePatches:
    """The patches of one source image, read."""

    folder: Path
    """that they are from"""
    source: str
    split: str
    numbers: list[int]
    """of the N patches in that folder"""
    corners: Corners
    images: np.ndarray
    """uint8 (N, H, W, 3)"""
    labels: np.ndarray
    """class indices (N, H, W)"""
    instances: np.ndarray | None
    """numbers of the annotated objects (N, H, W), None where only classes are annotated"""
    origin: tuple[int, int]
    """x, y in the source image where the first patches begin, in pixels of the patches"""
    data_set: DataSet

    @classmethod
    def read(cls, patches: Patches, rows: pd.DataFrame) -> "ImagePatches":
        """Those of some rows of `patches.index`, all of one image; `InputError` where they lie absurdly far apart."""
        size = patches.data_set.patch_size
        width, height = (int(column.max() - column.min()) + size for column in (rows.x, rows.y))
        if width * height > max(SPARSE * len(rows) * size**2, SMALL):
            raise InputError(
                f"the {len(rows)} patches of {rows.source.iloc[0]} in {patches.folder} span {width}x{height} pixels, "
                "which they hardly cover: is their index.csv right?"
            )
        return cls(
            folder=patches.folder,
            source=rows.source.iloc[0],
            split=rows.split.iloc[0],
            numbers=rows.patch.tolist(),
            corners=list(zip(rows.x - rows.x.min(), rows.y - rows.y.min(), strict=True)),
            images=np.stack([patches.image(i) for i in rows.patch]),
            labels=np.stack([patches.label(i) for i in rows.patch]),
            instances=np.stack([patches.instances(i) for i in rows.patch]) if patches.has_instances else None,
            origin=(int(rows.x.min()), int(rows.y.min())),
            data_set=patches.data_set,
        )

    def seen(self) -> np.ndarray:
        """What a predictor is shown: the whole image uint8 (H, W, 3), white where there is no patch."""
        return np.where(self._covered()[..., None], stitch(self.images, self.corners), np.uint8(255))

    def annotated(self) -> AnnotatedImage:
        """What is measured on: the whole image, at its own size where the patches are of a smaller one.

        Where objects are not annotated they are the connected components of its class map. `InputError` for annotated
        objects that are none: see `check_instances`.
        """
        pixels, covered, truth = self.seen(), self._covered(), stitch(self.labels, self.corners)
        instances = None if self.instances is None else stitch(self.instances, self.corners)
        if self.data_set.downscale > 1:
            pixels, truth, instances = self._native(covered.shape)
            covered = enlarged(covered.astype(np.uint8), truth.shape, cv2.INTER_NEAREST).astype(bool)
            pixels = np.where(covered[..., None], pixels, np.uint8(255))
            truth = np.where(covered, truth, 0)
        if instances is None:
            instances = to_instances(truth, "components", InstanceSettings(minimum_area=1))
        else:
            self._check_instances(instances)
        return AnnotatedImage(
            source=self.source,
            split=self.split,
            pixels=pixels,
            covered=covered,
            truth=truth,
            true_instances=within(covered, instances),
        )

    def _covered(self) -> np.ndarray:
        return stitch(np.ones_like(self.labels, bool), self.corners)

    def _native(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Image, class indices and instance numbers, if there are any, of the region of `shape` (H, W) reduced pixels
        that the patches span, at its own size."""
        files = native_files(self.folder, self.source)
        if not (files.image.is_file() and files.classes.is_file()):
            raise InputError(
                f"{files.image} or {files.classes.name} is missing: patches of reduced images are measured on them; "
                "run preprocess.py again"
            )
        image, truth = read_rgb(files.image), read_index_map(files.classes)
        instances = read_index_map(files.instances) if self.instances is not None else None
        if not 0 <= truth.min() <= truth.max() < len(self.data_set.classes):
            raise InputError(f"{files.classes} holds classes that {self.folder} does not know; run preprocess.py again")
        if any(array is not None and array.shape[:2] != image.shape[:2] for array in (truth, instances)):
            raise InputError(f"{files.image} and its labels are not of one size; run preprocess.py again")
        (left, top), (height, width) = self.origin, image.shape[:2]
        reduced = [max(1, round(n / self.data_set.downscale)) for n in (height, width)]
        if top + shape[0] > reduced[0] or left + shape[1] > reduced[1]:
            raise InputError(f"{files.image} is smaller than what its patches cover; run preprocess.py again")
        box = np.s_[
            round(top * height / reduced[0]) : round((top + shape[0]) * height / reduced[0]),
            round(left * width / reduced[1]) : round((left + shape[1]) * width / reduced[1]),
        ]
        return image[box], truth[box], None if instances is None else instances[box]

    def _check_instances(self, instances: np.ndarray) -> None:
        try:
            check_instances(instances, f"the annotation of {self.source} in {self.folder}/instances")
        except ValueError as error:
            raise InputError(f"{error}; without that folder connected components are taken") from None


def within(covered: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """The instances (H, W) where there is a patch: a gap between patches is no hole to be filled."""
    return np.where(covered, instances, 0)


def enlarged(array: np.ndarray, shape: tuple[int, int], method: int = cv2.INTER_LINEAR) -> np.ndarray:
    """(H, W, ...) brought to `shape` (height, width): a pixel covers what its own pixels cover."""
    return array if array.shape[:2] == shape else cv2.resize(array, shape[::-1], interpolation=method)


def stitch(patches: np.ndarray, corners: Corners) -> np.ndarray:
    """Put patches (N, H, W, ...) of one image together at their corners; where they overlap they agree."""
    height, width = patches.shape[1:3]
    right, bottom = max(x for x, _ in corners) + width, max(y for _, y in corners) + height
    whole = np.zeros((bottom, right, *patches.shape[3:]), patches.dtype)
    for patch, (x, y) in zip(patches, corners, strict=True):
        whole[y : y + height, x : x + width] = patch
    return whole


# --- label maps: what is kept of a prediction ---


def write_label_maps(image: PredictedImage, folder: Path) -> None:
    """`<source>_classes.png`, class indices uint8, and `<source>_instances.png`, numbers uint16."""
    if image.instances.max() > np.iinfo(np.uint16).max:
        raise InputError(
            f"{image.source}: {image.instances.max()} predicted objects do not fit a 16-bit PNG: raise --minimum-area"
        )
    write_png(folder / f"{image.source}_classes.png", image.prediction.astype(np.uint8))
    write_png(folder / f"{image.source}_instances.png", image.instances.astype(np.uint16))


def read_again(patches: Patches, source: str, split: str, label_maps: Path) -> PredictedImage:
    """A tested image from its patches and its label maps, so that no test keeps all its images in memory."""
    rows = patches.index[(patches.index.source == source) & (patches.index.split == split)]
    return PredictedImage(
        **vars(ImagePatches.read(patches, rows).annotated()),
        prediction=read_index_map(label_maps / f"{source}_classes.png"),
        instances=read_index_map(label_maps / f"{source}_instances.png"),
    )
