from dataclasses import replace

import numpy as np
import pytest

from GenSelfDiff.evaluation.evaluate import evaluate
from GenSelfDiff.evaluation.images import read_again, stitch, write_label_maps
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.patches import Patches
from tests.GenSelfDiff.report.squares import squares
from utils_general import InputError, read_index_map, write_png


def test_label_maps(tmp_path):
    image = squares()
    write_label_maps(image, tmp_path)
    assert (read_index_map(tmp_path / "a_classes.png") == image.prediction).all()
    assert (read_index_map(tmp_path / "a_instances.png") == image.instances).all()
    with pytest.raises(InputError, match="a: 65537 predicted objects do not fit a 16-bit PNG: raise --minimum-area"):
        write_label_maps(replace(image, instances=np.full((2, 2), 65537)), tmp_path)


def test_stitched_patches_are_the_whole():
    whole = np.random.default_rng(0).random((20, 28, 3)).astype(np.float32)
    corners = [(x, y) for y in (0, 4, 8, 12) for x in (0, 4, 8, 12, 16, 20)]
    assert (stitch(np.stack([whole[y : y + 8, x : x + 8] for x, y in corners]), corners) == whole).all()


def test_an_image_read_again_is_that_of_its_split(tiny_data_set, tmp_path):
    """Two splits may each have an image of one name: the pixels are of the split that is meant."""
    index = tiny_data_set / "test" / "index.csv"
    index.write_text(index.read_text().replace("t2", "t1").replace("test\n", "testA\n", 4).replace("test\n", "testB\n"))
    patches = Patches(tiny_data_set / "test", labelled=True)
    nothing = np.zeros((32, 32), np.uint8)
    for kind in ("classes", "instances"):
        write_png(tmp_path / f"t1_{kind}.png", nothing)
    for split, first in (("testA", 0), ("testB", 4)):
        image = read_again(patches, "t1", split, tmp_path)
        assert (image.pixels[:16, :16] == patches.image(first)).all()
        assert (image.truth[16:, 16:] == patches.label(first + 3)).all()


def test_an_image_read_again_is_the_image_that_was_tested(tested):
    settings = InstanceSettings(minimum_area=1)
    seen = list(evaluate(tested.method.predict, tested.patches, tested.method.classes, settings))
    assert len(seen) == 5
    for image, _ in seen:
        again = read_again(tested.patches, image.source, image.split, tested.folder / "label_maps")
        for name in ("pixels", "covered", "truth", "prediction", "true_instances", "instances"):
            assert (getattr(again, name) == getattr(image, name)).all(), name
