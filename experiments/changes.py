"""Fixed changes of images as other laboratories and scanners make them: stain, colours, compression, sharpness."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb, rgb2lab, rgb_from_hed

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""An image uint8 (H, W, 3), and another image of the data set, uint8 (h, w, 3), to the changed image"""


def _with_residual(stains: np.ndarray) -> np.ndarray:
    """Colours of two dyes (2, 3), and what is at right angles to both: (3, 3), each of length 1."""
    stains = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    rest = np.cross(*stains)
    return np.vstack([stains, rest / np.linalg.norm(rest)])


DYES = _with_residual(rgb_from_hed[:2])  # haematoxylin and eosin of Ruifrok and Johnston, 2001
MACENKO = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])  # of Macenko et al., 2009
OTHER_DYES = _with_residual((DYES[:2] + MACENKO) / 2)  # half way: the whole way, H&E looks brown


def stained(image: np.ndarray, haematoxylin: float = 1, eosin: float = 1, dyes: np.ndarray = DYES) -> np.ndarray:
    """The image with so many times the stain, and with `dyes` of other colours.

    Optical densities are unmixed into `DYES` and what is neither, and mixed again. Of black, 1 of 255 is taken, whose
    logarithm is finite.
    """
    density = -np.log(np.maximum(image, 1) / 255)
    amounts = density @ np.linalg.inv(DYES) * [haematoxylin, eosin, 1]
    return _as_bytes(255 * np.exp(-amounts @ dyes))


def reinhard(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The image with mean and deviation of another in each channel of CIELAB (Reinhard et al., 2001)."""
    ours, theirs = rgb2lab(image), rgb2lab(other)
    axes = (0, 1)
    scaled = (ours - ours.mean(axes)) / np.maximum(ours.std(axes), 1e-6) * theirs.std(axes) + theirs.mean(axes)
    return _as_bytes(255 * lab2rgb(scaled))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image, written as JPEG and read again."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=["JPEG"]))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """The image under a Gaussian of so many pixels."""
    return _as_bytes(gaussian_filter(image.astype(float), (sigma, sigma, 0)))


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


UNCHANGED = "unchanged"
CHANGES: dict[str, Change] = {
    UNCHANGED: lambda image, _: image,
    "haematoxylin x 0.7": lambda image, _: stained(image, haematoxylin=0.7),
    "haematoxylin x 1.3": lambda image, _: stained(image, haematoxylin=1.3),
    "eosin x 0.7": lambda image, _: stained(image, eosin=0.7),
    "eosin x 1.3": lambda image, _: stained(image, eosin=1.3),
    "other dyes": lambda image, _: stained(image, dyes=OTHER_DYES),
    "colours of another image": reinhard,
    "JPEG, quality 50": lambda image, _: jpeg(image, 50),
    "blur, 1 pixel": lambda image, _: blurred(image, 1),
    "blur, 2 pixels": lambda image, _: blurred(image, 2),
}
"""By their names in tables; the pixels are those that the network sees"""
