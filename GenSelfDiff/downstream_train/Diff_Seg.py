"""Fine-tuning for segmentation, end to end, from the weights of pre-training (section III-B of the paper).

    CUDA_VISIBLE_DEVICES=0,1,2,3 python3 ./GenSelfDiff/downstream_train/Diff_Seg.py

Edit the defaults below, or pass them: `--name value`. Started again, a run goes on where it stopped.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from file_contents import check_fields
from GenSelfDiff import checkpoint, unet_checkpoint
from GenSelfDiff.data import FINETUNING_RANGE
from GenSelfDiff.devices import set_up
from GenSelfDiff.downstream_train.labelled import LabelledData, TransferSettings, dice_sums
from GenSelfDiff.downstream_train.losses import LossName, distance_map_loss, segmentation_loss
from GenSelfDiff.downstream_train.transfer import rate_groups
from GenSelfDiff.history import MetricSums
from GenSelfDiff.networks import load_start
from GenSelfDiff.run_folder import RunFolder
from GenSelfDiff.settings import SCRATCH, THESE, read_command_line
from GenSelfDiff.targets import MAPS, Targets, split
from GenSelfDiff.training import Trainer, prepare_run
from GenSelfDiff.unet import SegNet, initialise
from GenSelfDiff.unet_checkpoint import check_dim, dim_of, hand_over
from utils_general import InputError, at_least, plain, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(TransferSettings):
    """Fine-tune the pre-trained network to segment; the classes come from the data."""

    stage = "finetune"
    improved = {
        "initial_weights": "pytorch",
        "learning_rate": 0.001,
        "betas": (0.9, 0.999),
        "warm_up": 50,
        "decay": "cosine",
        "clip": 1.0,
        "ema": 0.99,
        "quarter_turns": True,
        "stain_jitter": 0.05,
        "input_range": (-1.0, 1.0),
        "timestep": 50,
    }

    run_name: str = "MoNuSeg_finetune"
    epochs: int = 150
    batch_size: int = 8
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    dim: int | None = None
    """width of the network from scratch (64 if not given); otherwise that of the pre-trained one"""
    targets: Targets = "classes"
    """what is learnt beside the class map, so that instances that touch come apart: nothing, the border around each
    instance, or horizontal and vertical distance maps (HoVer-Net); border and hv need instances"""
    losses: tuple[LossName, ...] = ("ss", "focal")
    """losses that are added up, of the class map, and of the border against the rest"""
    input_range: tuple[float, float] = FINETUNING_RANGE
    timestep: int = 0
    """the step t that the network is told"""
    keep_last_block: bool = False
    """take over final_conv.0 too, the decoder's only block at full resolution, which as published starts anew"""
    head_steps: int = 0
    """steps in which only what starts anew is trained, before all is"""
    layer_decay: float = 1.0
    """factor of the learning rate from each level of the network to the one before it; 0: all but the head is frozen"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, timestep=0, head_steps=0, layer_decay=0)
        check_fields(plain(self), unet_checkpoint.SETTINGS, THESE)
        if self.layer_decay > 1:
            raise InputError(f"--layer-decay is {self.layer_decay:g}: 0 to 1 is needed")
        if self.steps and self.head_steps >= self.steps:
            raise InputError(
                f"--head-steps is {self.head_steps}, of {self.steps} --steps: nothing else would be trained"
            )
        if not self.losses:
            raise InputError("--losses names no loss")


class Segmentation:
    """The stage: one forward pass at one step t, as published 0, and the sum of the chosen losses.

    Where there are targets beside the class map, their loss is added, and stands in the history under their name.
    """

    name = Settings.stage

    def __init__(self, losses: Sequence[LossName], targets: Targets = "classes"):
        self.losses, self.targets = losses, targets

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The loss of the batch; see `Stage`."""
        outputs, labels = model(batch["image"]), batch["label"]
        losses = self._losses(outputs, labels, batch.get("maps"))
        sums = {name: loss * len(labels) for name, loss in losses.items()}
        return sum(losses.values()), self._metrics(sums, outputs, labels)

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The mean over images of each image's own loss, so that it does not depend on who shares its batch."""
        outputs, labels = model(batch["image"]), batch["label"]
        maps = batch["maps"].split(1) if "maps" in batch else [None] * len(labels)
        losses = [self._losses(*of_one) for of_one in zip(outputs.split(1), labels.split(1), maps, strict=True)]
        sums = {name: torch.stack([of_one[name] for of_one in losses]).sum() for name in losses[0]}
        return self._metrics(sums, outputs, labels)

    def _losses(self, outputs: Tensor, labels: Tensor, maps: Tensor | None) -> dict[str, Tensor]:
        """The losses of the class map, and of the targets beside it, by their name."""
        logits, maps_said = split(outputs, self.targets)
        losses = {"classes": segmentation_loss(self.losses, logits, labels)}
        if self.targets == "border":  # two classes, of which the rest has the logit 0
            two = torch.cat((torch.zeros_like(maps_said), maps_said), dim=1)
            losses["border"] = segmentation_loss(self.losses, two, maps[:, 0].long())
        elif self.targets == "hv":
            losses["hv"] = distance_map_loss(maps_said, maps, labels > 0)
        return losses

    def _metrics(self, sums: dict[str, Tensor], outputs: Tensor, labels: Tensor) -> MetricSums:
        """The metrics of a batch, from the sums of its images' losses."""
        logits, _ = split(outputs, self.targets)
        metrics = {"loss": (sum(sums.values()), len(labels)), "dice": dice_sums(logits, labels)}
        return metrics | {name: (total, len(labels)) for name, total in sums.items() if len(sums) > 1}

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Nothing to draw: test_script.py makes the pictures."""


def build_network(settings: Settings, classes: int) -> SegNet:
    """The segmentation network with its initial weights: of pre-training except the head, or new from scratch."""
    outputs = classes + MAPS[settings.targets]
    torch.manual_seed(settings.seed)
    folder = RunFolder(settings.run_name)
    if folder.goes_on(settings.fresh):  # its own weights come later
        return SegNet(dim_of(checkpoint.load(folder.last)["model_state_dict"], folder.last), outputs, settings.timestep)
    if settings.pretrained == SCRATCH:
        model = SegNet(settings.dim or 64, outputs, settings.timestep)
        initialise(model, settings.initial_weights)
        print(f"from scratch: all weights are new ({settings.initial_weights})")
        return model
    path = checkpoint.find(settings.pretrained)
    start = load_start(path, settings.keep_last_block)
    dim = dim_of(start.weights, path)
    check_dim(settings.dim, dim, path)
    model = SegNet(dim, outputs, settings.timestep)
    initialise(model, settings.initial_weights)
    hand_over(start.weights, start.new, model, path)
    return model


def main(settings: Settings) -> None:
    """Check everything, build it, train."""
    settings.check()
    devices = set_up(settings.device)
    data = LabelledData.read(settings, settings.targets)
    model = build_network(settings, len(data.classes))
    prepare_run(settings, devices)
    rates = rate_groups(model, settings.head_steps, settings.layer_decay, settings.keep_last_block)
    stage = Segmentation(settings.losses, settings.targets)
    Trainer(stage, model, settings, data.training, data.validation, devices, data.about, rates).run()


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
