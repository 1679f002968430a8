"""What is learnt beside the class map: borders, and what all targets share."""

import numpy as np
import pytest
import torch

from GenSelfDiff.distance_maps import hv_maps
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.predictor import averaged
from GenSelfDiff.targets import decode, from_bytes, instance_method, said, split, target_maps, to_bytes
from tests.GenSelfDiff.touching import crowd, overlaps, pair

ALL = InstanceSettings(minimum_area=1, largest_hole=0)


def test_the_border_is_one_pixel_on_either_side_of_an_outline():
    instances = np.zeros((7, 9), int)
    instances[2:5, 1:4], instances[2:5, 4:9] = 3, 8  # they touch between columns 3 and 4; 8 ends with the image
    expected = [".........", "bbbbbbbbb", "bbbbbbbbb", "bb.bb....", "bbbbbbbbb", "bbbbbbbbb", "........."]
    border = target_maps("border", instances)
    assert border.dtype == np.uint8 and ["".join(".b"[x] for x in row) for row in border[0]] == expected
    assert not target_maps("border", np.zeros((4, 4), int)).any()


@pytest.mark.parametrize("radius", [3, 4, 6, 12, 24])
@pytest.mark.parametrize("apart", [2.0, 1.4])
def test_discs_that_touch_come_apart_at_their_border(radius, apart):
    for angle in np.linspace(0, np.pi, 9):
        truth = pair(radius, angle, apart)
        border = target_maps("border", truth).astype(np.float32)
        found = decode((truth > 0).astype(int), border, "border", ALL)
        assert found.max() == 2 and overlaps(found, truth).min() > 0.7, angle
        assert ((found > 0) == (truth > 0)).all()


def test_an_object_that_is_all_border_stays():
    truth = np.zeros((20, 20), int)
    truth[5:7, 5:12] = 1
    border = target_maps("border", truth).astype(np.float32)
    assert (border[0][truth > 0] == 1).all()
    assert (decode(truth, border, "border", ALL) == truth).all()


def test_the_other_methods_look_at_no_map():
    truth = pair(10, 0.0)
    class_map, maps = (truth > 0).astype(int), np.ones((2, *truth.shape), np.float32)
    assert decode(class_map, maps, "components", ALL).max() == 1
    assert decode(class_map, maps[:0], "watershed", ALL).max() == 2


def test_what_is_kept_of_maps():
    maps = np.array([-3, -1, -0.5, 0, 0.25, 1, 7], np.float32)
    assert to_bytes(maps).tolist() == [1, 1, 64, 128, 160, 255, 255]
    assert from_bytes(to_bytes(maps))[[1, 3, 5]].tolist() == [-1, 0, 1]
    assert np.abs(from_bytes(to_bytes(maps)) - maps.clip(-1, 1)).max() <= 0.5 / 127
    truth = crowd(120, 40, 1)
    kept = from_bytes(to_bytes(hv_maps(truth)))
    assert (overlaps(decode((truth > 0).astype(int), kept, "hv", ALL), truth) > 0.7).mean() > 0.9


def test_outputs_are_classes_and_then_maps():
    outputs = torch.arange(2 * 4 * 2 * 2.0).reshape(2, 4, 2, 2) / 10
    for targets, classes in (("classes", 4), ("border", 3), ("hv", 2)):
        logits, maps = split(outputs, targets)
        assert logits.shape[1] == classes and torch.equal(torch.cat((logits, maps), 1), outputs)
        of_pixels = said(outputs, targets)
        assert torch.equal(of_pixels[:, :classes], outputs[:, :classes].softmax(1))
        expected = maps.sigmoid() if targets == "border" else maps
        assert torch.equal(of_pixels[:, classes:], expected)


def test_the_method_is_that_of_the_targets_unless_another_is_wanted():
    auto, wanted = InstanceSettings(), InstanceSettings(instances="components")
    assert [instance_method(auto, t, "watershed") for t in ("classes", "border", "hv")] == ["watershed", "border", "hv"]
    assert instance_method(auto, "classes", "components") == "components"
    assert {instance_method(wanted, t, "watershed") for t in ("classes", "border", "hv")} == {"components"}


@pytest.mark.parametrize("symmetries", ["none", "flips", "all"])
@pytest.mark.parametrize("targets", ["border", "hv"])
def test_averaging_turns_maps_back(symmetries, targets):
    """A network that is never wrong says of all views the same."""
    truth = np.stack([crowd(40, 12, seed, (3, 6)) for seed in range(2)])
    images = np.repeat(truth[..., None], 3, -1).astype(np.uint8)

    def knowing(images):
        of_each = [(image[..., 0] == 0, image[..., 0] > 0, *target_maps(targets, image[..., 0])) for image in images]
        return np.array(of_each, np.float32)

    found = averaged(knowing, symmetries, targets)(images)
    assert found.shape[1] == (3 if targets == "border" else 4)
    assert np.allclose(found, knowing(images), atol=1e-6)
