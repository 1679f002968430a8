"""README and docs hold together: links and headings, tables, one page of README, a purpose on every page."""

import re

import pytest

from tests.docs.pages import PAGES, anchors, fenced, links, prose, relative, tables
from utils_general import ROOT


def broken(page, text):
    """The links that lead nowhere; what is outside the repository is not looked at."""
    for target in links(text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield target
        elif anchor:
            known = anchors(text if file == page else file.read_text(encoding="utf-8"))
            if anchor not in known:
                yield target


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    assert not list(broken(page, page.read_text(encoding="utf-8")))


def test_broken_links_are_found():
    readme = ROOT / "README.md"
    text = """# A title, `with` code
[good](LICENSE) [here](#a-title-with-code) [outside](https://example.org/gone) `[no](link)`
[file](docs/gone.md) [anchor](#gone) ![picture](docs/gone.png) [both](docs/data.md#gone)

```bash
# [no](heading) in code
```
[code](#no-heading-in-code)
"""
    wrong = ["docs/gone.md", "#gone", "docs/gone.png", "docs/data.md#gone", "#no-heading-in-code"]
    assert list(broken(readme, text)) == wrong


def test_every_page_and_picture_can_be_reached():
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in links(page.read_text(encoding="utf-8"))
        if not re.match(r"\w+:", target)
    }
    shown = {file for pattern in ("*.md", "*.png") for file in (ROOT / "docs").glob(pattern)}
    assert not {relative(file) for file in shown - linked}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_tables_are_whole(page):
    for lines in tables(page.read_text(encoding="utf-8")):
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
        assert len(set(cells)) == 1 and re.fullmatch(r"[|\-: ]+", lines[1]), lines[0]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_lines_can_be_read_in_an_editor(page):
    text = page.read_text(encoding="utf-8")
    long = [line for line in prose(text).splitlines() if len(line) > 128 and not line.startswith("|")]
    long += [line for _, _, block in fenced(text) for line in block.splitlines() if len(line) > 128]
    assert not long


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=relative)
def test_page_says_what_it_is_for(page):
    title, empty, purpose, *_ = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ") and not empty and re.match(r"[A-Z].*\w", purpose)


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_room_is_on_the_map():
    """A folder of code that docs/architecture.md does not name is one that nobody finds."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    top = [ROOT / name for name in ("GenSelfDiff", "pre_process", "experiments", "benchmarks")]
    rooms = [room for folder in top for room in (folder, *folder.iterdir()) if room.is_dir() and any(room.glob("*.py"))]
    assert not [room.name for room in rooms if f"{room.name}/" not in text]
