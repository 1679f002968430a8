"""What attention-based self-supervision minimises beside the cross-entropy, of each image: (B,).

Sahasrabudhe et al., MICCAI 2020, as in their released code. Maps are attention (B, 1, H, W), 0 to 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SYMMETRIES = ("flip x", "flip y", "transpose", "90", "180", "270")
"""How a square can be turned into itself, as published: not as it is, and not by the other diagonal"""
INVERSE = {"90": "270", "270": "90"}  # the others are their own


def turn(x: Tensor, symmetry: str) -> Tensor:
    """Maps (..., H, W), all turned in one way; angles are against the clock."""
    if symmetry == "transpose":
        return x.transpose(-2, -1)
    if symmetry.startswith("flip"):
        return x.flip(-1 if symmetry == "flip x" else -2)
    return x.rot90(int(symmetry) // 90, (-2, -1))


def turned(x: Tensor, which: Tensor) -> Tensor:
    """Square maps (B, C, H, H), each turned by its own of the `SYMMETRIES`, int64 (B,)."""
    return _chosen(torch.stack([turn(x, symmetry) for symmetry in SYMMETRIES]), which)


def turned_back(x: Tensor, which: Tensor) -> Tensor:
    """The inverse of `turned`."""
    return _chosen(torch.stack([turn(x, INVERSE.get(symmetry, symmetry)) for symmetry in SYMMETRIES]), which)


def _chosen(ways: Tensor, which: Tensor) -> Tensor:
    """Of (ways, B, ...) for each of B the one that `which` (B,) says; without a look at the numbers."""
    return ways[which, torch.arange(len(which), device=which.device)]


def halved(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) made half as large, bilinearly: of sides that are even, the mean of four pixels."""
    return F.avg_pool2d(x, 2)


def smoothness(attention: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring rows, and of neighbouring columns, added."""
    return attention.diff(dim=2).abs().mean((1, 2, 3)) + attention.diff(dim=3).abs().mean((1, 2, 3))


def squared_difference(ours: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels: what both equivariance losses are."""
    return (ours - target).square().mean((1, 2, 3))


def of_scale(scale: Tensor, level: Tensor, levels: int) -> Tensor:
    """The loss of scale equivariance where it is one: 0 at the coarsest level.

    Weighted so that the mean over a batch with equally many tiles of each level is the mean of the levels' means.
    """
    return torch.where(level < levels - 1, scale * (levels / (levels - 1)), 0.0)
