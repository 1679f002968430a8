"""What fewer sampling steps cost in quality and save in time: sampler x steps x precision, on a trained network.

    python3 benchmarks/sampling.py --pretrained MoNuSeg_pretrain

Every combination draws its images from the same noise and is compared with the same real patches. The table grows row
by row, so that it can be looked at, and interrupted, before the long ones are done.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
import numpy as np
import pandas as pd
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.tables import machine, markdown
from GenSelfDiff.devices import Precision, check_precision, set_up_alone
from GenSelfDiff.samplers import Sampler, SamplerName
from GenSelfDiff.synthesis.image_distance import image_distance, read_images, real_patches
from GenSelfDiff.synthesis.image_generator import ImageGenerator
from utils_general import (
    MONUSEG,
    RESULTS,
    SPLIT_SEED,
    InputError,
    at_least,
    contact_sheet,
    plain,
    replace_file,
    run_script,
    save_figure,
    write_json,
)

SHOWN = 8  # images in a row of the figure


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw the same images with several samplers; table of seconds and distances, figure."""

    pretrained: str = "MoNuSeg_pretrain"
    """run of pre-training, or the path of its folder or of a (published) .pth"""
    data: tuple[Path, ...] = (MONUSEG,)
    """roots of the data sets whose real patches the images are compared with"""
    output: Path = RESULTS / "sampling"
    """folder for sampling.csv, sampling.md and sampling.png; must be new"""
    samplers: tuple[str, ...] = (
        *(f"dpm-solver++:{steps}" for steps in (10, 15, 20, 50)),
        *(f"ddim:{steps}" for steps in (10, 20, 50, 100)),
        "ancestral",
    )
    """sampler:steps, or ddim:steps:eta, one row each"""
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    """each sampler runs in all of them"""
    count: int = 64
    """images of each combination; twice as many real ones are needed"""
    batch_size: int = 8
    """images at a time, for each GPU"""
    device: str = "auto"
    """auto, cpu, cuda (all visible GPUs) or cuda:N"""
    seed: int = SPLIT_SEED
    """image i is drawn from seed + i"""


def read_sampler(text: str, timesteps: int) -> Sampler:
    """`ddim:50:0.5` -> 50 steps of DDIM with eta 0.5; `InputError` where it means nothing or cannot be."""
    name, *numbers = text.split(":")
    try:
        if name not in get_args(SamplerName) or len(numbers) > 2:
            raise ValueError
        steps = int(numbers[0]) if numbers else None
        eta = float(numbers[1]) if len(numbers) > 1 else 0.0
    except ValueError:
        names = ", ".join(get_args(SamplerName))
        raise InputError(f"--samplers: {text!r} is no sampler:steps or ddim:steps:eta; there are {names}") from None
    return Sampler(name, steps, eta).resolved(timesteps)


def draw(
    generator: ImageGenerator, sampler: Sampler, precision: Precision, settings: Settings
) -> tuple[np.ndarray, float]:
    """All images of a combination, uint8 (N, H, W, 3), and the seconds an image took."""
    seeds = [settings.seed + i for i in range(settings.count)]
    step = settings.batch_size * generator.devices.replicas
    batches = [seeds[i : i + step] for i in range(0, len(seeds), step)]
    generator.draw(batches[0], Sampler("ddim", 1), precision)  # what only the first call costs is not counted
    title = f"{sampler.name}, {sampler.steps} steps, {precision}"
    with tqdm(total=len(seeds) * sampler.steps, desc=title, unit="step", unit_scale=True, disable=None) as bar:
        start = time.perf_counter()
        images = [generator.draw(batch, sampler, precision, bar.update) for batch in batches]
        seconds = time.perf_counter() - start
    return np.concatenate(images), seconds / len(seeds)


def draw_figure(strips: dict[str, np.ndarray], path: Path) -> None:
    """A row of images for each of `strips`, uint8 (N, H, W, 3), with its name beside it."""
    figure, axes = plt.subplots(len(strips), figsize=(13, 1.5 * len(strips)), squeeze=False)
    for ax, (name, images) in zip(axes[:, 0], strips.items(), strict=True):
        ax.imshow(contact_sheet(list(images), columns=SHOWN))
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.set(xticks=[], yticks=[])
    save_figure(figure, path)


class Report:
    """The table and the figure, on the disk as far as they have come."""

    def __init__(self, settings: Settings, generator: ImageGenerator, real: np.ndarray):
        self.folder, self.real = settings.output, real[: settings.count]
        self.rows: list[dict[str, Any]] = []
        self.strips = {"real": self.real[:SHOWN]}
        self.about = (
            f"{settings.count} images of {generator.size} pixels from {generator.path}, on "
            f"{machine(str(generator.devices.device))}. Sliced Wasserstein distance x 1000 from {settings.count} real "
            "patches, by size of the image; to be read beside that of other real patches."
        )
        noise = np.random.default_rng(settings.seed).normal(127.5, 127.5, self.real.shape).clip(0, 255)
        self.add("other real patches", real[settings.count :])
        self.add("noise", noise.astype(np.uint8))

    def add(
        self, name: str, images: np.ndarray, steps: int | None = None, precision: str = "", seconds: float | None = None
    ) -> None:
        """Compare the images of one more row, and write everything anew."""
        row = {"images": name, "steps": steps, "precision": precision, "seconds an image": seconds}
        self.rows.append({**row, **image_distance(self.real, images)})
        self.strips[f"{name} {steps or ''} {precision}"] = images[:SHOWN]
        table = pd.DataFrame(self.rows)
        with replace_file(self.folder / "sampling.csv") as temporary:
            table.to_csv(temporary, index=False)
        with replace_file(self.folder / "sampling.md") as temporary:
            temporary.write_text(f"{self.about}\n\n{markdown(table)}")
        draw_figure(self.strips, self.folder / "sampling.png")


def main(settings: Settings) -> None:
    """Check everything, then one combination after the other."""
    at_least(settings, count=1, batch_size=1, seed=0)
    devices = set_up_alone(settings.device)
    for precision in settings.precisions:
        check_precision(precision, devices.device)
    generator = ImageGenerator(settings.pretrained, devices)
    samplers = [read_sampler(text, generator.diffusion.timesteps) for text in settings.samplers]
    files = real_patches(settings.data, generator.size)[: 2 * settings.count]
    if len(files) < 2 * settings.count:
        raise InputError(f"--data has {len(files)} patches: {settings.count} images are compared with twice as many")
    if settings.output.exists():
        raise InputError(f"{settings.output} is there already: choose another --output")
    write_json(settings.output / "settings.json", plain(settings))
    report = Report(settings, generator, read_images(files, generator.size))
    for sampler in samplers:
        for precision in settings.precisions:
            images, seconds = draw(generator, sampler, precision, settings)
            name = f"{sampler.name}, eta {sampler.eta:g}" if sampler.eta else sampler.name
            report.add(name, images, sampler.steps, precision, seconds)
    print((settings.output / "sampling.md").read_text())
    print(f"table and picture are in {settings.output}: sampling.csv, sampling.md, sampling.png")


if __name__ == "__main__":
    run_script(main, Settings)
