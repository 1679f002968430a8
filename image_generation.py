"""Synthetic H&E images from a pre-trained network, to look at and to compare with real ones (sample_images.py).

    python3 ./image_generation.py

Images are written as they come; started again, the script goes on with those that are missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from GenSelfDiff import checkpoint
from GenSelfDiff.data import PRETRAINING_RANGE, to_image
from GenSelfDiff.devices import Devices, InPrecision, Precision, check_precision, set_up_alone
from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.samplers import Sampler, SamplerName, sample
from GenSelfDiff.synthesis.image_distance import compare, read_images, real_patches
from utils_general import (
    GENERATED,
    MONUSEG,
    SPLIT_SEED,
    InputError,
    at_least,
    contact_sheet,
    plain,
    read_json,
    replace_file,
    run_script,
    write_json,
    write_png,
)

SHEET = 64  # images on the contact sheet
COMPARED = 200  # images that are compared with as many real ones, at most


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Generate images: by ancestral sampling, all T steps, or in fewer steps."""

    pretrained: str = "MoNuSeg_pretrain"
    """run of pre-training, or the path of its folder or of a (published) .pth"""
    data: tuple[Path, ...] = (MONUSEG,)
    """roots of the data sets whose real patches the images are compared with"""
    output: Path = GENERATED / "MoNuSeg_generated"
    """folder for the images"""
    count: int = 1000
    """how many images"""
    batch_size: int = 8
    """images at a time, for each GPU; an image does not depend on it"""
    sampler: SamplerName = "ancestral"
    """ancestral: as published; ddim, dpm-solver++: fewer steps (DPM-Solver++(2M))"""
    steps: int | None = None
    """evaluations of the network an image; None: all T (ancestral), 50 (ddim), 20 (dpm-solver++)"""
    eta: float = 0.0
    """noise of ddim: 0 none, 1 as much as ancestral sampling"""
    precision: Precision = "float32"
    """float32, tf32 (on GPUs: convolutions rounded to 10 bits), or bfloat16 (autocast: faster, rounded to 8)"""
    device: str = "auto"
    """auto, cpu, cuda (all visible GPUs) or cuda:N"""
    seed: int = SPLIT_SEED
    """image i is drawn from seed + i"""


class Network:
    """A pre-trained network, ready to draw images, with what its checkpoint says about them."""

    def __init__(self, pretrained: str, devices: Devices):
        self.path, self.devices = checkpoint.find(pretrained), devices
        self.model, loaded = checkpoint.load_diffusion(self.path, devices.device)
        trained = loaded.get("settings", {})  # a published checkpoint has none: the published values hold
        self.diffusion = GaussianDiffusion(trained.get("schedule", "quadratic"), trained.get("timesteps", 1000))
        self.diffusion.to(devices.device)
        self.input_range = trained.get("input_range", PRETRAINING_RANGE)
        self.size, self.epoch = loaded.get("patch_size", 256), loaded["epoch"]

    def draw(
        self, seeds: list[int], sampler: Sampler, precision: Precision, progress: Callable[[int], Any] = lambda n: None
    ) -> np.ndarray:
        """One image a seed, uint8 (B, H, W, 3); `progress` is told after each step how many images made one."""
        predict = self.devices.wrap(InPrecision(self.model, precision))
        for _, x in sample(self.diffusion, predict, self.size, seeds, sampler):
            progress(len(x))
        return to_image(x, self.input_range)


def prepare_output(settings: Settings, network: Network, sampler: Sampler) -> list[int]:
    """The numbers of the images still to be made; `InputError` where the folder holds images of another run."""
    identity = {
        "checkpoint": str(network.path.resolve()),
        "epoch": network.epoch,
        "seed": settings.seed,
        "precision": settings.precision,
        "sampler": sampler.name,
        "steps": sampler.steps,
        "eta": sampler.eta,
    }
    record = settings.output / "settings.json"
    settings.output.mkdir(parents=True, exist_ok=True)
    if record.is_file():
        before_there_was_a_choice = {"sampler": "ancestral", "steps": network.diffusion.timesteps, "eta": 0.0}
        earlier = {**before_there_was_a_choice, **read_json(record)}
        if changed := [k for k in identity if earlier.get(k) != identity[k]]:
            name = changed[0]
            raise InputError(
                f"{settings.output} holds images made with another {name} ({earlier.get(name)}, now {identity[name]}): "
                "choose another --output"
            )
    elif any(settings.output.iterdir()):
        raise InputError(f"{settings.output} holds files of something else: choose another --output")
    write_json(record, {**plain(settings), **identity})
    return [i for i in range(settings.count) if not (settings.output / f"image_{i}.png").is_file()]


def generate(settings: Settings, network: Network) -> None:
    """Make the missing images, batch by batch."""
    sampler = Sampler(settings.sampler, settings.steps, settings.eta).resolved(network.diffusion.timesteps)
    missing = prepare_output(settings, network, sampler)
    if len(missing) < settings.count:
        print(f"{settings.count - len(missing)} of {settings.count} images are there already")
    step = settings.batch_size * network.devices.replicas
    with tqdm(total=len(missing) * sampler.steps, unit="step", unit_scale=True, disable=None) as bar:
        for start in range(0, len(missing), step):
            numbers = missing[start : start + step]
            images = network.draw([settings.seed + i for i in numbers], sampler, settings.precision, bar.update)
            for i, image in zip(numbers, images, strict=True):
                write_png(settings.output / f"image_{i}.png", image)


def main(settings: Settings) -> None:
    """Generate, then draw the contact sheet and compare with real patches."""
    at_least(settings, count=1, batch_size=1, seed=0)
    devices = set_up_alone(settings.device)
    check_precision(settings.precision, devices.device)
    network = Network(settings.pretrained, devices)
    real = real_patches(settings.data, network.size)
    generate(settings, network)
    files = [settings.output / f"image_{i}.png" for i in range(settings.count)]
    generated = read_images(files[:COMPARED], network.size)
    write_png(settings.output / "contact_sheet.png", contact_sheet(list(generated[:SHEET]), columns=8))
    tables = compare(generated, read_images(real[: 2 * COMPARED], network.size))
    for name, table in tables.items():
        with replace_file(settings.output / f"{name}.csv") as temporary:
            table.to_csv(temporary)
    print("colours of the pixels, 0 to 255 (colours.csv):")
    print(tables["colours"].to_string(float_format="{:.1f}".format))
    print("sliced Wasserstein distance x 1000 from real patches, by size of the image (distance.csv):")
    print(tables["distance"].to_string(float_format="{:.1f}".format))
    print(f"{settings.count} images, contact_sheet.png and the tables are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
