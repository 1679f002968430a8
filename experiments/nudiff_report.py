"""The tables and the picture of experiments/nudiff.py, from the rows of its finished runs."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.tables import write_table
from experiments.paired import adjusted, difference
from utils_general import save_figure

SECONDS_BEFORE = "seconds before"  # the fine-tuning: of all that the arm needs, pre-training, networks, pairs
PERCENT, ARM, DRAW = "percent of the labels", "arm", "draw"
METRICS = ("Dice", "AJI", "object F1")
COMPARED = ("Dice", "AJI")
REAL, SYNTHETIC = "real", "real + synthetic"
AGAINST = {f"{SYNTHETIC}, from the pre-training": f"{REAL}, from the pre-training"}
"""what an arm is compared with, if not with `REAL`"""
JUDGED = (10, SYNTHETIC, "AJI")
"""the one difference, to "real", that was named before any run: its p stands as it is, all others are adjusted"""
PUBLISHED_COLUMNS = [(network, data) for network in ("HoVer-Net", "PFF-Net") for data in ("MoNuSeg", "Kumar")]
PUBLISHED = {
    10: (
        (0.7969, 0.6344, 0.8291, 0.6785),
        (0.8040, 0.5939, 0.8049, 0.6161),
        (0.7489, 0.5290, 0.7764, 0.5618),
        (0.7685, 0.5965, 0.8051, 0.6458),
    ),
    20: (
        (0.8118, 0.6501, 0.8219, 0.6657),
        (0.8078, 0.6098, 0.8192, 0.6255),
        (0.7691, 0.5629, 0.7891, 0.5927),
        (0.7786, 0.6087, 0.8019, 0.6400),
    ),
    50: (
        (0.8182, 0.6603, 0.8291, 0.6764),
        (0.8175, 0.6201, 0.8158, 0.6307),
        (0.7663, 0.5661, 0.7902, 0.5998),
        (0.7797, 0.6175, 0.8104, 0.6524),
    ),
    100: (
        (0.8206, 0.6652, 0.8336, 0.6810),
        (0.8150, 0.6183, 0.8210, 0.6301),
        (0.7809, 0.5708, 0.7872, 0.5860),
        (0.8032, 0.6461, 0.8125, 0.6550),
    ),
}
"""Yu et al., 2023: by the percentage, of each column: Dice and AJI of real, then of real and synthetic labels.

Without seeds, at equal epochs, so for more steps with more patches; other networks, image sizes and shares than ours.
As a translation of the paper gives it: it was not held against the paper itself.
"""


def by_draw(rows: pd.DataFrame, percent: int, arm: str, metric: str) -> pd.DataFrame:
    """A metric of an arm: a row a draw, a column a test image."""
    ours = rows[(rows[PERCENT] == percent) & (rows[ARM] == arm)].set_index(DRAW).sort_index()
    columns = [name for name in ours if name.startswith(f"{metric} ")]
    return ours[columns].dropna(axis=1, how="all")


def row_of(rows: pd.DataFrame, percent: int, arm: str) -> dict[str, Any] | None:
    """What the table says of an arm; None where no draw is done."""
    ours = rows[(rows[PERCENT] == percent) & (rows[ARM] == arm)]
    if ours.empty:
        return None
    row = {PERCENT: percent, ARM: arm, "draws": len(ours), "steps": int(ours["steps"].iloc[0])}
    row["hours"] = ours[["seconds", "seconds of the test", SECONDS_BEFORE]].sum(axis=None) / 3600
    for metric in METRICS:
        row |= {metric: ours[metric].mean(), f"{metric} deviation": ours[metric].std()}
    for metric in COMPARED if arm != REAL else ():
        mine, theirs = (by_draw(rows, percent, name, metric) for name in (arm, AGAINST.get(arm, REAL)))
        shared = mine.index.intersection(theirs.index)
        if len(shared):
            told = difference(mine.loc[shared].to_numpy(), theirs.loc[shared].to_numpy())
            row |= {f"{metric} gain": told.mean, f"{metric} low": told.low, f"{metric} high": told.high}
            row[f"{metric} p"] = told.p
    return row


def adjust(rows: list[dict[str, Any]], planned: list[tuple[int, str]]) -> None:
    """Each p but the judged one adjusted for the number of differences (Holm) in all metrics together: of `planned`,
    shares of the labels and arms, run or not."""
    family = {(*which, metric) for which in planned for metric in COMPARED if which[1] != REAL} - {JUDGED}
    found = {
        place: row
        for row in rows
        for metric in COMPARED
        if f"{metric} p" in row and (place := (row[PERCENT], row[ARM], metric)) != JUDGED
    }
    known = [row[f"{metric} p"] for (*_, metric), row in found.items()]
    for ((*_, metric), row), p in zip(found.items(), adjusted(known, len(family | {*found})), strict=True):
        row[f"{metric} adjusted p"] = p


def judgement(rows: list[dict[str, Any]]) -> str:
    """What the judged difference is, in a line."""
    percent, arm, metric = JUDGED
    named = f"named beforehand: {metric} of {arm} less that of {REAL}, at {percent} % of the labels"
    for row in rows:
        if (row[PERCENT], row[ARM]) == (percent, arm) and f"{metric} p" in row:
            gain, low, high, p = (row[f"{metric} {name}"] for name in ("gain", "low", "high", "p"))
            return f"{named}: {gain:+.3f} ({low:+.3f} to {high:+.3f}), p {p:.2g}, of {row['draws']} draws"
    return f"{named}: not run yet"


def published() -> pd.DataFrame:
    """The published table, marked as such."""
    rows = []
    for percent, values in PUBLISHED.items():
        for (network, data), figures in zip(PUBLISHED_COLUMNS, values, strict=True):
            for arm, dice, aji in ((REAL, *figures[:2]), (SYNTHETIC, *figures[2:])):
                where = {"source": "published, unchecked", "network": network, "data set": data}
                rows.append(where | {PERCENT: percent, ARM: arm, "Dice": dice, "AJI": aji})
    return pd.DataFrame(rows)


def draw_gains(rows: list[dict[str, Any]], arms: list[str], path: Path) -> None:
    """Dice and AJI over the share of the labels, a line an arm, and ours alone: the published ones are others'."""
    table = pd.DataFrame(rows)
    figure, panels = plt.subplots(1, len(COMPARED), figsize=(10, 4.2), layout="constrained")
    for panel, metric in zip(panels, COMPARED, strict=True):
        for i, arm in enumerate(arms):
            ours = table[table[ARM] == arm]
            shift = 1 + 0.02 * (i - len(arms) / 2)
            deviation = np.nan_to_num(ours[f"{metric} deviation"].to_numpy(float))
            panel.errorbar(ours[PERCENT] * shift, ours[metric], deviation, fmt="-o", ms=4, color=f"C{i}", label=arm)
        panel.set(xlabel=PERCENT, ylabel=f"{metric}, mean over test images", xscale="log")
        panel.set_xticks(sorted(table[PERCENT].unique()), [str(p) for p in sorted(table[PERCENT].unique())])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def report(rows: pd.DataFrame, arms: list[str], planned: list[tuple[int, str]], output: Path) -> None:
    """Write table.csv and .md, published.csv and .md, and gains.png; `planned`: see `adjust`."""
    percents = sorted(rows[PERCENT].unique())
    found = [row for percent in percents for arm in arms if (row := row_of(rows, percent, arm))]
    adjust(found, planned)
    write_table(pd.DataFrame(found), output / "table")
    write_table(published(), output / "published")
    draw_gains(found, arms, output / "gains.png")
    print(judgement(found))
    print(f"table.csv, table.md, published.csv, published.md and gains.png are in {output}")
