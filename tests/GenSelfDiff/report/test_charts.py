import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd

from GenSelfDiff.report.charts import (
    curves,
    distribution,
    draw_confusion_matrix,
    reliability,
    save_png,
    shares,
    to_svg,
)
from GenSelfDiff.report.training_record import StageRecord
from tests.GenSelfDiff.conftest import NASTY, history
from utils_general import read_rgb


def drawn(panels):
    """The texts of the panels, each drawn as a picture of the page."""
    texts = []
    for k, panel in enumerate(panels):
        parser = HTMLParser()
        parser.handle_data = texts.append
        parser.feed(to_svg(panel, f"p{k}", "a chart"))
    return [text.strip() for text in texts if text.strip()]


def test_shares_of_the_true_class():
    assert shares(np.array([[9, 1], [0, 0]])).tolist() == [[0.9, 0.1], [0, 0]]


def test_an_svg_stands_in_a_page():
    panels = reliability(np.array([[0, 0, 0], [4, 3.0, 4]]))
    one, other = (to_svg(panel, name, 'a "chart" <of>') for panel, name in zip(panels, ("one", "other"), strict=True))
    assert one.startswith("<svg viewBox=") and one.rstrip().endswith("</svg>")
    assert 'role="img" aria-label="a &quot;chart&quot; &lt;of&gt;"' in one
    assert "currentColor" in one and "#010203" not in one and "http" not in one and "font-family" not in one
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    references = set(re.findall(r'(?:url\(|href=")#([^")]+)', one))
    assert references and references <= ids[0]


def test_curves():
    stage = StageRecord("fine-tuning", "run", {}, history(40))
    texts = drawn(curves(stage))
    assert {"fine-tuning: loss an image", "fine-tuning: Dice, pooled", "training", "held out", "best epoch"} <= {*texts}
    assert "0.01" in texts  # logarithmic, in plain numbers
    assert drawn(curves(StageRecord("pre-training", "run", {}, history(1)[["epoch", "train_loss", "seconds"]])))
    assert curves(StageRecord("fine-tuning", "run", {}, None)) == []


def images(number, **changes):
    rng = np.random.default_rng(0)
    columns = {"Dice": rng.uniform(0.5, 1, number), "PQ": rng.uniform(0, 1, number), "HD95 (px)": np.full(number, 7.0)}
    columns |= {f"Dice: {NASTY}": 0.5} | changes
    return pd.DataFrame({"source": range(number), "split": ["testA", "testB"] * (number // 2), **columns})


def test_the_distribution_has_a_row_a_metric():
    panels = distribution(images(6, PQ=[math.nan] * 6))
    texts = drawn(panels)
    assert len(panels) == 2 and {"Dice", "HD95", "testA", "testB", "median"} <= {*texts}
    assert "PQ" not in texts and not any(NASTY in text for text in texts)  # undefined everywhere; of one class
    nothing = dict.fromkeys(("Dice", "PQ", "HD95 (px)"), math.nan)
    assert distribution(images(2, **nothing, **{f"Dice: {NASTY}": math.nan})) == []


def test_many_images_become_a_box():
    """10,000 images must not become 10,000 dots."""
    few, many = (len(to_svg(distribution(images(n))[0], "d", "")) for n in (100, 10_000))
    assert many < few


def test_no_reliability_without_probabilities():
    sure = np.zeros((20, 3))
    sure[19] = 100, 100, 60
    assert reliability(sure) == []


def test_pictures_of_a_class_that_is_nowhere(tmp_path):
    draw_confusion_matrix(np.array([[9, 1], [0, 0]]), ["background", NASTY], tmp_path / "matrix.png")
    save_png(reliability(np.zeros((20, 3))), tmp_path / "reliability.png")
    assert read_rgb(tmp_path / "matrix.png").size and read_rgb(tmp_path / "reliability.png").shape[1] > 900
