"""Structures by hand, under flips and turns, and the instances that come of them at any magnification."""

import numpy as np
import pytest
import torch

from GenSelfDiff.distance_maps import hv_maps
from GenSelfDiff.methods.nudiff.structure import (
    NOTHING_KNOWN,
    areas_inside,
    as_picture,
    decode,
    encode,
    from_input,
    of_batch,
    pieces,
    to_input,
    typical_area,
)
from tests.GenSelfDiff.touching import crowd, ellipse, overlaps, pair


def test_five_pixels_in_a_row():
    semantic, h, v = encode(np.array([[0, 7, 7, 7, 7, 7, 0]]))
    assert semantic.tolist() == [[-1, 1, 1, 1, 1, 1, -1]]
    assert h.tolist() == [[0, -1, -0.5, 0, 0.5, 1, 0]] and not v.any()


def test_mirrored_and_turned():
    """Of the mirrored instances H is minus the mirrored H; turned counter-clockwise, H' = V and V' = -H."""
    instances = crowd(40, 12, 0)
    _, h, v = encode(instances)
    mirrored, turned = encode(instances[:, ::-1]), encode(np.rot90(instances))
    assert np.allclose(mirrored[1], -h[:, ::-1], atol=1e-6) and np.allclose(mirrored[2], v[:, ::-1], atol=1e-6)
    assert np.allclose(turned[1], np.rot90(v), atol=1e-6) and np.allclose(turned[2], -np.rot90(h), atol=1e-6)


def test_maps_are_those_of_monai():
    from monai.transforms import ComputeHoVerMaps  # seconds to import

    instances = pieces(crowd(60, 25, 0))
    assert np.allclose(np.asarray(ComputeHoVerMaps()(instances[None])), encode(instances)[1:], atol=1e-6)


@pytest.mark.parametrize("radius", [3, 6, 12, 24])
@pytest.mark.parametrize("angle", [0, 0.6, np.pi / 2])
def test_discs_that_touch_stay_two_at_any_magnification(radius, angle):
    """Also where the channels are noisy, as they are drawn; a speck of the same magnification goes."""
    truth = pair(radius, angle)
    structure = encode(truth) + np.random.default_rng(0).normal(0, 0.1, (3, *truth.shape))
    area = np.pi * radius**2
    speck = max(1, round(0.2 * radius))
    structure[:, :speck, :speck] = 1
    found = decode(structure.astype(np.float32), area)
    assert found.max() == 2 and overlaps(found, truth).min() > 0.9
    assert not found[:speck, :speck].any()


def test_instances_come_back_and_what_comes_back_stays():
    """Most of a crowd; and the label that is written is the structure that the image is drawn of."""
    for size, number, radii in ((200, 60, (4, 8)), (400, 60, (8, 16))):
        truth = pieces(crowd(size, number, 1, radii))
        area = typical_area(areas_inside(truth))
        found = decode(encode(truth), area)
        assert np.mean(overlaps(found, truth) > 0.8) > 0.85
        again = decode(encode(found), area)
        assert np.mean(overlaps(again, found) > 0.9) > 0.95


def test_nothing_is_empty_and_not_what_says_nothing():
    empty = np.zeros((24, 16), int)
    structure = encode(empty)
    assert (structure[0] == -1).all() and not structure[1:].any() and structure[0, 0, 0] != NOTHING_KNOWN
    found = decode(structure, 60.0)
    assert found.shape == (24, 16) and not found.any()


def test_a_batch_has_the_structures_of_its_patches():
    instances = np.stack([crowd(32, 6, seed) for seed in (0, 1)])
    labels, maps = torch.from_numpy((instances > 0).astype(int)), torch.from_numpy(np.stack([*map(hv_maps, instances)]))
    assert np.array_equal(of_batch(labels, maps).numpy(), np.stack([encode(one) for one in instances]))


def test_the_range_of_the_network():
    structure = torch.tensor([-1.0, 0.0, 1.0])
    assert to_input(structure, (0.0, 2.0)).tolist() == [0, 1, 2]
    assert torch.equal(from_input(to_input(structure, (-0.5, 3.0)), (-0.5, 3.0)), structure)


def test_areas_leave_out_what_the_border_cuts_and_count_pieces():
    instances = np.zeros((20, 20), int)
    instances[0:3, 5:9] = 1  # at the border
    instances[ellipse((20, 20), (10, 10), (2.5, 2.5))] = 2
    instances[15:17, 3:5], instances[15:17, 12:15] = 3, 3  # one nucleus in two pieces
    assert sorted(areas_inside(instances)) == [4, 6, 21] and typical_area(np.array([4, 6, 21])) == 6
    assert sorted(np.bincount(pieces(instances).ravel())[1:]) == [4, 6, 12, 21]


def test_a_picture_is_grey_where_nothing_is_known():
    assert (as_picture(np.full((3, 4, 5), NOTHING_KNOWN)) == 128).all()
    assert as_picture(np.full((3, 4, 5), -9.0)).shape == (4, 5, 3)
