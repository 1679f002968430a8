"""Measurements of benchmarks/training.py to ratios, tables and a picture."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch

from benchmarks.tables import machine
from benchmarks.training_cases import CEILINGS, OFF
from utils_general import replace_file, save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZE = ["dim", "size", "batch"]
MEASURED = ["gflop", "parameters", "seconds", "peak", "precision", "failure"]
HEADINGS = [
    *("", "s an image", "times faster (lowest-highest)", "GFLOP an image", "GFLOP/s", "of the ceiling"),
    *("peak GiB", "times less memory"),
]


def summarise(measurements: pd.DataFrame) -> pd.DataFrame:
    """One row a size and case: medians over the rounds, and ratios to "everything off" within the same round.

    gflop (of the formulas, an image: what checkpointing computes again is not counted), parameters (million), seconds
    (an image), gib (peak memory), rounds, precision, rate (GFLOP/s), share (of the large convolution's in the same
    precision), faster (with faster_lowest and faster_highest), less (times less memory), failure ("" if none).
    """
    rows = []
    for size, at_size in measurements.reindex(columns=[*SIZE, "case", "round", *MEASURED]).groupby(SIZE, sort=False):
        off = at_size[at_size["case"] == OFF].set_index("round")
        for case, runs in at_size.set_index("round").groupby("case", sort=False):
            row: dict[str, Any] = {**dict(zip(SIZE, size, strict=True)), "case": case, "rounds": len(runs)}
            row |= runs[["gflop", "parameters", "seconds"]].median().to_dict()
            row |= {"gib": runs["peak"].median() / 2**30, "precision": runs["precision"].iloc[0]}
            row |= {"rate": row["gflop"] / row["seconds"]}
            if case not in CEILINGS.values():
                faster = off["seconds"] / runs["seconds"]
                row |= {"faster": faster.median(), "faster_lowest": faster.min(), "faster_highest": faster.max()}
                row |= {"less": (off["peak"] / runs["peak"]).median()}
            rows.append(row | {"failure": next(iter(runs["failure"].dropna()), "")})
    table = pd.DataFrame(rows)
    ceilings = table[table["case"].isin(CEILINGS.values())].groupby("precision")["rate"].median()
    table["share"] = table["rate"] / table["precision"].map(ceilings)
    return table


def write_tables(table: pd.DataFrame, path: Path, device: str) -> str:
    """Write the tables as Markdown, one a size, and return the text."""
    lines = [
        f"On {machine(device)}, PyTorch {torch.__version__}. Times are medians over the rounds; ratios are to "
        f'"{OFF}" in the same round. GFLOP: forward and backward by the formulas, two for each multiply-add. '
        "Ceiling: a large convolution, forward, in the same precision and run."
    ]
    for (dim, size, batch), at_size in table.groupby(SIZE, sort=False):
        rounds = at_size["rounds"].max()
        lines += ["", f"### dim {dim}, {size} x {size} pixels, batch {batch}; rounds: {rounds}", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in at_size.to_dict("records")]
    text = "\n".join(lines) + "\n"
    with replace_file(path) as temporary:
        temporary.write_text(text)
    return text


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the Markdown table; a case that could not be measured says why."""
    if row["failure"]:
        return [row["case"], row["failure"], *[""] * (len(HEADINGS) - 2)]
    faster = f"{row['faster']:.2f} ({row['faster_lowest']:.2f}-{row['faster_highest']:.2f})"
    share = "" if pd.isna(row["share"]) else f"{row['share']:.0%}"  # a run for memory alone has no ceiling
    speed = [f"{row['seconds']:.3g}", faster, f"{row['gflop']:.3g}", f"{row['rate']:.0f}", share]
    if row["case"] in CEILINGS.values():
        return [row["case"], "", "", "", *speed[3:], "", ""]
    return [row["case"], *speed, f"{row['gib']:.2f}", f"{row['less']:.2f}"]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Bars of times faster (top) and times less memory (bottom) than everything off, a column a size."""
    shown = table[~table["case"].isin(CEILINGS.values()) & (table["failure"] == "")]
    names = shown["case"].drop_duplicates().tolist()
    sizes = list(shown.groupby(SIZE, sort=False))
    shape = (3 + 2.5 * len(sizes), 2 * (1 + 0.22 * len(names)))
    figure, axes = plt.subplots(2, len(sizes), figsize=shape, squeeze=False, sharey=True, layout="constrained")
    for (top, bottom), ((dim, size, batch), rows) in zip(axes.T, sizes, strict=True):
        rows = rows.set_index("case").reindex(names)
        spread = [rows["faster"] - rows["faster_lowest"], rows["faster_highest"] - rows["faster"]]
        top.barh(names, rows["faster"], xerr=spread, color="tab:blue")
        bottom.barh(names, rows["less"], color="tab:orange")
        top.set(title=f"dim {dim}, {size} px, batch {batch}", xlabel="times faster")
        bottom.set(xlabel="times less memory")
    for axis in axes.flat:
        axis.axvline(1, color="black", linewidth=0.8)
    axes[0, 0].invert_yaxis()  # shared: the first case is at the top everywhere
    save_figure(figure, path)
