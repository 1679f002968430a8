"""The table and the curves of experiments/pretraining.py, from the rows of its finished runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.tables import write_table
from experiments.organs import organ_of
from experiments.paired import adjusted, difference
from experiments.questions import ARMS, Question
from GenSelfDiff.comparison.statistics import LEVEL
from utils_general import InputError, save_figure

MEANS = ("object F1", "object Dice", "AJI")
TRIVIAL = {"all foreground": "foreground", "Otsu": "otsu"}
"""Methods that learn nothing, by their names in the table: those of baselines.py"""
SEED = "pre-training seed"


def dice_by_draw(table: pd.DataFrame, arm: str, labelled: int) -> pd.DataFrame:
    """Dice of an arm: a row a draw, a column a test image; only draws that are done.

    `InputError` where a draw was done twice, at two learning rates: the test images would choose.
    """
    rows = rows_of(table, arm, labelled).set_index("draw")
    if rows["learning rate"].nunique() > 1:
        raise InputError(
            f"{arm} with {labelled} labelled images was tested at several learning rates: remove the rows of those "
            "that are not the one chosen on development images"
        )
    return rows[[name for name in rows if name.startswith("Dice ")]].sort_index()


def rows_of(table: pd.DataFrame, arm: str, labelled: int) -> pd.DataFrame:
    """The finished runs of an arm."""
    return table[(table.arm == arm) & (table["labelled images"] == labelled)]


def row_of(table: pd.DataFrame, question: Question, arm: str, labelled: int) -> dict[str, Any] | None:
    """What the table says of an arm; None where no draw is done."""
    ours, runs = dice_by_draw(table, arm, labelled), rows_of(table, arm, labelled)
    if ours.empty:
        return None
    row = {"labelled images": labelled, "arm": arm, "learning rate": runs["learning rate"].iloc[0], "draws": len(ours)}
    row |= {"Dice": ours.mean(axis=None), "deviation over draws": ours.mean(axis=1).std()}
    row |= {metric: runs[metric].mean() for metric in MEANS}
    return row | compared(table, question, arm, question.arms[0], labelled)


def compared(
    table: pd.DataFrame, question: Question, arm: str, other: str, labelled: int, part: str = ""
) -> dict[str, Any]:
    """The difference in Dice of two arms over the draws that both have; nothing where there are none.

    Of the test images whose names begin with `part` alone.
    """
    ours, theirs = (
        found[[name for name in found if name.startswith(f"Dice {part}")]]
        for found in (dice_by_draw(table, name, labelled) for name in (arm, other))
    )
    shared = ours.index.intersection(theirs.index)
    if arm == other or not len(shared):
        return {}
    gains = ours.loc[shared] - theirs.loc[shared]
    told = difference(ours.loc[shared].to_numpy(), theirs.loc[shared].to_numpy())
    seeds = pd.to_numeric(rows_of(table, arm, labelled).set_index("draw")[SEED], errors="coerce")  # not from scratch
    by_seed = gains.mean(axis=1).groupby(seeds.loc[shared]).mean()
    row = {"paired draws": len(shared), "difference in Dice": told.mean, "low": told.low, "high": told.high}
    row |= {"by seed of pre-training": ", ".join(f"{value:+.3f}" for value in by_seed), "p": told.p}
    return row | {"excluded": "yes" if told.high < question.pays else "no"}


def judge(rows: list[dict[str, Any]], question: Question, trivial: float) -> None:
    """Say of each difference whether it is a gain: sure, large enough, and both arms better than what learns nothing.

    The question's primary arm, with the labelled images that choices were made with, is one comparison; the p of all
    others are adjusted for their number (Holm), of which are all that the question plans, run or not.
    """
    others = {place: row for row in rows if "p" in row and (place := _place(row)) != question.primary}
    planned = {*others, *question.compared} - {question.primary}
    for row, p in zip(others.values(), adjusted([row["p"] for row in others.values()], len(planned)), strict=True):
        row["adjusted p"] = p
    for row in (row for row in rows if "p" in row):
        row.setdefault("adjusted p", row["p"])
        sure = row["adjusted p"] < LEVEL and row["difference in Dice"] >= question.pays
        beaten = row["Dice"] - row["difference in Dice"] > trivial
        row["gain"] = ("yes" if beaten else "below trivial") if sure else "no"
        if row["paired draws"] == 1:
            row["gain"] = "one draw"  # its p is over images alone: others might differ
        if row["arm"] in ARMS and ARMS[row["arm"]].more_steps > 0:
            row["gain"] = "longer"  # than the first arm: `controls` compares like with like


def _place(row: dict[str, Any]) -> tuple[str, int]:
    return row["arm"], row["labelled images"]


def controls(table: pd.DataFrame, question: Question) -> list[dict[str, Any]]:
    """Pre-trained arms against the same weights shuffled, and against scratch with more steps: what a gain is of."""
    plans = {name: ARMS[name] for name in question.arms}
    rows = []
    for n in sorted(question.draws):
        for name, arm in plans.items():
            for other, control in plans.items():
                same = control.pretraining == arm.pretraining and control.more_steps == arm.more_steps
                shuffled = control.start == "shuffled" and same
                longer = control.start == "scratch" and control.more_steps >= max(1, arm.more_steps)
                if arm.start == "pre-trained" and (shuffled or longer):
                    told = compared(table, question, name, other, n)
                    rows += [{"labelled images": n, "arm": name, "against": other, **told}] if told else []
    return rows


def parts(table: pd.DataFrame, question: Question) -> list[dict[str, Any]]:
    """Each arm against the first on the test images of each part alone: does a gain grow where images are others?"""
    return [
        {"labelled images": n, "arm": arm, "test images": part, **told}
        for n in sorted(question.draws)
        for arm in question.arms
        for part in question.parts
        if (told := compared(table, question, arm, question.arms[0], n, part))
    ]


def by_organ(table: pd.DataFrame, question: Question, labelled: dict[int, str]) -> list[dict[str, Any]]:
    """Each arm against the first where one image is labelled, on test images of its organ, and of all others.

    `labelled` is the image of each draw. The test images differ from draw to draw: the interval is over draws.
    """
    rows = []
    for arm in question.arms[1:]:
        ours, theirs = (dice_by_draw(table, name, 1) for name in (arm, question.arms[0]))
        shared = [draw for draw in ours.index.intersection(theirs.index) if organ_of(labelled[draw])]
        for where in ("the labelled organ", "other organs"):
            pairs = []
            for draw in shared:
                same = [organ_of(name.removeprefix("Dice ")) == organ_of(labelled[draw]) for name in ours]
                seen = np.array(same) == (where == "the labelled organ")
                if seen.any():
                    pairs.append([[found.loc[draw].to_numpy()[seen].mean()] for found in (ours, theirs)])
            if pairs:
                told = difference(*np.swapaxes(pairs, 0, 1))
                rows.append({"arm": arm, "test images": where, "draws": len(pairs), "Dice": np.mean(pairs, 0)[0, 0]})
                rows[-1] |= {"difference in Dice": told.mean, "low": told.low, "high": told.high, "p": told.p}
    return rows


def draw_curves(asked: list[tuple[Question, pd.DataFrame]], path: Path) -> None:
    """Mean Dice over the number of labelled images, every draw a dot; the rows of questions that continue each other.

    The line through what learns nothing is that of the first table.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    numbers = sorted({n for question, _ in asked for n in question.draws})
    arms = [*dict.fromkeys(arm for question, _ in asked for arm in question.arms)]
    for i, arm in enumerate(arms):
        of_arm = [(question, table) for question, table in asked if arm in question.arms]
        found = {n: dice_by_draw(table, arm, n) for question, table in of_arm for n in sorted(question.draws)}
        dots = {n: of_draws.mean(axis=1).to_numpy() for n, of_draws in found.items() if len(of_draws)}
        if not dots:
            continue
        shift = 1 + 0.03 * (i - len(arms) / 2)
        axes.plot([n * shift for n in dots], [v.mean() for v in dots.values()], "-o", color=f"C{i}", ms=5, label=arm)
        for n, values in dots.items():
            axes.plot(np.full(len(values), n * shift), values, ".", color=f"C{i}", alpha=0.35, ms=5)
    for name, style in zip(TRIVIAL, (":", "-."), strict=True):
        if len(of_all := rows_of(asked[0][1], name, 0)):
            axes.axhline(of_all["Dice"].iloc[0], color="black", linestyle=style, linewidth=0.8, label=name)
    axes.set(xlabel="labelled images", ylabel="Dice, mean over test images", xscale="log")
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(framealpha=1, edgecolor="none")
    save_figure(figure, path)


def choices(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Mean Dice on development images: a row an arm of the question, a column a learning rate."""
    rows = table[table.arm.isin(question.arms) & (table["labelled images"] == question.chosen_with)]
    means = rows.pivot_table(index="arm", columns="learning rate", values="Dice")
    means = means.reindex([arm for arm in question.arms if arm in means.index])
    means.columns = [f"Dice at {rate:g}" for rate in means.columns]
    return means.reset_index()


def report(
    question: Question,
    chosen: pd.DataFrame,
    tested: pd.DataFrame,
    labelled: dict[int, str],
    output: Path,
    continued: Sequence[tuple[Question, pd.DataFrame]] = (),
) -> None:
    """Write choices.csv and .md of runs on development images; of the tests, table, controls, parts and curves.png.

    `labelled`: the image of each draw of one. `continued`: what else the curves show, a question with its tests.
    """
    written = ["choices.csv, choices.md"]
    write_table(choices(chosen, question), output / "choices")
    found = [row_of(tested, question, arm, n) for n in sorted(question.draws) for arm in question.arms]
    if rows := [row for row in found if row]:
        trivial = [row for name in TRIVIAL if (row := row_of(tested, question, name, 0))]
        judge(rows, question, max((row["Dice"] for row in trivial), default=0.0))
        written.append("table.csv, table.md, curves.png")
        write_table(pd.DataFrame([*trivial, *rows]), output / "table")
        draw_curves([(question, tested), *continued], output / "curves.png")
    told = {"controls": controls(tested, question), "parts": parts(tested, question)}
    for name, more in (told | {"organs": by_organ(tested, question, labelled)}).items():
        if more:
            written.append(f"{name}.csv, {name}.md")
            write_table(pd.DataFrame(more), output / name)
    print(f"{', '.join(written)} are in {output}")
