"""What says of images which class each pixel is: a fine-tuned run, or a published checkpoint, ready to predict.

Tests and whole images take it from here, whatever the method. What has no checkpoint of its own (a trivial method, an
ensemble) only has to be a `Predictor`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from GenSelfDiff import checkpoint
from GenSelfDiff.data import to_input
from GenSelfDiff.devices import Devices, InPrecision, Precision, autocast, set_up_alone
from GenSelfDiff.instances import InstanceMethod
from GenSelfDiff.networks import load_segmentation
from GenSelfDiff.targets import MAPS, Targets, said, turned_back
from utils_general import at_least

Symmetries = Literal["none", "flips", "all"]

# The ways to see an image: quarter turns, and whether a flip from left to right follows
VIEWS: dict[Symmetries, list[tuple[int, bool]]] = {
    "none": [(0, False)],
    "flips": [(0, False), (0, True), (2, False), (2, True)],
    "all": [(turns, flip) for turns in range(4) for flip in (False, True)],
}


class Predictor(Protocol):
    """The contract of everything that is tested or segments."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 (N, H, W, 3) to class probabilities float32 (N, C, H, W), which sum to 1 over the classes.

        Behind them come the K maps of its targets, where it has any: (N, C + K, H, W), see `targets`. N is any number
        from 1: all patches of one source image in a test, some windows of it where whole images are predicted. A
        predictor divides them into batches itself, and takes arrays of any memory layout.
        """


WholePredictor = Callable[[np.ndarray], np.ndarray]
"""What predicts whole images: uint8 (H, W, 3) of any size to class probabilities, and maps, float32 (C + K, H, W)"""


def as_one(predict: Predictor) -> WholePredictor:
    """For a predictor that takes an image of any size, as one that looks at each pixel does."""
    return lambda image: predict(image[None])[0]


@dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """Which network predicts, and how."""

    run: str = "MoNuSeg_finetune"
    """run of fine-tuning, or the path of its folder or of a (published) .pth"""
    tta: Symmetries = "none"
    """average over each image seen in several ways: none, flips (4 times the time) or all, with quarter turns (8)"""
    batch_size: int = 8
    """images at a time"""
    precision: Precision = "float32"
    """float32, tf32 (on GPUs: products rounded to 10 bits), or bfloat16 (autocast: faster, rounded to 8)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


@dataclass(frozen=True, kw_only=True)
class TrainedPredictor:
    """A fine-tuned network, ready to predict, and what is known of it."""

    predict: Predictor
    batch_size: int
    """images that `predict` looks at together"""
    classes: list[str]
    """names by class index, the background first; "class 1", ... where the checkpoint names none"""
    patch_size: int | None
    """pixels of a side of the training's patches; None where unknown"""
    mpp: float | None
    """micrometres a pixel of the training's patches; None where unknown"""
    downscale: float
    """how many times smaller than their images the training's patches were"""
    instances: InstanceMethod
    """how its class maps become instances, where it says nothing beside them"""
    targets: Targets = "classes"
    """what it says beside class maps"""
    path: Path
    """the checkpoint"""
    epoch: int
    loss: float
    """validation loss of the epoch, not a number where there was no validation"""
    stage: str = "finetune"
    """that of the checkpoint, by which `networks.METHODS` knows its method; "finetune" for a published one"""
    training: dict[str, Any]
    """the settings of its run, empty for a published checkpoint"""
    about: dict[str, Any]
    """what a report says of it beside the settings: values by name"""
    for_image: Callable[[np.ndarray], Predictor] | None = None
    """some parts of an image uint8 (N, H, W, 3) to the predictor for it; None where that is the same for all"""

    @property
    def channels(self) -> int:
        """What `predict` says of each pixel: C class probabilities, and K maps."""
        return len(self.classes) + MAPS[self.targets]

    @property
    def name(self) -> str:
        """The run's, or that of a published file."""
        return checkpoint.name_of(self.path)


def load(settings: PredictorSettings) -> TrainedPredictor:
    """The predictor that the settings mean; `InputError` where it cannot be had.

    This is the one place where a checkpoint becomes a predictor, whichever network it is of.
    """
    at_least(settings, batch_size=1)
    path = checkpoint.find(settings.run)
    devices = set_up_alone(settings.device)
    network, loaded = load_segmentation(path, devices.device)
    input_range, targets = tuple(loaded["settings"]["input_range"]), checkpoint.targets_of(loaded)
    for_image = None
    if hasattr(network, "for_image"):
        for_image = fitted_predictor(network, input_range, settings, targets)
    return TrainedPredictor(
        predict=network_predictor(network, input_range, settings, targets)
        if for_image is None
        else lambda images: for_image(images)(images),
        for_image=for_image,
        batch_size=settings.batch_size,
        classes=loaded["classes"],
        patch_size=loaded.get("patch_size"),
        mpp=loaded.get("mpp"),
        downscale=loaded.get("downscale", 1.0),
        instances=loaded.get("instances") or _usual_instances(loaded["classes"]),
        targets=targets,
        path=path,
        epoch=loaded["epoch"],
        loss=float(loaded["loss"]),
        stage=loaded.get("stage", "finetune"),
        training=loaded["settings"] if "stage" in loaded else {},
        about={
            "checkpoint": str(path),
            "epoch": loaded["epoch"],
            "validation loss": float(loaded["loss"]) if math.isfinite(loaded["loss"]) else None,
            "parameters": sum(p.numel() for p in network.parameters()),
            "computed on": str(Devices(devices.device)),  # on one, also where several are visible
        },
    )


def network_predictor(
    network: torch.nn.Module,
    input_range: tuple[float, float],
    settings: PredictorSettings,
    targets: Targets = "classes",
) -> Predictor:
    """A network that gives logits (B, C + K, H, W) of images float32 (B, 3, H, W) in `input_range`, as a predictor."""
    device = next(network.parameters()).device
    model = InPrecision(network, settings.precision)

    @torch.inference_mode()
    def predict_batch(images: np.ndarray) -> np.ndarray:
        return said(model(_input_on(device, images, input_range)), targets).cpu().numpy()

    predict_averaged = averaged(predict_batch, settings.tta, targets)

    def predict(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), settings.batch_size)
        return np.concatenate([predict_averaged(images[start : start + settings.batch_size]) for start in starts])

    return predict


def fitted_predictor(
    network: torch.nn.Module, input_range: tuple[float, float], settings: PredictorSettings, targets: Targets
) -> Callable[[np.ndarray], Predictor]:
    """The same of a network that fits itself to an image, see `networks.TrainedMethod`: parts of an image uint8
    (N, H, W, 3) to the predictor for it."""
    device = next(network.parameters()).device

    def for_image(images: np.ndarray) -> Predictor:
        starts = range(0, len(images), settings.batch_size)
        batches = (_input_on(device, images[i : i + settings.batch_size], input_range) for i in starts)
        with autocast(device, settings.precision):  # fitted to what it will say
            fitted = network.for_image(batches)
        return network_predictor(fitted, input_range, settings, targets)

    return for_image


def _input_on(device: torch.device, images: np.ndarray, input_range: tuple[float, float]) -> torch.Tensor:
    """Images uint8 (N, H, W, 3) as network input (N, 3, H, W) there: bytes are sent, a quarter of what they become."""
    return to_input(torch.from_numpy(np.ascontiguousarray(images)).to(device), input_range)


def averaged(predict: Predictor, symmetries: Symmetries, targets: Targets = "classes") -> Predictor:
    """Test-time averaging: the mean of what `predict` says of images seen in several ways, each turned back.

    As they are ("none"), also flipped along both axes ("flips": 4 ways), and also turned by a quarter ("all": 8 ways),
    for which the images must be square.
    """
    views = VIEWS[symmetries]

    def mean(images: np.ndarray) -> np.ndarray:
        total = np.float32(0)
        for turns, flip in views:
            seen = np.rot90(images, turns, axes=(1, 2))
            total = total + turned_back(predict(seen[:, :, ::-1] if flip else seen), turns, flip, targets)
        return total / np.float32(len(views))

    return predict if len(views) == 1 else mean


def _usual_instances(classes: list[str]) -> InstanceMethod:
    """For a checkpoint that does not say how its objects are told apart: it is older than the question."""
    return "watershed" if any("nucle" in name for name in classes) else "components"
