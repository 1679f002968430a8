"""What belongs to the U-Net in a checkpoint: building it again, the published layout, handing its weights on."""

from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from file_contents import check_fields, one_of, whole
from GenSelfDiff import checkpoint
from GenSelfDiff.diffusion import ScheduleName
from GenSelfDiff.unet import DiffusionNet, SegNet
from utils_general import MOST_CLASSES, InputError

HEAD = "net.final_conv."  # what fine-tuning starts anew, as published
LAST_CONVOLUTION = "net.final_conv.1.weight"
WIDEST = 4096  # of `dim`: its network would have 150 billion parameters
SETTINGS = {
    "timestep": whole(0, 10**6),
    "timesteps": whole(1, 10**6),
    "schedule": one_of(*get_args(ScheduleName)),
}
"""What a U-Net's run sets, and its checkpoint says."""


def dim_of(state: dict[str, Tensor], path: Path) -> int:
    """The width `dim` of the network whose parameters these are; `InputError` where it is no such U-Net.

    Looked at before a network is made of it: a wrong width would be asked for in memory.
    """
    dim = _last_convolution(state, path).shape[1]
    if dim % 8 or not 8 <= dim <= WIDEST:
        raise InputError(f"{path} is no checkpoint of this network: its width is {dim}, no multiple of 8 to {WIDEST}")
    with torch.device("meta"):  # shapes only
        _check_fit({k: v for k, v in DiffusionNet(dim).state_dict().items() if not k.startswith(HEAD)}, state, path)
    return dim


def _last_convolution(state: dict[str, Tensor], path: Path) -> Tensor:
    if LAST_CONVOLUTION not in state or state[LAST_CONVOLUTION].ndim < 2:
        raise InputError(f"{path} is no checkpoint of this network: it has no {LAST_CONVOLUTION}")
    return state[LAST_CONVOLUTION]


def _check_fit(wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    """`InputError` names the first of the tensors `wanted` that `state` has not, or of another shape."""
    if wrong := [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]:
        raise InputError(f"{path} does not fit the network: {len(wrong)} parameters differ, first {wrong[0]}")


def diffusion_net(loaded: dict[str, Any], path: Path) -> DiffusionNet:
    """The noise network of a pre-training checkpoint."""
    state = loaded["model_state_dict"]
    check_fields(loaded.get("settings", {}), SETTINGS, f"{path}, settings,")
    return _fill(DiffusionNet(dim_of(state, path)), state, path)


def segmentation_net(loaded: dict[str, Any], path: Path) -> SegNet:
    """The segmentation network of a fine-tuning checkpoint.

    A published one names no classes: they are then called "class 1", "class 2", and the published input range holds.
    """
    state = loaded["model_state_dict"]
    classes, dim = _last_convolution(state, path).shape[0], dim_of(state, path)
    if not 2 <= classes <= MOST_CLASSES:
        raise InputError(f"{path} tells {classes} classes apart; 2 to {MOST_CLASSES} are possible")
    loaded.setdefault("classes", ["background", *(f"class {c}" for c in range(1, classes))])
    loaded.setdefault("settings", {"input_range": [0.0, 1.0]})
    if len(loaded["classes"]) != classes:
        raise InputError(f"{path} names {len(loaded['classes'])} classes; its network tells {classes} apart")
    check_fields(loaded["settings"], SETTINGS, f"{path}, settings,")
    return _fill(SegNet(dim, classes, loaded["settings"].get("timestep", 0)), state, path)


def load_diffusion(path: Path, device: torch.device) -> tuple[DiffusionNet, dict[str, Any]]:
    """The noise network of a pre-training checkpoint, ready to draw images, and the checkpoint."""
    loaded = load_pretraining(path)
    return diffusion_net(loaded, path).to(device).eval(), loaded


def load_pretraining(path: Path) -> dict[str, Any]:
    """A checkpoint of pre-training; `InputError` for one of another stage."""
    loaded = checkpoint.load(path)
    last = _last_convolution(loaded["model_state_dict"], path)
    if loaded.get("stage", "pretrain") != "pretrain" or last.shape[0] != 3:
        raise InputError(f"{path} is of a segmentation network; one of pre-training is needed here")
    return loaded


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Load all parameters; `InputError` says which do not fit."""
    wanted = model.state_dict()
    _check_fit(wanted, state, path)
    if more := [k for k in state if k not in wanted]:
        raise InputError(f"{path} does not fit the network: it has {len(more)} parameters more, first {more[0]}")
    model.load_state_dict(state)
    return model


def hand_over(state: dict[str, Tensor], model: SegNet, path: Path) -> None:
    """Give the weights of pre-training to the segmentation network, all but the head, and say what was done.

    Raises `InputError` unless exactly the head is left new.
    """
    wanted = model.state_dict()
    fits = {k: v for k, v in state.items() if k in wanted and v.shape == wanted[k].shape and not k.startswith(HEAD)}
    skipped = [k for k in state if k not in fits]
    new = [k for k in wanted if k not in fits]
    print(f"weights from {path}: {len(fits)} tensors loaded")
    print(f"  skipped, the head of pre-training: {len(skipped)} tensors ({HEAD}*)")
    print(f"  left new, the head of segmentation: {len(new)} tensors ({HEAD}*)")
    if wrong := [k for k in {*skipped, *new} if not k.startswith(HEAD)]:
        name = min(wrong)
        found = tuple(state[name].shape) if name in state else "nothing"
        expected = tuple(wanted[name].shape) if name in wanted else "nothing"
        raise InputError(
            f"{path} does not fit the segmentation network: {len(wrong)} tensors beside the head differ, "
            f"first {name}: found {found}, expected {expected}"
        )
    model.load_state_dict(fits, strict=False)
