import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from GenSelfDiff.instances import InstanceSettings, fill_holes, of_class, to_instances

SETTINGS = InstanceSettings()


def disc(size, y, x, radius):
    rows, columns = np.mgrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def count(numbers):
    return len(np.unique(numbers[numbers > 0]))


def test_touching_nuclei_are_divided_by_the_watershed_only():
    touching = (disc(64, 30, 20, 10) | disc(64, 30, 38, 10)).astype(int)
    divided = to_instances(touching, "watershed", SETTINGS)
    assert count(to_instances(touching, "components", SETTINGS)) == 1
    assert count(divided) == 2 and divided[30, 20] != divided[30, 38]
    assert ((divided > 0) == (touching > 0)).all()


@pytest.mark.parametrize("x", [30, 0, 4, 63])
def test_one_nucleus_stays_one_also_at_the_border(x):
    assert count(to_instances(disc(64, 30, x, 12).astype(int), "watershed", SETTINGS)) == 1


def test_specks_go_and_holes_are_filled():
    class_map = disc(64, 30, 30, 12).astype(int)
    class_map[28:32, 28:32] = 0
    class_map[5:8, 5:8] = 1  # 9 pixels
    numbers = to_instances(class_map, "components", SETTINGS)
    assert count(numbers) == 1 and numbers[30, 30] and not numbers[6, 6]
    kept = to_instances(class_map, "components", InstanceSettings(minimum_area=9))
    assert count(kept) == 2
    assert count(to_instances(class_map, "components", InstanceSettings(minimum_area=10))) == 1


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_numbers_are_consecutive_when_specks_are_gone(method):
    class_map = np.zeros((64, 64), int)
    class_map[2, 2] = class_map[60, 60] = class_map[2, 60] = 1
    class_map[disc(64, 20, 30, 8)] = 1
    class_map[disc(64, 45, 30, 8)] = 2
    assert np.unique(to_instances(class_map, method, SETTINGS)).tolist() == [0, 1, 2]


def test_holes_are_filled_by_the_class_around_them_and_by_no_other():
    nested = np.zeros((40, 40), int)
    for radius, value in ((18, 2), (14, 0), (11, 1), (4, 0)):
        nested[disc(40, 20, 20, radius)] = value
    filled = fill_holes(nested)
    assert (filled[disc(40, 20, 20, 4)] == 1).all()  # a hole in class 1, though class 2 encloses it too
    gap = disc(40, 20, 20, 14) & ~disc(40, 20, 20, 11)
    assert (filled[gap] == 0).all()  # between two classes: of neither
    cut = np.ones((8, 8), int)
    cut[0, 3] = 0  # open to the border of the image
    assert (fill_holes(cut) == cut).all()
    assert not fill_holes(np.zeros((5, 5), int)).any()


def test_holes_of_a_binary_map_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((30, 25)) < 0.6
        ours = fill_holes(mask.astype(np.int32)) == 1
        assert (ours == binary_fill_holes(mask)).all()


def test_the_watershed_loses_no_pixel():
    """Also what hangs on an object by a corner, and what is thinner than the smoothing."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        class_map = (rng.random((40, 40)) < 0.45) * rng.integers(1, 3, (40, 40))
        settings = InstanceSettings(minimum_area=1, peak_distance=8)
        whole, divided = (to_instances(class_map, method, settings) for method in ("components", "watershed"))
        assert ((divided > 0) == (whole > 0)).all()
        for number in range(1, divided.max() + 1):
            assert len(np.unique(whole[divided == number])) == 1  # divided, never joined


def test_a_class_everywhere_is_one_object():
    for method in ("components", "watershed"):
        assert (to_instances(np.ones((64, 48), int), method, SETTINGS) == 1).all()


def test_instances_of_a_class():
    class_map = np.array([[1, 1, 0, 2, 2], [1, 0, 0, 2, 1]])
    instances = np.array([[4, 4, 0, 7, 7], [4, 4, 0, 7, 7]])
    assert of_class(instances, class_map, 1).tolist() == [[4, 4, 0, 0, 0], [4, 4, 0, 0, 7]]
    assert of_class(instances, class_map, 2).tolist() == [[0, 0, 0, 7, 7], [0, 0, 0, 7, 0]]
    assert not of_class(instances, class_map, 3).any()


def test_classes_are_divided_from_each_other():
    class_map = np.zeros((64, 64), int)
    class_map[disc(64, 30, 30, 20)] = 1
    class_map[disc(64, 30, 30, 10)] = 2  # inside the other: it fills no hole of class 1
    numbers = to_instances(class_map, "components", SETTINGS)
    assert count(numbers) == 2
    assert set(np.unique(numbers[class_map == 1])) == {1} and set(np.unique(numbers[class_map == 2])) == {2}


def test_tissue_that_touching_nuclei_surround_is_no_hole():
    """A ring around 11 x 11 pixels: a lumen for connected components, tissue for the watershed if that is too large."""
    ring = np.zeros((40, 40), int)
    ring[8:31, 8:31] = 1
    ring[14:25, 14:25] = 0
    counts = {
        largest: (to_instances(ring, "watershed", InstanceSettings(largest_hole=largest)) > 0).sum()
        for largest in (0, 120, 121)
    }
    assert counts == {0: (ring > 0).sum(), 120: (ring > 0).sum(), 121: 23 * 23}
    assert (to_instances(ring, "components", InstanceSettings(largest_hole=0)) > 0).sum() == 23 * 23


def test_nothing_gives_nothing():
    for method in ("components", "watershed"):
        assert not to_instances(np.zeros((16, 16), int), method, SETTINGS).any()


def test_limits_of_reduced_images():
    """Lengths by the factor, areas by its square; what is a speck, and what a hole is filled, stays the same."""
    settings = InstanceSettings(minimum_area=30, largest_hole=200, peak_distance=6, smoothing=1.5)
    assert settings.reduced(1) == settings
    few = settings.reduced(4)
    assert (few.minimum_area, few.largest_hole, few.peak_distance, few.smoothing) == (2, 12, 2, 0.375)
    assert settings.reduced(20).peak_distance == 1
