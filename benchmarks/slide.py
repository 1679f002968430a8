"""What segmenting a whole slide costs: makes a slide, runs segment.py on it, reports seconds and peak memory.

    python3 benchmarks/slide.py --run MoNuSeg_finetune --crops pre_process/MoNuSeg/MoNuSegTestData

The slide is a tiled pyramid of JPEG tiles, as scanners write it: glass with islands of tissue made of the crops. It
needs the package imagecodecs.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from benchmarks.tables import machine
from output_folder import input_paths, replace_folder
from utils_general import RESULTS, ROOT, at_least, list_images, read_rgb, replace_file, run_script

TILE, SHRINK, LEVELS, GLASS = 256, 4, 4, 243
SLIDE = "slide.tif"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure time and memory of segmenting a slide."""

    crops: Path
    """folder of images that the tissue is made of"""
    run: str = "MoNuSeg_finetune"
    """run of fine-tuning, or the path of its folder"""
    side: int = 50_000
    """pixels of the slide's side"""
    islands: int = 12
    """pieces of tissue, each one crop"""
    output: Path = RESULTS / "slide"
    """folder for the slide and the results"""
    overwrite: bool = False
    """replace an existing output folder"""


def tiles(side: int, islands: list[tuple[int, int, np.ndarray]]) -> Iterator[np.ndarray]:
    """The tiles of one level of `side` pixels, row by row; islands are (x, y, pixels)."""
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            tile = np.full((TILE, TILE, 3), GLASS, np.uint8)
            for x, y, pixels in islands:
                part = pixels[max(0, top - y) : max(0, top + TILE - y), max(0, left - x) : max(0, left + TILE - x)]
                if part.size:
                    down, right = max(0, y - top), max(0, x - left)
                    tile[down : down + part.shape[0], right : right + part.shape[1]] = part
            yield tile


def write_slide(path: Path, side: int, crops: list[np.ndarray], islands: int, seed: int = 0) -> int:
    """Write the slide, 0.25 micrometres a pixel; returns its pixels of tissue."""
    rng = np.random.default_rng(seed)
    chosen = [crops[i % len(crops)] for i in range(islands)]
    placed = [(*rng.integers(0, max(1, side - max(c.shape)), 2), c) for c in chosen]
    with replace_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as file:
        for level in range(LEVELS):
            factor = SHRINK**level
            small = [(x // factor, y // factor, np.asarray(Image.fromarray(c).reduce(factor))) for x, y, c in placed]
            file.write(
                tiles(side // factor, small), shape=(side // factor, side // factor, 3), dtype=np.uint8,
                tile=(TILE, TILE), compression="jpeg", photometric="rgb", metadata=None,
                subfiletype=int(level > 0), resolution=(40_000 / factor,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip
    return sum(c.shape[0] * c.shape[1] for c in chosen)


def main(settings: Settings) -> None:
    """Make the slide, segment it, print what it cost."""
    at_least(settings, side=1000, islands=1)
    crops = [read_rgb(file) for file in list_images(settings.crops)]
    with replace_folder(settings.output, SLIDE, settings.overwrite, input_paths(settings)) as output:
        tissue = write_slide(output / SLIDE, settings.side, crops, settings.islands)
        words = ["--run", settings.run, "--images", output / SLIDE, "--output", output / "segmented"]
        began = time.monotonic()
        subprocess.run([sys.executable, ROOT / "GenSelfDiff" / "test" / "segment.py", *words], check=True)
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        objects = pd.read_csv(output / "segmented" / "summary.csv").objects[0]
    print(
        f"{settings.side} x {settings.side} pixels, {tissue / 1e6:.1f} megapixels of tissue, {objects} objects: "
        f"{seconds:.0f} s, {peak:.2f} GiB of memory at most; {machine('cpu')}"
    )
    print(f"slide and results are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
