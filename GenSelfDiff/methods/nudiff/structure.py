"""Structures: where the nuclei of a patch are, in three channels that a diffusion model can draw.

A structure (3, H, W) has values from -1 to 1: the semantic channel, -1 in the background and 1 in nuclei; then the
horizontal and the vertical distance map of `GenSelfDiff.distance_maps`. Zeros everywhere are no structure, not even an
empty one: they say that nothing is known of it (`NOTHING_KNOWN`).
"""

import numpy as np
import torch
from skimage.measure import label
from torch import Tensor

from GenSelfDiff import distance_maps
from GenSelfDiff.instances import InstanceSettings

CHANNELS = 3
NOTHING_KNOWN = 0.0  # in all channels
TYPICAL_AREA = 90.0  # pixels, at which the constants of `distance_maps` are taken as they are: nuclei at about 20x
# Of the typical area: what is smaller is a speck, and what is larger no hole in a nucleus.
SPECK, HOLE = 0.12, 0.5


def encode(instances: np.ndarray) -> np.ndarray:
    """Instance numbers (H, W), 0 for background, to their structure, float32 (3, H, W)."""
    semantic = np.where(instances > 0, 1, -1)[None]
    return np.concatenate((semantic, distance_maps.hv_maps(instances))).astype(np.float32)


def decode(structure: np.ndarray, area: float) -> np.ndarray:
    """A structure (3, H, W) that a network may have drawn to instances 1, 2, ... int32 (H, W).

    `area`: of a typical nucleus, pixels (`typical_area`), so the magnification: all lengths and areas of the decoding
    follow from it. The maps are read one way, as they are drawn: structures are made of instances that were turned.
    """
    scale = (area / TYPICAL_AREA) ** 0.5
    settings = InstanceSettings(minimum_area=max(1, round(SPECK * area)), largest_hole=round(HOLE * area))
    return distance_maps.decode((structure[0] > 0).astype(np.uint8), structure[1:], settings, scale)


def typical_area(areas: np.ndarray) -> float:
    """The median of the areas (N,) of nuclei that the border of no patch cuts, pixels."""
    return float(np.median(areas))


def pieces(instances: np.ndarray) -> np.ndarray:
    """Instances (H, W) numbered from 1, each piece by itself: the border of a patch, or another, has cut it in two."""
    return label(instances, connectivity=2).astype(np.int32)


def areas_inside(instances: np.ndarray) -> np.ndarray:
    """Areas of the pieces of instances (H, W) that do not touch the border, pixels (N,)."""
    instances = pieces(instances)
    areas = np.bincount(instances.ravel())
    border = np.concatenate((instances[[0, -1]].ravel(), instances[:, [0, -1]].ravel()))
    areas[0], areas[np.unique(border)] = 0, 0
    return areas[areas > 0]


def of_batch(labels: Tensor, maps: Tensor) -> Tensor:
    """Structures (B, 3, H, W) of class indices (B, H, W) and distance maps (B, 2, H, W) of a `PatchDataset`."""
    semantic = (labels > 0).to(maps.dtype) * 2 - 1
    return torch.cat((semantic[:, None], maps), dim=1)


def as_picture(structure: np.ndarray) -> np.ndarray:
    """A structure (3, H, W) to look at, uint8 (H, W, 3): the channels as red, green and blue, 0 grey."""
    return (127.5 * (structure.clip(-1, 1) + 1)).round().astype(np.uint8).transpose(1, 2, 0)


def to_input(structure: Tensor, input_range: tuple[float, float]) -> Tensor:
    """Structures in -1 to 1 as a network is given them: in `input_range`."""
    low, high = input_range
    return (structure + 1) * ((high - low) / 2) + low


def from_input(x: Tensor, input_range: tuple[float, float]) -> Tensor:
    """The inverse of `to_input`."""
    low, high = input_range
    return (x.float() - low) * (2 / (high - low)) - 1
