"""The matching number of real patches, drawn with the paper's seed, to compare generated images with.

python3 ./sample_images.py
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from GenSelfDiff.data import pretraining_folder
from GenSelfDiff.patches import Patches
from output_folder import holds_files, write_together
from utils_general import (
    GENERATED,
    MONUSEG,
    SHEET,
    SPLIT_SEED,
    InputError,
    at_least,
    contact_sheet,
    read_json,
    read_rgb,
    run_script,
    write_json,
    write_png,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Copy real patches, the first of a seeded permutation."""

    data: tuple[Path, ...] = (MONUSEG,)
    """roots of the data sets to draw from"""
    output: Path = GENERATED / "MoNuSeg_real"
    """folder for the images"""
    count: int = 1000
    """how many images"""
    seed: int = SPLIT_SEED
    """of the permutation"""


def write(output: Path, drawn: list[Path]) -> None:
    """Copy what is missing of the drawn patches; `InputError` where the folder holds anything else."""
    record, sources = output / "sources.json", [str(f.resolve()) for f in drawn]
    earlier = read_json(record) if record.is_file() else []
    if not isinstance(earlier, list) or (not earlier and holds_files(output)):
        raise InputError(f"{output} holds files of something else: choose another --output")
    if earlier[: len(sources)] != sources[: len(earlier)]:
        raise InputError(f"{output} holds another choice of patches: choose another --output")
    if len(sources) > len(earlier):
        write_json(record, sources)
    for i, file in enumerate(tqdm(drawn, "patches", disable=None)):
        target = output / f"image_{i}.png"
        if not target.is_file():
            write_png(target, read_rgb(file))
    first = [read_rgb(output / f"image_{i}.png") for i in range(min(SHEET, len(drawn)))]
    write_png(output / "contact_sheet.png", contact_sheet(first))


def main(settings: Settings) -> None:
    """Copy what is missing, then draw the contact sheet."""
    at_least(settings, count=1, seed=0)
    folders = [Patches(pretraining_folder(root)) for root in settings.data]
    if len(sizes := {folder.data_set.patch_size for folder in folders}) != 1:
        raise InputError(f"--data names patches of {sorted(sizes) or 'no'} sizes: one size is needed")
    files = [f for folder in folders for f in folder.files.values()]
    drawn = [files[i] for i in np.random.RandomState(settings.seed).permutation(len(files))[: settings.count]]
    if len(drawn) < settings.count:
        print(f"there are only {len(drawn)} patches; all are taken")
    with write_together(settings.output):
        write(settings.output, drawn)
    print(f"{len(drawn)} real patches and contact_sheet.png are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
