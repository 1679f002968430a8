"""Cut a head-and-neck data set, outlined in Labelbox, into patches.

    python3 pre_process/HN/preprocess.py [--raw FOLDER] [--output FOLDER]

The paper's data set is not public; a folder of the same form is read:

    unlabelled_images/*.jpg     may be missing
    labelled_images/*.jpg
    NAME.json                   the one Labelbox export: a list of records, each with "External ID" (name of the image
                                file) and "Label": {class name: [{"geometry": [{"x": .., "y": ..}, ...]}, ...]}

The first 80 % of the labelled images, in natural order of their names, are for fine-tuning, the rest for testing.
A pixel belongs to a polygon if its centre does; where polygons overlap, to the one that comes later in the file, as if
each had been painted over those before it. What no polygon covers is background.
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from pre_process.patches import Labels, PatchSettings, SourceImage, check_pairs, polygon_pixels, write_data_set
from utils_general import HN, HN_RAW, InputError, list_images, read_json, run_script

CLASSES = ["background", "malignant", "non-malignant stroma", "non-malignant epithelium"]
Outlines = list[tuple[int, np.ndarray]]
"""class index and vertices x, y in pixels, float (N, 2), in the order of the file"""


@dataclass(frozen=True, kw_only=True)
class Settings(PatchSettings):
    """Cut a head-and-neck data set, outlined in Labelbox, into patches."""

    raw: Path = HN_RAW
    """folder that holds labelled_images, the Labelbox export and, if there are any, unlabelled_images"""
    class_names: dict[str, str] = field(default_factory=dict)
    """other class names of the export and what they mean here, as in: --class-names "tumour bed" malignant"""
    output: Path = HN
    patch_size: int = 256
    stride: int = 256


def simplified(name: str) -> str:
    """A class name without case, hyphens, underscores and spaces."""
    return re.sub(r"[-_\s]+", "", name).lower()


def class_indices(class_names: dict[str, str]) -> dict[str, int]:
    """Class index by simplified name, of this project's names and of the user's."""
    indices = {simplified(name): i for i, name in enumerate(CLASSES)}
    for theirs, ours in class_names.items():
        if simplified(ours) not in indices:
            raise InputError(f"--class-names {theirs} {ours}: {ours} is none of {', '.join(CLASSES)}")
        indices[simplified(theirs)] = indices[simplified(ours)]
    return indices


def read_record(record: dict[str, Any], indices: dict[str, int], where: str) -> Outlines:
    """The polygons of one Labelbox record; `where` names it in messages. Raises `InputError`."""
    if not isinstance(record.get("Label"), dict):
        raise InputError(f"{where} has no outlines (Label: {record.get('Label')}): remove it, and its image")
    outlines = []
    for name, objects in record["Label"].items():
        if simplified(name) not in indices:
            raise InputError(f"{where} has the class {name!r}; known are {', '.join(CLASSES)}: see --class-names")
        try:
            for thing in objects:
                vertices = np.array([(float(p["x"]), float(p["y"])) for p in thing["geometry"]]).reshape(-1, 2)
                outlines.append((indices[simplified(name)], np.asarray_chkfinite(vertices)))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{where}, class {name!r}: a list of polygons, geometry: [x, y], is wanted") from None
    return outlines


def read_export(raw: Path, indices: dict[str, int]) -> tuple[Path, dict[str, Outlines]]:
    """The Labelbox export in `raw`, and its polygons by the image's file name. Raises `InputError`."""
    files = sorted(raw.glob("*.json"))
    if len(files) != 1:
        raise InputError(f"{raw} holds {len(files)} .json files: one Labelbox export is wanted")
    records = read_json(files[0])
    if not isinstance(records, list) or not all(
        isinstance(r, dict) and isinstance(r.get("External ID"), str) for r in records
    ):
        raise InputError(f"{files[0]} is no Labelbox export: a list of records with an External ID is wanted")
    names = Counter(record["External ID"] for record in records)
    if repeated := [name for name, number in names.items() if number > 1]:
        raise InputError(f"{files[0]} labels {repeated[0]} more than once: keep one record of each image")
    where = f"{files[0]}, record of "
    return files[0], {r["External ID"]: read_record(r, indices, where + r["External ID"]) for r in records}


def draw_classes(outlines: Outlines, shape: tuple[int, int]) -> Labels:
    """Class map uint8 (H, W), each polygon painted over those before it; instances are unknown."""
    class_map = np.zeros(shape, np.uint8)
    for index, vertices in outlines:
        class_map[polygon_pixels(vertices, shape)] = index
    return class_map, None


def main(settings: Settings) -> None:
    """Find the images and their polygons, divide them, and write the patches."""
    images = {file.name: file for file in list_images(settings.raw / "labelled_images")}
    export, outlines = read_export(settings.raw, class_indices(settings.class_names))
    labels = dict.fromkeys(outlines, export)
    check_pairs(images, labels, images, settings.raw / "labelled_images", f"its External ID in {export}")
    if len(images) < 2:
        raise InputError(f"{settings.raw / 'labelled_images'} holds 1 image: at least 2 are needed to divide them")
    labelled = [SourceImage(file, export, partial(draw_classes, outlines[name])) for name, file in images.items()]
    first = int(0.8 * len(labelled))
    folders = {"labelled": labelled[:first], "test": labelled[first:]}
    if (settings.raw / "unlabelled_images").is_dir():
        folders["unlabelled"] = [SourceImage(file) for file in list_images(settings.raw / "unlabelled_images")]
    write_data_set(settings, "paper", CLASSES, "components", folders)
    print(f"patches are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
