import numpy as np
import pytest

from GenSelfDiff.test.instances import InstanceSettings, to_instances

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


def test_classes_are_divided_from_each_other():
    class_map = np.zeros((64, 64), int)
    class_map[disc(64, 30, 30, 20)] = 1
    class_map[disc(64, 30, 30, 10)] = 2  # inside the other: it fills no hole of class 1
    numbers = to_instances(class_map, "components", SETTINGS)
    assert count(numbers) == 2
    assert set(np.unique(numbers[class_map == 1])) == {1} and set(np.unique(numbers[class_map == 2])) == {2}


def test_nothing_gives_nothing():
    for method in ("components", "watershed"):
        assert not to_instances(np.zeros((16, 16), int), method, SETTINGS).any()
