"""Haematoxylin, the dye of nuclei: how much of it a pixel has, and where that is much. Nothing is learnt here."""

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import hed_from_rgb, rgb2hed
from skimage.filters import threshold_otsu
from torch import Tensor

DARKEST = 1 / 255  # whose optical density is finite
STAIN = tuple(map(float, hed_from_rgb[:, 0]))  # of red, green and blue; plain numbers: a tensor would have to be sent


def haematoxylin(images: Tensor, input_range: tuple[float, float]) -> Tensor:
    """How much of the dye is in each pixel of images (B, 3, H, W), by Ruifrok and Johnston, 2001: (B, 1, H, W)."""
    low, high = input_range
    density = -((images - low) / (high - low)).clamp(min=DARKEST, max=1).log()
    return sum(share * density[:, channel : channel + 1] for channel, share in enumerate(STAIN))


def haematoxylin_threshold(images: np.ndarray, blur: float) -> np.ndarray:
    """Patches of one image uint8 (N, H, W, 3) to foreground bool (N, H, W), by one threshold (Otsu, 1979) for all.

    The stain is unmixed by colour deconvolution (Ruifrok and Johnston, 2001); `blur`: deviation in pixels of a Gaussian
    on it.
    """
    stain = np.stack([gaussian_filter(rgb2hed(image)[..., 0], blur) for image in images])
    return stain > threshold_otsu(stain)
