"""Pre-training by context restoration (Chen et al., 2019, "Self-supervised learning for medical image analysis using
image context restoration", Medical Image Analysis 58): small patches of an image change places, the U-Net restores it.

    python3 GenSelfDiff/methods/context_restoration.py --run-name MoNuSeg_context

The whole U-Net is handed on. Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from GenSelfDiff.keyed_random import keyed_places
from GenSelfDiff.methods.restoration import COLOURS, Restoration, RestorationSettings, Restored, squared_error
from GenSelfDiff.pretrain.unlabelled import pretrain
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.unet import SegNet
from utils_general import InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(RestorationSettings):
    """Pre-train the U-Net to put the parts of unlabelled patches back in their places."""

    stage = "context"

    run_name: str = "MoNuSeg_context"
    swaps: int = 10
    """pairs of parts of an image that change places"""
    part: int = 16
    """pixels of a part's side"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, swaps=1, part=1)


def swapped(images: Tensor, corners: Tensor, part: int) -> Tensor:
    """Images (B, C, H, W) in which pairs of squares of `part` pixels have changed places, one pair after the other.

    `corners`, int64 (B, swaps, 2, 2): row and column of the upper left corner of both squares. A pair that overlaps
    stays where it is: the paper's are apart.
    """
    height, width = images.shape[2:]
    inside = torch.arange(part, device=images.device)
    rows, columns = (corners[..., i, None] + inside for i in (0, 1))  # (B, swaps, 2, part)
    places = (rows[..., :, None] * width + columns[..., None, :]).flatten(3)  # (B, swaps, 2, part^2)
    apart = ((corners[:, :, 0] - corners[:, :, 1]).abs() >= part).any(-1)  # (B, swaps)
    origin = torch.arange(height * width, device=images.device).repeat(len(images), 1)  # of each pixel
    for swap in range(corners.shape[1]):
        first, second = places[:, swap].unbind(1)
        second = torch.where(apart[:, swap, None], second, first)
        of_first, of_second = origin.gather(1, first), origin.gather(1, second)
        origin = origin.scatter(1, first, of_second).scatter(1, second, of_first)
    return images.flatten(2).gather(2, origin[:, None].expand(-1, images.shape[1], -1)).view_as(images)


class ContextRestoration(Restoration):
    """The stage: the paper's L2 loss, over the whole image, what was moved and what was not."""

    def restore(self, model: nn.Module, image: Tensor, seed: Tensor) -> Restored:
        """See `Restoration`."""
        swaps, part = self.settings.swaps, self.settings.part
        corners = keyed_places(seed, 4 * swaps, image.shape[-1] - part + 1).view(-1, swaps, 2, 2)
        given = swapped(image, corners, part)
        restored = model(given)
        return Restored(given, restored, {"loss": squared_error(restored, image)})


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def stage(size: int, _device: torch.device) -> ContextRestoration:
        if 2 * settings.part > size:
            raise InputError(f"--part is {settings.part}: two parts must find room side by side in {size} pixels")
        return ContextRestoration(settings)

    pretrain(settings, lambda: SegNet(settings.dim, COLOURS, settings.timestep), stage)


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
