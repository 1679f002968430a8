"""The colours of one image for all others: Reinhard et al., 2001, "Color transfer between images", in CIELAB.

Of tensors where they are, and so not scikit-image's: a network that segments recolours each window on its device, in
the same way as tiles were in training. Tests hold both directions against scikit-image.
"""

import torch
from torch import Tensor

# sRGB and CIELAB under D65, by IEC 61966-2-1 and CIE 15
TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
LINEAR_BELOW, CUBE_BELOW, SLOPE, OFFSET = 0.04045, 0.008856, 7.787, 16 / 116
BRIGHT = 0.9  # of an image's values are below what becomes white
TINY = 1e-6


def to_lab(rgb: Tensor) -> Tensor:
    """sRGB (B, 3, H, W), 0 to 1, to CIELAB: lightness 0 to 100, a, b."""
    linear = torch.where(rgb > LINEAR_BELOW, ((rgb.clamp(min=LINEAR_BELOW) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mixed(linear, _matrix(TO_XYZ, rgb) / _matrix(WHITE, rgb)[:, None])
    f = torch.where(xyz > CUBE_BELOW, xyz.clamp(min=CUBE_BELOW) ** (1 / 3), SLOPE * xyz + OFFSET)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `to_lab`, clamped to 0 to 1."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), dim=1)
    xyz = torch.where(f > CUBE_BELOW ** (1 / 3), f**3, (f - OFFSET) / SLOPE).clamp(min=0)
    linear = _mixed(xyz, torch.linalg.inv(_matrix(TO_XYZ, lab) / _matrix(WHITE, lab)[:, None])).clamp(0, 1)
    bright = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0, 1)


def colours(rgb: Tensor) -> Tensor:
    """Mean and deviation of lightness, a and b of each image (B, 3, H, W), 0 to 1, made bright: (B, 2, 3)."""
    return _moments(to_lab(_brightened(rgb)))


def recoloured(rgb: Tensor, target: Tensor) -> Tensor:
    """Images (B, 3, H, W), 0 to 1, each made bright and given the mean and the deviation of `target` (2, 3)."""
    lab = to_lab(_brightened(rgb))
    mean, deviation = (m[:, :, None, None] for m in _moments(lab).unbind(1))
    wanted_mean, wanted = target.to(lab.dtype)[..., None, None]
    return to_rgb((lab - mean) / deviation.clamp(min=TINY) * wanted + wanted_mean)


def _brightened(rgb: Tensor) -> Tensor:
    """Scaled so that nine of ten values of an image are not brighter than white."""
    brightest = rgb.flatten(1).quantile(BRIGHT, dim=1).clamp(min=TINY)
    return (rgb / brightest[:, None, None, None]).clamp(max=1)


def _moments(lab: Tensor) -> Tensor:
    pixels = lab.flatten(2)
    return torch.stack((pixels.mean(2), pixels.std(2, correction=0)), dim=1)


def _matrix(values: tuple, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """Channels (B, 3, H, W) by a matrix (3, 3)."""
    return torch.einsum("ij,bjhw->bihw", matrix, x)
