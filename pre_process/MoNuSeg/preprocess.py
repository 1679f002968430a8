"""Cut MoNuSeg into patches.

    python3 pre_process/MoNuSeg/preprocess.py [--protocol official] [--raw FOLDER] [--output FOLDER]

`--raw` holds the two downloads of https://monuseg.grand-challenge.org as they unpack:

    MoNuSeg 2018 Training Data/Tissue Images/NAME.tif
    MoNuSeg 2018 Training Data/Annotations/NAME.xml     (only for the protocol "official")
    MoNuSegTestData/NAME.tif, NAME.xml

Protocol "paper": the training images are unlabelled, the test images (by name) are divided 80/20 into images to
fine-tune and to test with. Note that the paper so fine-tunes on a part of the official test set.
Protocol "official": the training images are labelled, all test images are for testing.

The nuclei are polygons at sub-pixel vertices. Each keeps its position in the xml file (from 1) as its number. A pixel
belongs to a nucleus if its centre does; where nuclei overlap, to the earlier one, as the organisers have it.
"""

import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from tqdm import tqdm

from pre_process.patches import (
    Labels,
    PatchSettings,
    SourceImage,
    by_name,
    check_pairs,
    polygon_pixels,
    split_by_image,
    write_data_set,
)
from utils_general import MONUSEG, MONUSEG_RAW, InputError, list_images, run_script

TRAINING_FOLDER, TEST_FOLDER = "MoNuSeg 2018 Training Data", "MoNuSegTestData"
CLASSES = ["background", "nucleus"]


@dataclass(frozen=True, kw_only=True)
class Settings(PatchSettings):
    """Cut MoNuSeg into patches."""

    raw: Path = MONUSEG_RAW
    """folder that holds "MoNuSeg 2018 Training Data" and "MoNuSegTestData" """
    protocol: Literal["paper", "official"] = "paper"
    """paper: training images unlabelled, test images 80/20 to fine-tune / to test; official: training / test images"""
    output: Path = MONUSEG
    patch_size: int = 256
    stride: int = 64
    mpp: float | None = 0.25
    """micrometres a pixel: MoNuSeg's images were scanned at 40x"""


def read_outlines(file: Path) -> list[np.ndarray]:
    """The outline of every region of an Aperio xml file in its order: x, y in pixels, float (N, 2).

    Raises `InputError` where the file is broken or holds no region.
    """
    outlines = []
    try:
        for _, element in ET.iterparse(file):
            if element.tag == "Region":
                vertices = [(float(v.get("X", "")), float(v.get("Y", ""))) for v in element.iter("Vertex")]
                outlines.append(np.array(vertices).reshape(-1, 2))
                element.clear()
    except (ET.ParseError, LookupError, UnicodeError) as error:  # broken, or in an encoding that nobody knows
        raise InputError(f"cannot read {file}: {error}; is the file complete?") from None
    except ValueError:
        raise InputError(f"cannot read {file}: region {len(outlines) + 1} has a vertex without numbers X, Y") from None
    if not outlines:
        raise InputError(f"{file} holds no Region: an annotation as Aperio ImageScope writes it is wanted")
    if not all(np.isfinite(outline).all() for outline in outlines):
        raise InputError(f"cannot read {file}: a vertex is not a finite number")
    return outlines


def draw_nuclei(outlines: list[np.ndarray], shape: tuple[int, int]) -> Labels:
    """Class map (nucleus 1) and number map int32, each (H, W), of outlines numbered from 1; the earlier one on top."""
    numbers = np.zeros(shape, np.int32)
    for number, outline in enumerate(outlines, start=1):
        rows, columns = polygon_pixels(outline, shape)
        free = numbers[rows, columns] == 0
        numbers[rows[free], columns[free]] = number
    return (numbers > 0).astype(np.uint8), numbers


def labelled(images: list[Path], xml_folder: Path) -> tuple[list[SourceImage], int]:
    """Source images with the nuclei of their xml files, and the number of regions in these files."""
    files = [f for f in xml_folder.glob("*.xml") if not f.name.startswith(".")]
    named, xml = by_name(images), by_name(files)
    check_pairs(named, xml, named, images[0].parent, f"an .xml file of that name in {xml_folder}")
    outlines = {name: read_outlines(xml[name]) for name in tqdm(named, desc="reading xml", unit="file", disable=None)}
    sources = [SourceImage(named[name], xml[name], partial(draw_nuclei, outlines[name])) for name in named]
    return sources, sum(map(len, outlines.values()))


def main(settings: Settings) -> None:
    """Find the images and annotations, divide them by the protocol, and write the patches."""
    training_folder, test_folder = settings.raw / TRAINING_FOLDER, settings.raw / TEST_FOLDER
    training = list_images(training_folder / "Tissue Images", (".tif", ".tiff"))
    test = list_images(test_folder, (".tif", ".tiff"))
    print(f"MoNuSeg: {len(training)} training images (official: 37) and {len(test)} test images (official: 14)")
    labelled_test, regions = labelled(test, test_folder)
    if settings.protocol == "paper":
        to_finetune, to_test = split_by_image(labelled_test, 0.8)
        if not to_finetune:
            raise InputError(f"{test_folder} holds {len(test)} image: at least 2 are needed to divide them")
        folders = {"unlabelled": [SourceImage(file) for file in training], "labelled": to_finetune, "test": to_test}
    else:
        labelled_training, more = labelled(training, training_folder / "Annotations")
        regions += more
        folders = {"labelled": labelled_training, "test": labelled_test}
    nuclei = write_data_set(settings, settings.protocol, CLASSES, "watershed", folders)
    print(
        f"{regions} regions in the xml files, of which {regions - nuclei} cover no pixel of their own and are left out"
    )
    print(f"patches are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
