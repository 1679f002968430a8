"""The tables of a test as files: csv for programs, Markdown and LaTeX for people's texts."""

from pathlib import Path

import pandas as pd

from GenSelfDiff.evaluation.evaluate import Evaluation
from GenSelfDiff.metrics import of_row
from GenSelfDiff.report.tables import latex, markdown
from utils_general import replace_file


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """`patches.csv` and `images.csv` (metrics, `tallies`) with a row each; `table.csv`, `.md`, `.tex` of averages."""
    table = evaluation.table()
    evaluation.patches.to_csv(folder / "patches.csv", index=False)
    pd.concat([evaluation.images, evaluation.tallies], axis=1).to_csv(folder / "images.csv", index=False)
    table.to_csv(folder / "table.csv", index_label=["averaging", "figure"])
    parts = groups(table)
    texts = {
        "table.md": [f"**{averaging}**\n\n{markdown(group)}" for averaging, group in parts.items()],
        "table.tex": [latex(group, averaging) for averaging, group in parts.items()],
    }
    for name, text in texts.items():
        with replace_file(folder / name) as temporary:
            temporary.write_text("\n".join(text), encoding="utf-8")


def groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`Evaluation.table` by how it was averaged, each with a row a metric and a column a split, as text."""
    parts = {}
    for averaging, group in table.groupby(level=0, sort=False):
        rows = group.droplevel(0).rename_axis("figure")
        metrics = [of_row(averaging, name) for name in rows.index]
        columns = {
            split: [metric.text(value) for metric, value in zip(metrics, values, strict=True)]
            for split, values in rows.items()
        }
        parts[averaging] = pd.DataFrame(columns, index=rows.index)
    return parts
