"""Checkpoints: writing them whole, finding and loading them safely, whichever network they are of.

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
from torch import Tensor

from utils_general import SNAPSHOTS, InputError, replace_file

VERSION = 1

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
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is no checkpoint of a network: it holds no 'model_state_dict' with its parameters")
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
