"""Measurements of benchmarks/training.py to ratios, tables and a picture."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch

from benchmarks.tables import machine
from benchmarks.training_cases import ALL_CEILINGS, CEILINGS, COPY, OFF
from GenSelfDiff.report.tables import markdown
from utils_general import replace_file, save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZE = ["dim", "size", "batch"]
MEASURED = ["gflop", "parameters", "numbers", "seconds", "peak", "precision", "failure"]
BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2}  # of a number between two convolutions
ADAM = 28  # bytes a parameter: weight, gradient and both moments are read, all but the gradient are written
HEADINGS = [
    *("", "s an image", "images a second", "times faster (lowest-highest)", "GFLOP an image", "GFLOP/s"),
    *("of the convolution", "GB an image", "GB/s", "of the copy", "peak GiB", "times less memory"),
]
EXPLANATION = f"""\
Times are medians over the rounds; ratios are to "{OFF}" in the same round. GFLOP: forward and backward by the formulas,
two for each multiply-add. Of the convolution: of what a large one reaches, forward, in the same precision and run. GB:
what a step reads and writes at least: operands and results of each convolution, forward and backward, once each, and
Adam's numbers; all that lies between two convolutions is left out. Of the copy: of what a large copy in memory reads
and writes a second; small images may stay in a cache, which is faster.
"""


def summarise(measurements: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """One row a size and case: medians over the rounds, and ratios to "everything off" within the same round.

    gflop (of the formulas, an image: what checkpointing computes again is not counted), parameters (million), seconds
    (an image), images (a second), gib (peak memory), rounds, precision, rate (GFLOP/s), share (of the large
    convolution's in the same precision), gigabytes (an image, at least), bandwidth (these a second), copied (share of
    the large copy's), faster (with faster_lowest and faster_highest), less (times less memory), failure ("" if none).
    `order`: the cases as they are to follow each other.
    """
    rows = []
    measurements = measurements.reindex(columns=[*SIZE, "case", "round", *MEASURED])
    measurements = measurements.sort_values("case", key=lambda names: names.map(order.index), kind="stable")
    for size, at_size in measurements.groupby(SIZE, sort=False):
        off = at_size[at_size["case"] == OFF].set_index("round")
        for case, runs in at_size.set_index("round").groupby("case", sort=False):
            row: dict[str, Any] = {**dict(zip(SIZE, size, strict=True)), "case": case, "rounds": len(runs)}
            row |= runs[["gflop", "parameters", "numbers", "seconds"]].median().to_dict()
            row |= {"gib": runs["peak"].median() / 2**30, "precision": runs["precision"].iloc[0]}
            row |= {"images": 1 / row["seconds"], "rate": row["gflop"] / row["seconds"]}
            if case not in ALL_CEILINGS:
                faster = off["seconds"] / runs["seconds"]
                row |= {"faster": faster.median(), "faster_lowest": faster.min(), "faster_highest": faster.max()}
                row |= {"less": (off["peak"] / runs["peak"]).median()}
            rows.append(row | {"failure": next(iter(runs["failure"].dropna()), "")})
    return _shares(pd.DataFrame(rows))


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """With what each case reaches of the ceilings."""
    ceilings = table[table["case"].isin(CEILINGS.values())].groupby("precision")["rate"].median()
    table["share"] = table["rate"] / table["precision"].map(ceilings)
    adam = np.where(table["case"] == COPY, 0, ADAM * 1e6 * table["parameters"] / table["batch"])
    table["gigabytes"] = (table["precision"].map(BYTES) * table["numbers"] + adam) / 1e9
    table["bandwidth"] = table["gigabytes"] / table["seconds"]
    table["copied"] = table["bandwidth"] / table.loc[table["case"] == COPY, "bandwidth"].median()
    return table


def write_tables(table: pd.DataFrame, loader: pd.DataFrame, path: Path, device: str) -> str:
    """Write the tables as Markdown, one a size and one of the loader, and return the text."""
    lines = [f"On {machine(device)}, PyTorch {torch.__version__}.", "", EXPLANATION.rstrip()]
    for (dim, size, batch), at_size in table.groupby(SIZE, sort=False):
        rounds = at_size["rounds"].max()
        lines += ["", f"### dim {dim}, {size} x {size} pixels, batch {batch}; rounds: {rounds}", ""]
        rows = pd.DataFrame([cells(row) for row in at_size.to_dict("records")], columns=HEADINGS)
        lines += markdown(rows.set_index("")).splitlines()
    if len(loader):
        lines += ["", "### The loader alone", "", *loader_table(table, loader).splitlines()]
    text = "\n".join(lines) + "\n"
    with replace_file(path) as temporary:
        temporary.write_text(text)
    return text


def loader_table(table: pd.DataFrame, loader: pd.DataFrame) -> str:
    """Images a second by the number of workers, and what part that is of what the fastest step at each size takes."""
    read = loader["workers"].astype(str) + loader["cache"].map({True: ", --cache", False: ""})
    shown = pd.DataFrame(index=pd.Index(read, name="workers"))
    pixels, rates = loader["size"].iloc[0], loader["images_per_second"].to_numpy(float)
    numbers = [f"{rate:.4g}" if rate == rate else why for rate, why in zip(rates, loader["failure"], strict=True)]
    shown[f"{pixels} x {pixels} pixels: images a second"] = numbers
    ours = table[table["case"].str.startswith("all ") & (table["failure"] == "") & (table["size"] == pixels)]
    for (dim, batch), at_size in ours.groupby(["dim", "batch"], sort=False):
        fastest = at_size.loc[at_size["seconds"].idxmin()]
        heading = f'of the {fastest["images"]:.4g} that "{fastest["case"]}" takes at dim {dim}, batch {batch}'
        shown[heading] = [f"{rate:.0%}" if rate == rate else "" for rate in rates / fastest["images"]]
    return markdown(shown)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the Markdown table; a case that could not be measured says why."""
    if row["failure"]:
        return [row["case"], row["failure"], *[""] * (len(HEADINGS) - 2)]
    rate, share = f"{row['rate']:.0f}", _percent(row["share"])
    if row["case"] == COPY:
        return [row["case"], *[""] * 7, f"{row['bandwidth']:.0f}", "", "", ""]
    if row["case"] in ALL_CEILINGS:
        return [row["case"], *[""] * 4, rate, share, *[""] * 5]
    faster = "" if pd.isna(row["faster"]) else f"{row['faster']:.2f}"
    if faster and row["faster_lowest"] < row["faster_highest"]:
        faster += f" ({row['faster_lowest']:.2f}-{row['faster_highest']:.2f})"
    less = "" if pd.isna(row["less"]) else f"{row['less']:.2f}"
    speed = [f"{row['seconds']:.3g}", f"{row['images']:.4g}", faster, f"{row['gflop']:.3g}", rate, share]
    memory = [f"{row['gigabytes']:.3g}", f"{row['bandwidth']:.3g}", _percent(row["copied"]), f"{row['gib']:.2f}", less]
    return [row["case"], *speed, *memory]


def _percent(share: float) -> str:
    """Empty where there is no ceiling, as in a run for memory alone."""
    return "" if pd.isna(share) else f"{share:.0%}"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Bars of times faster (top) and times less memory (bottom) than everything off, a column a size."""
    shown = table[~table["case"].isin(ALL_CEILINGS) & (table["failure"] == "")]
    if shown.empty:  # nothing could be measured
        return
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
