"""Cut GlaS (Warwick QU) into patches.

    python3 pre_process/GlaS/preprocess.py [--protocol official] [--raw FOLDER] [--output FOLDER]

`--raw` is the folder "Warwick QU Dataset (Released 2016_07_08)" as it unpacks:

    train_1.bmp ... train_85.bmp, testA_1.bmp ... testA_60.bmp, testB_1.bmp ... testB_20.bmp
    NAME_anno.bmp    beside each image: 0 background, 1..n the glands

Protocol "paper": the training images are unlabelled (their _anno files may be missing), the test images, A then B, are
divided 80/20 into images to fine-tune and to test with.
Protocol "official": the training images are labelled; testA and testB are for testing and keep their names in
index.csv, so that they can be reported apart.

Every pixel with a gland number is foreground. It also works with a part of the images.
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pre_process.patches import (
    PatchSettings,
    SourceImage,
    by_name,
    check_pairs,
    read_instance_labels,
    split_by_image,
    write_data_set,
)
from utils_general import GLAS, GLAS_RAW, InputError, list_images, run_script

CLASSES = ["background", "gland"]
OFFICIAL = {"train": 85, "testA": 60, "testB": 20}


@dataclass(frozen=True, kw_only=True)
class Settings(PatchSettings):
    """Cut GlaS (Warwick QU) into patches."""

    raw: Path = GLAS_RAW
    """folder that holds the .bmp files"""
    protocol: Literal["paper", "official"] = "paper"
    """paper: train_ unlabelled, test images 80/20 to fine-tune / test; official: train_ to fine-tune, rest to test"""
    output: Path = GLAS
    patch_size: int = 256
    stride: int = 64
    mpp: float | None = 0.62005
    """micrometres a pixel: GlaS's images are at 20x, as the challenge's page says (glas.grand-challenge.org/Dataset)"""


def find_images(raw: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """All images and all label files in `raw`, by the image's name ("testA_3"), in natural order."""
    files = list_images(raw, (".bmp",))
    images = by_name([f for f in files if re.fullmatch(r"(train|testA|testB)_\d+", f.stem)])
    labels = by_name([f for f in files if f.stem.endswith("_anno")], suffix="_anno")
    if not images:
        raise InputError(f"no GlaS image in {raw}: looked for train_*.bmp, testA_*.bmp and testB_*.bmp")
    return images, labels


def main(settings: Settings) -> None:
    """Find the images and annotations, divide them by the protocol, and write the patches."""
    images, labels = find_images(settings.raw)
    found = Counter(name.partition("_")[0] for name in images)
    print("GlaS: " + ", ".join(f"{found[part]} {part} (official: {n})" for part, n in OFFICIAL.items()))
    training = [name for name in images if name.startswith("train")]
    test = [name for name in images if name.startswith("test")]
    if len(training) < 1 or len(test) < 2:
        raise InputError(f"{settings.raw} holds too few images: at least 1 train_*.bmp and 2 test*.bmp are needed")
    paper = settings.protocol == "paper"
    check_pairs(images, labels, test if paper else list(images), settings.raw, "NAME_anno.bmp beside it")

    def labelled(names: list[str]) -> list[SourceImage]:
        read = {name: partial(read_instance_labels, labels[name]) for name in names}
        splits = {name: "test" if paper else name.partition("_")[0] for name in names}
        return [SourceImage(images[name], labels[name], read[name], splits[name]) for name in names]

    if paper:
        to_finetune, to_test = split_by_image(test, 0.8)
        folders = {"unlabelled": [SourceImage(images[name]) for name in training]}
    else:
        to_finetune, to_test, folders = training, test, {}
    folders |= {"labelled": labelled(to_finetune), "test": labelled(to_test)}
    write_data_set(settings, settings.protocol, CLASSES, "components", folders)
    print(f"patches are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
