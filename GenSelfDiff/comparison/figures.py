"""Figures of a comparison: every image's metrics by method, their differences, and crops of the images themselves."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from GenSelfDiff.comparison.results import Result
from GenSelfDiff.metrics import STANDARD
from GenSelfDiff.report.image_figures import class_legend
from utils_general import read_rgb, save_figure

CROP = 256  # pixels of each image that are shown, from its middle
ACROSS = 4  # metrics side by side


def draw_comparison(table: pd.DataFrame, means: pd.DataFrame, differences: pd.DataFrame, path: Path) -> None:
    """Two panels a metric: a line an image over the results, with means; and the paired differences to the first.

    `table` is that of `comparison.side_by_side`, `means` and `differences` hold rows of `comparison.estimates` and
    `comparison.differences`. Bars are 95 % intervals.
    """
    metrics = [STANDARD[name] for name in dict.fromkeys(table.figure)]
    names = list(dict.fromkeys(means.result))
    across, down = min(ACROSS, len(metrics)), -(-len(metrics) // ACROSS)
    width = max(3.2, 0.75 * len(names) + 1)
    figure, axes = plt.subplots(
        2 * down, across, figsize=(width * across, 5.6 * down), squeeze=False, layout="constrained",
        height_ratios=[3, 2] * down,
    )  # fmt: skip
    for panel in axes.flat:
        panel.set_visible(False)
    for i, metric in enumerate(metrics):
        upper, lower = axes[i // ACROSS * 2 : i // ACROSS * 2 + 2, i % ACROSS]
        values = table.loc[table.figure == metric.name, names].to_numpy(float)
        _draw_values(upper, values, means[means.figure == metric.name])
        _draw_differences(lower, values, differences[differences.figure == metric.name])
        unit = f" ({metric.unit}; less is better)" if not metric.higher_is_better else ""
        upper.set_title(metric.name + unit, fontsize=11)
        lower.set_ylabel("difference")
        lower.set_xticks(
            range(len(names)),
            [textwrap.fill(n.replace("_", " "), 16 if len(names) < 3 else 12) for n in names],
            fontsize=8,
        )
        lower.tick_params("x", rotation=0 if len(names) < 4 else 30)
    figure.suptitle(
        f"{len(table) // len(metrics)} test images: a line each; mean and 95 % interval (Student's t) over images. "
        f"Below: paired differences to {names[0]}",
        fontsize=11,
    )
    save_figure(figure, path)


def _bars(panel: Axes, positions: np.ndarray, rows: pd.DataFrame, **style: object) -> None:
    """Means with their intervals, each in its result's colour."""
    for x, row in zip(positions, rows.itertuples(), strict=True):
        error = [[row.mean - row.low], [row.high - row.mean]]
        panel.errorbar(x, row.mean, error, fmt="o", capsize=4, lw=2, zorder=3, color=f"C{round(x)}", **style)


def _draw_values(panel: Axes, values: np.ndarray, means: pd.DataFrame) -> None:
    """`values` (images, results)."""
    positions = np.arange(values.shape[1])
    panel.set_visible(True)
    panel.plot(positions, values.T, ".-", color="0.65", lw=0.8, ms=4, zorder=1)
    _bars(panel, positions, means)
    panel.set_xticks(positions, [])
    panel.set_xlim(-0.5, len(positions) - 0.5)
    panel.grid(axis="y", alpha=0.3)


def _draw_differences(panel: Axes, values: np.ndarray, differences: pd.DataFrame) -> None:
    """Every image's difference as a dot beside the mean; `values` (images, results)."""
    panel.set_visible(True)
    panel.axhline(0, color="0.3", lw=1)
    spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
    for k in range(1, values.shape[1]):
        panel.plot(k + 0.22 + spread, values[:, k] - values[:, 0], ".", color=f"C{k}", alpha=0.5, ms=4)
    _bars(panel, np.arange(1, values.shape[1]), differences)
    panel.set_xlim(-0.5, values.shape[1] - 0.5)
    panel.grid(axis="y", alpha=0.3)


def pictured(results: list[Result]) -> list[str]:
    """The images of which every result has pictures, in order."""
    sources = results[0].images.index
    return [s for s in sources if all((r.folder / "pictures" / f"{s}_prediction.png").is_file() for r in results)]


def draw_crops(results: list[Result], sources: list[str], metrics: tuple[str, ...], path: Path) -> None:
    """A row an image: the middle of the image, its truth, and what each result says, with the whole image's metrics."""
    columns = [("image", results[0], "image"), ("truth", results[0], "truth")]
    columns += [(result.name.replace("_", " "), result, "prediction") for result in results]
    size = (2.6 * len(columns), (2.7 + 0.17 * len(metrics)) * len(sources) + 0.7)
    figure, axes = plt.subplots(len(sources), len(columns), figsize=size, squeeze=False, layout="constrained")
    for row, source in zip(axes, sources, strict=True):
        for panel, (title, result, kind) in zip(row, columns, strict=True):
            picture = read_rgb(result.folder / "pictures" / f"{source}_{kind}.png")
            top, left = ((side - min(side, CROP)) // 2 for side in picture.shape[:2])
            panel.imshow(picture[top : top + CROP, left : left + CROP], interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            if kind == "prediction":
                panel.set_xlabel(scores(result.images.loc[source], metrics), fontsize=9)
            if panel in axes[0]:
                panel.set_title(textwrap.fill(title, 30), fontsize=10)
        row[0].set_ylabel(textwrap.fill(f"{source} ({results[0].images.split[source]})", 30), fontsize=9)
    figure.suptitle(f"the middle of each image, at most {CROP} pixels wide; metrics of the whole image", fontsize=10)
    legend = class_legend(results[0].summary["classes"])
    figure.legend(handles=legend, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


def scores(values: pd.Series, metrics: tuple[str, ...]) -> str:
    """Metrics of an image, a line each: "Dice 0.812"."""
    units = (f" {STANDARD[name].unit}".rstrip() for name in metrics)
    return "\n".join(
        f"{name} {STANDARD[name].text(values[name], fewer=1 - bool(unit))}{unit}"
        for name, unit in zip(metrics, units, strict=True)
    )
