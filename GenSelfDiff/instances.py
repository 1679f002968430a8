"""From class maps to instances: which pixels of a class belong to the same nucleus or gland."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    generate_binary_structure,
    grey_dilation,
    grey_erosion,
    maximum,
    minimum,
)
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.segmentation import watershed

InstanceMethod = Literal["components", "watershed", "border", "hv"]
"""By what touching objects are divided: by nothing, their waists, or edges that the network says (`targets`)"""
EDGE = 0.5  # from here on a pixel is one of an edge
LEVELLED = 1.0  # deviation in pixels of the Gaussian on edges that objects are filled up to: so that none are level


@dataclass(frozen=True, kw_only=True)
class InstanceSettings:
    """How class maps become instances; what is in pixels is of images before they were reduced (--downscale)."""

    instances: Literal["auto", "components", "watershed"] = "auto"
    """connected components, watershed on the distance transform (touching nuclei), or what the network was trained for:
    by its border or hv maps, if it has any (--targets), else what dataset.json says"""
    minimum_area: int = 30
    """pixels before any --downscale; smaller objects are specks: of MoNuSeg's nuclei at 40x, 0.1 % are smaller (the
    border's not counted)"""
    peak_distance: int = 6
    """watershed: pixels before any --downscale between the centres of two objects at least; about the radius of a small
    nucleus at 40x"""
    largest_hole: int = 200
    """all but components: pixels before any --downscale; larger holes stay open: tissue that touching nuclei surround,
    not a pale nucleus"""
    smoothing: float = 1.5
    """watershed: deviation in pixels, before any --downscale, of the Gaussian that keeps a ragged outline from
    splitting an object"""

    def reduced(self, factor: float) -> Self:
        """The same limits in pixels of images made `factor` times smaller: lengths by it, areas by its square."""
        return replace(
            self,
            minimum_area=math.ceil(self.minimum_area / factor**2),
            largest_hole=math.floor(self.largest_hole / factor**2),
            peak_distance=max(1, round(self.peak_distance / factor)),
            smoothing=self.smoothing / factor,
        )


def to_instances(
    class_map: np.ndarray, method: InstanceMethod, settings: InstanceSettings, edges: np.ndarray | None = None
) -> np.ndarray:
    """Instances of every class but the background: class indices (H, W) to numbers 1, 2, ... int32 (H, W).

    Holes are filled (all of them for connected components: glands have wide lumina); then, class by class, what touches
    (8 neighbours) is one object, unless the watershed divides it, or `edges` do, which "border" and "hv" need: (H, W),
    `EDGE` and more on edges. Then specks are removed. Numbers are consecutive, those of class 1 first.
    """
    filled = fill_holes(class_map, math.inf if method == "components" else settings.largest_hole)
    numbers = np.zeros(class_map.shape, np.int32)
    for c in range(1, int(class_map.max()) + 1):
        objects = label(filled == c, connectivity=2)
        if method == "watershed":
            objects = _divide_at_waists(objects, settings)
        elif method != "components":
            objects = _divide_at_edges(objects, edges)
        large = np.bincount(objects.ravel()) >= settings.minimum_area
        large[0] = False
        numbers += np.where(large, np.cumsum(large) + numbers.max(), 0).astype(np.int32)[objects]
    return numbers


def fill_holes(class_map: np.ndarray, largest: float = math.inf) -> np.ndarray:
    """Background that one class alone encloses, at most `largest` pixels, becomes that class; (H, W) to (H, W).

    What touches the image's border or two classes is no hole.
    """
    cross = generate_binary_structure(2, 1)
    pieces, number = label(class_map == 0, connectivity=1, return_num=True)
    outside = int(class_map.max()) + 1
    highest = grey_dilation(class_map, footprint=cross, mode="constant", cval=outside)
    only_classes = np.where(class_map == 0, outside, class_map)
    lowest = grey_erosion(only_classes, footprint=cross, mode="constant", cval=outside)
    highest, lowest = (f(a, pieces, np.arange(1, number + 1)) for f, a in ((maximum, highest), (minimum, lowest)))
    small = np.bincount(pieces.ravel(), minlength=number + 1)[1:] <= largest
    enclosing = np.where((highest == lowest) & (highest < outside) & small, highest, 0)
    return np.where(pieces > 0, np.append(0, enclosing)[pieces], class_map)


def _divide_at_waists(objects: np.ndarray, settings: InstanceSettings) -> np.ndarray:
    """Divide objects that touch at the valleys of their smoothed distance transform; none is lost."""
    distance = gaussian_filter(distance_transform_edt(objects > 0), settings.smoothing)
    peaks = peak_local_max(distance, min_distance=settings.peak_distance, labels=objects, exclude_border=False)
    markers = np.zeros(objects.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, connectivity=2, mask=objects > 0)


def _divide_at_edges(objects: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Divide objects along edges (H, W); none is lost.

    What edges leave of an object are the cores of its parts, from which the watershed fills it; one without a core
    stays whole. Where edges are level, the order in which it comes to pixels would decide: they are smoothed.
    """
    cores = label((objects > 0) & (edges < EDGE), connectivity=1)
    with_core = np.unique(objects[cores > 0])
    markers = np.where(np.isin(objects, with_core) | (objects == 0), cores, objects + cores.max())
    return watershed(gaussian_filter(edges, LEVELLED), markers, connectivity=2, mask=objects > 0)


def of_class(instances: np.ndarray, class_map: np.ndarray, c: int) -> np.ndarray:
    """The instances (H, W) that have pixels of class `c`, without their pixels of other classes; all else 0."""
    chosen = np.zeros(int(instances.max()) + 1, bool)
    chosen[instances[class_map == c]] = True
    return np.where(chosen[instances] & ((class_map == c) | (class_map == 0)), instances, 0)
