"""Contrastive pre-training of the U-Net's encoder: SimCLR (Chen et al., 2020, "A simple framework for contrastive
learning of visual representations").

    python3 GenSelfDiff/methods/simclr.py --run-name MoNuSeg_simclr

Two views of each patch shall be alike and unlike those of all others in the batch: the larger --batch-size, the more
there is to learn from (the paper has thousands; with several processes each has its own). The way down and the middle
of the U-Net are trained and handed on, the decoder starts anew. Temperature and colours are the paper's for small
images (appendix B.9), not those for ImageNet; a crop shows a fifth of a patch at least, a small piece of tissue.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from GenSelfDiff.augmentation import TwoViews
from GenSelfDiff.history import MetricSums
from GenSelfDiff.methods.restoration import OneStepSettings
from GenSelfDiff.pretrain.unlabelled import pretrain
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.unet import DIM_MULTS, Encoder
from utils_general import InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(OneStepSettings):
    """Pre-train the U-Net's encoder to tell unlabelled patches apart."""

    stage = "simclr"

    run_name: str = "MoNuSeg_simclr"
    temperature: float = 0.5
    """of the similarities"""
    projection: int = 128
    """numbers that a view is compared by"""
    smallest_crop: float = 0.2
    """share of a patch that a view shows at least"""
    colour: float = 0.5
    """strength of the change of colours"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, projection=1, colour=0)
        if not self.temperature > 0 or not 0 < self.smallest_crop <= 1:
            raise InputError("--temperature must be above 0, and --smallest-crop a share from above 0 to 1")
        if self.colour > 1.25:
            raise InputError(
                f"--colour is {self.colour:g}: at most 1.25 is possible, a change of all hues by a quarter"
            )


class ProjectedEncoder(nn.Module):
    """The encoder, the mean of its lowest activations over the pixels, and the projection head.

    The head has BatchNorm behind each layer, as the authors' own: the encoder's GroupNorm makes the means of all images
    nearly equal at first, and nothing would be learnt from what they have in common.
    """

    def __init__(self, dim: int, projection: int, timestep: int):
        super().__init__()
        self.timestep = timestep
        self.net = Encoder(dim)
        width = DIM_MULTS[-1] * dim
        self.head = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, projection, bias=False),
            nn.BatchNorm1d(projection, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, projection)."""
        t = torch.full((len(x),), self.timestep, device=x.device)
        return self.head(self.net.encode(x, t)[0].mean(dim=(2, 3)))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of pairs of views, (B, P) each: equation 1, a pair (B,).

    Each view has to find its partner among all 2 B - 1 others by the cosine of the angle to it; the mean of both.
    """
    both = F.normalize(torch.cat((first, second)), dim=1)
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    similar = (both @ both.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(similar, partner, reduction="none").view(2, -1).mean(0)


class Contrast:
    """The stage: two views of each patch find each other."""

    name = Settings.stage

    def __init__(self, settings: Settings):
        self.settings = settings

    def _losses(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        projected = model(torch.cat(batch["image"].chunk(2, dim=1)))
        return nt_xent(*projected.chunk(2), self.settings.temperature)

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The mean over the batch; see `Stage`."""
        losses = self._losses(model, batch)
        return losses.mean(), {"loss": (losses.sum(), len(losses))}

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The same for held-out patches, of the same views in every epoch; it does depend on the size of a batch."""
        return self.training_loss(model, batch)[1]

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Nothing to draw."""


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def build() -> ProjectedEncoder:
        return ProjectedEncoder(settings.dim, settings.projection, settings.timestep)

    def views(size: int) -> TwoViews:
        return TwoViews(size, settings.smallest_crop, settings.colour, settings.quarter_turns)

    pretrain(settings, build, lambda _size, _device: Contrast(settings), views)


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
