"""Checkpoints: writing them whole, finding and loading them safely, whichever network they are of.

A checkpoint is `{'epoch', 'loss', 'model_state_dict'}` as published, plus what is needed to go on: optimiser, place
in the epoch, history, settings. Files that the released code wrote are read too.
"""

import _codecs
import errno
import io
import numbers
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from file_contents import (
    CLASS_NAMES,
    PATCH_SIDE,
    RESOLUTION,
    TEXT,
    Wanted,
    check_fields,
    number,
    one_of,
    optional,
    whole,
)
from GenSelfDiff.targets import Targets
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

PARAMETER_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)


def _is_number(value: Any) -> bool:
    """NumPy's scalars, too, and what is infinite or not a number, as a loss before the first epoch."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    return not isinstance(value, int) or abs(value) < 2**1000  # and so a float


def _is_range(value: Any) -> bool:
    pair = value if isinstance(value, list | tuple) and len(value) == 2 else (0, 0)
    return all(map(_is_number, pair)) and -1e6 < pair[0] < pair[1] < 1e6


def _is_history(value: Any) -> bool:
    rows = value if isinstance(value, list) else [None]
    return all(isinstance(row, dict) and all(TEXT.holds(k) and _is_number(v) for k, v in row.items()) for row in rows)


def _are_means(value: Any) -> bool:
    pairs = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs)


NUMBER = Wanted("a number", _is_number)
NAMED = Wanted("values by name", lambda value: isinstance(value, dict) and all(map(TEXT.holds, value)))
TEXTS = Wanted("a list of texts", lambda value: isinstance(value, list) and all(map(TEXT.holds, value)))
FIELDS = {
    "epoch": whole(0),
    "loss": NUMBER,
    "version": whole(0),
    "stage": TEXT,
    "settings": NAMED,
    "classes": CLASS_NAMES,
    "patch_size": PATCH_SIDE,
    "mpp": RESOLUTION,
    "downscale": number(1, 1e3),
    "instances": optional(one_of("watershed", "components")),
    "contents": TEXTS,
    "data_sets": TEXTS,
}
"""What is looked at in every checkpoint, whatever network it is of, where it is there."""
SETTINGS = {
    "input_range": Wanted("two numbers, the lower first, of less than a million", _is_range),
    "targets": one_of(*get_args(Targets)),
}
"""The same of the settings."""
GO_ON_FIELDS = {
    "step": whole(0),
    "joint_batch": whole(1),
    "seconds": NUMBER,
    "best_loss": NUMBER,
    "history": Wanted("a list with the numbers of each epoch", _is_history),
    "patches": TEXTS,
    "means": Wanted("a sum and a count by name", _are_means),
    "optimizer_state_dict": Wanted("the state of Adam", lambda value: isinstance(value, dict) and "state" in value),
}
"""What a last.pth has, too."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside `path` and rename it: an interruption leaves the earlier file whole."""
    buffer = io.BytesIO()  # PyTorch's own writer hides a full disk behind an error of its own
    torch.save({**content, "version": VERSION}, buffer)
    with replace_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the place of the earlier one


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code from it; `InputError` where that cannot be.

    What it holds is checked here, once, as far as it is the same for all networks: `FIELDS`, and weights that are
    finite numbers. "epoch", "loss" and "model_state_dict" are there.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALAR):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist") from None
    except Exception as error:  # a damaged file fails anywhere in PyTorch's reader, in many ways
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a place that a cut file does not have
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is not a whole checkpoint: PyTorch cannot read it ({type(error).__name__}: {reason[:160]})"
        ) from None
    _check(checkpoint, path)
    return checkpoint


def load_handed_on(path: Path) -> dict[str, Any]:
    """A checkpoint with the weights that are handed on: of a last.pth the averaged ones, where it has them."""
    loaded = load(path)
    if "ema_state_dict" in loaded:
        _check_state(loaded["ema_state_dict"], path)
        loaded["model_state_dict"] = loaded.pop("ema_state_dict")
    return loaded


def load_to_go_on(path: Path) -> dict[str, Any]:
    """A last.pth: a checkpoint with all that a run needs to go on. Raises `InputError`."""
    last = load(path)
    if missing := [name for name in ("stage", "settings", *GO_ON_FIELDS) if name not in last]:
        raise InputError(f"{path} holds no {missing[0]!r}: no run goes on from it; start over with --fresh")
    check_fields(last, GO_ON_FIELDS, str(path))
    if "ema_state_dict" in last:
        _check_state(last["ema_state_dict"], path)
    return last


def _check(checkpoint: Any, path: Path) -> None:
    if not isinstance(checkpoint, dict) or "model_state_dict" not in checkpoint:
        raise InputError(f"{path} is no checkpoint of a network: it holds no 'model_state_dict' with its parameters")
    if missing := [name for name in ("epoch", "loss") if name not in checkpoint]:
        raise InputError(f"{path} is no checkpoint of a run: it holds no {missing[0]!r}")
    check_fields(checkpoint, FIELDS, str(path))
    if checkpoint.get("version", 0) > VERSION:
        raise InputError(f"{path} was written by a newer version of this project: update the project")
    check_fields(checkpoint.get("settings", {}), SETTINGS, f"{path}, settings,")
    _check_state(checkpoint["model_state_dict"], path)


def _check_state(state: Any, path: Path) -> None:
    """`InputError` unless these are parameters by name, all there and finite."""
    if not isinstance(state, dict) or not state or not all(map(_is_parameter, state.values())):
        raise InputError(f"{path} is no checkpoint of a network: it holds no 'model_state_dict' with its parameters")
    if not all(map(TEXT.holds, state)):
        raise InputError(f"{path} is no checkpoint of a network: a name in its 'model_state_dict' is no text")
    if spoilt := [name for name, value in state.items() if not value.isfinite().all()]:
        raise InputError(
            f"{path} holds weights that are not finite numbers ({len(spoilt)} of {len(state)} tensors, first "
            f"{spoilt[0]}): its training failed; use another checkpoint"
        )


def _is_parameter(value: Any) -> bool:
    """Whether it is a tensor whose numbers are all there: not one that repeats a few of them without end."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    enough = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    return value.dtype in PARAMETER_TYPES and enough


def targets_of(loaded: dict[str, Any]) -> Targets:
    """What the network of a checkpoint says beside the class map."""
    return loaded.get("settings", {}).get("targets", "classes")


def name_of(path: Path) -> str:
    """Of a run, by the path of its best.pth or last.pth: its folder's. Of another checkpoint, its own."""
    return path.resolve().parent.name if path.stem in ("best", "last") else path.stem


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
