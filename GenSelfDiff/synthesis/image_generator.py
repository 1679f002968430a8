"""Images from a run of pre-training."""

from collections.abc import Callable
from typing import Any

import numpy as np

from GenSelfDiff import checkpoint
from GenSelfDiff.data import PRETRAINING_RANGE, to_image
from GenSelfDiff.devices import Devices, InPrecision, Precision
from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.samplers import Sampler, sample
from GenSelfDiff.unet_checkpoint import load_diffusion
from utils_general import PATCH_SIZE


class ImageGenerator:
    """A pre-trained network, ready to draw images, with what its checkpoint says about them.

    `pretrained` is the name of a run, its folder, or the path of a .pth. A published checkpoint says nothing of its
    diffusion process, its patches and their range: the published ones hold.
    """

    def __init__(self, pretrained: str, devices: Devices):
        self.path, self.devices = checkpoint.find(pretrained), devices
        self.model, loaded = load_diffusion(self.path, devices.device)
        trained = loaded.get("settings", {})
        process = {name: trained[name] for name in ("schedule", "timesteps") if name in trained}
        self.diffusion = GaussianDiffusion(**process).to(devices.device)
        self.input_range = trained.get("input_range", PRETRAINING_RANGE)
        self.recipe = trained.get("recipe", "paper")
        self.data_sets: list[str] = loaded.get("data_sets", [])  # as `DataSet.described`; empty where unknown
        self.size, self.epoch = loaded.get("patch_size", PATCH_SIZE), loaded["epoch"]

    def draw(
        self, seeds: list[int], sampler: Sampler, precision: Precision, progress: Callable[[int], Any] = lambda n: None
    ) -> np.ndarray:
        """One image a seed, uint8 (B, H, W, 3); `progress` is told after each step how many images made one."""
        predict = self.devices.wrap(InPrecision(self.model, precision))
        for _, x in sample(self.diffusion, predict, self.size, seeds, sampler):
            progress(len(x))
        return to_image(x, self.input_range)
