"""Checkpoints: writing them whole, finding and loading them safely, and handing weights from stage to stage.

A checkpoint is `{'epoch', 'loss', 'model_state_dict'}` as published, plus what is needed to go on: optimiser, place
in the epoch, history, settings. Files that the released code wrote are read too.
"""

import _codecs
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from GenSelfDiff.unet import DiffusionNet, SegNet
from utils_general import SNAPSHOTS, InputError, replace_file

VERSION = 1
HEAD = "net.final_conv."  # what fine-tuning starts anew, as published
LAST_CONVOLUTION = "net.final_conv.1.weight"

# The 'loss' of a published checkpoint is a NumPy scalar: exactly what is needed to read one is allowed.
_NUMPY_SCALAR = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    _codecs.encode,
]


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside `path` and rename it: an interruption leaves the earlier file whole."""
    buffer = io.BytesIO()  # PyTorch's own writer hides a full disk behind an error of its own
    torch.save({**content, "version": VERSION}, buffer)
    with replace_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the place of the earlier one


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code from it; `InputError` where that cannot be."""
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALAR):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist") from None
    except OSError:
        raise
    except Exception as error:  # a damaged file fails anywhere in PyTorch's reader, in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is not a whole checkpoint: {reason[:160]}") from None
    state = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or LAST_CONVOLUTION not in state:
        raise InputError(f"{path} is no checkpoint of this network: it holds no 'model_state_dict' with its parameters")
    if checkpoint.get("version", 0) > VERSION:
        raise InputError(f"{path} was written by a newer version of this project: update the project")
    return checkpoint


def find(run: str) -> Path:
    """The checkpoint that is meant by the name of a run, its folder, or the path of a .pth file."""
    path = Path(run)
    if path.suffix == ".pth" or path.is_file():
        return path
    folders = [SNAPSHOTS / run, path]
    for folder in folders:
        if (folder / "best.pth").is_file():
            return folder / "best.pth"
    runs = sorted(f.parent.name for f in SNAPSHOTS.glob("*/best.pth")) if SNAPSHOTS.is_dir() else []
    raise InputError(
        f"no run {run!r}: looked for {SNAPSHOTS / run}/best.pth; there are: {', '.join(runs) or 'no runs yet'}"
    )


def dim_of(state: dict[str, Tensor]) -> int:
    """The width `dim` of the network whose parameters these are."""
    return state[LAST_CONVOLUTION].shape[1]


def load_diffusion(path: Path, device: torch.device) -> tuple[DiffusionNet, dict[str, Any]]:
    """The noise network of a pre-training checkpoint, and the checkpoint."""
    checkpoint = load(path)
    state = checkpoint["model_state_dict"]
    if checkpoint.get("stage", "pretrain") != "pretrain" or state[LAST_CONVOLUTION].shape[0] != 3:
        raise InputError(f"{path} is of a segmentation network; one of pre-training is needed here")
    return _fill(DiffusionNet(dim_of(state)), state, path).to(device).eval(), checkpoint


def load_segmentation(path: Path, device: torch.device) -> tuple[SegNet, dict[str, Any]]:
    """The segmentation network of a fine-tuning checkpoint, and the checkpoint, which names its classes.

    A published checkpoint names none: they are then called "class 1", "class 2", and the published input range holds.
    """
    checkpoint = load(path)
    state = checkpoint["model_state_dict"]
    if checkpoint.get("stage", "finetune") != "finetune":
        raise InputError(f"{path} is of pre-training; a fine-tuned one is needed here: run Diff_Seg.py first")
    classes = state[LAST_CONVOLUTION].shape[0]
    checkpoint.setdefault("classes", ["background", *(f"class {c}" for c in range(1, classes))])
    checkpoint.setdefault("settings", {"input_range": [0.0, 1.0]})
    network = SegNet(dim_of(state), classes, checkpoint["settings"].get("timestep", 0))
    return _fill(network, state, path).to(device).eval(), checkpoint


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Load all parameters; `InputError` says which do not fit."""
    wanted = model.state_dict()
    wrong = [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
    wrong += [k for k in state if k not in wanted]
    if wrong:
        raise InputError(f"{path} does not fit the network: {len(wrong)} parameters differ, first {wrong[0]}")
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
