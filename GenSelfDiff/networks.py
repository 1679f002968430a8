"""Which trained methods there are, by the name of the stage that trains them: what becomes of their checkpoints.

A new method adds one entry to `METHODS`, and changes nothing else here (docs/architecture.md, a new pre-training).
"""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from file_contents import shown
from GenSelfDiff import checkpoint, unet_checkpoint
from GenSelfDiff.unet import SegNet
from utils_general import InputError


class Start(NamedTuple):
    """What a pre-training hands over to the segmentation network."""

    weights: dict[str, Tensor]
    """by the names of `SegNet`'s parameters; what is missing is left new"""
    new: tuple[str, ...]
    """prefixes of the names that are left new: all that is missing begins with one of them"""
    optional: tuple[str, ...] = ()
    """prefixes of the names that are left new too, unless the last block is to be kept"""

    def without_optional(self) -> "Start":
        """What is handed over as published."""
        weights = {name: value for name, value in self.weights.items() if not name.startswith(self.optional)}
        return Start(weights, (*(part for part in self.new if not part.startswith(self.optional)), *self.optional))


class TrainedMethod(NamedTuple):
    """What the checkpoints of a stage are good for: functions as "module:function", imported when needed."""

    segments: str | None = None
    """(checkpoint, its path) -> the network with the checkpoint's weights, which takes images (B, 3, H, W), in the
    "input_range" of the checkpoint's settings, to logits (B, C, H, W) of the checkpoint's "classes". One that looks at
    an image before it segments it has a method `for_image`, from batches of parts of it to the network for it"""
    starts: str | None = None
    """(checkpoint, its path) -> `Start`: what Diff_Seg.py begins with"""
    training: str = "fine-tuning"
    """what a report calls the training of what segments"""
    trained: str = "Fine-tuned"
    """how it begins the sentence about a network that was trained so"""


METHODS: dict[str, TrainedMethod] = {
    "pretrain": TrainedMethod(starts="GenSelfDiff.unet_checkpoint:diffusion_start"),
    "finetune": TrainedMethod(segments="GenSelfDiff.unet_checkpoint:segmentation_net"),
    "features": TrainedMethod(
        segments="GenSelfDiff.feature_net:segmenting_features",
        training="training of classifiers",
        trained="Classifiers on features of a frozen network,",
    ),
    "context": TrainedMethod(starts="GenSelfDiff.unet_checkpoint:unet_start"),
    "masked": TrainedMethod(starts="GenSelfDiff.unet_checkpoint:unet_start"),
    "stain": TrainedMethod(starts="GenSelfDiff.unet_checkpoint:unet_start"),
    "vae": TrainedMethod(starts="GenSelfDiff.unet_checkpoint:encoder_start"),
    "simclr": TrainedMethod(starts="GenSelfDiff.unet_checkpoint:encoder_start"),
    "attention": TrainedMethod(
        segments="GenSelfDiff.methods.attention.segmenting:segmenting",
        training="self-supervision",
        trained="Learnt without labels",
    ),
    "monai": TrainedMethod(
        segments="GenSelfDiff.methods.monai_networks:segmenting", training="training", trained="Trained from scratch"
    ),
    "structures": TrainedMethod(),  # of Nudiff; see methods/nudiff/generators.py
    "images": TrainedMethod(),
}


def load_segmentation(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The segmentation network of a checkpoint, ready to predict, and the checkpoint, which names its classes.

    A published file names no stage: it is taken for a fine-tuned U-Net. Raises `InputError` where it segments nothing.
    """
    loaded = checkpoint.load_handed_on(path)
    if "stage" not in loaded:
        loaded |= unet_checkpoint.published_facts(loaded, path)
    method = _method(loaded, path, "finetune")
    if (network := method.segments) is None:
        if method.starts is None:
            raise InputError(f"{path} is of the stage {loaded['stage']}, which segments nothing: run Diff_Seg.py first")
        stage = "" if loaded["stage"] == "pretrain" else f" ({loaded['stage']})"
        raise InputError(f"{path} is of pre-training{stage}; a fine-tuned one is needed here: run Diff_Seg.py first")
    if "classes" not in loaded or "input_range" not in loaded.get("settings", {}):
        raise InputError(f"{path} does not say its classes, or the input_range of its settings: it is not whole")
    return _function(network)(loaded, path).to(device).eval(), loaded


def load_start(path: Path, keep_last_block: bool = False) -> Start:
    """What the pre-training of a checkpoint hands over; a published file is taken for one of a diffusion model.

    `keep_last_block`: the decoder's last block (`final_conv.0`) too, which as published starts anew.
    """
    loaded = checkpoint.load_handed_on(path)
    method = _method(loaded, path, "pretrain")
    if (start := method.starts) is None:
        what = "a segmentation network" if method.segments else f"the stage {loaded['stage']}"
        raise InputError(f"{path} is of {what}; one of pre-training is needed here")
    whole = Start(*_function(start)(loaded, path))
    return whole if keep_last_block else whole.without_optional()


def check_start(stage: str, model: nn.Module, dim: int) -> None:
    """Raise `InputError`, before `model` is trained by this stage, where Diff_Seg.py could not start from its run."""
    if stage not in METHODS or (start := METHODS[stage].starts) is None:
        raise InputError(
            f"Diff_Seg.py could not start from a run of the stage {shown(stage)}: enter it, with `starts`, in METHODS "
            "of GenSelfDiff/networks.py"
        )
    whose = f"the network of the stage {shown(stage)}"
    handed_on = Start(*_function(start)({"stage": stage, "model_state_dict": model.state_dict()}, Path(whose)))
    wanted = unet_checkpoint.shapes(lambda: SegNet(dim, 2))
    unet_checkpoint.check_hand_over(handed_on.weights, handed_on.new, wanted, whose)


def _method(loaded: dict[str, Any], path: Path, published: str) -> TrainedMethod:
    stage = loaded.get("stage", published)
    if stage not in METHODS:
        raise InputError(
            f"{path} is of a stage {shown(stage)}; known are {', '.join(METHODS)}: update the project, "
            "or enter a stage of your own in METHODS of GenSelfDiff/networks.py"
        )
    return METHODS[stage]


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
