"""What all trainings with labels share: which labelled images they see, and what their checkpoints say of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from GenSelfDiff.augmentation import finetuning_augmentation
from GenSelfDiff.data import PatchDataset, labelled_folder, sized_instances
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import TrainingSettings
from GenSelfDiff.targets import MAPS, Targets
from utils_general import MONUSEG, SPLIT_SEED, InputError, at_least


@dataclass(frozen=True, kw_only=True)
class LabelledSettings(TrainingSettings):
    """Settings of what is trained on labels; the classes come from the data."""

    data: Path = MONUSEG
    """root of the data set: its labelled patches"""
    labelled_images: int | None = None
    """how many labelled source images to train on; all if not given"""
    draw_seed: int = SPLIT_SEED
    """which images those are: drawn by this seed, fewer among more"""
    stain_jitter: float = 0.0
    """strength of the jitter of haematoxylin and eosin, which then replaces that of the colours; 0.05 is mild"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, stain_jitter=0, draw_seed=0)


@dataclass(frozen=True, kw_only=True)
class TransferSettings(LabelledSettings):
    """Settings of what starts from a pre-training."""

    pretrained: str = "MoNuSeg_pretrain"
    """run of pre-training to start from, or the path of its folder or of a (published) .pth; "scratch": none"""


@dataclass(frozen=True)
class LabelledData:
    """Labelled patches, checked."""

    training: PatchDataset
    validation: PatchDataset
    classes: list[str]
    about: dict[str, Any]
    """what the checkpoint says of them"""

    @classmethod
    def read(cls, settings: LabelledSettings, targets: Targets = "classes") -> "LabelledData":
        """Those that the settings mean; `InputError` for labels that do not fit, or that lack what `targets` need."""
        patches = Patches(labelled_folder(settings.data), labelled=True)
        classes, drawn = patches.data_set.classes, None
        if len(classes) < 2:
            raise InputError(f"{patches.folder} has {len(classes)} classes; segmentation needs two or more")
        if settings.labelled_images is not None:
            drawn = patches.keep_sources(settings.labelled_images, settings.draw_seed)
            print(f"labelled images: {', '.join(drawn)}")
        patches.check_labels(len(classes))
        if MAPS[targets]:
            check_instances(patches, f"--targets {targets} is", "; or --targets classes")
        augmentation = finetuning_augmentation(settings.quarter_turns, settings.stain_jitter)
        training = PatchDataset([patches], "train", settings.seed, augmentation, targets)
        validation = PatchDataset([patches], "val", settings.seed + 1, targets=targets)
        about = {"classes": classes, "data_set": patches.data_set.name, "patch_size": training.size}
        about |= {"mpp": patches.data_set.mpp, "downscale": patches.data_set.downscale}
        about |= {"instances": patches.data_set.instances, "labelled": drawn}
        return cls(training, validation, classes, about)


def check_instances(patches: Patches, what_is: str, instead: str = "") -> None:
    """`InputError` unless every patch has a map of its instances, of its size; they enter the hash of the labels.

    The message begins with what is made of them, and ends with what else could be done.
    """
    if not patches.has_instances:
        raise InputError(
            f"{what_is} made of instances, and {patches.folder} holds none (no folder instances): labels with a number "
            f"an object are needed, see docs/data.md{instead}"
        )
    digest = hashlib.sha256(patches.labels_hash.encode())
    for patch in patches.index.patch:
        digest.update(sized_instances(patches, patch).tobytes())
    patches.labels_hash = digest.hexdigest()


def dice_sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the Dice coefficient of the classes without background, pooled over pixels.

    Logits (B, C, H, W), labels (B, H, W).
    """
    predicted = logits.argmax(1)
    right = ((predicted == labels) & (labels > 0)).sum()
    return 2 * right, (predicted > 0).sum() + (labels > 0).sum()
