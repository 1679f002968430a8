"""The curve of a training run over its epochs: the same in the run's own folder and in the report of a test."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from GenSelfDiff.palette import INK, SERIES

FEW_EPOCHS = 30  # up to which every epoch gets a dot
WIDE = 10  # factor between highest and lowest value above which an axis is logarithmic


def draw_curve(ax: Axes, history: pd.DataFrame, name: str, title: str) -> None:
    """Draw columns `train_<name>` and `val_<name>` of a `history.csv` (a row an epoch), and ring the best epoch."""
    columns = {"training": f"train_{name}", "held out": f"val_{name}"}
    lines = {label: history[column] for label, column in columns.items() if column in history}
    dots = "o" if len(history) < FEW_EPOCHS else None
    for (label, values), colour in zip(lines.items(), SERIES, strict=False):
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
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > WIDE * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
