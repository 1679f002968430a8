"""Self-supervised pre-training: a denoising diffusion model on unlabelled patches (section III-A of the paper).

    CUDA_VISIBLE_DEVICES=0,1,2,3 python3 ./GenSelfDiff/pretrain/SS_diff.py

Edit the defaults below, or pass them: `--name value`. Started again, a run goes on where it stopped.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from file_contents import check_fields
from GenSelfDiff import unet_checkpoint
from GenSelfDiff.data import to_image
from GenSelfDiff.diffusion import GaussianDiffusion, ScheduleName
from GenSelfDiff.history import MetricSums
from GenSelfDiff.keyed_random import keyed_normal, keyed_steps
from GenSelfDiff.pretrain.unlabelled import UnlabelledSettings, pretrain
from GenSelfDiff.samplers import Sampler, sample
from GenSelfDiff.settings import THESE, TrainingSettings, read_command_line
from GenSelfDiff.unet import DiffusionNet, warn_if_narrow
from utils_general import InputError, at_least, contact_sheet, plain, run_script, write_png

PUBLISHED_BATCH = 8  # the released code reports sums over a batch of this size
QUARTERS = 4


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(TrainingSettings):
    """Settings of all that learns to predict noise."""

    timesteps: int = 1000
    """steps T of the diffusion"""
    schedule: ScheduleName = "quadratic"
    """noise schedule"""
    p2_k: float = 1.0
    """k of the P2 weight 1 / (k + SNR)^gamma"""
    p2_gamma: float = 1.0
    """gamma of the P2 weight; 0: plain squared error"""
    sample_every: int = 20
    """epochs between pictures of what is drawn so far; 0: none"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, timesteps=1, p2_k=0, p2_gamma=0, sample_every=0)
        check_fields(plain(self), unet_checkpoint.SETTINGS, THESE)
        weights = GaussianDiffusion(self.schedule, self.timesteps, self.p2_k, self.p2_gamma).p2_weight
        if not weights.isfinite().all() or not weights.any():
            raise InputError(
                f"--p2-k {self.p2_k:g}, --p2-gamma {self.p2_gamma:g}: the weights of the steps lie between "
                f"{weights.min():g} and {weights.max():g}; 1 and 1 are published"
            )

    @property
    def trained_steps(self) -> int:
        """The steps t that are trained are below this."""
        return self.timesteps


@dataclass(frozen=True, kw_only=True)
class Settings(UnlabelledSettings, NoiseSettings):
    """Pre-train the noise network on unlabelled patches."""

    stage = "pretrain"

    run_name: str = "MoNuSeg_pretrain"
    t_below: int | None = None
    """train only at steps t below this, of little noise; at all if not given. Such a network draws no images"""

    @property
    def trained_steps(self) -> int:
        """See `NoiseSettings`."""
        return self.t_below or self.timesteps

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, t_below=1)
        if self.t_below is not None and self.t_below > self.timesteps:
            raise InputError(f"--t-below is {self.t_below}: there are {self.timesteps} --timesteps")


class NoisePrediction:
    """The stage: predict the noise in x_t, P2-weighted; the loss also by quarter of the steps."""

    name = Settings.stage

    def __init__(self, settings: NoiseSettings, size: int, device: torch.device):
        self.settings, self.size = settings, size
        self.diffusion = GaussianDiffusion(settings.schedule, settings.timesteps, settings.p2_k, settings.p2_gamma)
        self.diffusion.to(device)
        self.trained_steps = settings.trained_steps

    def learnt(self, batch: dict[str, Any]) -> Tensor:
        """What is given noise, x_0 (B, 3, H, W)."""
        return batch["image"]

    def predict(self, model: nn.Module, x: Tensor, t: Tensor, _batch: dict[str, Any]) -> Tensor:
        """The noise that the network sees in `x` (B, 3, H, W) at the steps `t` (B,)."""
        return model(x, t)

    def _losses(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """P2 loss an image (B,) and its steps t (B,); t and noise come from each image's own seed."""
        x_0, keys = self.learnt(batch), batch["seed"]
        t, noise = keyed_steps(keys, self.trained_steps), keyed_normal(keys, *x_0.shape[1:])
        predicted = self.predict(model, self.diffusion.q_sample(x_0, t, noise), t, batch)
        return self.diffusion.p2_loss(noise, predicted, t), t

    def _metrics(self, losses: Tensor, t: Tensor) -> MetricSums:
        """Mean loss an image, the published sum over a batch of 8, and the mean of each quarter of the steps."""
        sums: MetricSums = {
            "loss": (losses.sum(), len(losses)),
            "published": (PUBLISHED_BATCH * losses.sum(), len(losses)),
        }
        quarter = t * QUARTERS // self.diffusion.timesteps
        for q in range(((self.trained_steps - 1) * QUARTERS) // self.diffusion.timesteps + 1):
            inside = quarter == q
            sums[f"quarter_{q + 1}"] = ((losses * inside).sum(), inside.sum())
        return sums

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The mean over the batch: Adam tells it from the published sum only where gradients are near its eps."""
        losses, t = self._losses(model, batch)
        return losses.mean(), self._metrics(losses, t)

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The same for held-out images, with steps and noise that are the same in every epoch."""
        return self._metrics(*self._losses(model, batch))

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Every `sample_every` epochs, draw 100 moments of one image's sampling, always from the same noise."""
        settings = self.settings
        if not settings.sample_every or epoch % settings.sample_every or self.trained_steps < settings.timesteps:
            return
        moments = {round(i * (settings.timesteps - 1) / 99) for i in range(100)}
        clamp = settings.input_range if settings.recipe == "improved" else None
        sampling = sample(self.diffusion, model, self.size, [settings.seed], Sampler(clamp=clamp))
        frames = [to_image(x[0], settings.input_range) for t, x in sampling if t in moments]
        path = folder / f"sample_epoch_{epoch}.png"
        write_png(path, contact_sheet(frames, columns=10))
        print(f"one image sampled, in 100 of its steps: {path}")


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def build() -> DiffusionNet:
        warn_if_narrow(settings.dim)  # once for all processes: here the others are silent
        return DiffusionNet(settings.dim)

    def stage(size: int, device: torch.device) -> NoisePrediction:
        if settings.t_below is not None and settings.sample_every:
            print("no images are sampled: the network learns nothing of the steps from --t-below on")
        return NoisePrediction(settings, size, device)

    pretrain(settings, build, stage)


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
