"""What becomes of a patch before the network sees it: a tile, normalised and jittered, alike at every level.

Images uint8 (3, H, W), of items of a `PatchDataset`.
"""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from GenSelfDiff.augmentation import StainJitter, flips
from GenSelfDiff.methods.attention.colour import recoloured
from GenSelfDiff.transforms import tv_tensors, v2

BLUR, NOISE, QUALITY = 1.0, 6.0, (50, 95)  # largest deviations, in pixels and in 255ths; of JPEG from 1 to 100


class Recolour(v2.Transform):
    """The colours of a target (2, 3), see `colour.recoloured`."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, target: Tensor):
        super().__init__()
        self.target = target

    def transform(self, image: Tensor, _params: dict[str, Any]) -> Tensor:
        """(3, H, W) to the same."""
        changed = recoloured(image.as_subclass(Tensor)[None] / 255, self.target)[0]
        return tv_tensors.wrap(changed.mul(255).round().byte(), like=image)


class StainFactors(StainJitter):
    """Haematoxylin, eosin and residual, each times a normal number of mean 1: `strength` is its deviation."""

    def make_params(self, _inputs: list[Any]) -> dict[str, Any]:
        """Factors of the three stains (3,); nothing is added."""
        factors = 1 + self.strength * torch.randn(3, dtype=torch.float64)
        return {"factors": factors, "amounts": torch.zeros(3, dtype=torch.float64)}


class Tile(v2.Transform):
    """A square of `size` pixels from anywhere in the image, made up to the part `jitter` larger or smaller."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, size: int, jitter: float):
        super().__init__()
        self.size, self.jitter = size, jitter

    @staticmethod
    def largest(size: int, jitter: float) -> int:
        """Pixels of the side of what is cut out at most."""
        return round(size / (1 - jitter))

    def make_params(self, _inputs: list[Any]) -> dict[str, Any]:
        """Side of what is cut out, and where: parts of what is possible."""
        scale = 1 + self.jitter * (2 * torch.rand(()).item() - 1)
        return {"side": round(self.size / scale), "place": torch.rand(2).tolist()}

    def transform(self, image: Tensor, params: dict[str, Any]) -> Tensor:
        """(3, H, W) to (3, size, size)."""
        side = min(params["side"], *image.shape[1:])
        top, left = (
            int(part * (length - side + 1)) for part, length in zip(params["place"], image.shape[1:], strict=True)
        )
        return v2.functional.resized_crop(image, top, left, side, side, [self.size, self.size], antialias=True)


class Spoil(v2.Transform):
    """Blur, noise and JPEG, each of random strength: so that sharpness does not tell at which level a tile is."""

    _transformed_types = (tv_tensors.Image,)

    def make_params(self, _inputs: list[Any]) -> dict[str, Any]:
        """Deviations of blur and noise, the quality, and the seed of the noise."""
        blur, noise, quality = torch.rand(3).tolist()
        seed = int(torch.randint(2**31, ()))
        return {
            "blur": BLUR * blur,
            "noise": NOISE * noise,
            "quality": round(QUALITY[0] + (QUALITY[1] - QUALITY[0]) * quality),
            "seed": seed,
        }

    def transform(self, image: Tensor, params: dict[str, Any]) -> Tensor:
        """(3, H, W) to the same."""
        blurred = v2.functional.gaussian_blur(image, kernel_size=[5, 5], sigma=[max(params["blur"], 0.05)] * 2)
        pixels = blurred.as_subclass(Tensor).movedim(0, -1).numpy()
        noise = np.random.default_rng(params["seed"]).normal(0, params["noise"], pixels.shape)
        noisy = np.rint(pixels + noise).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=params["quality"])
        spoilt = np.array(Image.open(buffer, formats=["JPEG"]))
        return tv_tensors.wrap(torch.from_numpy(spoilt).movedim(-1, 0).contiguous(), like=image)


def tiles(
    size: int,
    quarter_turns: bool,
    target: Tensor | None,
    stain_deviation: float,
    scale_jitter: float,
    spoil: bool,
) -> v2.Transform:
    """All of it, in the published order: turned, recoloured, stains jittered, cut."""
    return v2.Compose([
        flips(quarter_turns),
        *([] if target is None else [Recolour(target)]),
        *([StainFactors(stain_deviation)] if stain_deviation else []),
        Tile(size, scale_jitter),
        *([Spoil()] if spoil else []),
    ])  # fmt: skip
