"""Nudiff, first stage: a diffusion model of structures, that is of where nuclei are (Yu et al., MICCAI 2023).

    python3 GenSelfDiff/methods/nudiff/train_structures.py --data data/MoNuSeg_10

A structure is three channels: nucleus or background, and the distance maps of the instances, made after these were
flipped and turned (see structure.py). The network is that of the pre-training, the noise linear, the loss the plain
squared error. --data names the few labels: choose_labels.py makes such a folder. Then comes train_images.py.
Edit the defaults below, or pass them: `--name value`. Started again, a run goes on where it stopped.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import Tensor, nn

from GenSelfDiff.data import PRETRAINING_RANGE
from GenSelfDiff.devices import Devices
from GenSelfDiff.diffusion import ScheduleName
from GenSelfDiff.methods.nudiff.structure import as_picture, decode, encode, from_input, of_batch, to_input
from GenSelfDiff.methods.nudiff.with_labels import SHOWN, WithStructures, train
from GenSelfDiff.pretrain.SS_diff import NoisePrediction, NoiseSettings
from GenSelfDiff.pretrain.unlabelled import UnlabelledSettings
from GenSelfDiff.samplers import Sampler, sample
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.unet import DiffusionNet, initialise
from utils_general import MONUSEG, contact_sheet, run_script, write_png

SAMPLER = "dpm-solver++"  # of the pictures


@dataclass(frozen=True, kw_only=True)
class NudiffSettings(NoiseSettings):
    """Settings of both stages."""

    improved = UnlabelledSettings.improved

    data: Path = MONUSEG
    """root of the data set: its labelled patches"""
    epochs: int = 100
    batch_size: int = 4
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: ScheduleName = "linear"
    p2_gamma: float = 0.0
    quarter_turns: bool = True
    input_range: tuple[float, float] = PRETRAINING_RANGE


@dataclass(frozen=True, kw_only=True)
class Settings(NudiffSettings):
    """Learn to draw structures of nuclei from few labels."""

    stage = "structures"

    run_name: str = "MoNuSeg_structures"
    dim: int = 64
    input_range: tuple[float, float] = PRETRAINING_RANGE
    """what -1 and 1 of the three channels become"""


class StructurePrediction(NoisePrediction):
    """The stage: noise prediction of structures."""

    name = Settings.stage

    def __init__(self, settings: Settings, size: int, device: torch.device, area: float):
        super().__init__(settings, size, device)
        self.area = area

    def learnt(self, batch: dict[str, Any]) -> Tensor:
        """The structures, x_0 (B, 3, H, W)."""
        return to_input(of_batch(batch["label"], batch["maps"]), self.settings.input_range)

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Every `sample_every` epochs a row of structures, always from the same noise, and one of their instances."""
        settings = self.settings
        if not settings.sample_every or epoch % settings.sample_every:
            return
        seeds = [settings.seed + i for i in range(SHOWN)]
        sampler = Sampler(SAMPLER, clamp=settings.input_range)
        *_, (_, x) = sample(self.diffusion, model, self.size, seeds, sampler)
        drawn = from_input(x, settings.input_range).cpu().numpy()
        clean = [encode(decode(structure, self.area)) for structure in drawn]
        path = folder / f"sample_epoch_{epoch}.png"
        write_png(path, contact_sheet([as_picture(structure) for structure in (*drawn, *clean)], columns=SHOWN))
        print(f"structures as drawn, and of the instances that were found in them: {path}")


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def build() -> DiffusionNet:
        model = DiffusionNet(settings.dim)
        initialise(model, settings.initial_weights)
        return model

    def stage(data: WithStructures, devices: Devices) -> StructurePrediction:
        return StructurePrediction(settings, data.training.size, devices.device, data.about["typical_area"])

    train(settings, settings.data, build, stage)


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
