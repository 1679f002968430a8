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
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from GenSelfDiff.report.table_files import is_distance
from GenSelfDiff.report.training_record import Stage
from utils_general import save_figure

INK = "#010203"  # black in a PNG; in an SVG it becomes the colour of the text around
COLOURS = ("#3d85c6", "#c9741f", "#8a6fc0", "#4f9a5b")  # told apart on white and on black
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


def curves(stage: Stage) -> list[Panel]:
    """Losses of a training run over its epochs and, where the history has it, Dice; nothing without a history."""
    if stage.history is None:
        return []
    titles = {"loss": "loss an image", "dice": "Dice, pooled"}
    return [
        Panel(partial(_curve, history=stage.history, figure=figure, title=f"{stage.name}: {title}"))
        for figure, title in titles.items()
        if f"train_{figure}" in stage.history
    ]


def _curve(ax: Axes, history: pd.DataFrame, figure: str, title: str) -> None:
    columns = {"training": f"train_{figure}", "held out": f"val_{figure}"}
    lines = {label: history[column] for label, column in columns.items() if column in history}
    dots = "o" if len(history) < 30 else None
    for (label, values), colour in zip(lines.items(), COLOURS, strict=False):
        ax.plot(history.epoch, values, marker=dots, markersize=4, color=colour, label=label)
    if "val_loss" in history and history.val_loss.notna().any() and "held out" in lines:
        best = history.val_loss.idxmin()
        ring = {"mfc": "none", "mec": INK, "markersize": 9, "label": "best epoch"}
        ax.plot(history.epoch[best], lines["held out"][best], "o", **ring)
    _logarithmic_if_wide(ax, pd.concat(lines).to_numpy())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(history) == 1:
        ax.set_xlim(history.epoch[0] - 1, history.epoch[0] + 1)  # else the ticks are thousandths of an epoch
    ax.set(xlabel="epoch", title=title)
    ax.grid(axis="y")
    ax.legend()


def _logarithmic_if_wide(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic axis where the values span more than one power of ten."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())


# --- distribution over images ---


def distribution(images: pd.DataFrame) -> list[Panel]:
    """Every figure of every image, a dot each (a box above `MOST_DOTS` images): ratios, and distances in pixels.

    `images` is `evaluation.Figures.images`; of the figures, those that are means over the classes.
    """
    names = [n for n in images if n not in ("source", "split") and ":" not in n and images[n].notna().any()]
    kinds = {
        "each image: overlap and objects": [n for n in names if not is_distance(n)],
        "each image: distances in pixels": [n for n in names if is_distance(n)],
    }
    row = 0.1 + 0.12 * images.split.nunique()  # inches
    return [
        Panel(partial(_strips, images=images, names=group, title=title), 0.9 + row * len(group))
        for title, group in kinds.items()
        if group
    ]


def _strips(ax: Axes, images: pd.DataFrame, names: list[str], title: str) -> None:
    """A row a figure, in it a line of dots a split, and the median as a stroke."""
    splits = list(images.split.unique())
    height = 0.8 / len(splits)
    for k, split in enumerate(splits):
        rows = images[images.split == split]
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        for y, name in enumerate(names):
            values, middle = rows[name].dropna().to_numpy(float), y + (k - (len(splits) - 1) / 2) * height
            if len(values) > MOST_DOTS:
                style = {part: {"color": colour} for part in ("boxprops", "whiskerprops", "capprops", "medianprops")}
                box = {"whis": (5, 95), "showfliers": False, "widths": height * 0.6, "manage_ticks": False}
                ax.boxplot(values, positions=[middle], orientation="horizontal", **box, **style)
            elif len(values):
                scatter = (np.arange(len(values)) * 0.618 % 1 - 0.5) * height * 0.5  # spread evenly, the same each time
                ax.plot(
                    np.sort(values), middle + scatter, marker, ms=4.5, mew=0, color=colour, alpha=0.75, clip_on=False
                )
                ax.vlines(np.median(values), middle - height * 0.42, middle + height * 0.42, color=INK, lw=1.6)
        ax.plot([], [], marker, ms=4.5, mew=0, color=colour, label=split)
    ax.plot([], [], "|", ms=9, mew=1.6, color=INK, label="median")
    ax.set_yticks(range(len(names)), [name.removesuffix(" (px)") for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, None if is_distance(names[0]) else 1.02)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_title(title)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=4, handletextpad=0.2, borderaxespad=2.4)  # below the axis


# --- confidence ---


def calibration_error(calibration: np.ndarray) -> float:
    """Expected calibration error (Guo et al., 2017) of `evaluation.Figures.calibration` (bins, 3).

    The mean over all pixels of the gap, bin by bin, between how sure the network was and how often it was right. NaN
    without a pixel.
    """
    number, confidence, right = calibration.T
    return float(np.abs(confidence - right).sum() / number.sum()) if number.sum() else float("nan")


def reliability(calibration: np.ndarray) -> list[Panel]:
    """How often the network is right where it is so sure, and how many pixels that is, from (bins, 3)."""
    return [Panel(partial(draw, calibration=calibration)) for draw in (_reliability, _confidence)]


def _lowest(calibration: np.ndarray) -> float:
    """The left edge of the first bin with a pixel: with two classes none is below 0.5."""
    return np.flatnonzero(calibration[:, 0]).min(initial=len(calibration) - 1) / len(calibration)


def _reliability(ax: Axes, calibration: np.ndarray) -> None:
    number, confidence, right = calibration[calibration[:, 0] > 0].T
    sure, correct = confidence / number, right / number
    low = _lowest(calibration)
    ax.plot([0, 1], [0, 1], "--", color=INK, lw=1, alpha=0.6, label="as sure as right")
    ax.vlines(sure, np.minimum(sure, correct), np.maximum(sure, correct), color=COLOURS[1], lw=2.5, label="gap")
    ax.plot(sure, correct, "o-", color=COLOURS[0], ms=4.5, lw=1.2, label="observed")
    ax.set_xlim(low, 1.01)
    ax.set_ylim(min(low, *correct) - 0.02 if len(correct) else low, 1.02)
    ax.set(xlabel="probability of the predicted class", ylabel="share of pixels that are right")
    ax.set_title(f"reliability: expected calibration error {calibration_error(calibration):.4f}")
    ax.grid()
    ax.legend()


def _confidence(ax: Axes, calibration: np.ndarray) -> None:
    edges = np.linspace(0, 1, len(calibration) + 1)
    share = calibration[:, 0] / max(calibration[:, 0].sum(), 1)
    ax.bar(edges[:-1], share, 1 / len(calibration), align="edge", color=COLOURS[0], edgecolor="none")
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
