"""What stands on the pictures of a comparison."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from GenSelfDiff.comparison import figures
from GenSelfDiff.comparison.results import read_results
from GenSelfDiff.test import compare
from tests.GenSelfDiff.comparison.test_compare import of, write_results
from tests.GenSelfDiff.comparison.test_results import rename
from utils_general import read_rgb, save_figure

BROKEN = r"$\frac{"  # matplotlib would take it for a formula, and fail


@pytest.fixture
def folders(tmp_path):
    values = {"A": [0.5, 0.612345], f"B_{BROKEN}$": [0.7, np.nan]}
    return [write_results(tmp_path / name, dice, pictures=2) for name, dice in values.items()]


def test_the_overview_names_images_and_gives_each_ones_scores(folders, tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(figures, "save_figure", lambda f, _: texts.extend(t.get_text() for t in f.findobj(Text)))
    results = read_results(tuple(map(str, folders)))
    figures.draw_crops(results, ["image_0", "image_1"], ("Dice", "HD95"), tmp_path / "overview.png")
    plt.close("all")
    assert {"image", "truth", "A", f"B {BROKEN}$", "image_0 (test)", "image_1 (test)"} <= set(texts)
    scores = [text for text in texts if text.startswith("Dice")]
    assert scores == [
        "Dice 0.500\nHD95 50.00 px", "Dice 0.700\nHD95 70.00 px", "Dice 0.612\nHD95 61.23 px", "Dice –\nHD95 – px",
    ]  # fmt: skip


def test_a_dollar_in_a_name_is_no_formula(folders, tmp_path):
    for folder in folders:
        (folder / "pictures" / "image_0_truth.png").rename(folder / "pictures" / f"{BROKEN}$_truth.png")
        for kind in ("image", "prediction"):
            (folder / "pictures" / f"image_0_{kind}.png").rename(folder / "pictures" / f"{BROKEN}$_{kind}.png")
        rename(folder, [f"{BROKEN}$", "image_1"])
    compare.main(of(tmp_path, folders))
    assert {"compare.png", "overview.png"} <= {file.name for file in (tmp_path / "compare").iterdir()}


def test_a_logarithmic_axis_keeps_its_powers_of_ten(tmp_path):
    figure, axes = plt.subplots()
    axes.plot([1, 2], [1e-3, 1e3], label=f"{BROKEN}$")
    axes.set(yscale="log", title=f"{BROKEN}$", xlabel=f"{BROKEN}$")
    axes.legend()
    save_figure(figure, tmp_path / "figure.png")
    assert read_rgb(tmp_path / "figure.png").std() > 0
    powers = [label for label in axes.get_yticklabels() if label.get_text()]
    assert powers and all("$" in label.get_text() and label.get_parse_math() for label in powers)
    assert not axes.title.get_parse_math()
