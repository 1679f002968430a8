"""What belongs to the U-Net in a checkpoint: building it again, the published layout, handing its weights on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from file_contents import check_fields, one_of, optional, whole
from GenSelfDiff import checkpoint
from GenSelfDiff.diffusion import ScheduleName
from GenSelfDiff.targets import MAPS
from GenSelfDiff.unet import DiffusionNet, SegNet
from utils_general import MOST_CLASSES, InputError

HEAD = "net.final_conv."  # what fine-tuning starts anew, as published: the last block and the last convolution
CONVOLUTION = f"{HEAD}1."  # what it starts anew where it keeps the last block
ENCODER = ("net.init_conv.", "net.time_mlp.", "net.downs.", "net.mid_")
DECODER = "net.ups."
LAST_CONVOLUTION = f"{CONVOLUTION}weight"
FIRST_BLOCK = "net.downs.0.0.block1.proj.weight"  # as wide as the network's name says
WIDEST = 4096  # of `dim`: that network would have 150 billion parameters
SETTINGS = {
    "timestep": whole(0, 10**6),
    "timesteps": whole(1, 10**6),
    "schedule": one_of(*get_args(ScheduleName)),
    "t_below": optional(whole(1, 10**6)),
}
"""What a U-Net's run sets, and its checkpoint says."""


def dim_of(state: dict[str, Tensor], path: Path) -> int:
    """The width `dim` of the network that these parameters are of; `InputError` where it is no such U-Net.

    Looked at before a network is made of it: a wrong width would be asked for in memory.
    """
    dim = matrix(state, FIRST_BLOCK, path).shape[0]
    if dim % 8 or not 8 <= dim <= WIDEST:
        raise InputError(f"{path} does not fit the network: its width is {dim}, no multiple of 8 up to {WIDEST}")
    wanted = shapes(lambda: DiffusionNet(dim))
    _check_fit({k: v for k, v in wanted.items() if k in state and not k.startswith(HEAD)}, state, path)
    return dim


def check_dim(asked: int | None, dim: int, path: Path) -> None:
    """Raise `InputError` where a width was asked for that the pre-trained network does not have."""
    if asked not in (None, dim):
        raise InputError(f"{path} has dim {dim}, but --dim {asked} was asked for: leave --dim out")


def shapes(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The parameters of a network, without memory for their values."""
    with torch.device("meta"):
        return build().state_dict()


def matrix(state: dict[str, Tensor], name: str, path: Path) -> Tensor:
    """A weight; `InputError` where there is none of that name."""
    if name not in state or state[name].ndim < 2:
        raise InputError(f"{path} does not fit the network: it has no {name}")
    return state[name]


def _check_fit(wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    """`InputError` names the first of the tensors `wanted` that `state` has not, or of another shape."""
    if wrong := [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]:
        raise InputError(f"{path} does not fit the network: {len(wrong)} parameters differ, first {wrong[0]}")


def diffusion_start(loaded: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """What fine-tuning takes of the noise network: as published all but the head; see `networks.Start`."""
    _check_diffusion(loaded, path)
    return unet_start(loaded, path)


def unet_start(loaded: dict[str, Any], _path: Path) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """The same of any method that trains the whole U-Net, under the names that `SegNet` has for its parameters."""
    weights = {k: v for k, v in loaded["model_state_dict"].items() if not k.startswith(CONVOLUTION)}
    return weights, (CONVOLUTION,), (HEAD,)


def encoder_start(loaded: dict[str, Any], _path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What fine-tuning takes of a method of which the encoder alone is of use: the whole decoder starts anew."""
    return {k: v for k, v in loaded["model_state_dict"].items() if k.startswith(ENCODER)}, (DECODER, HEAD)


def _check_diffusion(loaded: dict[str, Any], path: Path) -> None:
    outputs = matrix(loaded["model_state_dict"], LAST_CONVOLUTION, path).shape[0]
    if loaded.get("stage", "pretrain") != "pretrain" or outputs != 3:
        raise InputError(f"{path} is of a segmentation network; one of pre-training is needed here")


def load_diffusion(path: Path, device: torch.device) -> tuple[DiffusionNet, dict[str, Any]]:
    """The noise network of a pre-training checkpoint, ready to draw images, and the checkpoint."""
    loaded = checkpoint.load_handed_on(path)
    network, settings = noise_network(loaded, path)
    if below := settings.get("t_below"):
        raise InputError(
            f"{path} was trained at the steps below {below} only, and cannot draw images: take another run"
        )
    return network.to(device).eval(), loaded


def noise_network(loaded: dict[str, Any], path: Path) -> tuple[DiffusionNet, dict[str, Any]]:
    """The noise network of a pre-training checkpoint, and the settings that it was trained with."""
    _check_diffusion(loaded, path)
    settings, state = loaded.get("settings", {}), loaded["model_state_dict"]
    check_fields(settings, SETTINGS, f"{path}, settings,")
    dim = dim_of(state, path)
    return fill(lambda: DiffusionNet(dim), state, path), settings


def published_facts(loaded: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a published segmentation checkpoint does not say: names for its classes, and the published input range."""
    classes = len(matrix(loaded["model_state_dict"], LAST_CONVOLUTION, path))
    if classes == 3:
        print(
            f"note: {path} does not say what it is: taken for a network of three classes, not for one of pre-training"
        )
    names = ["background", *(f"class {c}" for c in range(1, classes))]
    return {"classes": loaded.get("classes", names), "settings": loaded.get("settings", {"input_range": [0.0, 1.0]})}


def segmentation_net(loaded: dict[str, Any], path: Path) -> SegNet:
    """The segmentation network of a fine-tuning checkpoint."""
    state, maps = loaded["model_state_dict"], MAPS[checkpoint.targets_of(loaded)]
    outputs, dim = len(matrix(state, LAST_CONVOLUTION, path)), dim_of(state, path)
    classes = outputs - maps
    if classes != len(loaded["classes"]):
        raise InputError(f"{path} names {len(loaded['classes'])} classes; its network tells {classes} apart")
    if not 2 <= classes <= MOST_CLASSES:
        raise InputError(f"{path} tells {classes} classes apart; 2 to {MOST_CLASSES} are possible")
    check_fields(loaded["settings"], SETTINGS, f"{path}, settings,")
    return fill(lambda: SegNet(dim, outputs, loaded["settings"].get("timestep", 0)), state, path)


def fill(build: Callable[[], nn.Module], state: dict[str, Tensor], path: Path) -> nn.Module:
    """A network with all these parameters; `InputError` says which do not fit."""
    wanted = shapes(build)
    _check_fit(wanted, state, path)
    if more := [k for k in state if k not in wanted]:
        raise InputError(f"{path} does not fit the network: it has {len(more)} parameters more, first {more[0]}")
    model = build()
    model.load_state_dict(state)
    return model


def check_hand_over(
    weights: dict[str, Tensor], new: tuple[str, ...], wanted: dict[str, Tensor], whose: Path | str
) -> None:
    """Raise `InputError` unless all weights fit the segmentation network, whose parameters are `wanted`.

    And unless nothing is left new but what begins with one of `new`.
    """
    misfits = [k for k, v in weights.items() if k not in wanted or v.shape != wanted[k].shape]
    missing = [k for k in wanted if k not in weights]
    if wrong := misfits + [k for k in missing if not k.startswith(new)]:
        name = min(wrong)
        found = tuple(weights[name].shape) if name in weights else "nothing"
        expected = tuple(wanted[name].shape) if name in wanted else "nothing"
        raise InputError(
            f"{whose} does not fit the segmentation network: {len(wrong)} tensors beside the head differ, "
            f"first {name}: found {found}, expected {expected}"
        )


def hand_over(weights: dict[str, Tensor], new: tuple[str, ...], model: SegNet, path: Path) -> None:
    """Give the weights of pre-training to the segmentation network, and say what was done; see `check_hand_over`."""
    wanted = model.state_dict()
    check_hand_over(weights, new, wanted, path)
    model.load_state_dict(weights, strict=False)
    print(f"weights from {path}: {len(weights)} tensors loaded")
    parts = ", ".join(f"{part}*" for part in new)
    print(f"  left new, the head of segmentation: {len(wanted) - len(weights)} tensors ({parts})")
