"""One image of any size from its pixels to its files, in steps that are kept on disk and so survive a kill.

1. `slides`: open it, bring it to the resolution that is worked at, see where there is tissue; `reader` does so in a
   process of its own.
2. `windows`: class probabilities of every block, by overlapping windows that the network looks at.
3. `objects`: label every block, and join what lies over the borders of blocks.
4. `measurements`, `object_files`: measure the objects; table (csv) and outlines (GeoJSON).
5. `map_files`: class map, instance map, overlay.

`blocks` keeps the maps of steps 2 to 4.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from GenSelfDiff import targets
from GenSelfDiff.instances import InstanceMethod, InstanceSettings
from GenSelfDiff.predictor import TrainedPredictor
from GenSelfDiff.targets import MAPS, to_bytes
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.doubts import Found, doubts
from GenSelfDiff.whole_image.map_files import LARGE, Maps
from GenSelfDiff.whole_image.object_files import write_objects
from GenSelfDiff.whole_image.objects import ImageFacts, Objects, join_blocks, label_blocks
from GenSelfDiff.whole_image.output import readable
from GenSelfDiff.whole_image.slides import Source, Tissue, View, thumbnail
from GenSelfDiff.whole_image.windows import (
    BLOCK_SIZE,
    Wanted,
    Windows,
    WindowSettings,
    everywhere,
    fitted,
    predict_box,
    windows_of,
)
from utils_general import InputError

SAME = 1.05  # resolutions that differ by less are the same: resampling would only blur
NO_TISSUE = "no tissue was found, nothing was looked at: lower --tissue (0 looks everywhere)"
MASK = 2048  # pixels of the longer side of the thumbnail that tissue is looked for in
MOST_ENLARGED = 64  # times; from a scanner's thumbnail to its finest level
OBJECT_PASSES = 3  # over the blocks, when objects are made: label, join, measure


@dataclass(frozen=True, kw_only=True)
class WholeImageSettings(WindowSettings, InstanceSettings):
    """How whole images are segmented; windows and blocks are in pixels of the working resolution."""

    mpp: float | None = None
    """micrometres a pixel to work at; if not given that of the training, where it and the image's own are known"""
    image_mpp: float | None = None
    """micrometres a pixel of images that do not say it themselves"""
    probabilities: bool = False
    """also write each class's probability, 0 to 255 for 0 to 1"""
    tissue: float = 0.04
    """large images (33 megapixels or more): what has less colour in a thumbnail, 0 to 1, is glass and left out, as most
    of a slide is; pale fat is about 0.05, and 0 leaves nothing out"""
    block_size: int = BLOCK_SIZE
    """pixels of the side of a block: one at a time is in memory, and a killed run loses no more than one"""


def instance_method(network: TrainedPredictor, settings: WholeImageSettings) -> InstanceMethod:
    """How class maps become instances: as the settings say, or else as the network was trained for."""
    return targets.instance_method(settings, network.targets, network.instances)


def segment_image(
    path: Path,
    base: str,
    state: Path,
    network: TrainedPredictor,
    settings: WholeImageSettings,
    open_image: Callable[[Path], Source],
) -> dict[str, Any]:
    """Segment one image and write files that begin with `base`; returns its row of the summary.

    What is done is kept in the folder `state` until all is. Raises `InputError` for an image that cannot be read.
    """
    began, name = time.monotonic(), readable(path.name)
    with contextlib.closing(open_image(path)) as source:
        mpp = source.mpp or settings.image_mpp
        scale = scale_of(path, mpp, trained=network.mpp, wanted=settings.mpp, downscale=network.downscale)
        view = View.scaled(source, scale)
        blocks = Blocks(state, view.height, view.width, settings.block_size)
        wanted, looked_at = _wanted(source, view, settings)
        _infer(view, blocks, network, windows_of(network, settings), wanted, name)
        method, limits = instance_method(network, settings), settings.reduced(network.downscale)
        image = ImageFacts(name=name, classes=network.classes, view=view, mpp=mpp)
        with _progress_bar(OBJECT_PASSES * len(blocks), "objects", "block") as bar:
            label_blocks(blocks, method, limits, bar.update)
            objects = join_blocks(blocks, method, limits.minimum_area, bar.update)
            write_objects(blocks, objects, method, image, base, bar.update)
        Maps(blocks, objects, image, base).write(settings.probabilities)
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
        "warning": _doubts(image, objects, shares[1:].sum() / looked_at, network, method) if looked_at else None,
    }


def _doubts(
    image: ImageFacts, objects: Objects, share: float, network: TrainedPredictor, method: InstanceMethod
) -> str | None:
    """Where the image or what was found of it is unlike the training; `share` of what was looked at are objects."""
    # Where the image does not say its resolution, the network takes it for that of its training.
    working = image.mpp * math.sqrt(math.prod(image.view.scale)) if image.mpp else network.mpp
    pixel = working**2 if working else None
    usual = network.instances if method in MAPS else method
    found = Found(areas=objects.area[1:] * (pixel or math.nan), share=share, nuclei=usual == "watershed")
    return doubts(image.mpp, network.mpp, found, network.downscale)


def scale_of(
    path: Path, own: float | None, *, trained: float | None, wanted: float | None, downscale: float = 1.0
) -> float:
    """Pixels of the image in one pixel of the working resolution, from micrometres a pixel, None where unknown.

    Where they do not tell, the image is taken for one of the training's resolution before that was reduced `downscale`
    times.
    """
    if own is None and wanted is not None:
        raise InputError(f"{path} does not say its resolution, which --mpp needs: say it with --image-mpp")
    working = wanted or trained
    if own is None or working is None:
        return downscale
    if 1 / SAME < working / own < SAME:
        return 1.0
    if own > MOST_ENLARGED * working:
        raise InputError(
            f"{path} has {own:g} micrometres a pixel and would be enlarged {own / working:g} times to {working:g}: "
            "is --mpp or --image-mpp wrong?"
        )
    return working / own


def _infer(view: View, blocks: Blocks, network: TrainedPredictor, windows: Windows, wanted: Wanted, name: str) -> None:
    """Class map, probabilities (255 for 1) and maps of targets of every block that is not there yet."""
    to_do = [block for block in range(len(blocks)) if not blocks.has("classes", block)]
    if not to_do:
        return
    network = fitted(network, view, windows, wanted)
    number = sum(int(wanted(*windows.over(blocks.box(block), view), windows.size).sum()) for block in to_do)
    with _progress_bar(number, name, "window") as bar:
        for block in to_do:
            said = predict_box(network, view, windows, blocks.box(block), wanted, bar.update)
            if not np.isfinite(said).all():
                raise InputError(f"the network says no numbers (NaN) of {name}: try --precision float32")
            probabilities, maps = np.split(said, [len(network.classes)])
            kept = {f"probability_{c}": np.rint(255 * p).astype(np.uint8) for c, p in enumerate(probabilities) if c}
            kept |= {f"map_{k}": to_bytes(of_target) for k, of_target in enumerate(maps)}
            blocks.write("classes", block, classes=probabilities.argmax(0).astype(np.uint8), **kept)


def _progress_bar(total: int, name: str, unit: str) -> tqdm:
    """Of one image; it goes when it is done, and quick ones show none."""
    return tqdm(total=total, desc=name, unit=unit, leave=False, disable=None, delay=1)


def _wanted(source: Source, view: View, settings: WholeImageSettings) -> tuple[Wanted, float]:
    """Which windows show something: all, or in large images those with tissue, whose share of the image it says."""
    if settings.tissue and source.width * source.height > LARGE:
        tissue = Tissue(view, thumbnail(source, MASK), settings.tissue)
        return tissue.inside, float(tissue.mask.mean())
    return everywhere, 1.0


def _class_pixels(blocks: Blocks, classes: int) -> np.ndarray:
    """The number of pixels of each class, (classes,)."""
    maps = (blocks.read("classes", block, "classes") for block in range(len(blocks)))
    return sum(np.bincount(class_map.ravel(), minlength=classes) for class_map in maps)
