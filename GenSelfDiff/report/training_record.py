"""What is still known of the training behind a checkpoint: its settings, its history, and those of its pre-training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from GenSelfDiff import checkpoint
from GenSelfDiff.settings import SCRATCH
from utils_general import InputError, read_json

COLUMNS = {"epoch", "train_loss", "seconds"}  # of a history.csv, at least


@dataclass(frozen=True)
class StageRecord:
    """What is known of one stage of the training, a run."""

    name: str
    """"pre-training" or "fine-tuning" """
    run: str
    """name of its folder, or of a published file"""
    settings: dict[str, Any]
    """as resolved by the run; empty for a published checkpoint"""
    history: pd.DataFrame | None
    """a row an epoch, as in `history.csv`; None where there is none"""


def training_stages(path: Path, settings: dict[str, Any]) -> list[StageRecord]:
    """The runs that made the segmentation checkpoint at `path`, in their order.

    The last is its fine-tuning, of which the checkpoint holds the `settings` (a published one none); the pre-training
    comes first where the settings name it and its folder is still there. What lies beside a checkpoint is read only
    where the checkpoint has a name that a run gives.
    """
    finetuning = _stage("fine-tuning", path, settings)
    pretrained = finetuning.settings.get("pretrained", SCRATCH)
    if pretrained == SCRATCH:
        return [finetuning]
    try:
        return [_stage("pre-training", checkpoint.find(pretrained), {}), finetuning]
    except InputError:  # moved since
        return [finetuning]


def _stage(name: str, path: Path, settings: dict[str, Any]) -> StageRecord:
    """The run that wrote `path`; its settings.json says more than the checkpoint, e.g. the device."""
    folder = path.resolve().parent
    if path.stem not in ("best", "last"):
        return StageRecord(name, path.stem, settings, None)
    history = None
    try:
        settings = read_json(folder / "settings.json") if (folder / "settings.json").is_file() else settings
        history = _read_history(folder / "history.csv")
    except InputError as error:
        print(f"note: {error}; the report goes without it")
    return StageRecord(name, folder.name, settings, history)


def _read_history(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        history = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not len(history) or not set(history) >= COLUMNS:
        raise InputError(f"{path} wants a row an epoch and the columns {', '.join(sorted(COLUMNS))}")
    return history
