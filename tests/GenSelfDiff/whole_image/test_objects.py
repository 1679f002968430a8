"""Objects over the borders of blocks: the same as if there were none."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from GenSelfDiff.instances import InstanceSettings, to_instances
from GenSelfDiff.targets import decode, from_bytes, target_maps, to_bytes
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.objects import MARGINS, join_blocks, label_blocks
from tests.GenSelfDiff.touching import crowd

SETTINGS = InstanceSettings()


def blobs(height, width, sigma, level, seed, classes=1):
    """Ragged objects with holes, of several classes that touch."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(height, width)), sigma)
    which = gaussian_filter(rng.normal(size=(height, width)), 3 * sigma)
    mask = field > level * field.std()
    return np.where(mask, 1 + (np.digitize(which, np.quantile(which, np.arange(1, classes) / classes))), 0).astype(
        np.uint8
    )


def nuclei(size, number, seed):
    """Discs of 5 to 12 pixels radius, many of which touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    class_map = np.zeros((size, size), np.uint8)
    for row, column, radius in zip(*rng.uniform(0, size, (2, number)), rng.uniform(5, 12, number), strict=True):
        class_map[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 1
    return class_map


def blocked(folder, class_map, size, method, settings=SETTINGS, maps=()):
    """The objects, and their numbers as one map; `maps`: those of the network's targets, as bytes."""
    blocks = Blocks(folder / f"{method}_{size}", *class_map.shape, size)
    for i in range(len(blocks)):
        left, top, right, bottom = blocks.box(i)
        parts = {f"map_{k}": of_target[top:bottom, left:right] for k, of_target in enumerate(maps)}
        blocks.write("classes", i, classes=class_map[top:bottom, left:right], **parts)
    calls = []
    label_blocks(blocks, method, settings, lambda: calls.append(1))
    objects = join_blocks(blocks, method, settings.minimum_area, lambda: calls.append(1))
    assert len(calls) == 2 * len(blocks)
    numbers = np.zeros(class_map.shape, np.int64)
    for i in range(len(blocks)):
        left, top, right, bottom = blocks.box(i)
        outer = blocks.box(i, MARGINS[method])
        inside = np.s_[top - outer[1] : bottom - outer[1], left - outer[0] : right - outer[0]]
        numbers[top:bottom, left:right] = objects.renumber(i, blocks.read("labels", i, "labels"))[inside]
    return objects, numbers


def same_partition(a, b):
    """Whether two maps show the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    one_to_one = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return bool(one_to_one and ((a > 0) == (b > 0)).all())


@pytest.mark.parametrize("size", [8, 13, 33])
@pytest.mark.parametrize("classes", [1, 3])
def test_components_are_those_of_the_whole_image(tmp_path, size, classes):
    """Also their holes: whole, over any number of blocks; specks are left out by their whole size."""
    for seed in range(3):
        class_map = blobs(40, 55, 1.2 + seed, -0.2, seed, classes)
        settings = InstanceSettings(minimum_area=12)
        whole = to_instances(class_map.astype(int), "components", settings)
        objects, numbers = blocked(tmp_path / str(seed), class_map, size, "components", settings)
        assert same_partition(whole, numbers) and len(objects) == whole.max() > 0
        assert (objects.area[1:] == np.bincount(numbers.ravel())[1:]).all()


def test_a_gland_around_a_whole_block_is_one_gland_and_its_lumen_filled(tmp_path):
    class_map = np.zeros((50, 50), np.uint8)
    class_map[3:47, 3:47] = 1
    class_map[8:42, 8:42] = 0  # nine whole blocks of ten pixels lie in it
    objects, numbers = blocked(tmp_path, class_map, 10, "components")
    assert len(objects) == 1 and objects.area[1] == 44**2 and (numbers[3:47, 3:47] == 1).all()
    class_map[3:8, 20] = 0  # a crack: now it is open
    objects, numbers = blocked(tmp_path / "open", class_map, 10, "components")
    assert len(objects) == 1 and numbers[25, 25] == 0
    class_map[3:8, 20] = 2  # another class closes it: no hole of one class
    objects, numbers = blocked(tmp_path / "two", class_map, 10, "components", InstanceSettings(minimum_area=1))
    assert len(objects) == 2 and numbers[25, 25] == 0


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_an_object_over_four_blocks_is_one(tmp_path, method):
    y, x = np.mgrid[:64, :64]
    class_map = ((y - 32) ** 2 + (x - 31) ** 2 < 100).astype(np.uint8)
    objects, numbers = blocked(tmp_path, class_map, 32, method)
    assert len(objects) == 1 and (numbers == class_map).all() and objects.last[1] == 3


def test_two_pixels_that_meet_at_the_corner_of_four_blocks_are_one_object(tmp_path):
    class_map = np.zeros((8, 8), np.uint8)
    class_map[3, 3] = class_map[4, 4] = 1
    assert len(blocked(tmp_path, class_map, 4, "components", InstanceSettings(minimum_area=1))[0]) == 1
    class_map[4, 4] = 2
    assert len(blocked(tmp_path / "b", class_map, 4, "components", InstanceSettings(minimum_area=1))[0]) == 2


@pytest.mark.parametrize("size", [150, 211])
def test_the_watershed_divides_nuclei_as_in_the_whole_image(tmp_path, size):
    class_map = nuclei(400, 150, 0)
    whole = to_instances(class_map.astype(int), "watershed", SETTINGS)
    objects, numbers = blocked(tmp_path, class_map, size, "watershed")
    assert same_partition(whole, numbers) and len(objects) == whole.max() > 80


@pytest.mark.parametrize("size", [150, 211])
@pytest.mark.parametrize("method", ["border", "hv"])
def test_maps_of_targets_divide_nuclei_as_in_the_whole_image(tmp_path, method, size):
    """Also where they are not those of the truth, but blurred and noisy as a network's."""
    truth = crowd(400, 170, 0)
    noise = np.random.default_rng(0).normal(0, 0.15, (3, 400, 400))
    maps = np.stack([gaussian_filter(m.astype(float), 1.2) for m in target_maps(method, truth)])
    maps = to_bytes(maps + noise[: len(maps)])
    class_map = (truth > 0).astype(np.uint8)
    whole = decode(class_map.astype(int), from_bytes(maps), method, SETTINGS)
    objects, numbers = blocked(tmp_path, class_map, size, method, maps=maps)
    assert same_partition(whole, numbers) and len(objects) == whole.max() > 100
    y, x = np.mgrid[:64, :64]
    round_ = ((y - 32) ** 2 + (x - 31) ** 2 < 100).astype(np.uint8)  # over four blocks
    objects, numbers = blocked(tmp_path / "one", round_, 32, method, maps=to_bytes(target_maps(method, round_)))
    assert len(objects) == 1 and (numbers == round_).all()


def test_objects_are_numbered_as_they_become_complete(tmp_path):
    class_map = blobs(60, 60, 2, 0.5, 1, 2)
    objects, numbers = blocked(tmp_path, class_map, 13, "components", InstanceSettings(minimum_area=5))
    assert (np.diff(objects.last[1:]) >= 0).all()
    for number in range(1, len(objects) + 1):
        y, x = np.nonzero(numbers == number)
        assert objects.last[number] == (y // 13 * 5 + x // 13).max()
        assert set(np.unique(class_map[y, x])) <= {0, objects.class_of[number]}


def test_labels_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    class_map = blobs(40, 40, 2, 0.5, 1)
    first = blocked(tmp_path, class_map, 20, "components")[1]
    monkeypatch.setattr("GenSelfDiff.whole_image.objects.label", None)
    assert (blocked(tmp_path, class_map, 20, "components")[1] == first).all()


def test_nothing_and_everything(tmp_path):
    for method in ("components", "watershed"):
        assert len(blocked(tmp_path / "0", np.zeros((20, 20), np.uint8), 9, method)[0]) == 0
        objects, numbers = blocked(tmp_path / "1", np.ones((20, 20), np.uint8), 9, method)
        assert len(objects) == 1 and (numbers == 1).all()
