"""What a network says beside the class map, so that instances that touch come apart: nothing, borders, distance maps.

The network's first outputs are logits of the classes, the last ones those of the maps of its targets. The maps are made
of instance numbers, for training; and instances of the maps that a network says.
"""

from typing import Literal

import numpy as np
import torch
from skimage.segmentation import find_boundaries
from torch import Tensor

from GenSelfDiff import distance_maps
from GenSelfDiff.distance_maps import hv_maps, seen_from_before
from GenSelfDiff.instances import InstanceMethod, InstanceSettings, to_instances

Targets = Literal["classes", "border", "hv"]
MAPS: dict[Targets, int] = {"classes": 0, "border": 1, "hv": 2}
"""How many maps there are beside the class map."""
STEPS = 127  # of a map's byte, from 0 to 1 and from 0 to -1


def target_maps(targets: Targets, instances: np.ndarray) -> np.ndarray:
    """The maps that are to be learnt, (K, H, W), of instance numbers (H, W), 0 for background.

    "border": 1 (else 0) in the pixels that have a neighbour (of 8) of another number: a line one pixel wide on either
    side of each outline, so two where objects touch or meet the background. "hv": see `hv_maps`.
    """
    if targets == "border":
        return find_boundaries(instances, connectivity=2, mode="thick")[None].astype(np.uint8)
    return hv_maps(instances)


def split(outputs: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """A network's outputs (B, C + K, H, W): logits of the classes (B, C, H, W), and what it says of maps."""
    classes = outputs.shape[1] - MAPS[targets]
    return outputs[:, :classes] if MAPS[targets] else outputs, outputs[:, classes:]


def said(outputs: Tensor, targets: Targets) -> Tensor:
    """The same as class probabilities and maps (B, C + K, H, W): the border's as its probability."""
    if not MAPS[targets]:
        return outputs.softmax(1)
    logits, maps = split(outputs, targets)
    return torch.cat((logits.softmax(1), maps.sigmoid() if targets == "border" else maps), dim=1)


def turned_back(said: np.ndarray, turns: int, flip: bool, targets: Targets) -> np.ndarray:
    """What is said (N, C + K, H, W) of images that were turned and flipped, for the images before.

    They were turned by so many quarters, and then, with `flip`, flipped from left to right.
    """
    back = np.rot90(said[..., ::-1] if flip else said, -turns, axes=(2, 3))
    if targets == "hv":
        return np.concatenate((back[:, :-2], seen_from_before(said[:, -2:], turns, flip)), axis=1)
    return back


def to_bytes(maps: np.ndarray) -> np.ndarray:
    """Maps from -1 to 1 (K, H, W) as uint8, 128 for 0: what is kept of them, in a test and of whole images alike."""
    return (np.rint(STEPS * maps.clip(-1, 1)) + 128).astype(np.uint8)


def from_bytes(kept: np.ndarray) -> np.ndarray:
    """The inverse of `to_bytes` up to rounding, float32."""
    return (kept.astype(np.float32) - 128) / np.float32(STEPS)


def instance_method(settings: InstanceSettings, targets: Targets, usual: InstanceMethod) -> InstanceMethod:
    """The method that the settings mean: "auto" by the maps of the targets; where these have none, the `usual` one."""
    if settings.instances != "auto":
        return settings.instances
    return targets if MAPS[targets] else usual


def decode(
    class_map: np.ndarray, maps: np.ndarray, method: InstanceMethod, settings: InstanceSettings, scale: float = 1.0
) -> np.ndarray:
    """Class indices (H, W), and the maps (K, H, W) of the targets that `method` looks at, to instances; `to_instances`.

    `scale`: how many times the maps were enlarged since the network said them.
    """
    if method == "hv":
        return distance_maps.decode(class_map, maps, settings, scale)
    return to_instances(class_map, method, settings, maps[0] if method == "border" else None)
