"""Pre-training as a variational auto-encoder (Kingma and Welling, 2014, "Auto-encoding variational Bayes").

    python3 GenSelfDiff/methods/variational_autoencoder.py --run-name MoNuSeg_vae

The U-Net's way down gives mean and deviation of a latent map at an eighth of the resolution, its way up restores the
image from a sample of it. Skip connections would hand the image to the decoder past the latent map, and nothing would
be learnt: they are zeros. So the decoder is not the one that fine-tuning needs, and the encoder alone is handed on.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from GenSelfDiff.keyed_random import keyed_normal
from GenSelfDiff.methods.restoration import COLOURS, Restoration, RestorationSettings, Restored, squared_error
from GenSelfDiff.pretrain.unlabelled import pretrain
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.unet import DIM_MULTS, Unet
from utils_general import InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(RestorationSettings):
    """Pre-train the U-Net's encoder as that of a variational auto-encoder."""

    stage = "vae"

    run_name: str = "MoNuSeg_vae"
    latent: int = 16
    """channels of the latent map"""
    sigma: float = 0.1
    """deviation of the decoder's Gaussian, in units of the input range; the larger, the less the image counts"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, latent=1)
        if not self.sigma > 0:
            raise InputError(f"--sigma is {self.sigma:g}: a deviation above 0 is needed")


class AutoEncoder(nn.Module):
    """The U-Net without skips, and a latent map between its way down and its way up."""

    def __init__(self, dim: int, latent: int, timestep: int):
        super().__init__()
        self.timestep = timestep
        self.net = Unet(dim, COLOURS)
        width = DIM_MULTS[-1] * dim
        self.to_latent, self.from_latent = nn.Conv2d(width, 2 * latent, 1), nn.Conv2d(latent, width, 1)

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images `x` (B, 3, H, W), seeds (B,) -> images (B, 3, H, W), and mean and logarithm of the variance.

        Both of the latent map: (B, latent, H / 8, W / 8). The sample is mean + deviation * noise, equation 10.
        """
        t = torch.full((len(x),), self.timestep, device=x.device)
        lowest, embedding, skips = self.net.encode(x, t)
        mean, log_variance = self.to_latent(lowest).float().chunk(2, dim=1)
        sample = mean + (log_variance / 2).exp() * keyed_normal(seed, *mean.shape[1:])
        restored = self.net.decode(self.from_latent(sample), embedding, [torch.zeros_like(skip) for skip in skips])
        return restored, mean, log_variance


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of the latent map from the standard normal, an image (B,), in nats: appendix B of the paper."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=(1, 2, 3))


class LowerBound(Restoration):
    """The stage: minus the evidence lower bound, times 2 sigma^2 / (3 H W): a squared error, and a price for detail."""

    def restore(self, model: nn.Module, image: Tensor, seed: Tensor) -> Restored:
        """See `Restoration`."""
        restored, mean, log_variance = model(image, seed)
        error, nats = squared_error(restored, image), divergence(mean, log_variance)
        loss = error + 2 * self.settings.sigma**2 / image[0].numel() * nats
        return Restored(image, restored, {"loss": loss, "squared_error": error, "divergence": nats})


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def build() -> AutoEncoder:
        return AutoEncoder(settings.dim, settings.latent, settings.timestep)

    pretrain(settings, build, lambda _size, _device: LowerBound(settings))


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
