"""Cut your own images, with or without labels, into patches.

    python3 pre_process/own_data/preprocess.py --images FOLDER
    python3 pre_process/own_data/preprocess.py --images FOLDER --labels FOLDER --class-names background tumour stroma
    python3 pre_process/own_data/preprocess.py --images FOLDER --labels FOLDER --label-kind instances

A label is an image (png, tif or bmp) with the name and size of its image, the extension apart, and one channel:

    --label-kind classes      each pixel holds its class: 0 background, 1 the second of --class-names, and so on
    --label-kind instances    each pixel holds the number of its object (0 background, 1, 2, ...); one class of objects

Images that have a label are divided by image into those to fine-tune and those to test with; the others, unlabelled,
are for pre-training only.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from pre_process.patches import (
    Labels,
    PatchSettings,
    SourceImage,
    by_name,
    check_pairs,
    read_instance_labels,
    split_by_image,
    write_data_set,
)
from utils_general import IMAGE_EXTENSIONS, OWN_DATA, InputError, list_images, read_index_map, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(PatchSettings):
    """Cut your own images, with or without labels, into patches."""

    images: Path
    """folder of images"""
    labels: Path | None = None
    """folder of label images of the same names; may be left out, and may hold labels of some images only"""
    label_kind: Literal["classes", "instances"] = "classes"
    """what the pixels of a label image hold"""
    class_names: tuple[str, ...] = ("background", "foreground")
    """names by class index, the background first"""
    instances: Literal["components", "watershed"] = "components"
    """how predictions become objects when they are tested: connected components, or watershed for round things that
    touch, like nuclei"""
    test_fraction: float = 0.2
    """part of the labelled images that is kept for testing, 0 to below 1"""
    output: Path = OWN_DATA
    patch_size: int = 256
    stride: int = 64


def read_class_labels(file: Path, shape: tuple[int, int]) -> Labels:
    """Labels from an image of class indices; instances are unknown. Any `shape` is read as it is."""
    class_map = read_index_map(file)
    if set(np.unique(class_map)) == {0, 255}:
        raise InputError(f"{file} is a mask of 0 and 255: class indices, 0 and 1, are wanted; divide it by 255")
    return class_map, None


def find_labels(settings: Settings, images: dict[str, Path]) -> dict[str, Path]:
    """The label files by their image's name. Raises `InputError`."""
    if settings.labels is None:
        return {}
    files = list_images(settings.labels)
    if jpegs := [f for f in files if f.suffix.lower() in (".jpg", ".jpeg")]:
        raise InputError(f"{jpegs[0]}: JPEG changes indices, make labels as png, tif or bmp ({len(jpegs)} such files)")
    labels = by_name(files)
    check_pairs(images, labels, (), settings.images, "a label")
    return labels


def divide(labelled: list[SourceImage], test_fraction: float) -> dict[str, list[SourceImage]]:
    """The labelled images by folder. Raises `InputError` where they are too few."""
    to_finetune, to_test = split_by_image(labelled, 1 - test_fraction)
    if test_fraction and labelled and not to_finetune:
        raise InputError(
            f"{len(labelled)} labelled image(s) leave none to fine-tune with --test-fraction {test_fraction}: "
            "label at least 2, lower the fraction, or pass 0 for no test images"
        )
    return {"labelled": to_finetune, "test": to_test}


def main(settings: Settings) -> None:
    """Find the images and their labels, divide them, and write the patches."""
    if not 0 <= settings.test_fraction < 1:
        raise InputError(f"--test-fraction {settings.test_fraction}: 0 to below 1 is wanted")
    if len(settings.class_names) < 2 or (settings.label_kind == "instances" and len(settings.class_names) > 2):
        raise InputError(f"--class-names {' '.join(settings.class_names)}: 2 names, or more with --label-kind classes")
    images = by_name(list_images(settings.images))
    labels = find_labels(settings, images)
    print(
        f"{settings.images}: {len(images)} images ({', '.join(IMAGE_EXTENSIONS)}), {len(labels)} of them with a label"
    )
    read = read_class_labels if settings.label_kind == "classes" else read_instance_labels
    labelled = [SourceImage(f, labels[n], partial(read, labels[n])) for n, f in images.items() if n in labels]
    unlabelled = [SourceImage(file) for name, file in images.items() if name not in labels]
    folders = {"unlabelled": unlabelled, **divide(labelled, settings.test_fraction)}
    classes = list(settings.class_names) if labelled else []
    write_data_set(settings, "by image", classes, settings.instances, folders)
    print(f"patches are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
