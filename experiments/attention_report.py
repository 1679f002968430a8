"""The tables of experiments/attention.py, from the rows of its finished runs."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.attention_arms import ARMS, FLOOR, JUDGED, PAYS, PLANNED, PRETEXT
from experiments.paired import adjusted, difference
from GenSelfDiff.comparison.statistics import LEVEL

OF_EACH_IMAGE = ("Dice", "AJI")
"""What a row has of each test image, beside the means"""
PUBLISHED = "published"


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

    "gain": both differences are surely above 0, that of `JUDGED` as it is and those `PLANNED` after Holm's correction
    for their number, and at least `PAYS`; and `JUDGED` is surely above `PRETEXT`, without whose rows there is no gain.
    `PUBLISHED` is left to be typed in from the paper.
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
            PUBLISHED: "",
        }
        rows.append(row | _against(table, arm, FLOOR))
    _adjust([row for row in rows if row["arm"] in PLANNED and "Dice p" in row])
    for row in rows:
        if row["arm"] not in (JUDGED, *PLANNED):
            row.update({name: np.nan for name in row if name.endswith(" p")})
        elif "Dice p" in row:
            sure = _surely_more(row, PAYS) and (row["arm"] != JUDGED or _surely_more(_against(table, JUDGED, PRETEXT)))
            row["gain"] = ("yes" if sure else "no") if row["seeds"] > 1 else "one seed"  # others might differ
    return pd.DataFrame(rows)


def _adjust(planned: list[dict[str, Any]]) -> None:
    """p of these rows, after Holm's correction for as many as are `PLANNED`."""
    for metric in OF_EACH_IMAGE:
        found = adjusted([row[f"{metric} p"] for row in planned], len(PLANNED))
        for row, p in zip(planned, found, strict=True):
            row[f"{metric} p"] = p


def _against(table: pd.DataFrame, arm: str, other: str) -> dict[str, Any]:
    """`compared` by all metrics."""
    return {k: v for metric in OF_EACH_IMAGE for k, v in compared(table, arm, other, metric).items()}


def _surely_more(told: dict[str, Any], least: float = 0.0) -> bool:
    """Whether all metrics are, and by that at least; not where nothing is told."""
    return bool(told) and all(
        told[f"{m} p"] < LEVEL and told[f"{m} more"] > 0 and told[f"{m} more"] >= least for m in OF_EACH_IMAGE
    )


def controls_of(table: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """A row an arm and a control of it: the difference, with its interval and its p as it is."""
    rows = [{"arm": a, "against": b} | _against(table, a, b) for a in arms for b in ARMS[a].controls]
    return pd.DataFrame([row for row in rows if len(row) > 2])
