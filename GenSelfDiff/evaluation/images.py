"""Source images put together from their patches: what is known of them, and what was predicted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from GenSelfDiff.evaluation.instance_metrics import check_instances
from GenSelfDiff.instances import InstanceSettings, to_instances
from GenSelfDiff.patches import Patches
from utils_general import InputError, read_index_map, write_png

LABEL_MAPS = "label_maps"  # folder of the predicted maps in that of the results
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

    @classmethod
    def read(cls, patches: Patches, rows: pd.DataFrame) -> "ImagePatches":
        """Those of some rows of `patches.index`, all of one image."""
        return cls(
            folder=patches.folder,
            source=rows.source.iloc[0],
            split=rows.split.iloc[0],
            numbers=rows.patch.tolist(),
            corners=list(zip(rows.x - rows.x.min(), rows.y - rows.y.min(), strict=True)),
            images=np.stack([patches.image(i) for i in rows.patch]),
            labels=np.stack([patches.label(i) for i in rows.patch]),
            instances=np.stack([patches.instances(i) for i in rows.patch]) if patches.has_instances else None,
        )

    def stitched(self) -> AnnotatedImage:
        """The whole image. Where objects are not annotated they are the connected components of its class map.

        `InputError` for annotated objects that are none: see `check_instances`.
        """
        covered = stitch(np.ones_like(self.labels, bool), self.corners)
        truth = stitch(self.labels, self.corners)
        if self.instances is None:
            instances = to_instances(truth, "components", InstanceSettings(minimum_area=1))
        else:
            instances = self._annotated_instances()
        return AnnotatedImage(
            source=self.source,
            split=self.split,
            pixels=np.where(covered[..., None], stitch(self.images, self.corners), np.uint8(255)),
            covered=covered,
            truth=truth,
            true_instances=within(covered, instances),
        )

    def _annotated_instances(self) -> np.ndarray:
        instances = stitch(self.instances, self.corners)
        try:
            check_instances(instances, f"the annotation of {self.source} in {self.folder}/instances")
        except ValueError as error:
            raise InputError(f"{error}; without that folder connected components are taken") from None
        return instances


def within(covered: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """The instances (H, W) where there is a patch: a gap between patches is no hole to be filled."""
    return np.where(covered, instances, 0)


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
        **vars(ImagePatches.read(patches, rows).stitched()),
        prediction=read_index_map(label_maps / f"{source}_classes.png"),
        instances=read_index_map(label_maps / f"{source}_instances.png"),
    )
