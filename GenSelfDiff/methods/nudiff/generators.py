"""Trained networks of Nudiff, ready to draw: structures, and images of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from file_contents import check_fields, number
from GenSelfDiff import checkpoint, unet_checkpoint
from GenSelfDiff.data import PRETRAINING_RANGE, to_image
from GenSelfDiff.devices import Devices, InPrecision, Precision
from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.methods.nudiff.conditioned import ConditionedNet, Guided
from GenSelfDiff.methods.nudiff.structure import decode, from_input
from GenSelfDiff.methods.nudiff.with_labels import LEARNT_FROM
from GenSelfDiff.samplers import Sampler, sample
from GenSelfDiff.settings import TrainingSettings
from GenSelfDiff.unet import DiffusionNet
from GenSelfDiff.unet_checkpoint import dim_of, fill, noise_network
from utils_general import InputError

Progress = Callable[[int], Any]
"""Told after each step how many images made one"""
PUBLISHED = {"schedule": "quadratic", "timesteps": 1000, "input_range": [*PRETRAINING_RANGE]}
"""What a published checkpoint of pre-training does not say."""


class Generator:
    """The network of one stage with what its checkpoint says of its patches and its noise."""

    stage: str
    """under which `GenSelfDiff.networks` knows it"""
    script: str
    network: type[nn.Module]

    def __init__(self, run: str, devices: Devices):
        """`run`: its name, its folder, or the path of a .pth; `InputError` for one of another stage."""
        self.path, self.devices = checkpoint.find(run), devices
        loaded = checkpoint.load_handed_on(self.path)
        if loaded.get("stage") != self.stage:
            raise InputError(f"{self.path} is not of the stage {self.stage}: a run of {self.script} is needed")
        self.about, self.settings = loaded, loaded.get("settings", {})
        check_fields(self.settings, unet_checkpoint.SETTINGS, f"{self.path}, settings,")
        if missing := [n for n in ("schedule", "timesteps", "input_range") if n not in self.settings]:
            raise InputError(f"{self.path} does not say the {missing[0]} of its settings: it is not whole")
        state = loaded.pop("model_state_dict")
        dim = dim_of(state, self.path)
        self.model = fill(lambda: self.network(dim), state, self.path).to(devices.device).eval()
        self.diffusion = GaussianDiffusion(self.settings["schedule"], self.settings["timesteps"]).to(devices.device)
        self.input_range = tuple(self.settings["input_range"])
        self.size, self.epoch = self._of_checkpoint("patch_size"), loaded["epoch"]
        self.learnt_from = self._of_checkpoint(LEARNT_FROM)

    def _of_checkpoint(self, name: str) -> Any:
        if name not in self.about:
            raise InputError(f"{self.path} does not say its {name}: it is not whole")
        return self.about[name]

    def _draw(
        self, network: nn.Module, seeds: list[int], sampler: Sampler, precision: Precision, progress: Progress
    ) -> Tensor:
        for _, x in sample(self.diffusion, InPrecision(network, precision), self.size, seeds, sampler):
            progress(len(x))
        return x


class StructureGenerator(Generator):
    """A run of train_structures.py."""

    stage, script, network = "structures", "train_structures.py", DiffusionNet

    def __init__(self, run: str, devices: Devices):
        super().__init__(run, devices)
        self.typical_area = self._of_checkpoint("typical_area")
        check_fields({"typical_area": self.typical_area}, {"typical_area": number(1, 1e9)}, str(self.path))

    def draw(
        self, seeds: list[int], sampler: Sampler, precision: Precision, progress: Progress = lambda n: None
    ) -> list[np.ndarray]:
        """The instances (H, W) of one structure a seed."""
        x = self._draw(self.model, seeds, sampler, precision, progress)
        return [decode(one, self.typical_area) for one in from_input(x, self.input_range).cpu().numpy()]


class ImagePainter(Generator):
    """A run of train_images.py."""

    stage, script, network = "images", "train_images.py", ConditionedNet

    def check_guidance(self, weight: float) -> None:
        """`InputError` for guidance by a network that was never shown an image without its structure."""
        if weight and not self.settings.get("drop", 0):
            raise InputError(
                f"{self.path} was trained with --drop 0 and does not know images of no structure: --guidance 0, or "
                "go on training with --drop 0.2 and --pretrained"
            )

    @torch.no_grad()
    def draw(
        self,
        structures: np.ndarray,
        seeds: list[int],
        guidance: float,
        sampler: Sampler,
        precision: Precision,
        progress: Progress = lambda n: None,
    ) -> np.ndarray:
        """An image of each of the structures (B, 3, H, W), uint8 (B, H, W, 3)."""
        given = torch.from_numpy(structures).to(self.devices.device)
        guided = Guided(self.model, given, guidance)
        return to_image(self._draw(guided, seeds, sampler, precision, progress), self.input_range)


def conditioned_start(path: Path, settings: TrainingSettings) -> tuple[ConditionedNet, int]:
    """The network that train_images.py begins with, from a pre-training or a run of its own; and its width.

    `InputError` where that learnt other noise, another range of values, or a part of the steps only.
    """
    loaded = checkpoint.load_handed_on(path)
    state, theirs = loaded["model_state_dict"], {**PUBLISHED, **loaded.get("settings", {})}
    if loaded.get("stage") == ImagePainter.stage:
        dim = dim_of(state, path)
        model = fill(lambda: ConditionedNet(dim), state, path)
    else:
        network, _ = noise_network(loaded, path)
        dim = dim_of(state, path)
        model = ConditionedNet(dim)
        model.net.load_state_dict(network.net.state_dict())
    if below := theirs.get("t_below"):
        raise InputError(f"{path} was trained at the steps below {below} only, and cannot draw images: take another")
    ours = {"schedule": settings.schedule, "timesteps": settings.timesteps, "input_range": [*settings.input_range]}
    if differ := [name for name, value in ours.items() if theirs[name] != value]:
        name = differ[0]
        raise InputError(
            f"{path} was trained with {name} {theirs[name]}, --{name.replace('_', '-')} is {ours[name]}: give the same"
        )
    print(f"weights from {path}: {len(state)} tensors loaded")
    return model, dim
