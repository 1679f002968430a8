"""Which networks there are: how that of a checkpoint is built again, by the name of the stage that trained it.

A new method adds one entry to `METHODS`, and changes nothing else here.
"""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from GenSelfDiff import checkpoint
from utils_general import InputError


class Method(NamedTuple):
    """What is to be known of a trained method."""

    build: str
    """"module:function" of (checkpoint, its path) -> the network with the checkpoint's weights; imported when needed"""
    segments: bool
    """whether that network takes images (B, 3, H, W), in the "input_range" of the checkpoint's settings, to logits
    (B, C, H, W) of the checkpoint's "classes" """


METHODS: dict[str, Method] = {
    "pretrain": Method("GenSelfDiff.unet_checkpoint:diffusion_net", segments=False),
    "finetune": Method("GenSelfDiff.unet_checkpoint:segmentation_net", segments=True),
}
"""By the name of the stage that trains the network."""


def load_segmentation(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The segmentation network of a checkpoint, ready to predict, and the checkpoint, which names its classes.

    A published file names no stage: it is taken for a fine-tuned U-Net. Raises `InputError` where it segments nothing,
    and where its weights are no numbers: it would find nothing in any image, without a word.
    """
    loaded = checkpoint.load(path)
    stage = loaded.get("stage", "finetune")
    if stage not in METHODS:
        raise InputError(f"{path} is of a stage {stage!r}; known are {', '.join(METHODS)}: update the project")
    if not METHODS[stage].segments:
        raise InputError(f"{path} is of pre-training; a fine-tuned one is needed here: run Diff_Seg.py first")
    broken = [name for name, weights in loaded["model_state_dict"].items() if not weights.isfinite().all()]
    if broken:
        raise InputError(f"{path} holds weights that are no numbers (NaN or infinite, in {broken[0]}): train it anew")
    module, _, function = METHODS[stage].build.partition(":")
    network = getattr(importlib.import_module(module), function)(loaded, path)
    return network.to(device).eval(), loaded
