"""README and docs as text: their code, their links and headings."""

import re
from collections.abc import Iterator
from pathlib import Path

from utils_general import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def fenced(text: str) -> Iterator[tuple[int, str, str]]:
    """Each fenced block: the line it begins in, its language ("" if it does not say) and its content."""
    for match in FENCE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1], match[2]


def prose(text: str) -> str:
    """The text without its fenced blocks; the lines keep their numbers."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def inline_code(text: str) -> Iterator[tuple[int, str]]:
    """Each piece of code between backticks, with its line; one that goes over two lines is joined."""
    without_blocks = prose(text)
    for match in INLINE_CODE.finditer(without_blocks):
        yield without_blocks.count("\n", 0, match.start()) + 1, " ".join(match[1].split())


def links(text: str) -> list[str]:
    """The targets of all links and pictures."""
    return LINK.findall(INLINE_CODE.sub("", prose(text)))


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings in links: lower case, without punctuation, hyphens for spaces."""
    titles = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(text)))
    return {title.replace(" ", "-") for title in titles}


def tables(text: str) -> Iterator[list[str]]:
    """The lines of each table."""
    for block in re.findall(r"(?:^\|.*\n)+", prose(text) + "\n", re.MULTILINE):
        yield block.splitlines()


def relative(page: Path) -> str:
    """The page's path inside the repository."""
    return page.relative_to(ROOT).as_posix()
