"""Synthetic H&E images from a pre-trained network, to look at and to compare with real ones (sample_images.py).

    python3 ./image_generation.py

Images are written as they come; started again, the script goes on with those that are missing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from GenSelfDiff import checkpoint
from GenSelfDiff.data import PRETRAINING_RANGE, Patches, pretraining_folder, to_image
from GenSelfDiff.devices import InPrecision, Precision, set_up_alone
from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.training import plain
from utils_general import (
    GENERATED,
    MONUSEG,
    SPLIT_SEED,
    InputError,
    at_least,
    contact_sheet,
    read_json,
    read_rgb,
    replace_file,
    run_script,
    write_json,
    write_png,
)

SHEET = 64  # images on the contact sheet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Generate images by ancestral sampling, all T steps."""

    pretrained: str = "MoNuSeg_pretrain"
    """run of pre-training, or the path of its folder or of a (published) .pth"""
    data: tuple[Path, ...] = (MONUSEG,)
    """roots of the data sets whose real patches the colours are compared with"""
    output: Path = GENERATED / "MoNuSeg_generated"
    """folder for the images"""
    count: int = 1000
    """how many images"""
    batch_size: int = 8
    """images at a time, for each GPU; an image does not depend on it"""
    precision: Precision = "float32"
    """float32, or bfloat16 (autocast: faster, rounded)"""
    device: str = "auto"
    """auto, cpu, cuda (all visible GPUs) or cuda:N"""
    seed: int = SPLIT_SEED
    """image i is drawn from seed + i"""


def prepare_output(settings: Settings, path: Path, epoch: int) -> list[int]:
    """The numbers of the images still to be made; `InputError` where the folder holds images of another run."""
    identity = {
        "checkpoint": str(path.resolve()),
        "epoch": epoch,
        "seed": settings.seed,
        "precision": settings.precision,
    }
    record = settings.output / "settings.json"
    settings.output.mkdir(parents=True, exist_ok=True)
    if record.is_file():
        earlier = read_json(record)
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


def generate(settings: Settings) -> None:
    """Make the missing images, batch by batch."""
    devices = set_up_alone(settings.device)
    path = checkpoint.find(settings.pretrained)
    model, loaded = checkpoint.load_diffusion(path, devices.device)
    missing = prepare_output(settings, path, loaded["epoch"])
    if len(missing) < settings.count:
        print(f"{settings.count - len(missing)} of {settings.count} images are there already")
    trained = loaded.get("settings", {})  # a published checkpoint has none: the published values hold
    diffusion = GaussianDiffusion(trained.get("schedule", "quadratic"), trained.get("timesteps", 1000))
    diffusion.to(devices.device)
    predict = devices.wrap(InPrecision(model, settings.precision))
    size, step = loaded.get("patch_size", 256), settings.batch_size * devices.replicas
    with tqdm(total=len(missing) * diffusion.timesteps, unit="step", unit_scale=True, disable=None) as bar:
        for start in range(0, len(missing), step):
            numbers = missing[start : start + step]
            for _, x in diffusion.sample(predict, size, [settings.seed + i for i in numbers]):
                bar.update(len(x))
            images = to_image(x, trained.get("input_range", PRETRAINING_RANGE))
            for i, image in zip(numbers, images, strict=True):
                write_png(settings.output / f"image_{i}.png", image)


def channel_statistics(images: list[np.ndarray]) -> dict[str, float]:
    """Mean and standard deviation of each channel over all pixels, 0 to 255, of images uint8 (H, W, 3)."""
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    names = [f"{kind} {channel}" for kind in ("mean", "deviation") for channel in ("red", "green", "blue")]
    return dict(zip(names, [*pixels.mean(0), *pixels.std(0)], strict=True))


def compare_colours(settings: Settings) -> pd.DataFrame:
    """Channel statistics of up to 200 generated and as many real patches, drawn with the paper's seed."""
    files = [settings.output / f"image_{i}.png" for i in range(settings.count)]
    real = [f for root in settings.data for f in Patches(pretraining_folder(root)).files.values()]
    draw = np.random.RandomState(SPLIT_SEED)
    rows = {
        "generated": channel_statistics([read_rgb(files[i]) for i in draw.permutation(len(files))[:200]]),
        "real": channel_statistics([read_rgb(real[i]) for i in draw.permutation(len(real))[:200]]),
    }
    return pd.DataFrame(rows).T


def main(settings: Settings) -> None:
    """Generate, then draw the contact sheet and compare the colours."""
    at_least(settings, count=1, batch_size=1, seed=0)
    if not settings.data:
        raise InputError("--data names no data set")
    for root in settings.data:
        Patches(pretraining_folder(root))  # the real patches are needed at the end: look for them now
    generate(settings)
    first = [read_rgb(settings.output / f"image_{i}.png") for i in range(min(SHEET, settings.count))]
    write_png(settings.output / "contact_sheet.png", contact_sheet(first, columns=8))
    colours = compare_colours(settings)
    with replace_file(settings.output / "colours.csv") as temporary:
        colours.to_csv(temporary)
    print("colours of the pixels, 0 to 255 (colours.csv):")
    print(colours.to_string(float_format="{:.1f}".format))
    print(f"{settings.count} images and contact_sheet.png are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
