"""Which labels are chosen: shares of images, clusters of features, nested."""

import numpy as np
import pytest

from GenSelfDiff.methods.nudiff.resemblance import nearest, nuclei, oriented
from GenSelfDiff.methods.nudiff.subsets import nested_choice, places_in_clusters, until_enough
from tests.GenSelfDiff.touching import crowd
from utils_general import InputError


def test_shares_of_images_are_nested():
    names = [f"image {i}" for i in range(12)]
    drawn = [nested_choice(names, fraction, 1, 3) for fraction in (0.01, 0.1, 0.2, 0.5, 1.0)]
    assert [len(some) for some in drawn] == [1, 1, 2, 6, 12]
    assert all(set(few) <= set(more) for few, more in zip(drawn, drawn[1:], strict=False))
    assert nested_choice(names, 0.01, 0, 3) == [] and nested_choice(names, 0.5, 1, 4) != drawn[3]


def test_clusters_of_numbers():
    """Three heaps: each has its middle first, and of all heaps alike much comes before a place."""
    features = np.array([0.0, 1.0, 0.4, 10.0, 10.5, 11.2, 30.0, 31.0, 30.6, 30.4])[:, None]
    cluster, place = places_in_clusters(features, 3, 0)
    heaps = [set(np.flatnonzero(cluster == c)) for c in range(3)]
    assert sorted(map(sorted, heaps)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert place[2] == place[4] == pytest.approx(0.5 / 3)  # 0.4 and 10.5 are nearest to the means
    assert sorted(place[6:]) == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8]) and place[7] == pytest.approx(7 / 8)
    again = places_in_clusters(features, 3, 0)
    assert (again[0] == cluster).all() and (again[1] == place).all()
    with pytest.raises(InputError, match="--clusters is 11: there are 10 patches"):
        places_in_clusters(features, 11, 0)


def test_patches_are_taken_until_their_objects_are_enough():
    """What two patches show is one object; patches without any are taken on the way."""
    objects = [{1, 2, 3}, {3, 4}, set(), {5, 6, 7, 8, 9, 10}]
    place = np.array([0.3, 0.1, 0.0, 0.9])
    assert until_enough(objects, place, 0.2).tolist() == [1, 2]
    assert until_enough(objects, place, 0.3).tolist() == [0, 1, 2]  # 3 is known: 4 of 10
    assert until_enough(objects, place, 0.41).tolist() == [0, 1, 2, 3]
    assert until_enough([set(), set()], place[:2], 0.5).tolist() == [1]


def test_a_turned_copy_is_found():
    others = np.stack([crowd(32, 6, seed) > 0 for seed in range(5)])
    masks = np.stack([oriented(others[3], 5), oriented(others[1], 2), np.zeros((32, 32), bool), others[4]])
    masks[3, :16] = False
    found = nearest(masks, others)
    assert found.position[:2].tolist() == [3, 1] and found.overlap[:2].tolist() == [1, 1]
    assert found.overlap[2] == 0 and 0 < found.overlap[3] < 1
    for mask, position, orientation in zip(masks[:2], found.position, found.orientation, strict=False):
        assert (oriented(others[position], orientation) == mask).all()
    assert nearest(masks[2:3], masks[2:3]).overlap == 1  # both are empty


def test_nuclei_are_counted_and_measured():
    one, two = np.zeros((2, 16, 16), int)
    one[4:6, 4:8], one[10:12, 10:12], two[0:2, 0:4] = 1, 2, 3
    found = nuclei([one, two])
    assert (found["nuclei a patch"], found["deviation"], found["area, median"]) == (1.5, 0.5, 6)
    assert found["covered"] == pytest.approx((12 + 8) / 512)
    assert np.isnan(nuclei([two])["area, median"])
