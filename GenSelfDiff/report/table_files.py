"""The tables of a test as files: csv for programs, Markdown and LaTeX for people's texts."""

from pathlib import Path

import pandas as pd

from GenSelfDiff.evaluation.evaluate import Figures
from GenSelfDiff.report.tables import latex, markdown
from utils_general import replace_file

NOTHING = "–"  # stands for a figure that is undefined


def write_tables(figures: Figures, folder: Path) -> None:
    """`patches.csv` and `images.csv` with a row each, and `table.csv`, `table.md`, `table.tex` of the averages."""
    table = figures.table()
    figures.patches.to_csv(folder / "patches.csv", index=False)
    figures.images.to_csv(folder / "images.csv", index=False)
    table.to_csv(folder / "table.csv", index_label=["averaging", "figure"])
    parts = groups(table)
    texts = {
        "table.md": [f"**{averaging}**\n\n{markdown(group)}" for averaging, group in parts.items()],
        "table.tex": [latex(group, averaging) for averaging, group in parts.items()],
    }
    for name, text in texts.items():
        with replace_file(folder / name) as temporary:
            temporary.write_text("\n".join(text), encoding="utf-8")


def shown(name: str, value: float) -> str:
    """A figure as people read it: distances with two decimals, all else with four."""
    if pd.isna(value):
        return NOTHING
    return f"{value:.2f}" if is_distance(name) else f"{value:.4f}"


def is_distance(name: str) -> bool:
    """Whether a figure is a distance, by its name; all others are shares from 0 to 1."""
    return "Hausdorff" in name or "(px)" in name


def groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`Figures.table` by how it was averaged, each with a row a figure and a column a split, as text."""
    parts = {}
    for averaging, group in table.groupby(level=0, sort=False):
        named = group.droplevel(0).rename_axis("figure")
        columns = {split: [shown(name, value) for name, value in column.items()] for split, column in named.items()}
        parts[averaging] = pd.DataFrame(columns, index=named.index)
    return parts
