"""What grids of small runs share: what a test reads, and what a row says of it."""

import numpy as np
import pytest

from experiments.training_runs import what_is_tested
from utils_general import read_index_map, read_json, read_rgb, write_json, write_png


@pytest.fixture
def reduced(tiny_data_set):
    """A data set of reduced images, whose test images are of two parts, as those of GlaS."""
    write_json(tiny_data_set / "dataset.json", read_json(tiny_data_set / "dataset.json") | {"downscale": 2.0})
    index = tiny_data_set / "test" / "index.csv"
    index.write_text(index.read_text().replace(",test", ",testA", 4).replace(",test\n", ",testB\n"))
    for source in ("t1", "t2"):
        native = {"image": np.full((64, 64, 3), 90), "classes": np.eye(64), "instances": np.eye(64)}
        for kind, pixels in native.items():
            write_png(tiny_data_set / "test" / "native" / f"{source}_{kind}.png", pixels.astype(np.uint8))
    return tiny_data_set


@pytest.mark.parametrize(
    "file",
    [
        *("images/image_5.png", "labels/label_5.png", "instances/instance_5.png"),
        *(f"native/t2_{kind}.png" for kind in ("image", "classes", "instances")),
    ],
)
def test_all_that_a_test_reads_is_told_apart(reduced, file):
    before = what_is_tested(reduced)
    path = reduced / "test" / file
    pixels = (read_rgb if "image_" in file or file.endswith("image.png") else read_index_map)(path).copy()
    pixels[0, 0] = 1 - np.minimum(pixels[0, 0], 1)
    write_png(path, pixels.astype(np.uint8))
    assert what_is_tested(reduced) != before


def test_what_is_trained_on_is_no_part_of_it(reduced, tmp_path):
    before = what_is_tested(reduced)
    image = reduced / "labelled" / "images" / "image_0.png"
    write_png(image, 255 - read_rgb(image))
    reduced.rename(tmp_path / "elsewhere")
    assert what_is_tested(tmp_path / "elsewhere") == before
