"""Nudiff, second stage: a diffusion model of images of a given structure (Yu et al., MICCAI 2023).

    python3 GenSelfDiff/methods/nudiff/train_images.py --data data/MoNuSeg_10 --pretrained scratch

The structure of a patch, made of its instances after these were flipped and turned, scales and shifts what the
GroupNorms of the middle and the decoder give (see conditioned.py). A share of the patches, --drop, is shown without it
(zeros, which is not the structure of empty tissue), so that the network knows images of any structure too, which
guidance needs. It can start from a run of SS_diff.py with the same noise schedule, which knows them already, from all
unlabelled images, and go on to see such images without structure (--unlabelled); or from another run of this stage, as
published: first --drop 0, then 0.2 at a fifth of the rate.
Edit the defaults below, or pass them: `--name value`. Started again, a run goes on where it stopped.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import Tensor, nn

from GenSelfDiff import checkpoint
from GenSelfDiff.data import to_image
from GenSelfDiff.devices import Devices
from GenSelfDiff.history import MetricSums
from GenSelfDiff.methods.nudiff.conditioned import ConditionedNet, Guided
from GenSelfDiff.methods.nudiff.generators import conditioned_start
from GenSelfDiff.methods.nudiff.structure import NOTHING_KNOWN, as_picture, of_batch
from GenSelfDiff.methods.nudiff.train_structures import SAMPLER, NudiffSettings
from GenSelfDiff.methods.nudiff.with_labels import SHOWN, WithStructures, left_out, train
from GenSelfDiff.pretrain.SS_diff import NoisePrediction
from GenSelfDiff.run_folder import RunFolder
from GenSelfDiff.samplers import Sampler, sample
from GenSelfDiff.settings import SCRATCH, read_command_line
from GenSelfDiff.unet import initialise
from GenSelfDiff.unet_checkpoint import check_dim, dim_of
from utils_general import InputError, contact_sheet, run_script, write_png


@dataclass(frozen=True, kw_only=True)
class Settings(NudiffSettings):
    """Learn to draw images of given structures from few labels."""

    stage = "images"

    run_name: str = "MoNuSeg_images"
    pretrained: str = SCRATCH
    """run of SS_diff.py or of this script to start from, or the path of its folder or of a .pth; "scratch": none"""
    dim: int | None = None
    """width of the network from scratch (64 if not given); otherwise that of the pre-trained one"""
    drop: float = 0.2
    """share of the patches that are shown without their structure"""
    unlabelled: bool = False
    """show patches of all unlabelled images in their place: so images of no structure are learnt from more tissue"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        if not 0 <= self.drop < 1:
            raise InputError(f"--drop is {self.drop:g}: a share from 0 to below 1 is needed")
        if self.unlabelled and not self.drop:
            raise InputError("--unlabelled takes the place of patches that --drop leaves without structure: of 0, none")


def shown(structure: Tensor, seeds: Tensor, drop: float) -> Tensor:
    """Structures (B, 3, H, W), of which the share `drop`, by their seeds (B,), became `NOTHING_KNOWN`."""
    return structure.masked_fill(left_out(seeds, drop)[:, None, None, None], NOTHING_KNOWN)


class ImagePrediction(NoisePrediction):
    """The stage: noise prediction of images of a structure.

    Held-out images are always shown with their structure; what their loss is without stands in the history, too.
    """

    name = Settings.stage

    def __init__(self, settings: Settings, size: int, device: torch.device, examples: dict[str, Any]):
        super().__init__(settings, size, device)
        self.examples = examples

    def predict(self, model: nn.Module, x: Tensor, t: Tensor, batch: dict[str, Any]) -> Tensor:
        """See `NoisePrediction`."""
        return model(x, t, batch["structure"])

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The mean over the batch, some of it without structure; see `Stage`."""
        structure = of_batch(batch["label"], batch["maps"])
        return super().training_loss(model, batch | {"structure": shown(structure, batch["seed"], self.settings.drop)})

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The same for held-out images with their structure, and as "unconditional" without."""
        structure = of_batch(batch["label"], batch["maps"])
        metrics = super().validation_metrics(model, batch | {"structure": structure})
        without, _ = self._losses(model, batch | {"structure": torch.full_like(structure, NOTHING_KNOWN)})
        return metrics | {"unconditional": (without.sum(), len(without))}

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Every `sample_every` epochs rows of structures, images drawn of them, and the real images."""
        settings = self.settings
        if not settings.sample_every or epoch % settings.sample_every:
            return
        structure = of_batch(self.examples["label"], self.examples["maps"])
        seeds = [settings.seed + i for i in range(len(structure))]
        sampler = Sampler(SAMPLER, clamp=settings.input_range)
        with torch.no_grad():
            guided = Guided(model, structure, weight=0.0)
            *_, (_, x) = sample(self.diffusion, guided, self.size, seeds, sampler)
        frames = [as_picture(one) for one in structure.cpu().numpy()]
        frames += [*to_image(x, settings.input_range), *to_image(self.examples["image"], settings.input_range)]
        path = folder / f"sample_epoch_{epoch}.png"
        write_png(path, contact_sheet(frames, columns=SHOWN))
        print(f"structures, images drawn of them without guidance, and the real images: {path}")


def build_network(settings: Settings) -> ConditionedNet:
    """The network with its first weights: of pre-training, or new from scratch."""
    folder = RunFolder(settings.run_name)
    if folder.goes_on(settings.fresh):  # its own weights come later
        return ConditionedNet(dim_of(checkpoint.load(folder.last)["model_state_dict"], folder.last))
    if settings.pretrained != SCRATCH:
        path = checkpoint.find(settings.pretrained)
        model, dim = conditioned_start(path, settings)
        check_dim(settings.dim, dim, path)
        return model
    model = ConditionedNet(settings.dim or 64)
    initialise(model.net, settings.initial_weights)
    return model


def main(settings: Settings) -> None:
    """Check everything, build it, train."""

    def stage(data: WithStructures, devices: Devices) -> ImagePrediction:
        examples = data.examples(devices, settings.input_range)
        return ImagePrediction(settings, data.training.size, devices.device, examples)

    unlabelled = settings.drop if settings.unlabelled else 0.0
    train(settings, settings.data, lambda: build_network(settings), stage, unlabelled)


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
