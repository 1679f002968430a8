"""One image of any size from its pixels to its files, in steps that are kept on disk and so survive a kill."""

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from GenSelfDiff.instances import InstanceMethod, InstanceSettings
from GenSelfDiff.whole_image.map_files import LARGE, Maps
from GenSelfDiff.whole_image.object_files import Table, write_objects
from GenSelfDiff.whole_image.objects import join_blocks, label_blocks
from GenSelfDiff.whole_image.slides import Source, Tissue, View, open_source, thumbnail
from GenSelfDiff.whole_image.windows import Blocks, Box, Predictor, Wanted, Windows, predict_box
from utils_general import InputError

SAME = 1.05  # resolutions that differ by less are the same: resampling would only blur
NO_TISSUE = "no tissue was found, nothing was looked at: lower --tissue (0 looks everywhere)"
MASK = 2048  # pixels of the longer side of the thumbnail that tissue is looked for in


@dataclass(frozen=True, kw_only=True)
class WholeImageSettings(InstanceSettings):
    """How whole images are segmented; what is in pixels is at the working resolution."""

    mpp: float | None = None
    """micrometres a pixel to work at; if not given that of the training, where it and the image's own are known"""
    image_mpp: float | None = None
    """micrometres a pixel of images that do not say it themselves"""
    overlap: float = 0.5
    """part of a window that it shares with the next: every pixel is then seen by four; 0 to 0.9, more is slower"""
    probabilities: bool = False
    """also write each class's probability, 0 to 255 for 0 to 1"""
    tissue: float = 0.04
    """large images (33 megapixels or more): what has less colour in a thumbnail, 0 to 1, is glass and left out, as most
    of a slide is; pale fat is about 0.05, and 0 leaves nothing out"""
    block_size: int = 2048
    """pixels of the side of a block: one at a time is in memory, and a killed run loses no more than one"""


@dataclass(frozen=True)
class Network:
    """What segments: a predictor and what is known of its training."""

    predict: Predictor
    classes: list[str]
    window: int
    """pixels of a window's side"""
    mpp: float | None
    """micrometres a pixel that it was trained at"""
    instances: InstanceMethod
    batch_size: int


def segment_image(path: Path, base: str, state: Path, network: Network, settings: WholeImageSettings) -> dict[str, Any]:
    """Segment one image and write files that begin with `base`; returns its row of the summary.

    What is done is kept in the folder `state` until all is. Raises `InputError` for an image that cannot be read.
    """
    began = time.monotonic()
    with contextlib.closing(open_source(path)) as source:
        mpp = source.mpp or settings.image_mpp
        view = View.scaled(source, scale_of(path, mpp, network.mpp, settings.mpp))
        blocks = Blocks(state, view.height, view.width, settings.block_size)
        wanted, looked_at = _wanted(source, view, settings)
        _infer(view, blocks, network, Windows(network.window, settings.overlap), wanted, path.name)
        bar = tqdm(total=3 * len(blocks), desc="objects", unit="block", leave=False, disable=None, delay=1)
        with bar:
            label_blocks(blocks, network.instances, settings, bar.update)
            objects = join_blocks(blocks, network.instances, settings.minimum_area, bar.update)
            kind = "detection" if network.instances == "watershed" else "annotation"

            def table(csv: Any, geojson: Any) -> Table:
                return Table(csv, geojson, path.name, network.classes, kind, view, mpp)

            write_objects(blocks, objects, network.instances, table, base, bar.update)
        Maps(blocks, view, objects, mpp, base).write(network.classes, settings.probabilities)
        shares = _class_pixels(blocks, len(network.classes)) / (view.width * view.height)
    shutil.rmtree(state)
    return {
        "width": source.width,
        "height": source.height,
        "mpp": mpp,
        "objects": len(objects),
        "share looked at": looked_at,
        **{f"area share: {name}": share for name, share in zip(network.classes[1:], shares[1:], strict=True)},
        "seconds": round(time.monotonic() - began, 1),
        "note": (source.note if looked_at else NO_TISSUE) or None,
    }


def scale_of(path: Path, own: float | None, trained: float | None, wanted: float | None) -> float:
    """Pixels of the image in one pixel of the working resolution, from micrometres a pixel, None where unknown."""
    if own is None and wanted is not None:
        raise InputError(f"{path} does not say its resolution, which --mpp needs: say it with --image-mpp")
    working = wanted or trained
    if own is None or working is None or 1 / SAME < working / own < SAME:
        return 1.0
    return working / own


def _infer(view: View, blocks: Blocks, network: Network, windows: Windows, wanted: Wanted, name: str) -> None:
    """Class map and probabilities (255 for 1) of every block that is not there yet."""
    to_do = [block for block in range(len(blocks)) if not blocks.has("classes", block)]
    if not to_do:
        return
    number = sum(int(_count(blocks.box(block), view, windows, wanted)) for block in to_do)
    with tqdm(total=number, desc=name, unit="window", leave=False, disable=None, delay=1) as bar:
        for block in to_do:
            box = blocks.box(block)
            probabilities = predict_box(
                network.predict, len(network.classes), view, windows, box, network.batch_size, wanted, bar.update
            )
            maps = {f"probability_{c}": np.rint(255 * p).astype(np.uint8) for c, p in enumerate(probabilities) if c}
            blocks.write("classes", block, classes=probabilities.argmax(0).astype(np.uint8), **maps)


def _wanted(source: Source, view: View, settings: WholeImageSettings) -> tuple[Wanted, float]:
    """Which windows show something: all, or in large images those with tissue, whose share of the image it says."""
    if settings.tissue and source.width * source.height > LARGE:
        tissue = Tissue(view, thumbnail(source, MASK), settings.tissue)
        return tissue.inside, float(tissue.mask.mean())
    return lambda xs, ys, _size: np.ones((len(ys), len(xs)), bool), 1.0


def _count(box: Box, view: View, windows: Windows, wanted: Wanted) -> int:
    """How many windows there are to look at for a region."""
    xs, ys = windows.starts(box[0], box[2], view.width), windows.starts(box[1], box[3], view.height)
    return wanted(xs, ys, windows.size).sum()


def _class_pixels(blocks: Blocks, classes: int) -> np.ndarray:
    """The number of pixels of each class, (classes,)."""
    maps = (blocks.read("classes", block, "classes") for block in range(len(blocks)))
    return sum(np.bincount(class_map.ravel(), minlength=classes) for class_map in maps)
