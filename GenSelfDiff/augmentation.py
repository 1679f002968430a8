"""Augmentation of both stages, of uint8 images and their labels together."""

from typing import Any

import numpy as np
import torch
from skimage.color import rgb_from_hed
from torch import Tensor

from GenSelfDiff.transforms import tv_tensors, v2


class Augmentation:
    """Transforms of torchvision, one after another, of image and label together."""

    def __init__(self, *transforms: v2.Transform):
        self.transforms = v2.Compose(transforms)

    def __call__(self, item: dict[str, Tensor]) -> dict[str, Tensor]:
        """`item`: image uint8 (H, W, 3) and, where there is one, label (H, W); the same, changed."""
        seen = {"image": tv_tensors.Image(item["image"].movedim(-1, 0))}
        if "label" in item:
            seen["label"] = tv_tensors.Mask(item["label"])
        changed = {name: value.as_subclass(Tensor) for name, value in self.transforms(seen).items()}
        return {**changed, "image": changed["image"].movedim(0, -1).contiguous()}


def flips(quarter_turns: bool = False) -> Augmentation:
    """Horizontal and vertical flips, each with probability 0.5; with `quarter_turns` also turns by 0 to 270 degrees."""
    turns = [v2.RandomRotation((angle, angle)) for angle in (90, 180, 270)]
    extra = [v2.RandomChoice([v2.Identity(), *turns])] if quarter_turns else []
    return Augmentation(v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), *extra)


def _blur(image: Tensor) -> Tensor:
    return v2.functional.gaussian_blur(image, kernel_size=[3, 3], sigma=[1.0, 2.0])


class StainJitter(v2.Transform):
    """Stain of other strength: haematoxylin, eosin and residual are scaled and shifted in optical density.

    Each by factors from 1 - strength to 1 + strength and amounts from -strength to strength (Tellez et al., 2018,
    section III-B), with the stain vectors of Ruifrok and Johnston, 2001. Images uint8 (3, H, W); labels stay.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength
        self.stains = torch.from_numpy(rgb_from_hed)
        self.unmix = torch.from_numpy(np.linalg.inv(rgb_from_hed))

    def make_params(self, _inputs: list[Any]) -> dict[str, Any]:
        """Factors and amounts of the three stains, each (3,)."""
        return {"factors": 1 + self.strength * self._draw(), "amounts": self.strength * self._draw()}

    @staticmethod
    def _draw() -> Tensor:
        return 2 * torch.rand(3, dtype=torch.float64) - 1

    def transform(self, image: Tensor, params: dict[str, Any]) -> Tensor:
        """Beer and Lambert: optical density = stains x concentrations, so the whole is one matrix and one shift."""
        mix = (self.unmix @ params["factors"].diag() @ self.stains).float()
        shift = (params["amounts"] @ self.stains).float()
        density = -(image.movedim(0, -1).float().clamp(min=1) / 255).log()
        jittered = (-(density @ mix + shift)).exp().mul(255).round().clamp(0, 255).byte()
        return tv_tensors.wrap(jittered.movedim(-1, 0).contiguous(), like=image)


def finetuning_augmentation(quarter_turns: bool = False, stain_jitter: float = 0.0) -> Augmentation:
    """The published augmentation of fine-tuning: flips, 3x3 blur and colour jitter with probability 0.3 each.

    The blur's sigma is fixed, 1 pixel across and 2 down, as released. With `stain_jitter`, the stains are jittered with
    that strength instead of the colours. Labels are flipped and turned along and else untouched.
    """
    blur = v2.Lambda(_blur, tv_tensors.Image)
    colours = v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.4)], p=0.3)
    stains = StainJitter(stain_jitter) if stain_jitter else colours
    return Augmentation(flips(quarter_turns).transforms, v2.RandomApply([blur], p=0.3), stains)
