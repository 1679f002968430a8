"""The table and the curves of experiments/pretraining.py, from the rows of its finished runs."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.tables import write_table
from experiments.paired import difference
from experiments.questions import Question
from utils_general import save_figure

MEANS = ("object F1", "object Dice", "AJI")


def dice_by_draw(table: pd.DataFrame, arm: str, labelled: int) -> pd.DataFrame:
    """Dice of an arm: a row a draw, a column a test image; only draws that are done."""
    rows = table[(table.arm == arm) & (table["labelled images"] == labelled)].set_index("draw")
    return rows[[name for name in rows if name.startswith("Dice ")]].sort_index()


def row_of(table: pd.DataFrame, question: Question, arm: str, labelled: int) -> dict[str, Any] | None:
    """What the table says of an arm; None where no draw is done."""
    reference = dice_by_draw(table, question.arms[0], labelled)
    ours = dice_by_draw(table, arm, labelled)
    if ours.empty:
        return None
    runs = table[(table.arm == arm) & (table["labelled images"] == labelled)]
    row = {"labelled images": labelled, "arm": arm, "learning rate": runs["learning rate"].iloc[0], "draws": len(ours)}
    row |= {"Dice": ours.mean(axis=None), "deviation over draws": ours.mean(axis=1).std()}
    row |= {metric: runs[metric].mean() for metric in MEANS}
    shared = ours.index.intersection(reference.index)
    if arm != question.arms[0] and len(shared):
        told = difference(ours.loc[shared].to_numpy(), reference.loc[shared].to_numpy())
        row |= {"difference in Dice": told.mean, "low": told.low, "high": told.high}
        row["gain"] = "yes" if told.low > 0 and told.mean >= question.pays else "no"
        row["excluded"] = "yes" if told.high < question.pays else "no"
    return row


def draw_curves(table: pd.DataFrame, question: Question, path: Path) -> None:
    """Mean Dice over the number of labelled images, every draw a dot."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    numbers = sorted(question.draws)
    for i, arm in enumerate(question.arms):
        dots = {n: dice_by_draw(table, arm, n).mean(axis=1).to_numpy() for n in numbers}
        dots = {n: values for n, values in dots.items() if len(values)}
        shift = 1 + 0.03 * (i - len(question.arms) / 2)
        axes.plot([n * shift for n in dots], [v.mean() for v in dots.values()], "-o", color=f"C{i}", ms=5, label=arm)
        for n, values in dots.items():
            axes.plot(np.full(len(values), n * shift), values, ".", color=f"C{i}", alpha=0.35, ms=5)
    axes.set(xlabel="labelled images", ylabel="Dice, mean over test images", xscale="log")
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)


def choices(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Mean Dice on development images: a row an arm of the question, a column a learning rate."""
    rows = table[table.arm.isin(question.arms) & (table["labelled images"] == question.chosen_with)]
    means = rows.pivot_table(index="arm", columns="learning rate", values="Dice")
    means = means.reindex([arm for arm in question.arms if arm in means.index])
    means.columns = [f"Dice at {rate:g}" for rate in means.columns]
    return means.reset_index()


def report(question: Question, chosen: pd.DataFrame, tested: pd.DataFrame, output: Path) -> None:
    """Write choices.csv and .md of the runs on development images; table.csv and .md and curves.png of the tests."""
    written = ["choices.csv, choices.md"]
    write_table(choices(chosen, question), output / "choices")
    rows = [row_of(tested, question, arm, n) for n in sorted(question.draws) for arm in question.arms]
    if any(rows):
        written.append("table.csv, table.md, curves.png")
        write_table(pd.DataFrame([row for row in rows if row]), output / "table")
        draw_curves(tested, question, output / "curves.png")
    print(f"{', '.join(written)} are in {output}")
