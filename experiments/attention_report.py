"""The tables of experiments/attention.py, from the rows of its finished runs."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.attention_arms import ARMS, FLOOR, JUDGED, PAYS
from experiments.paired import difference
from GenSelfDiff.comparison.statistics import LEVEL, holm

OF_EACH_IMAGE = ("Dice", "AJI")
"""What a row has of each test image, beside the means"""


def of_images(table: pd.DataFrame, arm: str, metric: str) -> pd.DataFrame:
    """A metric of an arm: a row a seed, a column a test image."""
    rows = table[table.arm == arm].set_index("seed").sort_index()
    return rows[[name for name in rows if name.startswith(f"{metric} ")]].dropna(axis=1, how="all")


def compared(table: pd.DataFrame, arm: str, other: str, metric: str) -> dict[str, Any]:
    """The difference of two arms with its interval, over the seeds that both have; what has none is taken for each."""
    ours, theirs = of_images(table, arm, metric), of_images(table, other, metric)
    if arm == other or ours.empty or theirs.empty:
        return {}
    if theirs.index.tolist() == [0]:
        theirs = pd.DataFrame(np.repeat(theirs.to_numpy(), len(ours), 0), ours.index, theirs.columns)
    shared = ours.index.intersection(theirs.index)
    if not len(shared):
        return {}
    told = difference(ours.loc[shared].to_numpy(), theirs.loc[shared, ours.columns].to_numpy())
    return {f"{metric} more": told.mean, f"{metric} low": told.low, f"{metric} high": told.high, f"{metric} p": told.p}


def table_of(table: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """A row an arm: means and their deviation over seeds, hours of training, and the difference from the floor.

    "gain": both differences are surely above 0, the primary arm's as it is and all others after Holm's correction for
    their number, and at least `PAYS`. "published" is left to be typed in from the paper.
    """
    rows = []
    for arm in arms:
        runs = table[table.arm == arm]
        row = {"arm": arm, "seeds": len(runs)}
        for metric in OF_EACH_IMAGE:
            row |= {metric: runs[metric].mean(), f"{metric} deviation": runs[metric].std()}
        row |= {
            "object F1": runs["object F1"].mean(),
            "hours of training": runs["seconds"].mean() / 3600,
            "published": "",
        }
        rows.append(row | {k: v for m in OF_EACH_IMAGE for k, v in compared(table, arm, FLOOR, m).items()})
    others = [row for row in rows if "Dice p" in row and row["arm"] != JUDGED]
    for metric in OF_EACH_IMAGE:
        for row, p in zip(others, holm([row[f"{metric} p"] for row in others]).tolist(), strict=True):
            row[f"{metric} p"] = p
    for row in (row for row in rows if "Dice p" in row):
        sure = all(row[f"{m} p"] < LEVEL and row[f"{m} more"] >= PAYS for m in OF_EACH_IMAGE)
        row["gain"] = "yes" if sure else "no"
    return pd.DataFrame(rows)


def controls_of(table: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """A row an arm that has a control: the difference from it."""
    pairs = [(arm, ARMS[arm].control) for arm in arms if ARMS[arm].control]
    rows = [{"arm": a, "against": b} | {k: v for m in OF_EACH_IMAGE for k, v in compared(table, a, b, m).items()}
            for a, b in pairs]  # fmt: skip
    return pd.DataFrame([row for row in rows if len(row) > 2])
