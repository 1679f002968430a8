"""Augmentation of all stages, of uint8 images (3, H, W) and their labels (H, W) together."""

from typing import Any

import numpy as np
import torch
from skimage.color import rgb_from_hed
from torch import Tensor

from GenSelfDiff.transforms import tv_tensors, v2


def flips(quarter_turns: bool = False) -> v2.Transform:
    """Horizontal and vertical flips, each with probability 0.5; with `quarter_turns` also turns by 0 to 270 degrees."""
    turns = [v2.RandomRotation((angle, angle)) for angle in (90, 180, 270)]
    extra = [v2.RandomChoice([v2.Identity(), *turns])] if quarter_turns else []
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), *extra])


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


def finetuning_augmentation(quarter_turns: bool = False, stain_jitter: float = 0.0) -> v2.Transform:
    """The published augmentation of fine-tuning: flips, 3x3 blur and colour jitter with probability 0.3 each.

    The blur's sigma is fixed, 1 pixel across and 2 down, as released. With `stain_jitter`, the stains are jittered with
    that strength instead of the colours. Labels are flipped and turned along and else untouched.
    """
    blur = v2.Lambda(_blur, tv_tensors.Image)
    colours = v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.4)], p=0.3)
    return v2.Compose([
        flips(quarter_turns),
        v2.RandomApply([blur], p=0.3),
        StainJitter(stain_jitter) if stain_jitter else colours,
    ])  # fmt: skip


class TwoViews(v2.Transform):
    """Two views of an image uint8 (3, H, W), one behind the other: (6, H, W).

    Each a crop, enlarged to `size`, flipped, with other colours or grey, blurred: appendix A of SimCLR (Chen et al.,
    2020), with the flips of the other stages.
    """

    def __init__(self, size: int, smallest_crop: float, colour: float, quarter_turns: bool):
        super().__init__()
        change = v2.ColorJitter(*[0.8 * colour] * 3, hue=0.2 * colour)
        blur = v2.GaussianBlur(size // 10 // 2 * 2 + 1, sigma=(0.1, 2.0))
        self.view = v2.Compose([
            v2.RandomResizedCrop(size, scale=(smallest_crop, 1.0), antialias=True),
            flips(quarter_turns),
            v2.RandomApply([change], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([blur], p=0.5),
        ])  # fmt: skip

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item of a `PatchDataset`."""
        return {**item, "image": tv_tensors.Image(torch.cat([self.view(item["image"]) for _ in range(2)]))}
