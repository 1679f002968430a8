"""The same test for methods that learn nothing: what a trained network has to beat.

python3 ./GenSelfDiff/test/baselines.py --method otsu
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from GenSelfDiff.evaluation.evaluate import patches_to_test
from GenSelfDiff.haematoxylin import haematoxylin_threshold
from GenSelfDiff.report.results import Method, ReportSettings, run_test
from utils_general import RESULTS, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(ReportSettings):
    """Test a trivial method on the test patches of a data set."""

    method: Literal["background", "foreground", "otsu"] = "otsu"
    """everything is background, or class 1; or Otsu's threshold of each image's haematoxylin, above it is class 1"""
    output: Path | None = None
    """folder for the results; results/<data set>_<method> if not given; _val is added with --split val"""
    blur: float = 1.0
    """otsu: deviation in pixels of a Gaussian on the haematoxylin channel"""


def main(settings: Settings) -> None:
    """Predict, evaluate, write."""
    at_least(settings, blur=0)
    patches = patches_to_test(settings.data, settings.split)
    classes = patches.data_set.classes

    def predict(images: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(images), len(classes), *images.shape[1:3]), np.float32)
        foreground = np.full(images.shape[:3], settings.method == "foreground")
        if settings.method == "otsu":
            foreground = haematoxylin_threshold(images, settings.blur)
        probabilities[:, 0], probabilities[:, 1] = ~foreground, foreground
        return probabilities

    name = f"{settings.data.resolve().name}_{settings.method}" + ("_val" if settings.split == "val" else "")
    run_test(settings, settings.output or RESULTS / name, patches, Method(name=name, predict=predict, classes=classes))


if __name__ == "__main__":
    run_script(main, Settings)
