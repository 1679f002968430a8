"""Pre-training on masked images: most of an image is hidden in blocks, the U-Net paints what is behind them.

    python3 GenSelfDiff/methods/masked_images.py --run-name MoNuSeg_masked

As SimMIM (Xie et al., 2022, "SimMIM: a simple framework for masked image modeling") does it: the network sees the whole
image with the blocks painted over, and only hidden pixels count; with the squared error of MAE (He et al., 2022,
"Masked autoencoders are scalable vision learners"), whose encoder that leaves blocks out a U-Net cannot have. Blocks
are grey, where SimMIM learns a token. The whole U-Net is handed on.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from GenSelfDiff.keyed_random import keyed_choice
from GenSelfDiff.methods.restoration import COLOURS, Restoration, RestorationSettings, Restored
from GenSelfDiff.pretrain.unlabelled import pretrain
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.unet import SegNet
from utils_general import InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(RestorationSettings):
    """Pre-train the U-Net to paint what is hidden of unlabelled patches."""

    stage = "masked"

    run_name: str = "MoNuSeg_masked"
    block: int = 16
    """pixels of a block's side"""
    masked: float = 0.6
    """share of the blocks that are hidden"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, block=1)
        if not 0 < self.masked < 1:
            raise InputError(f"--masked is {self.masked:g}: a share between 0 and 1 is needed")


def hidden_pixels(seeds: Tensor, size: int, block: int, share: float) -> Tensor:
    """Which pixels of square images are hidden, bool (B, 1, size, size): as many blocks in each, one at least.

    Blocks lie on a grid from the upper left corner; what is cut off at the other borders counts as a block.
    """
    across = -(-size // block)
    count = max(1, min(across**2 - 1, round(share * across**2)))
    blocks = keyed_choice(seeds, count, across**2).view(-1, 1, across, across)
    return blocks.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :size, :size]


def hidden_error(restored: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """Mean over the hidden pixels, and channels, of the squared error, an image (B,); (B, 3, H, W), (B, 1, H, W)."""
    error = (restored - image).square() * hidden
    return error.sum(dim=(1, 2, 3)) / (image.shape[1] * hidden.sum(dim=(1, 2, 3)))


class MaskedImages(Restoration):
    """The stage: the squared error of what was hidden, under grey blocks."""

    def restore(self, model: nn.Module, image: Tensor, seed: Tensor) -> Restored:
        """See `Restoration`."""
        hidden = hidden_pixels(seed, image.shape[-1], self.settings.block, self.settings.masked)
        given = image.masked_fill(hidden, sum(self.settings.input_range) / 2)
        restored = model(given)
        return Restored(given, restored, {"loss": hidden_error(restored, image, hidden)})


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def stage(size: int, _device: torch.device) -> MaskedImages:
        if settings.block >= size:
            raise InputError(f"--block is {settings.block}: less than the {size} pixels of a patch is needed")
        return MaskedImages(settings)

    pretrain(settings, lambda: SegNet(settings.dim, COLOURS, settings.timestep), stage)


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
