"""What all pre-trainings share: settings, which unlabelled images they see, what their checkpoints say of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from GenSelfDiff import networks
from GenSelfDiff.augmentation import flips
from GenSelfDiff.data import PRETRAINING_RANGE, PatchDataset, pretraining_folder
from GenSelfDiff.devices import set_up
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import TrainingSettings
from GenSelfDiff.training import Stage, Trainer, prepare_run
from GenSelfDiff.transforms import v2
from GenSelfDiff.unet import initialise
from utils_general import MONUSEG, InputError


@dataclass(frozen=True, kw_only=True)
class UnlabelledSettings(TrainingSettings):
    """Settings of what is trained without labels."""

    improved = {
        "initial_weights": "pytorch",
        "learning_rate": 0.001,
        "warm_up": 100,
        "decay": "cosine",
        "clip": 1.0,
        "ema": 0.999,
        "quarter_turns": True,
    }

    data: tuple[Path, ...] = (MONUSEG,)
    """roots of the data sets to train on: their unlabelled patches, or the images of their labelled ones"""
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    dim: int = 64
    input_range: tuple[float, float] = PRETRAINING_RANGE

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        if not self.data:
            raise InputError("--data names no data set")


def pretrain(
    settings: UnlabelledSettings,
    build: Callable[[], nn.Module],
    stage: Callable[[int, torch.device], Stage],
    views: Callable[[int], v2.Transform] | None = None,
) -> None:
    """Check everything, build it, train: for stages that Diff_Seg.py starts from (`starts` in `networks.METHODS`).

    `build` makes the network, `stage`, of the patches' size and the device, what it learns. `views`, of the size, takes
    the place of the augmentation, flips, and is applied to held-out patches too.
    """
    settings.check()
    devices = set_up(settings.device)
    folders = [Patches(pretraining_folder(root)) for root in settings.data]
    training = PatchDataset(folders, "train", settings.seed, flips(settings.quarter_turns))
    validation = PatchDataset(folders, "val", settings.seed + 1)
    if views is not None:
        training.augmentation = validation.augmentation = views(training.size)
    prepare_run(settings, devices)
    torch.manual_seed(settings.seed)
    model = build()
    initialise(model, settings.initial_weights)
    networks.check_start(settings.stage, model, settings.dim)
    resolutions = {f.data_set.mpp for f in folders}
    about = {"data_sets": [f.data_set.described for f in folders], "patch_size": training.size}
    about["mpp"] = resolutions.pop() if len(resolutions) == 1 else None  # of several, none is that of the network
    Trainer(stage(training.size, devices.device), model, settings, training, validation, devices, about).run()
