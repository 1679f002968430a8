"""Labels that nobody drew: a data set for Diff_Seg.py whose labels are what a run, or Otsu's threshold, says.

    python3 GenSelfDiff/methods/attention/pseudo_labels.py --images FOLDER --run MoNuSeg_attention --output data/said
    python3 GenSelfDiff/methods/attention/pseudo_labels.py --images FOLDER --method otsu --output data/otsu
    python3 GenSelfDiff/downstream_train/Diff_Seg.py --data data/said --pretrained scratch --run-name MoNuSeg_said

Images are segmented whole, as segment.py does it, at their own size, and then cut like those of any data set: with the
same names, options and number of images, the split is the same, too. Give it the images to train on, never those to
test with: there is no folder test.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np

from GenSelfDiff import predictor
from GenSelfDiff.haematoxylin import haematoxylin_threshold
from GenSelfDiff.instances import InstanceSettings, fill_holes
from GenSelfDiff.methods.attention.levels import BLUR
from GenSelfDiff.methods.attention.segmenting import CLASSES
from GenSelfDiff.predictor import PredictorSettings, TrainedPredictor
from GenSelfDiff.targets import decode, from_bytes, instance_method, to_bytes
from GenSelfDiff.whole_image.doubts import DIFFERENT
from GenSelfDiff.whole_image.windows import WindowSettings, predict_image, windows_of
from pre_process.patches import Labels, PatchSettings, SourceImage, by_name, write_data_set
from utils_general import InputError, at_least, list_images, read_rgb, run_script

INSTANCES = "watershed"  # how the class maps of nuclei become objects


@dataclass(frozen=True, kw_only=True)
class Settings(PatchSettings, PredictorSettings, WindowSettings, InstanceSettings):
    """Cut images into patches whose labels are predicted."""

    images: Path
    """folder of images, those to train on"""
    method: Literal["run", "otsu"] = "run"
    """what says the labels: a run, or Otsu's threshold of each image's haematoxylin"""
    run: str = "MoNuSeg_attention"
    """run of SS_attention.py, or of any network that segments, or the path of its folder or of a .pth"""
    tta: predictor.Symmetries = "all"
    """average over each image seen in several ways: none, flips (4 times the time) or all, with quarter turns (8)"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        self.check_windows()
        if self.test_stride is not None:
            raise InputError(f"--test-stride {self.test_stride}: no folder test is written here, leave it out")
        at_least(self, minimum_area=0, peak_distance=1, largest_hole=0, smoothing=0)


Segment = Callable[[np.ndarray], Labels]
"""Images uint8 (H, W, 3) to class indices (H, W) and instance numbers (H, W)"""


def by_run(settings: Settings) -> tuple[Segment, list[str]]:
    """What a run says, and the names of its classes."""
    network = predictor.load(settings)
    windows, method = windows_of(network, settings), instance_method(settings, network.targets, network.instances)
    _check_size(settings, network)
    print(
        f"labels by {network.path}, of the stage {network.stage}: epoch {network.epoch}, windows of {windows.size} "
        f"pixels, {method}"
    )

    def segment(pixels: np.ndarray) -> Labels:
        said = predict_image(network, pixels, windows)
        if not np.isfinite(said).all():
            raise InputError(f"the network {network.path} says no numbers (NaN): try --precision float32")
        probabilities, maps = np.split(said, [len(network.classes)])
        class_map = probabilities.argmax(0)
        return class_map, decode(class_map, from_bytes(to_bytes(maps)), method, settings)

    return segment, network.classes


def _check_size(settings: Settings, network: TrainedPredictor) -> None:
    """`InputError` for a network that knows nuclei of another size: images are segmented as they are."""
    if settings.mpp and network.mpp:
        told, factor = f"at {network.mpp:g} micrometres a pixel, not {settings.mpp:g}", network.mpp / settings.mpp
    else:
        told, factor = f"on images made {network.downscale:g} times smaller", network.downscale
    if not 1 / DIFFERENT <= factor <= DIFFERENT:
        raise InputError(f"{network.path} was trained {told}: take a run that was trained on images of their own size")


def by_threshold(settings: Settings) -> tuple[Segment, list[str]]:
    """What Otsu's threshold says, and the names of its classes."""

    def segment(pixels: np.ndarray) -> Labels:
        class_map = haematoxylin_threshold(pixels[None], BLUR)[0].astype(np.uint8)
        return class_map, decode(
            class_map, np.empty((0, 0, 0)), instance_method(settings, "classes", INSTANCES), settings
        )

    return segment, CLASSES


def main(settings: Settings) -> None:
    """Cut all images and what is found in them; each is segmented when it is first read, behind all other checks."""
    settings.check()
    images = by_name(list_images(settings.images))
    segment, classes = by_run(settings) if settings.method == "run" else by_threshold(settings)
    shares: list[float] = []

    @cache  # images are read twice
    def said(file: Path, _shape: tuple[int, int]) -> Labels:
        class_map, instances = segment(read_rgb(file))
        # Labels are objects: no specks, no holes
        class_map = np.where(instances > 0, fill_holes(class_map, settings.largest_hole), 0).astype(np.uint8)
        shares.append(float((class_map > 0).mean()))
        return class_map, np.where(class_map > 0, instances, 0)

    sources = [SourceImage(file, file, partial(said, file)) for file in images.values()]
    write_data_set(settings, f"labels by {settings.method}", classes, INSTANCES, {"labelled": sources})
    print(f"{len(shares)} images, of which {np.mean(shares):.1%} are {', '.join(classes[1:])}")
    print(f"patches are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
