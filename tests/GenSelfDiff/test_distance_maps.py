"""Distance maps by hand, under flips and turns; and instances from them."""

import cv2
import numpy as np
import pytest
from skimage.measure import label

from GenSelfDiff.distance_maps import decode, hv_maps, seen_from_before
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.predictor import VIEWS
from tests.GenSelfDiff.touching import crowd, ellipse, overlaps, pair

ALL = InstanceSettings(minimum_area=1, largest_hole=0)
ANGLES = np.linspace(0, np.pi, 9)


def test_five_pixels_in_a_row():
    h, v = hv_maps(np.array([[0, 7, 7, 7, 7, 7, 0]]))
    assert h.tolist() == [[0, -1, -0.5, 0, 0.5, 1, 0]] and not v.any()
    h, v = hv_maps(np.array([[0], [3], [3], [3]]))
    assert not h.any() and v.ravel().tolist() == [0, -1, 0, 1]


def test_each_side_is_divided_by_its_own_largest_distance():
    """An L: its centre of mass is at x = 2/4, y = 3/4."""
    h, v = hv_maps(np.array([[1, 0], [1, 0], [1, 1]]))
    assert np.allclose(h, [[-1, 0], [-1, 0], [-1, 1]])
    assert np.allclose(v, [[-1, 0], [-1 / 5, 0], [1, 1]])  # x: -1/4, ... y: -5/4, -1/4, 3/4


def test_objects_that_touch_have_maps_of_their_own():
    h, _ = hv_maps(np.array([[1, 1, 1, 2, 2, 2]]))
    assert h.tolist() == [[-1, 0, 1, -1, 0, 1]]


def test_the_pieces_of_an_instance_count_for_themselves():
    instances = np.array([[4, 4, 4, 0, 4, 4, 4]])
    assert hv_maps(instances)[0].tolist() == [[-1, 0, 1, 0, -1, 0, 1]]
    corner = np.array([[4, 0], [0, 4]])  # one piece: it hangs together at a corner
    assert hv_maps(corner)[0].tolist() == [[-1, 0], [0, 1]]


def test_nothing_and_single_pixels_are_zero():
    assert hv_maps(np.zeros((5, 4), int)).shape == (2, 5, 4)
    assert not hv_maps(np.zeros((5, 4), int)).any()
    lonely = np.zeros((5, 5), int)
    lonely[2, 3] = 1
    assert not hv_maps(lonely).any() and np.isfinite(hv_maps(lonely)).all()


@pytest.mark.parametrize(("turns", "flip"), VIEWS["all"])
def test_maps_commute_with_flips_and_turns(turns, flip):
    """The maps of the changed instances are, changed back, those of the instances."""
    instances = crowd(60, 25, 0)[:, :44]
    changed = np.rot90(instances, turns)
    changed = changed[:, ::-1] if flip else changed
    assert np.allclose(seen_from_before(hv_maps(changed), turns, flip), hv_maps(instances), atol=1e-6)
    if (turns, flip) != (0, False):  # moving the pixels alone is not enough
        moved = np.rot90(hv_maps(changed)[..., ::-1] if flip else hv_maps(changed), -turns, axes=(1, 2))
        assert np.abs(moved - hv_maps(instances)).max() > 1


@pytest.mark.parametrize("radius", [4, 5, 6, 8, 12, 24])
@pytest.mark.parametrize("apart", [2.0, 1.7, 1.4])
def test_discs_that_touch_come_apart(radius, apart):
    """At all angles, also where one covers a part of the other."""
    for angle in ANGLES:
        truth = pair(radius, angle, apart)
        found = decode((truth > 0).astype(int), hv_maps(truth), ALL)
        assert found.max() == 2 and overlaps(found, truth).min() > 0.9, angle


@pytest.mark.parametrize("radius", [4, 8, 16])
@pytest.mark.parametrize("stretched", [1.5, 2.5])
def test_ellipses_that_touch_come_apart(radius, stretched):
    """Side by side, where no waist tells, and end to end."""
    for angle in ANGLES:
        truth = pair(radius, angle, 1.9, stretched)
        found = decode((truth > 0).astype(int), hv_maps(truth), ALL)
        assert found.max() == 2 and overlaps(found, truth).min() > 0.9, angle


@pytest.mark.parametrize("times", [1.5, 2, 4])
@pytest.mark.parametrize("radius", [4, 8])
def test_maps_of_reduced_images_are_decoded_at_the_images_own_size(times, radius):
    """As a test with --downscale does it."""
    for angle in ANGLES:
        small = pair(radius, angle)
        side = round(times * len(small))
        enlarged = [cv2.resize(a, (side, side)) for a in (*hv_maps(small), (small > 0).astype(np.float32))]
        truth = cv2.resize(small.astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST).astype(int)
        found = decode((enlarged[2] > 0.5).astype(int), np.array(enlarged[:2]), InstanceSettings(), times)
        assert found.max() == 2 and overlaps(found, truth).min() > 0.8, angle


def test_round_objects_come_back_as_they_were():
    """Up to their numbers: discs that all touch their neighbours; and most of a crowd that cover each other in part."""
    truth = np.zeros((100, 100), int)
    for i, centre in enumerate(np.mgrid[12:100:19, 12:100:19].reshape(2, -1).T):
        truth[ellipse(truth.shape, centre, (9.4, 9.4))] = i + 1
    assert label(truth > 0).max() == 1
    found = decode((truth > 0).astype(int), hv_maps(truth), ALL)
    assert (overlaps(found, truth) == 1).all() and found.max() == truth.max() == 25
    for seed in range(3):
        truth = crowd(200, 60, seed)
        again = overlaps(decode((truth > 0).astype(int), hv_maps(truth), ALL), truth)
        assert np.median(again) > 0.97 and np.mean(again > 0.8) > 0.85


def test_it_does_not_matter_how_an_image_lies():
    truth = crowd(90, 30, 2)
    found = decode((truth > 0).astype(int), hv_maps(truth), ALL)
    turned = np.rot90(truth)
    other = decode((turned > 0).astype(int), hv_maps(turned), ALL)
    assert other.max() == found.max() and (overlaps(np.rot90(other, -1), found) > 0.95).all()


def test_no_pixel_is_lost_and_specks_go():
    rng = np.random.default_rng(0)
    class_map = (rng.random((60, 60)) < 0.6).astype(int)
    noise = rng.uniform(-1, 1, (2, 60, 60)).astype(np.float32)
    settings = InstanceSettings(minimum_area=1, largest_hole=0)
    assert ((decode(class_map, noise, settings) > 0) == (class_map > 0)).all()
    speck = np.zeros((20, 20), int)
    speck[5:8, 5:8] = 1
    assert decode(speck, hv_maps(speck), InstanceSettings(minimum_area=9)).max() == 1
    assert not decode(speck, hv_maps(speck), InstanceSettings(minimum_area=10)).any()
    assert not decode(np.zeros((8, 8), int), np.zeros((2, 8, 8), np.float32)).any()


def test_one_object_stays_one():
    for radii in ((3, 3), (5, 20), (30, 8)):
        truth = ellipse((64, 64), (32, 32), radii).astype(int)
        assert decode(truth, hv_maps(truth), ALL).max() == 1
