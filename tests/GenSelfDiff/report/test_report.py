"""The results folder and its page: what is told, what fails safely, and how it looks in a browser."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from GenSelfDiff.evaluation.calibration import calibration_error
from GenSelfDiff.evaluation.evaluate import Evaluation, evaluate
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.metrics import UNDEFINED, of_row
from GenSelfDiff.report import charts, image_figures
from GenSelfDiff.report import results as report
from GenSelfDiff.report.page import Facts, duration, text, write_page
from GenSelfDiff.report.table_files import write_tables
from GenSelfDiff.report.tables import as_latex, as_markdown
from GenSelfDiff.report.training_record import StageRecord
from tests.GenSelfDiff.conftest import NASTY
from tests.GenSelfDiff.report.browser import Browser, executable

VOID = {"meta", "link", "input", "img", "br", "path", "use", "rect", "line", "circle"}


class Page(HTMLParser):
    """A page taken apart: its text, attributes by name, and whether every element is closed where it should be."""

    def __init__(self, source):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], {}, []
        self.feed(source)
        self.close()
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="session")
def source(tested):
    return (tested.folder / "report.html").read_text()


@pytest.fixture(scope="session")
def parsed(source):
    return Page(source)


# --- what the folder holds ---


def test_everything_is_beside_the_page(tested):
    names = {f.name for f in tested.folder.glob("[!.]*")}
    assert names == {
        *("table.csv", "table.md", "table.tex", "patches.csv", "images.csv", "summary.json", "report.html"),
        *("curves.png", "distribution.png", "reliability.png", "confusion_matrix.png", "examples", "label_maps"),
    }
    images = pd.read_csv(tested.folder / "images.csv").sort_values("Dice", ascending=False, kind="stable").source
    ranks = {f"best_{images.iloc[0]}.png", f"median_{images.iloc[2]}.png", f"worst_{images.iloc[4]}.png"}
    assert {f.name for f in (tested.folder / "examples").iterdir()} == ranks
    summary = json.loads((tested.folder / "summary.json").read_text())
    calibration = np.array(summary["calibration"])
    assert calibration[:, 0].sum() == 5 * 32 * 32
    assert summary["expected calibration error"] == pytest.approx(calibration_error(calibration))
    assert summary["seconds"].keys() == {"all", "network", "pictures"}
    assert summary["seconds"]["all"] > summary["seconds"]["pictures"] > 0


def test_the_charts_show_the_sums_of_all_splits(tested, monkeypatch, tmp_path):
    """The confusion matrix as drawn: the pixels of five images of three splits, 32 by 32 each."""
    drawn, settings = [], InstanceSettings(minimum_area=1)
    monkeypatch.setattr(report.charts, "draw_confusion_matrix", lambda matrix, *_: drawn.append(matrix))
    monkeypatch.setattr(report.charts, "save_png", lambda *_: None)
    monkeypatch.setattr(report, "draw_examples", lambda *_: [])
    monkeypatch.setattr(report, "write_page", lambda *_: None)
    scores = [s for _, s in evaluate(tested.method.predict, tested.patches, tested.method.classes, settings)]
    evaluation = Evaluation.of(scores, tested.patches, tested.method.classes, settings)
    facts = Facts(name="", evaluation=evaluation, patches=tested.patches, settings={}, stages=[], seconds={})
    report.draw_report(tmp_path, facts)
    assert len(evaluation.matrices) == 3 and (drawn[0] == sum(s.matrix for s in scores)).all()
    assert drawn[0].sum() == 5 * 32 * 32


def test_the_tables_agree_in_all_forms(tested, parsed):
    table = pd.read_csv(tested.folder / "table.csv", index_col=[0, 1])
    markdown = (tested.folder / "table.md").read_text()
    latex = (tested.folder / "table.tex").read_text()
    assert table.columns.tolist() == ["testA", "testB", "testC", "all"] and len(table) > 30
    for (averaging, name), row in table.iterrows():
        values = [of_row(averaging, name).text(value) for value in row]
        assert " | ".join([name, *values]) in markdown and " & ".join([name.replace("_", r"\_"), *values]) in latex
        assert " ".join([name, *values]) in parsed.words
        assert f"**{averaging}**" in markdown and f"\\caption{{{averaging}}}" in latex
        assert averaging.partition(": ")[2] in parsed.words
    assert latex.count("\\toprule") == markdown.count("| figure |") == table.index.get_level_values(0).nunique()


def evaluated(tested, predict, classes, **settings):
    """The evaluation of another prediction of the same patches."""
    settings = InstanceSettings(**settings)
    scores = [scores for _, scores in evaluate(predict, tested.patches, classes, settings)]
    return Evaluation.of(scores, tested.patches, classes, settings)


def test_a_class_is_escaped_in_the_tables(tested, tmp_path):
    """With a third class every metric is told of each class by name."""
    names = ["background", "a", NASTY]

    def predict(images):
        return np.stack([*tested.method.predict(images).swapaxes(0, 1), np.zeros(images.shape[:3])], 1)

    write_tables(evaluated(tested, predict, names, minimum_area=1), tmp_path)
    assert f"| {as_markdown(f'Dice: {NASTY}')} |" in (tmp_path / "table.md").read_text()
    assert as_latex(f"Dice: {NASTY}") in (tmp_path / "table.tex").read_text()
    assert f"Dice: {NASTY}" in pd.read_csv(tmp_path / "table.csv", index_col=1).index


# --- what the page tells ---


def test_the_page_is_well_formed(parsed):
    assert parsed.open == []
    assert parsed.tags.count("h1") == parsed.tags.count("main") == parsed.tags.count("title") == 1
    ids = parsed.attributes["id"]
    assert len(ids) == len(set(ids))
    targets = [v[1:] for v in parsed.attributes["href"] if v.startswith("#")] + parsed.attributes["for"]
    targets += re.findall(r"url\(#([^)]+)\)", " ".join(map(str, sum(parsed.attributes.values(), []))))
    assert set(targets) <= set(ids)
    assert parsed.tags.count("img") == len(parsed.attributes["alt"]) and parsed.tags.count("svg") == 8
    assert sum(label is not None for label in parsed.attributes["aria-label"]) >= 8


def test_the_page_needs_nothing_but_itself(source, parsed):
    assert not re.search(r"https?:|file:|//[a-z]+\.|@import|<script", source)
    assert all(v.startswith("data:") for v in parsed.attributes["src"])
    assert all(v.startswith(("data:", "#")) for v in parsed.attributes["href"])
    assert all(v.startswith("#") for v in re.findall(r"url\(([^)]*)\)", source))
    assert len(source) < 8e6


def test_names_are_shown_as_they_are(source, parsed):
    assert "<b>" not in source and "<i>" not in source
    assert f"tells {NASTY} from background" in parsed.words and "from the pre-training <i>pre</i>" in parsed.words
    assert f"predicted: {NASTY}" in parsed.words and f"Enlarge: image of {NASTY[:5]}" in " ".join(
        parsed.attributes["aria-label"]
    )


def test_headlines_and_splits(tested, parsed):
    images = pd.read_csv(tested.folder / "images.csv")
    dice, by_split = images.Dice, images.groupby("split").Dice.mean()
    told = f"Dice {dice.mean():.3f} {dice.min():.3f} to {dice.max():.3f} " + " ".join(
        f"{split} {value:.3f}" for split, value in by_split.items()
    )
    assert told in parsed.words
    assert "5 images" in parsed.words and "(protocol “paper”; 20 patches of 16 pixels)" in parsed.words
    assert "Best, median and worst image" in parsed.words and "Worst: <b>&" in parsed.words


def test_the_confusion_matrix_and_the_calibration(tested, parsed):
    summary = json.loads((tested.folder / "summary.json").read_text())
    matrix = sum(np.array(m) for m in summary["confusion matrices"].values())
    for i, name in enumerate(["background", NASTY]):
        cells = " ".join(f"{100 * matrix[i, j] / matrix[i].sum():.1f} % {matrix[i, j]:,}" for j in (0, 1))
        assert f"{name} {cells}" in parsed.words
    assert f"is {summary['expected calibration error']:.4f}" in parsed.words


def test_costs(parsed):
    assert "run <i>pre</i> " + NASTY in parsed.words
    assert "epochs 4 40 –" in parsed.words
    assert "an epoch, median 1 min 02 s 1 min 20 s –" in parsed.words
    assert "in all, without validation 4 min 10 s 53 min 40 s –" in parsed.words
    assert "parameters of the network – – 1,234,567" in parsed.words


def test_durations_and_settings_in_words():
    assert [duration(s) for s in (0.0423, 9.87, 12.3, 59.6, 3599.6, 7620)] == [
        "0.042 s", "9.9 s", "12 s", "1 min 00 s", "1 h 00 min", "2 h 07 min",
    ]  # fmt: skip
    assert [text(v) for v in (None, True, 3, 12345, 1e-4, ["a", 0.5], "x")] == [
        UNDEFINED, "yes", "3", "12,345", "0.0001", "a, 0.5", "x",
    ]  # fmt: skip


def test_one_image_without_training(make_results, tmp_path, capsys):
    made = make_results(tmp_path, sources=1, splits=("test",), pictures=1, name="otsu")
    told = Page((made.folder / "report.html").read_text())
    assert "Only: otsu0" in told.words and "A method that learns nothing, tested" in told.words
    assert "on 1 image of the data set otsu" in told.words and "Training" not in told.words
    assert not (made.folder / "curves.png").exists() and (made.folder / "pictures" / "otsu0_panel.png").is_file()
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"are in {made.folder}")


def test_what_is_tested_of_an_image_is_told(tested, tmp_path, parsed):
    """Nothing is said of a whole image; a part is warned of, and so is what nobody knows."""
    assert "Not whole images" not in parsed.words and "Whole images?" not in parsed.words
    assert "share of the images that patches cover 100.0 %" in parsed.words
    predict, classes = tested.method.predict, tested.method.classes
    (tmp_path / "label_maps").symlink_to(tested.folder / "label_maps")
    for covered, told in ((0.99999, "cover 99.9 % of the test images"), (math.nan, "cover is not known")):
        facts = Facts(
            name="x", evaluation=replace(evaluated(tested, predict, classes), covered=covered), patches=tested.patches,
            settings={}, stages=[], seconds={"all": 1, "network": 0, "pictures": 0},
        )  # fmt: skip
        write_page(tmp_path / "report.html", facts, [])
        assert told in Page((tmp_path / "report.html").read_text()).words


def test_intervals_and_objects_are_told(tested, parsed):
    summary = json.loads((tested.folder / "summary.json").read_text())
    low, high = summary["95 % intervals"]["standard: mean over images, classes without background"]["Dice"]
    assert f"{low:.4f} to {high:.4f}" in parsed.words and f"95 %: {low:.3f} to {high:.3f}" in parsed.words
    found = [summary["objects"][split]["objects found"] for split in ("testA", "testB", "testC", "all")]
    assert " ".join(["objects found", *map(str, found)]) in parsed.words


def test_a_method_without_probabilities_has_no_reliability(tested, tmp_path):
    def predict(images):
        return np.eye(2, dtype=np.float32)[(images.mean(-1) < 150).astype(int)].transpose(0, 3, 1, 2)

    facts = Facts(
        name="x", evaluation=evaluated(tested, predict, tested.method.classes), patches=tested.patches, settings={},
        stages=[], seconds={"all": 1, "network": 0, "pictures": 0},
    )  # fmt: skip
    write_page(tmp_path / "report.html", facts, [])
    told = Page((tmp_path / "report.html").read_text())
    assert "calibration error" not in told.words and "says classes without probabilities" in told.words
    assert told.tags.count("svg") == 2  # the distribution over images


def test_metrics_that_are_undefined(tested, tmp_path):
    """No object in truth and prediction, in any image: there is nothing to rank by, and nothing to draw."""

    def predict(images):
        return np.stack([np.ones(images.shape[:3]), np.zeros(images.shape[:3])], 1).astype(np.float32)

    nothing = evaluated(tested, predict, tested.method.classes)
    columns = nothing.images.columns.drop(["source", "split"])
    empty = replace(nothing, images=nothing.images.assign(**dict.fromkeys(columns, math.nan)))
    (tmp_path / "label_maps").symlink_to(tested.folder / "label_maps")
    facts = Facts(
        name="x", evaluation=empty, patches=tested.patches, settings={},
        stages=[StageRecord("fine-tuning", "given", {}, None)], seconds={"all": 1, "network": 0, "pictures": 0},
    )  # fmt: skip
    report.draw_report(tmp_path, facts)
    told = Page((tmp_path / "report.html").read_text())
    assert f"Dice {UNDEFINED} {UNDEFINED} to {UNDEFINED}" in told.words and "nan" not in told.words
    assert "A published network, tested" in told.words and "Training" not in told.words
    assert "Left out of a mean" in told.words and "Dice (5 images)" in told.words


# --- what fails ---


@pytest.mark.parametrize("place", [(charts, "save_png"), (image_figures, "draw"), (report, "write_page")])
def test_a_drawing_that_fails_costs_no_results(make_results, tmp_path, monkeypatch, capsys, place):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(*place, fail)
    with pytest.raises(RuntimeError, match="no ink"):
        make_results(tmp_path, sources=2, pictures=1)
    results = tmp_path / "results"
    assert {"table.csv", "table.md", "table.tex", "images.csv", "summary.json"} <= {f.name for f in results.iterdir()}
    assert len(list((results / "label_maps").iterdir())) == 4
    assert f"could not be drawn; the tables in {results} are complete" in capsys.readouterr().err
    assert (results / "report.html").exists() == (place[1] == "draw")  # the rest of it is drawn


# --- how it looks ---


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if executable() is None:
        pytest.skip("no Chromium on this machine")
    window = Browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


CONTRAST = """(() => {
  const lit = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const luminance = ([r, g, b]) => 0.2126 * lit(r) + 0.7152 * lit(g) + 0.0722 * lit(b);
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const ground = e => {
    const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
    if (a == 1) return [r, g, b];
    const under = ground(e.parentElement);
    return [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
  };
  const worst = {contrast: 99};
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), svg = e.namespaceURI.endsWith('svg');
    const [a, b] = [luminance(numbers(svg ? style.fill : style.color)), luminance(ground(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < worst.contrast) Object.assign(worst, {contrast, text: e.textContent.trim().slice(0, 40)});
  }
  return worst;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(chromium, tested, width, scheme):
    chromium.open(tested.folder / "report.html", width, scheme)
    assert chromium.troubles() == []
    assert (
        chromium.evaluate("document.documentElement.scrollWidth <= innerWidth")
        and chromium.evaluate("innerWidth") == width
    )
    chromium.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    ground = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", ground))) > 200) == (scheme == "light")
    worst = chromium.evaluate(CONTRAST)
    assert worst["contrast"] >= 4.5, worst


def test_the_toggles(chromium, tested):
    chromium.open(tested.folder / "report.html", 1280, "light")
    visible = "getComputedStyle(document.querySelector('.contours')).visibility"
    assert chromium.evaluate(visible) == "visible"
    chromium.click("#contours")
    assert chromium.evaluate(visible) == "hidden"
    chromium.press(" ", 32, " ")  # it has the focus: the keyboard does the same
    assert chromium.evaluate(visible) == "visible"
    size = "document.querySelector('.panels label').getBoundingClientRect().width"
    before = chromium.evaluate(size)
    chromium.click(".panels label")
    assert chromium.evaluate(size) > 3.5 * before
    assert chromium.troubles() == []


def test_write_page_is_whole_or_not_there(tested, tmp_path):
    with pytest.raises(AttributeError):
        write_page(tmp_path / "report.html", None, [])
    assert list(tmp_path.iterdir()) == []
