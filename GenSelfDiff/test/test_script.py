"""Testing a fine-tuned network: all figures of the paper, the standard ones beside them, pictures and label maps.

    python3 ./GenSelfDiff/test/test_script.py

Edit the defaults below, or pass them: `--name value`.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from GenSelfDiff import checkpoint
from GenSelfDiff.data import to_input
from GenSelfDiff.devices import InPrecision, Precision, set_up_alone
from GenSelfDiff.evaluation.evaluate import patches_to_test
from GenSelfDiff.networks import load_segmentation
from GenSelfDiff.report.results import Method, ReportSettings, run_test
from GenSelfDiff.report.training_record import training_stages
from utils_general import RESULTS, SIDE_MULTIPLE, InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(ReportSettings):
    """Test a fine-tuned network on the test patches of a data set."""

    run: str = "MoNuSeg_finetune"
    """run of fine-tuning, or the path of its folder or of a (published) .pth"""
    output: Path | None = None
    """folder for the results; results/<run> if not given, results/<name> for a published <name>.pth"""
    batch_size: int = 8
    """patches at a time"""
    precision: Precision = "float32"
    """float32, or bfloat16 (autocast: faster, rounded)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


def main(settings: Settings) -> None:
    """Check everything, predict, evaluate, write."""
    at_least(settings, batch_size=1)
    path = checkpoint.find(settings.run)
    devices = set_up_alone(settings.device)
    network, loaded = load_segmentation(path, devices.device)
    model = InPrecision(network, settings.precision)
    patches = patches_to_test(settings.data)
    trained_on, size = loaded.get("patch_size"), patches.data_set.patch_size
    if size % SIDE_MULTIPLE:
        raise InputError(
            f"{patches.folder} holds patches of {size} pixels; the network wants multiples of {SIDE_MULTIPLE}"
        )
    print(f"{path}: epoch {loaded['epoch']}, validation loss {loaded['loss']:.5f}; on {len(patches)} patches")
    if trained_on not in (None, size):
        print(f"note: trained on patches of {trained_on} pixels, tested on {size}")
    input_range = tuple(loaded["settings"]["input_range"])

    def predict(images: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(images).split(settings.batch_size)
        with torch.inference_mode():
            inputs = (torch.stack([to_input(image, input_range) for image in batch]) for batch in batches)
            return np.concatenate([model(x.to(devices.device)).softmax(1).cpu().numpy() for x in inputs])

    about = {
        "checkpoint": str(path),
        "epoch": loaded["epoch"],
        "validation loss": float(loaded["loss"]) if math.isfinite(loaded["loss"]) else None,
        "parameters": sum(p.numel() for p in network.parameters()),
        "computed on": str(devices),
    }
    name = path.resolve().parent.name if path.stem in ("best", "last") else path.stem
    stages = training_stages(path, loaded)
    method = Method(name=name, predict=predict, classes=loaded["classes"], about=about, stages=stages)
    run_test(settings, settings.output or RESULTS / name, patches, method)


if __name__ == "__main__":
    run_script(main, Settings)
