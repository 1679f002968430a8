"""What both trainings of Nudiff share: the labelled patches they see, and what their checkpoints say of them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from GenSelfDiff.augmentation import flips
from GenSelfDiff.data import PatchDataset, derived_seed, labelled_folder, pretraining_folder
from GenSelfDiff.devices import Devices, set_up
from GenSelfDiff.downstream_train.labelled import check_instances
from GenSelfDiff.keyed_random import keyed_places
from GenSelfDiff.methods.nudiff.structure import areas_inside, typical_area
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import TrainingSettings
from GenSelfDiff.training import Stage, Trainer, prepare_run, to_device
from GenSelfDiff.unet import warn_if_narrow
from utils_general import InputError

SHOWN = 6  # patches in a picture
UNLABELLED = "unlabelled"
LEARNT_FROM = "labels"  # under which a checkpoint says it
SHARES = 2**20  # into which a share is rounded


def labelled_patches(root: Path) -> Patches:
    """The labelled patches of a data set of one class of objects with instances; `InputError` for any other."""
    patches = Patches(labelled_folder(root), labelled=True)
    if not patches.described:
        raise InputError(f"{patches.folder} has no index.csv and dataset.json: cut the images by preprocess.py")
    if len(patches.data_set.classes) != 2:
        raise InputError(
            f"{patches.folder} has the classes {', '.join(patches.data_set.classes)}: structures know the background "
            "and one class of objects"
        )
    patches.check_labels(2)
    check_instances(patches, "structures are")
    if not len(patches.select("train")):
        raise InputError(f"{patches.folder} has no patch to train on")
    return patches


def areas_of(patches: Patches, numbers: np.ndarray) -> np.ndarray:
    """Areas of the objects in some patches that their borders do not cut, pixels (N,).

    `InputError` where labels and instances do not cover the same pixels, and where there is no such object.
    """
    areas = [np.zeros(0, int)]
    for patch in numbers:
        instances = patches.instances(patch)
        if ((instances > 0) != (patches.label(patch) > 0)).any():
            raise InputError(f"label and instances of patch {patch} in {patches.folder} do not cover the same pixels")
        areas.append(areas_inside(instances))
    found = np.concatenate(areas)
    if not len(found):
        raise InputError(f"no object lies wholly in a patch of {patches.folder}: larger patches are needed")
    return found


def left_out(seeds: Tensor, share: float) -> Tensor:
    """Of which patches, by their seeds (B,), the structure is left out: bool (B,), the share of all."""
    return keyed_places(seeds, 1, SHARES)[:, 0] < round(share * SHARES)


class SomeUnlabelled(PatchDataset):
    """Labelled patches of which some, those whose structure is left out, show an unlabelled patch instead."""

    def __init__(self, labelled: PatchDataset, unlabelled: Patches, share: float):
        patches, seed, augmentation = labelled.folders, labelled.seed, labelled.augmentation
        super().__init__(patches, "train", seed, augmentation, labelled.targets)
        self.others, self.share = PatchDataset([unlabelled], "train", seed, augmentation), share
        if self.others.size != self.size:
            raise InputError(f"{unlabelled.folder} holds patches of {self.others.size} pixels, not of {self.size}")

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor | int | str]:
        """See `PatchDataset`."""
        item = super().__getitem__(key)
        if left_out(torch.tensor([item["seed"]]), self.share):
            other = self.others[key[0], derived_seed(item["seed"]) % len(self.others)]
            item |= {name: other[name] for name in ("image", "file")}
        return item

    def contents(self) -> str:
        """Of both, and which unlabelled ones there are."""
        return super().contents() + self.others.fingerprint() + self.others.contents()


def unlabelled_patches(root: Path) -> Patches:
    """The unlabelled patches of a data set."""
    folder = pretraining_folder(root)
    if folder.name != UNLABELLED:
        raise InputError(f"{root} holds no folder {UNLABELLED}: leave --unlabelled out")
    return Patches(folder)


def learnt_from(training: PatchDataset) -> str:
    """A hash of the labelled patches that are trained on: which there are, and all labels and instances beside them."""
    parts = (training.fingerprint(), *(patches.labels_hash for patches in training.folders))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class WithStructures:
    """Labelled patches to learn from, checked; batches hold image, label and the distance maps of the instances."""

    training: PatchDataset
    validation: PatchDataset
    about: dict[str, Any]
    """what the checkpoint says of them"""

    @classmethod
    def read(cls, root: Path, seed: int, quarter_turns: bool) -> "WithStructures":
        """Those of a data set; see `labelled_patches`."""
        patches = labelled_patches(root)
        area = typical_area(areas_of(patches, patches.select("train")))
        training = PatchDataset([patches], "train", seed, flips(quarter_turns), "hv")
        validation = PatchDataset([patches], "val", seed + 1, targets="hv")
        about = {"data_set": patches.data_set.name, "mpp": patches.data_set.mpp, "patch_size": training.size}
        return cls(training, validation, about | {"typical_area": area, LEARNT_FROM: learnt_from(training)})

    def examples(self, devices: Devices, input_range: tuple[float, float]) -> dict[str, Any]:
        """A batch of the first held-out patches, or of those to train on, where none are held out."""
        patches = self.validation if len(self.validation) else self.training
        items = [patches[0, i] for i in np.linspace(0, len(patches) - 1, min(SHOWN, len(patches))).astype(int)]
        return to_device(default_collate(items), devices, input_range)


def train(
    settings: TrainingSettings,
    root: Path,
    build: Callable[[], nn.Module],
    stage: Callable[[WithStructures, Devices], Stage],
    unlabelled: float = 0.0,
) -> None:
    """Check everything, build it, train: `build` makes the network with its first weights, `stage` what it learns.

    `unlabelled`: the share of the patches in whose place unlabelled ones are shown; see `SomeUnlabelled`.
    """
    settings.check()
    devices = set_up(settings.device)
    data = WithStructures.read(root, settings.seed, settings.quarter_turns)
    learnt = stage(data, devices)  # its examples are labelled patches: structures of their own images
    if unlabelled:
        data = replace(data, training=SomeUnlabelled(data.training, unlabelled_patches(root), unlabelled))
    torch.manual_seed(settings.seed)
    model = build()
    warn_if_narrow(model.net.final_conv[1].in_channels)
    prepare_run(settings, devices)
    Trainer(learnt, model, settings, data.training, data.validation, devices, data.about).run()
