"""Tables of text as Markdown and as LaTeX."""

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A table of text as GitHub shows it; its index is the first column, to the left, all others to the right."""
    rows = [[table.index.name or "", *table.columns], *_rows(table)]
    lines = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    lines.insert(1, " | ".join(["---", *["---:"] * table.shape[1]]))
    return "".join(f"| {line} |\n" for line in lines)


def latex(table: pd.DataFrame, caption: str) -> str:
    """The same as a `table` environment, for a document that loads the package booktabs."""
    named = table.rename_axis(columns=None).reset_index()
    columns = "l" + "r" * table.shape[1]
    return named.to_latex(index=False, escape=True, caption=caption, column_format=columns, position="htbp")


def _rows(table: pd.DataFrame) -> list[list[object]]:
    return [[name, *cells] for name, cells in zip(table.index, table.to_numpy().tolist(), strict=True)]
