"""The tables of experiments/paper_tables.py as files: csv for programs, Markdown, LaTeX, a picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.tables import typed_in
from experiments.table_runs import OF_EACH_IMAGE, PUBLISHED_MARK
from GenSelfDiff.intervals import mean_interval
from GenSelfDiff.metrics import PUBLISHED, STANDARD, UNDEFINED
from GenSelfDiff.report.tables import as_markdown, latex, markdown
from utils_general import replace_file, save_figure

SHOWN = ("Dice", "AJI", "PQ", "object F1", "object Dice", "HD95")
PUBLISHED_SHOWN = ("AJI", "Jaccard_score", "F1_score", "Hausdorff_distance")
PICTURED = ("Dice", "AJI")
PLACE = ["data set", "labelled images", "method"]
"""Columns of a row of `runs`, and of a table, by which a row of the table is known"""
PAPER = "paper"  # the column to be typed in


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a place in the table: of each figure the mean and the deviation over runs, the interval over images.

    `runs`: a row a run, with the columns `PLACE`, seed, and those of its record. The interval is that of the mean over
    images, each with its mean over the runs: it says what other images might change, the deviation what other seeds.
    """
    rows = []
    for place, of_place in runs.groupby(PLACE, sort=False):
        row: dict[str, Any] = dict(zip(PLACE, place, strict=True))
        row |= {"learning rate": of_place["learning rate"].iloc[0], "runs": len(of_place), "images": _images(of_place)}
        for name, values in _figures(of_place):
            row |= {name: values.mean(), f"{name} deviation": values.std()}
            if name in OF_EACH_IMAGE:
                row[f"{name} low"], row[f"{name} high"] = mean_interval(_by_image(of_place, name), 0, 1)
        row["hours"] = of_place[["seconds", "seconds of the test"]].sum(axis=None) / 3600
        row |= {name: _all_of(of_place, name) for name in ("commit", "torch", "machine")}
        rows.append(row)
    return pd.DataFrame(rows)


def _figures(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """The figures that these runs have, standard ones first."""
    for name in (*STANDARD, *(f"{PUBLISHED_MARK}{name}" for name in PUBLISHED)):
        if name in runs and runs[name].notna().any():
            yield name, runs[name]


def _by_image(runs: pd.DataFrame, name: str) -> np.ndarray:
    """Of each image the mean of a figure over the runs (images,)."""
    columns = [c for c in runs if c.startswith(f"{name} ") and runs[c].notna().any()]
    return runs[columns].mean().to_numpy(float)


def _all_of(runs: pd.DataFrame, name: str) -> str:
    """All that a column says of the runs; "unknown" among it where it says nothing of one, as rows of old do."""
    said = {"unknown" if pd.isna(value) else str(value) for value in runs.get(name, [None])}
    return ", ".join(sorted(said))


def _images(runs: pd.DataFrame) -> int:
    return int(runs["images"].iloc[0]) if "images" in runs else len(_by_image(runs, "Dice"))


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: mean ± deviation over runs [interval over images]."""
    several = table["labelled images"].nunique() > 1
    shown = {}
    if several:
        shown["labels"] = [str(n or "all") for n in table["labelled images"]]
    shown["runs"] = table["runs"].astype(str)
    for name in (*SHOWN, *(f"{PUBLISHED_MARK}{name}" for name in PUBLISHED_SHOWN)):
        if name in table:
            metric = PUBLISHED[name.removeprefix(PUBLISHED_MARK)] if name.startswith(PUBLISHED_MARK) else STANDARD[name]
            label = name if name.startswith(PUBLISHED_MARK) else metric.label
            shown[label] = [_cell(row, name, metric.digits - 1) for _, row in table.iterrows()]
    shown[PAPER] = table[PAPER]
    return pd.DataFrame(shown).set_index(pd.Index(table["method"], name="method"))


def _cell(row: pd.Series, name: str, digits: int) -> str:
    if pd.isna(row[name]):
        return UNDEFINED
    text = f"{row[name]:.{digits}f}"
    if not pd.isna(row[f"{name} deviation"]):
        text += f" ± {row[f'{name} deviation']:.{digits}f}"
    if not pd.isna(row.get(f"{name} low", np.nan)):
        text += f" [{row[f'{name} low']:.2f}, {row[f'{name} high']:.2f}]"
    return text


def write(runs: pd.DataFrame, title: str, about: dict[str, Any], folder: Path, name: str) -> None:
    """Write `name`.csv, .md, .tex and .png; `about`: what stands above the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    table = summarise(runs)
    table[PAPER] = typed_in(folder / f"{name}.csv", table, PAPER, PLACE)
    about = about | {"hours of these runs": f"{table['hours'].sum():.2g} (pre-training apart)"}
    about |= {"commit": _all_of(runs, "commit")}
    parts = list(table.groupby("data set", sort=False))
    lines = [f"# {title}", "", *(f"- {as_markdown(f'{k}: {v}')}" for k, v in about.items()), ""]
    lines += [
        "Mean over test images and runs ± deviation over runs (seeds, or draws) [95 % interval over images].",
        'Published figures are means over patches. The column "paper" is for the paper\'s own figures: type them into',
        "the csv file, they are kept.",
    ]
    tex = []
    for data, rows in parts:
        heading = f"{data}, {rows['images'].iloc[0]} images"
        lines += ["", f"## {as_markdown(heading)}", "", markdown(as_text(rows)).rstrip()]
        tex.append(latex(as_text(rows), f"{title}: {heading}. {about['settings']}"))
    for ending, text in (("md", "\n".join(lines) + "\n"), ("tex", "\n".join(tex))):
        with replace_file(folder / f"{name}.{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    with replace_file(folder / f"{name}.csv") as temporary:
        table.assign(**about).to_csv(temporary, index=False)
    draw(runs, table, folder / f"{name}.png")
    print("\n".join(lines[-len(table) - 6 :]))
    print(f"{name}.csv, {name}.md, {name}.tex and {name}.png are in {folder}")


def draw(runs: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """A panel a data set and figure: of each row the mean, the interval over images, and every run as a dot."""
    data = [*table["data set"].unique()]
    most = max(len(rows) for _, rows in table.groupby("data set"))
    size = (5.5 * len(PICTURED), (0.8 + 0.3 * most) * len(data))
    figure, panels = plt.subplots(len(data), len(PICTURED), figsize=size, layout="constrained", squeeze=False)
    for name, line in zip(data, panels, strict=True):
        rows = table[table["data set"] == name]
        for metric, panel in zip(PICTURED, line, strict=True):
            places = np.arange(len(rows))[::-1]
            for place, (_, row) in zip(places, rows.iterrows(), strict=True):
                if f"{metric} low" in row:
                    panel.plot([row[f"{metric} low"], row[f"{metric} high"]], [place] * 2, "-", color="0.75", lw=4)
                same = (runs[PLACE] == row[PLACE]).all(axis=1)
                panel.plot(runs[same][metric], [place] * same.sum(), ".", color="C0", alpha=0.5)
                panel.plot(row[metric], place, "|", color="k", ms=12)
            labels = [_label(row, table) for _, row in rows.iterrows()] if panel is line[0] else [""] * len(rows)
            panel.set_yticks(places, labels)
            panel.set(xlabel=f"{metric}, {name}")
            panel.grid(alpha=0.3, axis="x")
    save_figure(figure, path)


def _label(row: pd.Series, table: pd.DataFrame) -> str:
    several = table["labelled images"].nunique() > 1
    return f"{row['method']}, {row['labelled images'] or 'all'}" if several else row["method"]
