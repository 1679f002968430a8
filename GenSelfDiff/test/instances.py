"""From class maps to instances: which pixels of a class belong to the same nucleus or gland."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.segmentation import watershed

InstanceMethod = Literal["components", "watershed"]


@dataclass(frozen=True, kw_only=True)
class InstanceSettings:
    """How class maps become instances."""

    instances: Literal["auto", "components", "watershed"] = "auto"
    """connected components, watershed on the distance transform (touching nuclei), or what dataset.json says"""
    minimum_area: int = 30
    """pixels; smaller objects are specks: the smallest nuclei of MoNuSeg have about 30 pixels at 40x"""
    peak_distance: int = 6
    """watershed: pixels between the centres of two objects at least; about the radius of a small nucleus at 40x"""
    smoothing: float = 1.5
    """watershed: deviation in pixels of the Gaussian that keeps a ragged outline from splitting an object"""


def to_instances(class_map: np.ndarray, method: InstanceMethod, settings: InstanceSettings) -> np.ndarray:
    """Instances of every class but the background: class indices (H, W) to numbers 1, 2, ... int32 (H, W).

    Class by class: holes are filled (they keep no number where another class lies), specks removed, and what touches
    (8 neighbours) is one object, unless the watershed divides it.
    """
    numbers = np.zeros(class_map.shape, np.int32)
    for c in range(1, int(class_map.max()) + 1):
        mask = class_map == c
        mask = binary_fill_holes(mask) & (mask | (class_map == 0))
        objects = label(mask, connectivity=2)
        objects[np.bincount(objects.ravel())[objects] < settings.minimum_area] = 0
        if method == "watershed":
            objects = _divide(objects, settings)
        numbers = np.where(objects > 0, objects + numbers.max(), numbers)
    return numbers.astype(np.int32)


def _divide(objects: np.ndarray, settings: InstanceSettings) -> np.ndarray:
    """Divide objects that touch at the valleys of their smoothed distance transform."""
    # Padded, because an object that the image's border cuts is not thin there.
    distance = gaussian_filter(
        distance_transform_edt(np.pad(objects > 0, 1, mode="edge"))[1:-1, 1:-1], settings.smoothing
    )
    peaks = peak_local_max(distance, min_distance=settings.peak_distance, labels=objects, exclude_border=False)
    markers = np.zeros(objects.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=objects > 0)
