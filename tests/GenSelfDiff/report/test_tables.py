"""Tables hold names of others: whatever these are, they show as themselves and nothing else breaks."""

import re

import pandas as pd
import pytest

from GenSelfDiff.report.tables import as_latex, as_markdown, latex, markdown

NASTY = [
    *("without_pretraining", "50 % & more", "cost_$5_and_$6", "a|b", "a\\|b", "{x}^2~#1", "<b>x</b>", "[0.1]", "*"),
    *("two\nlines", "\\end{table}", "\\input|ls", "[x](y)", "_x_", "`x`", "&amp;", "~~x~~", "# x", "\\", "é – 中"),
]
SHOWN = {f"\\{c}": c for c in "&%$#_{}"}
SHOWN |= {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">", "bar": "|"}
LATEX_TOKEN = re.compile(r"\\[&%$#_{}]|\\text([a-z]+)\{\}|\{\}|[^\\&%$#_{}~^<>|\n]")


def read_latex(text):
    """What TeX prints, by a small reading of it; a sign that it would take for a command fails."""
    shown, place = "", 0
    while place < len(text):
        token = LATEX_TOKEN.match(text, place)
        assert token, f"{text[place:]!r} is a command"
        shown += SHOWN[token[1]] if token[1] else "" if token[0] == "{}" else SHOWN.get(token[0], token[0])
        place = token.end()
    return shown


def read_markdown(line):
    """The cells of a row, as GitHub divides it."""
    cells = re.sub(r"\\(.)", lambda m: f"\0{ord(m[1]):06x}", line).split("|")
    return [re.sub("\0([0-9a-f]{6})", lambda m: chr(int(m[1], 16)), cell).strip() for cell in cells[1:-1]]


@pytest.fixture
def table():
    return pd.DataFrame(dict.fromkeys(NASTY, NASTY), index=pd.Index(NASTY, name="a_b"))


def test_latex_prints_every_name_as_it_is(table):
    lines = latex(table, "\n".join(NASTY)).splitlines()
    assert lines[0] == r"\begin{table}[htbp]" and lines[-1] == r"\end{table}"
    caption = lines[1].removeprefix(r"\caption{").removesuffix("}")
    assert read_latex(caption) == " ".join(n.replace("\n", " ") for n in NASTY)
    expected = [name.replace("\n", " ") for name in NASTY]
    rows = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in lines if line.endswith(r" \\")]
    assert [read_latex(cell) for cell in rows[0]] == ["a_b", *expected]
    assert [[read_latex(cell) for cell in row] for row in rows[1:]] == [[name] * len(rows[0]) for name in expected]
    assert not any(line.startswith(("[", "*")) for line in lines)  # after a row it would be an option of its end


def test_latex_of_plain_text_is_that_text():
    assert as_latex("0.700 [0.655, 0.748] (better)") == "0.700 [0.655, 0.748] (better)"


def test_markdown_shows_every_name_as_it_is(table):
    lines = markdown(table).splitlines()
    expected = [name.replace("\n", " ") for name in NASTY]
    assert read_markdown(lines[0]) == ["a_b", *expected] and len(lines) == len(NASTY) + 2
    assert [read_markdown(line) for line in lines[2:]] == [[name] * (len(NASTY) + 1) for name in expected]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("without_pretraining", "without_pretraining"), ("_x_", r"\_x\_"), ("a|b", r"a\|b"), ("a\\|b", r"a\\\|b"),
        ("0.7 [0.6, 0.8]", "0.7 [0.6, 0.8]"), ("[x](y)", r"[x]\(y)"), ("<b>", r"\<b>"), ("$x$", r"\$x\$"),
        ("# x", r"\# x"),
        ("-0.100", "-0.100"), ("*x*", r"\*x\*"), ("&amp;", r"\&amp;"), ("a\nb", "a b"),
    ],
)  # fmt: skip
def test_markdown_by_hand(name, written):
    assert as_markdown(name) == written
