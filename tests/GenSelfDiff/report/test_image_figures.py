import pytest

from GenSelfDiff.palette import colours
from GenSelfDiff.report.image_figures import draw, draw_example
from GenSelfDiff.report.overlays import overlay
from tests.GenSelfDiff.report.squares import squares
from utils_general import read_rgb


@pytest.fixture
def image():
    return squares()


def test_pictures_are_pixel_by_pixel(image, tmp_path):
    draw(image, ["background", "one", "two"], tmp_path)
    assert (read_rgb(tmp_path / "a_image.png") == image.pixels).all()
    assert (read_rgb(tmp_path / "a_truth.png") == colours(image.truth)).all()
    assert (read_rgb(tmp_path / "a_prediction.png") == colours(image.prediction)).all()
    assert (read_rgb(tmp_path / "a_overlay.png") == overlay(image)).all()
    assert min(read_rgb(tmp_path / "a_panel.png").shape[:2]) > 1000  # small images are magnified


def test_an_example_is_one_picture(image, tmp_path):
    draw_example(image, ["background", "$x", "two"], "best: $a", tmp_path / "a.png")
    height, width = read_rgb(tmp_path / "a.png").shape[:2]
    assert height > 600 and width > 3 * height
