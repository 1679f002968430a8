"""Pre-training by stain prediction: the U-Net is shown an image's haematoxylin alone, and paints the whole image.

    python3 GenSelfDiff/methods/stain_prediction.py --run-name MoNuSeg_stain

Colourisation (Zhang et al., 2016, "Colorful image colorization") for H&E: the dyes are unmixed by colour deconvolution
(Ruifrok and Johnston, 2001), and where eosin is, and how much of it, has to be told from nuclei and texture. Zhang et
al. choose among classes of colours; two dyes have few, and the squared error does. The whole U-Net is handed on.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from skimage.color import rgb_from_hed
from torch import Tensor, nn

from GenSelfDiff.haematoxylin import haematoxylin
from GenSelfDiff.methods.restoration import COLOURS, Restoration, RestorationSettings, Restored, squared_error
from GenSelfDiff.pretrain.unlabelled import pretrain
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.unet import SegNet
from utils_general import run_script

DENSITY = tuple(map(float, rgb_from_hed[0]))  # in red, green and blue; plain numbers: a tensor would have to be sent


@dataclass(frozen=True, kw_only=True)
class Settings(RestorationSettings):
    """Pre-train the U-Net to paint unlabelled patches of which it sees the haematoxylin."""

    stage = "stain"

    run_name: str = "MoNuSeg_stain"


def haematoxylin_alone(images: Tensor, input_range: tuple[float, float]) -> Tensor:
    """Images (B, 3, H, W) as if no other dye had stained them: e^(-amount x density), by Beer and Lambert.

    Less than none of it, which is unmixed where other colours are strong, becomes none: it would give these away.
    """
    low, high = input_range
    amount = haematoxylin(images, input_range).clamp(min=0)
    return low + (high - low) * torch.cat([(-density * amount).exp() for density in DENSITY], dim=1)


class StainPrediction(Restoration):
    """The stage: the squared error over the whole image, of which haematoxylin was shown."""

    def restore(self, model: nn.Module, image: Tensor, seed: Tensor) -> Restored:
        """See `Restoration`."""
        given = haematoxylin_alone(image, self.settings.input_range)
        restored = model(given)
        return Restored(given, restored, {"loss": squared_error(restored, image)})


def main(settings: Settings) -> None:
    """Check everything, build it, train."""
    pretrain(
        settings,
        lambda: SegNet(settings.dim, COLOURS, settings.timestep),
        lambda _size, _device: StainPrediction(settings),
    )


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
