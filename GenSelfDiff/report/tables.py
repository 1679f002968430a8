"""Tables of text as Markdown and as LaTeX. Names of others may hold any character: here they become harmless."""

import re

import pandas as pd

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    c: rf"\text{name}{{}}"
    for c, name in {
        "\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar",
    }.items()
}  # fmt: skip
# A table's border, an emphasis, a tag, an entity, code, a formula, a link or a heading; _ inside a word is a letter.
MARKDOWN = re.compile(r"[\\|*<&`~$]|(?<=\])[(\[]|(?<![^\W_])_|_(?![^\W_])|^[#>]")


def as_markdown(text: str) -> str:
    """A text that shows as itself in a line of Markdown, in a table or not."""
    return MARKDOWN.sub(r"\\\g<0>", _one_line(text))


def as_latex(text: str) -> str:
    """A text that shows as itself in a paragraph, a caption or a table of LaTeX."""
    escaped = "".join(LATEX.get(c, c) for c in _one_line(text))
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped  # after a row's end it would be an option


def markdown(table: pd.DataFrame) -> str:
    """A table of text as GitHub shows it; its index is the first column, to the left, all others to the right."""
    rows = [[table.index.name or "", *table.columns], *_rows(table)]
    lines = [" | ".join(as_markdown(str(cell)) for cell in row) for row in rows]
    lines.insert(1, " | ".join(["---", *["---:"] * table.shape[1]]))
    return "".join(f"| {line} |\n" for line in lines)


def latex(table: pd.DataFrame, caption: str) -> str:
    """The same as a `table` environment, for a document that loads the package booktabs."""
    rows = [[as_latex(str(cell)) for cell in row] for row in _rows(table)]
    head = [as_latex(str(name)) for name in (table.index.name or "", *table.columns)]
    columns = "l" + "r" * table.shape[1]
    return pd.DataFrame(rows, columns=head).to_latex(
        index=False, escape=False, caption=as_latex(caption), column_format=columns, position="htbp"
    )


def _one_line(text: str) -> str:
    """Without line breaks and other signs that control a printer."""
    return "".join(c if c.isprintable() else " " for c in text)


def _rows(table: pd.DataFrame) -> list[list[object]]:
    return [[name, *cells] for name, cells in zip(table.index, table.to_numpy().tolist(), strict=True)]
