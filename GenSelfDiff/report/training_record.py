"""What is still known of the training behind a checkpoint: its settings, its history, and those of its pre-training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from GenSelfDiff import checkpoint
from GenSelfDiff.history import read_history
from GenSelfDiff.settings import SCRATCH
from utils_general import InputError, read_json


@dataclass(frozen=True)
class StageRecord:
    """What is known of one stage of the training, a run."""

    name: str
    """"pre-training", "fine-tuning", or what `networks.METHODS` calls it"""
    run: str
    """name of its folder, or of a published file"""
    settings: dict[str, Any]
    """as resolved by the run; empty for a published checkpoint"""
    history: pd.DataFrame | None
    """a row an epoch, as in `history.csv`; None where there is none"""
    trained: str = "Fine-tuned"
    """how a sentence about its network begins; as `networks.METHODS` says it"""


def training_stages(
    path: Path, settings: dict[str, Any], name: str = "fine-tuning", trained: str = "Fine-tuned"
) -> list[StageRecord]:
    """The runs that made the segmentation checkpoint at `path`, in their order.

    The last is the one called `name`, of which the checkpoint holds the `settings` (a published one none), and with
    whose network a sentence begins as `trained`; the pre-training comes first where the settings name it and its folder
    is still there. What lies beside a checkpoint is read only where the checkpoint has a name that a run gives.
    """
    last = replace(_stage(name, path, settings), trained=trained)
    pretrained = last.settings.get("pretrained", SCRATCH)
    if pretrained == SCRATCH or not isinstance(pretrained, str):
        return [last]
    try:
        return [_stage("pre-training", checkpoint.find(pretrained), {}), last]
    except (InputError, OSError):  # moved since, or a name that no file has
        return [last]


def _stage(name: str, path: Path, settings: dict[str, Any]) -> StageRecord:
    """The run that wrote `path`; its settings.json says more than the checkpoint, e.g. the device."""
    folder = path.resolve().parent
    if path.stem not in ("best", "last"):
        return StageRecord(name, path.stem, settings, None)
    history = None
    try:
        settings = _read_settings(file) if (file := folder / "settings.json").is_file() else settings
        history = read_history(file) if (file := folder / "history.csv").is_file() else None
    except InputError as error:
        print(f"note: {error}; the report goes without it")
    return StageRecord(name, folder.name, settings, history)


def _read_settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path} is not what a run writes: it holds a {type(settings).__name__}")
    return settings
