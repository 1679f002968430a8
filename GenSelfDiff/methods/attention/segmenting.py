"""A trained attention as a segmentation network: two classes, of which the second is where F looks."""

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from file_contents import Wanted, check_fields, number, one_of, whole
from GenSelfDiff.methods.attention.colour import recoloured
from GenSelfDiff.methods.attention.network import Attending, in_full
from GenSelfDiff.unet_checkpoint import WIDEST, fill
from utils_general import InputError

CLASSES = ["background", "nucleus"]
UNUSED = "classifier."  # G, by the names of its parameters
MOST_LEVELS, MOST_BLOCKS, MOST_DILATION = 16, 64, 256


def _are_dilations(value: Any) -> bool:
    known = value if isinstance(value, list | tuple) else [None]
    return 1 <= len(known) <= MOST_BLOCKS and all(whole(1, MOST_DILATION).holds(d) for d in known)


DILATIONS = Wanted(f"1 to {MOST_BLOCKS} whole numbers from 1 to {MOST_DILATION}", _are_dilations)
DESCRIBED = {
    "dim": whole(8, WIDEST),
    "dilations": DILATIONS,
    "steepness": number(1e-3, 1e6),
    "threshold": one_of("running", "image"),
    "stain_normalise": Wanted("true or false", lambda value: isinstance(value, bool)),
}
"""What its settings say of a network in a checkpoint."""


class SegmentingAttention(Attending):
    """Two-class logits (0, r (a - tau)), of which the softmax is 1 - A and A."""

    def logits(self, images: Tensor) -> Tensor:
        """a (B, 1, H, W) of images (B, 3, H, W) in the input range."""
        if hasattr(self, "stain"):
            with in_full(images):
                low, high = self.input_range
                unit = ((images.float() - low) / (high - low)).clamp(0, 1)
                images = recoloured(unit, self.stain) * (high - low) + low
        return self.net(self.normalised(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 2, H, W), with tau of the finest level."""
        difference = self.steepness * (self.logits(images) - self.threshold.running[0])
        return torch.cat((torch.zeros_like(difference), difference), dim=1)


class FittingAttention(SegmentingAttention):
    """The same with a tau of each image's own: Otsu's threshold of its logits, which needs no area to be known."""

    @torch.inference_mode()
    def for_image(self, batches: Iterable[Tensor]) -> Self:
        """The network for one image, of which `batches` (B, 3, H, W) are some parts; `InputError` if it says NaN."""
        fitted = copy.deepcopy(self)
        logits = np.concatenate([self.logits(images).flatten().cpu().numpy() for images in batches])
        if not np.isfinite(logits).all():
            raise InputError("the network says no numbers (NaN) of an image: try --precision float32")
        fitted.threshold.running.fill_(float(threshold_otsu(logits)))
        return fitted


def segmenting(loaded: dict[str, Any], path: Path) -> SegmentingAttention:
    """The segmentation network of a checkpoint; see `networks.TrainedMethod`."""
    settings = loaded["settings"]
    check_fields(settings, DESCRIBED, f"{path}, settings,")
    if missing := sorted(DESCRIBED.keys() - settings.keys()):
        raise InputError(f"{path} does not say the {missing[0]} of its network: it is not whole")
    if len(loaded["classes"]) != len(CLASSES):
        raise InputError(f"{path} names {len(loaded['classes'])} classes; attention tells two apart")
    state = {name: value for name, value in loaded["model_state_dict"].items() if not name.startswith(UNUSED)}
    taus = state.get("threshold.running", torch.zeros(0))
    if taus.ndim != 1 or not 1 <= len(taus) <= MOST_LEVELS:
        raise InputError(f"{path} does not fit the network: it has no threshold.running")
    kind = FittingAttention if settings["threshold"] == "image" else SegmentingAttention
    build = partial(
        kind,
        dim=settings["dim"],
        dilations=tuple(settings["dilations"]),
        buckets=len(taus),
        steepness=settings["steepness"],
        input_range=tuple(settings["input_range"]),
        stain=settings["stain_normalise"],
    )
    return fill(build, state, path)
