"""The noise network of images of a given structure: the U-Net, and what a structure says to it (SPADE).

Park et al., 2019, "Semantic image synthesis with spatially-adaptive normalization", as Nudiff has it: the structure
reaches the middle and the decoder, where it scales and shifts what the GroupNorms give.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from GenSelfDiff.methods.nudiff.structure import CHANNELS, NOTHING_KNOWN
from GenSelfDiff.unet import DIM_MULTS, Modulations, Unet

NARROWEST = 16  # channels between structure and modulation: half the network's width, and so many at least


class Spade(nn.Module):
    """A structure to gamma and beta of one `Block` of the U-Net: two convolutions with ReLU between; zero at first."""

    def __init__(self, hidden: int, channels: int):
        super().__init__()
        self.look = nn.Conv2d(CHANNELS, hidden, 3, padding=1)
        self.say = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, structure: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> gamma and beta, each (B, channels, H, W)."""
        gamma, beta = self.say(F.relu(self.look(structure))).chunk(2, dim=1)
        return gamma, beta


class ConditionedNet(nn.Module):
    """Noise prediction of images of a structure: eps_theta(x_t, t, y).

    At first it does not look at the structure: with the weights of a `DiffusionNet` in `net` it is that network.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.net = Unet(dim, out_channels=3)
        levels = len(DIM_MULTS)
        ups = {f"ups.{level}.{i}": levels - 1 - level for level in range(len(self.net.ups)) for i in (0, 1)}
        self.levels = {"mid_block1": levels - 1, "mid_block2": levels - 1, **ups, "final_conv.0": 0}
        """of each block that is told, how often its input was halved"""
        hidden, modules = max(NARROWEST, dim // 2), dict(self.net.named_modules())
        widths = [modules[f"{name}.block1.norm"].num_channels for name in self.levels]
        self.spades = nn.ModuleList(nn.ModuleList(Spade(hidden, width) for _ in range(2)) for width in widths)
        self.to(memory_format=torch.channels_last)

    def modulations(self, structure: Tensor) -> Modulations:
        """What a structure (B, 3, H, W) says, the same at all steps t.

        At 1/2, 1/4, 1/8 resolution its mean over 2x2, 4x4, 8x8 pixels is seen: the U-Net's activations there stand for
        the middle of as many.
        """
        told = {}
        for (name, level), (first, second) in zip(self.levels.items(), self.spades, strict=True):
            seen = F.avg_pool2d(structure, 2**level)
            told[name] = (*first(seen), *second(seen))
        return told

    def forward(self, x: Tensor, t: Tensor, structure: Tensor) -> Tensor:
        """Noisy images `x` and structures (B, 3, H, W), steps `t` (B,) -> the predicted noise (B, 3, H, W)."""
        return self.net(x, t, modulations=self.modulations(structure))


class Guided(nn.Module):
    """The noise of images of given structures under guidance w: (w + 1) eps(x, y) - w eps(x, nothing known).

    Ho and Salimans, 2022, equation 6, as Nudiff's paper has it (w = 2); its code computes what is w = 1 here. What the
    structures say is worked out once, for all steps.
    """

    def __init__(self, model: ConditionedNet, structure: Tensor, weight: float):
        super().__init__()
        self.model, self.weight = model, weight
        self.known = model.modulations(structure)
        self.unknown = model.modulations(torch.full_like(structure, NOTHING_KNOWN)) if weight else {}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noisy images `x` (B, 3, H, W), steps `t` (B,) -> the noise (B, 3, H, W)."""
        known = self.model.net(x, t, modulations=self.known)
        if not self.weight:
            return known
        return (self.weight + 1) * known - self.weight * self.model.net(x, t, modulations=self.unknown)
