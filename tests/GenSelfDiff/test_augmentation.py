"""Augmentation: labels go along with flips and turns, colours and stains change images only."""

import numpy as np
import pytest
import torch
from skimage.color import rgb_from_hed

from GenSelfDiff.augmentation import StainJitter, finetuning_augmentation, flips, tv_tensors
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.patches import Patches


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
