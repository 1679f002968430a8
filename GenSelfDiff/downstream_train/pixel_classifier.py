"""Segmentation from the features of a frozen pre-trained network, pixel by pixel (Baranchuk et al., 2022).

    python3 GenSelfDiff/downstream_train/pixel_classifier.py --pretrained MoNuSeg_pretrain --labelled-images 2

Nothing of the pre-trained network is changed: the activations of some of its blocks, at some levels of noise, go into
an ensemble of small networks that look at one pixel each ("Label-Efficient Semantic Segmentation with Diffusion
Models").
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
from GenSelfDiff import checkpoint
from GenSelfDiff.course import RateGroup
from GenSelfDiff.data import PRETRAINING_RANGE
from GenSelfDiff.devices import set_up
from GenSelfDiff.downstream_train.labelled import LabelledData, TransferSettings, dice_sums
from GenSelfDiff.feature_net import DESCRIBED, FeatureNet, agreed, segmenting_features
from GenSelfDiff.history import MetricSums
from GenSelfDiff.run_folder import RunFolder
from GenSelfDiff.settings import SCRATCH, THESE, read_command_line
from GenSelfDiff.training import Trainer, prepare_run
from GenSelfDiff.unet import BlockName, DiffusionNet, initialise
from GenSelfDiff.unet_checkpoint import check_dim, noise_network
from utils_general import InputError, at_least, plain, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(TransferSettings):
    """Train an ensemble of pixel classifiers on the features of a frozen network."""

    stage = "features"
    improved = {
        "initial_weights": "pytorch",
        "warm_up": 50,
        "decay": "cosine",
        "ema": 0.99,
        "quarter_turns": True,
        "stain_jitter": 0.05,
    }

    run_name: str = "MoNuSeg_features"
    epochs: int = 10
    batch_size: int = 8
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    dim: int | None = None
    """width of the untrained network from scratch (64 if not given); otherwise that of the pre-trained one"""
    input_range: tuple[float, float] = PRETRAINING_RANGE
    noise_levels: tuple[int, ...] = (50, 150, 250)
    """the steps t that images are given the noise of, and the network is told"""
    blocks: tuple[BlockName, ...] = ("up0", "up1", "up2", "last")
    """whose activations are the features"""
    members: int = 10
    """networks of the ensemble, each from other initial weights"""
    hidden: tuple[int, int] = (128, 32)
    """widths of a member's two hidden layers"""
    noise_seed: int = 0
    """of the noise that all images are given"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, members=1, noise_seed=0)
        if self.checkpoint_activations:
            raise InputError("--checkpoint-activations: the network is frozen, none of its activations are kept")
        check_fields(plain(self), DESCRIBED, THESE)
        for name in ("noise_levels", "blocks"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"--{name.replace('_', '-')} names one twice")


class PixelClassification:
    """The stage: each member's cross-entropy, added up; held out, that of what they say together."""

    name = Settings.stage

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The loss of the batch; see `Stage`."""
        votes = model(batch["image"]).float()
        labels = batch["label"][:, None].expand(-1, votes.shape[1], -1, -1)
        by_member = nn.functional.cross_entropy(votes.flatten(0, 1), labels.flatten(0, 1)) * votes.shape[1]
        return by_member, self._metrics(agreed(votes.detach()), batch["label"])

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """Cross-entropy of the ensemble, and Dice."""
        return self._metrics(agreed(model(batch["image"])), batch["label"])

    @staticmethod
    def _metrics(logits: Tensor, labels: Tensor) -> MetricSums:
        loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": (loss * len(logits), len(logits)), "dice": dice_sums(logits, labels)}

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Nothing to draw: test_script.py makes the pictures."""


def build_network(settings: Settings, classes: int) -> FeatureNet:
    """The frozen network with new classifiers, or those of a run that goes on; `InputError` where they do not fit."""
    folder = RunFolder(settings.run_name)
    if folder.goes_on(settings.fresh):
        return segmenting_features(checkpoint.load(folder.last), folder.last).network
    torch.manual_seed(settings.seed)
    trained: dict[str, Any] = {}
    if settings.pretrained == SCRATCH:
        network = DiffusionNet(settings.dim or 64)
        initialise(network, settings.initial_weights)
        print(f"an untrained network ({settings.initial_weights}): what its features are worth without pre-training")
    else:
        path = checkpoint.find(settings.pretrained)
        network, trained = noise_network(checkpoint.load_handed_on(path), path)
        wanted = tuple(trained.get("input_range", PRETRAINING_RANGE))
        if wanted != tuple(settings.input_range):
            raise InputError(f"{path} was trained with images in {wanted}: --input-range {wanted[0]:g} {wanted[1]:g}")
        check_dim(settings.dim, network.net.final_conv[1].in_channels, path)
        print(f"frozen weights from {path}")
    timesteps, schedule = trained.get("timesteps", 1000), trained.get("schedule", "quadratic")
    last = trained.get("t_below") or timesteps
    if wrong := [t for t in settings.noise_levels if not 0 <= t < last]:
        raise InputError(f"--noise-levels {wrong[0]}: the network was trained at the steps t from 0 to {last - 1}")
    return FeatureNet(
        network.net, classes, settings.noise_levels, settings.blocks, settings.members, settings.hidden,
        schedule, timesteps, settings.noise_seed,
    )  # fmt: skip


def main(settings: Settings) -> None:
    """Check everything, build it, train."""
    settings.check()
    devices = set_up(settings.device)
    data = LabelledData.read(settings)
    model = build_network(settings, len(data.classes))
    prepare_run(settings, devices)
    about = {**data.about, "features": model.described()}
    rates = [RateGroup([p for p in model.parameters() if p.requires_grad])]
    Trainer(PixelClassification(), model, settings, data.training, data.validation, devices, about, rates).run()


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
