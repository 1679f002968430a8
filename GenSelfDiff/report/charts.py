"""Charts of a test: curves of the training, distribution over images, reliability, confusion matrix.

Every chart is a list of panels, functions that draw on matplotlib axes: side by side in a PNG, and each alone as an SVG
for the page, where text and lines take the colour of the text around them, light or dark.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from GenSelfDiff.curves import draw_curve
from GenSelfDiff.evaluation.calibration import calibration_error, tells_how_sure
from GenSelfDiff.metrics import STANDARD, Metric
from GenSelfDiff.palette import INK, SERIES
from GenSelfDiff.report.training_record import StageRecord
from utils_general import save_figure

MARKERS = ("o", "s", "^", "D")
STYLE = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,  # a class may be called $
}
WIDTH = 4.8  # inches of a panel: its text is legible on a phone
MOST_DOTS = 100  # images; more become a box plot
ROW = 0.8  # share of its row that a metric's strips fill
GOLDEN = 0.618  # ratio: its multiples, modulo 1, fill an interval evenly


@dataclass(frozen=True)
class Panel:
    """A part of a chart."""

    draw: Callable[[Axes], None]
    height: float = 3.3
    """inches"""


def save_png(panels: Sequence[Panel], path: Path) -> None:
    """All panels side by side as a picture on white; nothing without a panel."""
    if not panels:
        return
    size = WIDTH * len(panels), max(panel.height for panel in panels)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
        for panel, ax in zip(panels, axes[0], strict=True):
            panel.draw(ax)
        save_figure(figure, path)


def to_svg(panel: Panel, name: str, description: str) -> str:
    """One panel as an `<svg>` element to stand in a page: no colour of its own for text, no reference to outside.

    `name` makes its ids differ from those of the page's other charts; `description` is read out to the blind.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH, panel.height), layout="constrained")
        panel.draw(ax)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
        plt.close(figure)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    box = re.search(r'viewBox="[^"]*"', svg).group()
    start = f'<svg {box} role="img" aria-label="{escape(description)}" stroke-linejoin="round">'
    return start + svg[svg.index(">") + 1 :]


# --- training ---


def curves(stage: StageRecord) -> list[Panel]:
    """Losses of a training run over its epochs and, where the history has it, Dice; nothing without a history."""
    if stage.history is None:
        return []
    titles = {"loss": "loss an image", "dice": "Dice, pooled"}
    return [
        Panel(partial(draw_curve, history=stage.history, name=name, title=f"{stage.name}: {title}"))
        for name, title in titles.items()
        if f"train_{name}" in stage.history
    ]


# --- distribution over images ---


def distribution(images: pd.DataFrame) -> list[Panel]:
    """Every metric of every image, a dot each (a box above `MOST_DOTS` images): shares, and distances in pixels.

    `images` is `Evaluation.images`; of the metrics, the means over the classes.
    """
    known = [m for m in STANDARD.values() if m.label in images and images[m.label].notna().any()]
    kinds = {
        "each image: overlap and objects": [m for m in known if not m.unit],
        "each image: distances in pixels": [m for m in known if m.unit],
    }
    row = 0.1 + 0.12 * images.split.nunique()  # inches
    return [
        Panel(partial(_strips, images=images, metrics=group, title=title), 0.9 + row * len(group))
        for title, group in kinds.items()
        if group
    ]


def _strips(ax: Axes, images: pd.DataFrame, metrics: list[Metric], title: str) -> None:
    """A row a metric, in it a strip a split."""
    splits = list(images.split.unique())
    height = ROW / len(splits)
    for k, split in enumerate(splits):
        rows = images[images.split == split]
        colour, marker = SERIES[k % len(SERIES)], MARKERS[k % len(MARKERS)]
        for y, metric in enumerate(metrics):
            values, middle = rows[metric.label].dropna().to_numpy(float), y + (k - (len(splits) - 1) / 2) * height
            _strip(ax, values, middle=middle, height=height, colour=colour, marker=marker)
        ax.plot([], [], marker, ms=4.5, mew=0, color=colour, label=split)
    ax.plot([], [], "|", ms=9, mew=1.6, color=INK, label="median")
    ax.set_yticks(range(len(metrics)), [metric.name for metric in metrics])
    ax.set_ylim(len(metrics) - 0.4, -0.6)
    ax.set_xlim(0, None if metrics[0].unit else 1.02)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_title(title)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=4, handletextpad=0.2, borderaxespad=2.4)  # below the axis


def _strip(ax: Axes, values: np.ndarray, *, middle: float, height: float, colour: str, marker: str) -> None:
    """One split's values of a metric: a dot each and the median as a stroke, or a box where they are many."""
    if len(values) > MOST_DOTS:
        style = {part: {"color": colour} for part in ("boxprops", "whiskerprops", "capprops", "medianprops")}
        box = {"whis": (5, 95), "showfliers": False, "widths": height * 0.6, "manage_ticks": False}
        ax.boxplot(values, positions=[middle], orientation="horizontal", **box, **style)
    elif len(values):
        scatter = (np.arange(len(values)) * GOLDEN % 1 - 0.5) * height * 0.5  # spread evenly, the same each time
        ax.plot(np.sort(values), middle + scatter, marker, ms=4.5, mew=0, color=colour, alpha=0.75, clip_on=False)
        ax.vlines(np.median(values), middle - height * 0.42, middle + height * 0.42, color=INK, lw=1.6)


# --- confidence ---


def reliability(calibration: np.ndarray) -> list[Panel]:
    """How often the network is right where it is so sure, and how many pixels that is, from (bins, 3).

    Nothing for a method that does not say how sure it is.
    """
    if not tells_how_sure(calibration):
        return []
    return [Panel(partial(draw, calibration=calibration)) for draw in (_reliability, _confidence)]


def _lowest(calibration: np.ndarray) -> float:
    """The left edge of the first bin with a pixel: with two classes none is below 0.5."""
    return np.flatnonzero(calibration[:, 0]).min(initial=len(calibration) - 1) / len(calibration)


def _reliability(ax: Axes, calibration: np.ndarray) -> None:
    number, confidence, right = calibration[calibration[:, 0] > 0].T
    sure, correct = confidence / number, right / number
    low = _lowest(calibration)
    ax.plot([0, 1], [0, 1], "--", color=INK, lw=1, alpha=0.6, label="as sure as right")
    ax.vlines(sure, np.minimum(sure, correct), np.maximum(sure, correct), color=SERIES[1], lw=2.5, label="gap")
    ax.plot(sure, correct, "o-", color=SERIES[0], ms=4.5, lw=1.2, label="observed")
    ax.set_xlim(low, 1.01)
    ax.set_ylim(min(low, *correct) - 0.02 if len(correct) else low, 1.02)
    ax.set(xlabel="probability of the predicted class", ylabel="share of pixels that are right")
    ax.set_title(f"reliability: expected calibration error {calibration_error(calibration):.4f}")
    ax.grid()
    ax.legend()


def _confidence(ax: Axes, calibration: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(calibration) + 1)
    share = calibration[:, 0] / max(calibration[:, 0].sum(), 1)
    ax.bar(edges[:-1], share, 1 / len(calibration), align="edge", color=SERIES[0], edgecolor="none")
    ax.set_xlim(_lowest(calibration), 1.01)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set(xlabel="probability of the predicted class", title="confidence: share of all pixels")
    ax.grid(axis="y")


# --- confusion matrix ---


def shares(matrix: np.ndarray) -> np.ndarray:
    """The share of each true class (row) that was predicted as each class; (C, C), 0 where a class is absent."""
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def draw_confusion_matrix(matrix: np.ndarray, classes: list[str], path: Path) -> None:
    """Counts and the share of each true class, pooled over all pixels of the test images."""
    share = shares(matrix)
    size = 2.2 + 1.3 * len(classes)
    with plt.rc_context({"text.parse_math": False}):
        figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
        picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(matrix.shape):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, f"{share[i, j]:.1%}\n{matrix[i, j]:,}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(classes)), classes, rotation=20, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted class", ylabel="true class", title="pixels: share of the true class, and number")
        figure.colorbar(picture, shrink=0.7)
        save_figure(figure, path)
