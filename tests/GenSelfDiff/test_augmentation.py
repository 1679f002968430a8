"""Augmentation: labels go along with flips and turns, colours and stains change images only."""

import numpy as np
import pytest
import torch
from skimage.color import rgb_from_hed

from GenSelfDiff import augmentation
from GenSelfDiff.augmentation import StainJitter, finetuning_augmentation, flips
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.patches import Patches
from GenSelfDiff.transforms import tv_tensors


@pytest.fixture
def labelled(tiny_data_set):
    """A function: the labelled training patches, augmented or not."""
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    return lambda augmentation=None: PatchDataset([patches], "train", 0, augmentation)


@pytest.mark.parametrize(("turns", "different"), [(False, 4), (True, 8)])
def test_labels_are_flipped_and_turned_with_their_images(labelled, turns, different):
    """Flips make 4 views of a square, with quarter turns all 8."""
    before, changed = labelled()[0, 0], labelled(flips(turns))
    views = [(k, axes) for k in range(4) for axes in ([], [1])]
    seen = set()
    for epoch in range(60):
        after = changed[epoch, 0]
        view = next(
            i for i, (k, axes) in enumerate(views)
            if torch.equal(after["image"], before["image"].rot90(k, (0, 1)).flip(axes))
        )  # fmt: skip
        k, axes = views[view]
        assert torch.equal(after["label"], before["label"].rot90(k, (0, 1)).flip(axes))
        seen.add(view)
    assert len(seen) == different


@pytest.mark.parametrize("stain_jitter", [0.0, 0.1])
def test_blur_colours_and_stains_change_images_not_labels(labelled, stain_jitter):
    item, augmented = labelled()[0, 0], labelled(finetuning_augmentation(stain_jitter=stain_jitter))
    seen = [augmented[epoch, 0] for epoch in range(30)]
    assert {int(s["label"].sum()) for s in seen} == {int(item["label"].sum())}
    assert len({round(float(s["image"].float().mean()), 5) for s in seen}) > 3


def drawn(image, times=400):
    """So many augmentations of an image (3, H, W), each from its own seed."""
    augmented = finetuning_augmentation()
    for seed in range(times):
        torch.manual_seed(seed)
        yield augmented({"image": image.movedim(0, -1).clone()})["image"].movedim(-1, 0).float()


def test_the_blur_is_the_released_one():
    """3 x 3, sigma 1 across and 2 down: a point becomes the product of two short Gaussians."""
    point = torch.zeros(3, 5, 5, dtype=torch.uint8)
    point[:, 2, 2] = 255
    across, down = (np.exp(-np.array([1, 0, 1]) / (2 * sigma**2)) for sigma in (1, 2))
    expected = 255 * np.outer(down / down.sum(), across / across.sum())
    assert augmentation._blur(point)[0, 1:4, 1:4].numpy() == pytest.approx(expected, abs=0.51)


def test_three_of_ten_are_blurred():
    """An image of two values: brightness and contrast leave two, the blur makes more."""
    pixels = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).round().mul(60).add(90).byte()
    blurred = sum(image.unique().numel() > 2 for image in drawn(pixels.expand(3, 8, 8)))
    assert 0.3 - 0.07 < blurred / 400 < 0.3 + 0.07  # three standard deviations


def test_brightness_and_contrast_of_three_of_ten_change_as_published():
    """Two halves of 100 and 140, whose mean is 120: brightness 0.5 to 1.5 times, contrast 0.6 to 1.4 times."""
    halves = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    halves[:, :, 4:] = 140
    ends = torch.tensor([[image.min(), image.max()] for image in drawn(halves)])
    changed = ends[(ends != torch.tensor([100.0, 140.0])).any(1)]
    brightness = changed.mean(1) / 120
    contrast = (changed[:, 1] - changed[:, 0]) / 40 / brightness
    assert 0.3 - 0.07 < len(changed) / 400 < 0.3 + 0.07
    assert 0.5 <= brightness.min() + 0.01 < 0.56 and 1.44 < brightness.max() - 0.01 <= 1.5
    assert 0.6 <= contrast.min() + 0.04 < 0.68 and 1.32 < contrast.max() - 0.04 <= 1.4


def test_black_stays_a_colour(labelled):
    """It has no optical density: without a floor, the jitter of stains would make anything of it."""
    jitter = StainJitter(0.05)
    params = {"factors": torch.tensor([1.05, 0.95, 1.05]).double(), "amounts": torch.zeros(3).double()}
    assert jitter.transform(tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8)), params).max() <= 2


def stained(*concentrations):
    """A uint8 image (3, 2, 2) of one colour, from its stain concentrations in natural optical density."""
    colour = 255 * np.exp(-np.array(concentrations) @ rgb_from_hed)
    return tv_tensors.Image(torch.from_numpy(colour).round().byte()[:, None, None].expand(3, 2, 2).clone())


def test_stain_jitter_by_hand(monkeypatch):
    """Haematoxylin 1.2 times as strong, eosin raised by 0.1, the residual as it was."""
    jitter = StainJitter(0.2)
    params = {"factors": torch.tensor([1.2, 1, 1]).double(), "amounts": torch.tensor([0, 0.1, 0]).double()}
    got = jitter.transform(stained(0.5, 0.4, 0.0), params)
    assert (got.int() - stained(0.6, 0.5, 0.0).int()).abs().max() <= 2  # both are rounded


def test_stain_jitter_is_drawn_within_its_strength():
    jitter = StainJitter(0.05)
    drawn = [jitter.make_params([]) for _ in range(300)]
    factors, amounts = (torch.stack([d[name] for d in drawn]) for name in ("factors", "amounts"))
    assert 0.95 <= factors.min() < 0.955 and 1.045 < factors.max() <= 1.05
    assert -0.05 <= amounts.min() < -0.045 and 0.045 < amounts.max() <= 0.05


def test_no_jitter_changes_nothing():
    image = tv_tensors.Image(torch.randint(1, 256, (3, 8, 8), dtype=torch.uint8))
    assert torch.equal(StainJitter(0.0)(image), image)
