"""Synthetic H&E images from a pre-trained network, to look at and to compare with real ones (sample_images.py).

    python3 ./image_generation.py

Images are written as they come; started again, the script goes on with those that are missing.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from file_contents import DataSet
from GenSelfDiff.devices import Precision, check_precision, set_up_alone
from GenSelfDiff.samplers import Sampler, SamplerName
from GenSelfDiff.synthesis.image_distance import compare, read_images, real_patches
from GenSelfDiff.synthesis.image_generator import ImageGenerator
from output_folder import holds_files, write_together
from utils_general import (
    GENERATED,
    LARGEST,
    MONUSEG,
    SHEET,
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
    clamp: bool | None = None
    """keep the image that each step foresees in the range of images: weak networks then do not diverge; if not given,
    with ddim and dpm-solver++ and for networks of the recipe improved, and not as published"""
    precision: Precision = "float32"
    """float32, tf32 (on GPUs: products rounded to 10 bits), or bfloat16 (autocast: faster, rounded to 8)"""
    device: str = "auto"
    """auto, cpu, cuda (all visible GPUs) or cuda:N"""
    seed: int = SPLIT_SEED
    """image i is drawn from seed + i"""


def prepare_output(settings: Settings, generator: ImageGenerator, sampler: Sampler) -> list[int]:
    """The numbers of the images still to be made; `InputError` where the folder holds images of another run."""
    checkpoint = str(generator.path.resolve())  # said, but not asked: a run may be moved
    identity = {
        "weights": hashlib.sha256(generator.path.read_bytes()).hexdigest(),
        "epoch": generator.epoch,
        "seed": settings.seed,
        "precision": settings.precision,
        "sampler": sampler.name,
        "steps": sampler.steps,
        "eta": sampler.eta,
        "clamp": sampler.clamp is not None,
        "kind of device": generator.devices.device.type,  # of one seed it draws noise of its own
    }
    record = settings.output / "settings.json"
    if record.is_file():
        before_there_was_a_choice = {"sampler": "ancestral", "steps": generator.diffusion.timesteps, "eta": 0.0}
        earlier = read_json(record)
        if not isinstance(earlier, dict) or "checkpoint" not in earlier:
            raise InputError(f"{settings.output} holds files of something else: choose another --output")
        before_there_was_a_choice |= {"clamp": False, "kind of device": identity["kind of device"]}
        if earlier["checkpoint"] == checkpoint:
            before_there_was_a_choice["weights"] = identity["weights"]
        earlier = {**before_there_was_a_choice, **earlier}
        if changed := [k for k in identity if earlier.get(k) != identity[k]]:
            name = changed[0]
            raise InputError(
                f"{settings.output} holds images made with another {name} ({earlier.get(name)}, now {identity[name]}): "
                "choose another --output"
            )
    elif holds_files(settings.output):
        raise InputError(f"{settings.output} holds files of something else: choose another --output")
    write_json(record, {**plain(settings), "checkpoint": checkpoint, **identity})
    return [i for i in range(settings.count) if not (settings.output / f"image_{i}.png").is_file()]


def generate(settings: Settings, generator: ImageGenerator) -> None:
    """Make the missing images, batch by batch."""
    clamp = settings.clamp
    if clamp is None:
        clamp = settings.sampler != "ancestral" or generator.recipe == "improved"
    values = tuple(generator.input_range) if clamp else None
    sampler = Sampler(settings.sampler, settings.steps, settings.eta, values).resolved(generator.diffusion.timesteps)
    missing = prepare_output(settings, generator, sampler)
    if len(missing) < settings.count:
        print(f"{settings.count - len(missing)} of {settings.count} images are there already")
    step = settings.batch_size * generator.devices.replicas
    with tqdm(total=len(missing) * sampler.steps, unit="step", unit_scale=True, disable=None) as bar:
        for start in range(0, len(missing), step):
            numbers = missing[start : start + step]
            images = generator.draw([settings.seed + i for i in numbers], sampler, settings.precision, bar.update)
            for i, image in zip(numbers, images, strict=True):
                write_png(settings.output / f"image_{i}.png", image)


def note_other_tissue(settings: Settings, generator: ImageGenerator) -> None:
    """Say so where the real patches are not of the data sets that the network was trained on, as far as is known."""
    compared = {DataSet.read(root).described for root in settings.data if (root / "dataset.json").is_file()}
    if compared and generator.data_sets and compared != set(generator.data_sets):
        trained, real = (", ".join(sorted(names)) for names in (generator.data_sets, compared))
        print(f"note: the network was trained on {trained}, its images are compared with {real}: --data names others")


def main(settings: Settings) -> None:
    """Generate, then draw the contact sheet and compare with real patches."""
    at_least(settings, count=1, batch_size=1, seed=0)
    if settings.seed + settings.count > LARGEST:
        raise InputError(f"--seed {settings.seed}: with {settings.count} images at most {LARGEST - settings.count}")
    devices = set_up_alone(settings.device)
    check_precision(settings.precision, devices.device)
    generator = ImageGenerator(settings.pretrained, devices)
    real = real_patches(settings.data, generator.size)
    note_other_tissue(settings, generator)
    with write_together(settings.output):
        generate(settings, generator)
        finish(settings, generator, real)


def finish(settings: Settings, generator: ImageGenerator, real: list[Path]) -> None:
    """The contact sheet, and the tables that compare with real patches."""
    files = [settings.output / f"image_{i}.png" for i in range(settings.count)]
    generated = read_images(files[:COMPARED], generator.size)
    write_png(settings.output / "contact_sheet.png", contact_sheet(list(generated[:SHEET])))
    tables = compare(generated, read_images(real[: 2 * COMPARED], generator.size))
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
