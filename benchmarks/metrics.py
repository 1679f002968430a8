"""What figures of merit cost: the published ones of a patch beside a plain version of them, and all of a whole image.

    python3 benchmarks/metrics.py

The plain version goes figure by figure and class by class over masks, as the released code does, with SciPy's
`directed_hausdorff`, which is the slower the better the prediction; its values must be the same. The whole image has
about 600 nuclei, found some pixels off, some missed, some invented. Writes metrics.csv and metrics.md; times are
medians.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from scipy.spatial.distance import directed_hausdorff

from benchmarks.tables import machine, write_table
from GenSelfDiff.evaluation.evaluate import mask_metrics
from GenSelfDiff.evaluation.instance_metrics import instance_counts, instance_metrics
from GenSelfDiff.evaluation.pixel_metrics import confusion_matrix, published_metrics
from GenSelfDiff.instances import InstanceSettings, to_instances
from output_folder import replace_folder
from utils_general import ROOT, InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Time the figures of merit."""

    output: Path = ROOT / "benchmarks" / "results" / "metrics"
    repeats: int = 10
    """rounds; in each, everything is timed once"""
    patch: int = 256
    """pixels, side of the patch with four classes"""
    side: int = 1000
    """pixels, side of the whole image"""
    nuclei: int = 600
    """in the whole image, drawn at random places"""
    seed: int = 1
    """of the drawings"""
    overwrite: bool = False
    """replace earlier results"""


def plain_aji(truth: np.ndarray, prediction: np.ndarray, classes: int) -> float:
    """The published AJI: every class is one object."""
    intersection = union = 0
    used = set()
    for c in range(1, classes):
        true = truth == c
        if not true.any():
            continue
        ious = {}
        for d in range(1, classes):
            both = np.logical_and(true, prediction == d).sum()
            if both:
                ious[d] = both / np.logical_or(true, prediction == d).sum()
        if not ious:
            union += true.sum()
            continue
        best = max(ious, key=ious.get)
        intersection += np.logical_and(true, prediction == best).sum()
        union += np.logical_or(true, prediction == best).sum()
        used.add(best)
    union += sum((prediction == d).sum() for d in range(1, classes) if d not in used)
    return intersection / union if union else 1.0


def plain_published(truth: np.ndarray, prediction: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """`published_metrics`, figure by figure and class by class; class maps (H, W)."""

    def of_classes(figure: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        return np.array([figure(truth == c, prediction == c) for c in range(1, classes)])

    def share(part: np.ndarray, whole: np.ndarray) -> float:
        return part.sum() / whole.sum() if whole.any() else 1.0

    return {
        "AJI": np.array([plain_aji(truth, prediction, classes)]),
        "Jaccard_score": of_classes(lambda t, p: share(t & p, t | p)),
        "F1_score": of_classes(lambda t, p: 2 * (t & p).sum() / (t.sum() + p.sum()) if (t | p).any() else 1.0),
        "Hausdorff_distance": of_classes(lambda t, p: max(directed_hausdorff(t, p)[0], directed_hausdorff(p, t)[0])),
        "accuracy": of_classes(lambda t, p: (t == p).sum() / t.size),
        "sensitivity": of_classes(lambda t, p: share(t & p, t)),
        "precision": of_classes(lambda t, p: share(t & p, p)),
        "specificity": of_classes(lambda t, p: share(~t & ~p, ~t)),
        "dice": of_classes(lambda t, p: (2 * (t & p).sum() + 1) / (t.sum() + p.sum() + 1)),
    }


def draw_nuclei(rng: np.random.Generator, side: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Instance maps (side, side) of nuclei and of what a network might find of them; some nuclei hide others."""
    maps = np.zeros((2, side, side), np.int32)
    for i in range(1, number + 1):
        centre, radii, angle = rng.uniform(0, side, 2), rng.uniform(7, 16, 2), rng.uniform(0, math.pi)
        found, invented = rng.random() > 0.1, rng.random() < 0.05
        if not invented:
            draw_ellipse(maps[0], centre, radii, angle, i)
        if found or invented:
            draw_ellipse(maps[1], centre + rng.normal(0, 1.5, 2), radii * rng.uniform(0.85, 1.2, 2), angle, i)
    return maps[0], maps[1]


def draw_ellipse(numbers: np.ndarray, centre: np.ndarray, radii: np.ndarray, angle: float, number: int) -> None:
    """Write a number into all pixels of an ellipse; lengths in pixels."""
    reach = math.ceil(max(radii))
    top, left = (max(0, int(c) - reach) for c in centre)
    window = numbers[top : int(centre[0]) + reach + 2, left : int(centre[1]) + reach + 2]
    y, x = np.ogrid[: window.shape[0], : window.shape[1]]
    y, x = y + top - centre[0], x + left - centre[1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    window[(along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1] = number


def four_classes(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Class maps (side, side) of three classes and background: nuclei, their numbers taken modulo 4."""
    true, found = draw_nuclei(rng, side, max(1, side**2 // 600))
    return true % 4, found.astype(np.int64) % 4


def image_figures(true: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """All standard figures of one image with one class beside the background; instance maps (H, W)."""
    truth, prediction = (true > 0).astype(np.uint8), (found > 0).astype(np.uint8)
    matrix = confusion_matrix(truth, prediction, 2)
    return mask_metrics(truth, prediction, matrix) | instance_metrics(instance_counts(true, found)[None])


def median_times(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each case; the cases take turns."""
    times = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def patch_row(name: str, truth: np.ndarray, prediction: np.ndarray, settings: Settings) -> dict[str, object]:
    """Times of the published figures, plain and here; `InputError` where they are not the same numbers."""
    ours, plain = published_metrics(truth, prediction, 4), plain_published(truth, prediction, 4)
    if wrong := [figure for figure in plain if not np.array_equal(ours[figure], plain[figure])]:
        raise InputError(f"{name}: {', '.join(wrong)} are not the plain ones, their times mean nothing")
    cases = {
        "ms": lambda: published_metrics(truth, prediction, 4),
        "plain ms": lambda: plain_published(truth, prediction, 4),
    }
    times = median_times(cases, settings.repeats)
    return {"what": name, **times, "times faster": times["plain ms"] / times["ms"]}


def main(settings: Settings) -> None:
    """Compare values, then time, then write."""
    at_least(settings, repeats=1, patch=16, side=64, nuclei=1)
    rng = np.random.default_rng(settings.seed)
    truth, prediction = four_classes(rng, settings.patch)
    predictions = {"some errors": prediction, "no error": truth.astype(np.int64), "nothing found": prediction * 0}
    rows = [patch_row(f"patch: published figures, {name}", truth, p, settings) for name, p in predictions.items()]
    true, found = draw_nuclei(rng, settings.side, settings.nuclei)
    watershed, mask = InstanceSettings(instances="watershed"), (found > 0).astype(np.uint8)
    cases = {
        f"image: all standard figures of {len(np.unique(true)) - 1} nuclei": lambda: image_figures(true, found),
        "image: watershed of its prediction": lambda: to_instances(mask, "watershed", watershed),
    }
    rows += [{"what": name, "ms": ms} for name, ms in median_times(cases, settings.repeats).items()]
    with replace_folder(settings.output, "metrics.csv", settings.overwrite) as output:
        write_table(pd.DataFrame(rows), output / "metrics")
    print(
        f"patch {settings.patch}x{settings.patch}, 4 classes; image {settings.side}x{settings.side}; {machine('cpu')}"
    )
    print(f"metrics.csv and metrics.md are in {settings.output.absolute()}")


if __name__ == "__main__":
    run_script(main, Settings)
