"""Haematoxylin, the dye of nuclei: how much of it a pixel has, and where that is much. Nothing is learnt here."""

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu


def haematoxylin_threshold(images: np.ndarray, blur: float) -> np.ndarray:
    """Patches of one image uint8 (N, H, W, 3) to foreground bool (N, H, W), by one threshold (Otsu, 1979) for all.

    The stain is unmixed by colour deconvolution (Ruifrok and Johnston, 2001); `blur`: deviation in pixels of a Gaussian
    on it.
    """
    stain = np.stack([gaussian_filter(rgb2hed(image)[..., 0], blur) for image in images])
    return stain > threshold_otsu(stain)
