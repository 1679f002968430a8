"""Patches at several magnifications: one split, balanced batches, and what is known of them without labels."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from GenSelfDiff.data import pretraining_folder
from GenSelfDiff.devices import Devices
from GenSelfDiff.methods.attention.levels import BalancedBatches, Levels, nuclei_share, read_levels, target_colours
from GenSelfDiff.methods.attention.tiles import Spoil, StainFactors, Tile, tiles
from GenSelfDiff.patches import Patches
from GenSelfDiff.transforms import tv_tensors
from pre_process.resolution import Maps, reduce
from tests.GenSelfDiff.methods.attention.levels import write_levels
from utils_general import InputError

CPU = torch.device("cpu")
ENDS = np.array([12, 16, 18])  # of levels of 12, 4 and 2 patches


def batches(size, shuffle=True, rank=0, world=1, ends=ENDS, steps=None):
    made = BalancedBatches(ends, size, 7, Devices(CPU, rank=rank, world_size=world), shuffle)
    made.end = steps or len(made)
    return made, list(made)


def level_of(i):
    return int(np.searchsorted(ENDS, i, side="right"))


def test_every_batch_has_as_many_of_each_level():
    made, found = batches(6)
    assert len(made) == 6  # a pass over the twelve of the largest
    for batch in found:
        assert Counter(level_of(i) for _, i in batch) == {0: 2, 1: 2, 2: 2}
    seen = [i for batch in found for _, i in batch]
    assert sorted(i for i in seen if i < 12) == list(range(12))
    assert Counter(i for i in seen if i >= 16) == {16: 6, 17: 6}  # the smallest again and again, each time as another
    assert {key for batch in found for key in batch if key[1] == 16} == {(turn, 16) for turn in range(6)}
    assert [Counter(level_of(i) for _, i in batch) for batch in batches(4)[1][:1]] == [{0: 2, 1: 1, 2: 1}]


def test_a_step_is_the_same_wherever_one_begins_and_by_however_many_processes():
    _, whole = batches(6, steps=9)
    later, _ = batches(6)
    later.first, later.end = 7, 9
    assert list(later) == whole[7:]
    shares = [batches(3, rank=rank, world=2, steps=9)[1] for rank in (0, 1)]
    for joint, *parts in zip(whole, *shares, strict=True):
        assert [*parts[0], *parts[1]] == joint
        assert all(len({level_of(i) for _, i in part}) == 3 for part in parts)  # each process has all levels


def test_held_out_are_as_many_of_each_level_once():
    made, found = batches(4, shuffle=False)
    assert [len(batch) for batch in found] == [4, 2] and len(made) == 2
    assert [i for batch in found for _, i in batch] == [0, 12, 16, 11, 15, 17]  # spread over each level
    together = [batches(2, shuffle=False, rank=rank, world=2)[1] for rank in (0, 1)]
    assert sorted(key for part in together for batch in part for key in batch) == sorted(k for b in found for k in b)
    assert batches(4, shuffle=False, ends=np.array([4, 4]))[1] == []  # nothing is held out of one of the levels


def test_items_say_their_level_and_shuffled_ones_another(tmp_path):
    data = Levels(read_levels(write_levels(tmp_path)), "train", 3)
    assert [data[0, i]["level"] for i in (0, 7, 8, 23)] == [0, 0, 1, 2]
    assert all(data[0, i]["told"] == data[0, i]["level"] for i in range(24))
    data.shuffled = True
    told = [data[0, i]["told"] for i in range(24)]
    assert told == [data[5, i]["told"] for i in range(24)] and set(told) == {0, 1, 2}
    assert [data[0, i]["level"] for i in range(24)] == [0] * 8 + [1] * 8 + [2] * 8 != told


def test_a_tile_of_a_level_is_the_mean_of_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mean = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(reduce(Maps(image), 2).image - mean).max() <= 0.5


def change_index(root, change):
    file = pretraining_folder(root) / "index.csv"
    index = pd.read_csv(file)
    change(index)
    index.to_csv(file, index=False)


def test_levels_that_do_not_belong_together_are_named(tmp_path):
    roots = write_levels(tmp_path)
    assert len(read_levels(roots)) == 3
    assert [sorted(level.index.source.unique()) for level in read_levels(roots, ("u1",))] == [["u2", "u3"]] * 3
    with pytest.raises(InputError, match="--leave-out x: no image in .* has a name that begins so"):
        read_levels(roots, ("u1", "x"))
    with pytest.raises(InputError, match="no image to train on is left by --leave-out u1 u2 in .*x1/unlabelled"):
        read_levels(roots, ("u1", "u2"))
    with pytest.raises(InputError, match="--data names 1 data set: a root for each magnification is needed"):
        read_levels(roots[:1])
    with pytest.raises(InputError, match=r"x4/unlabelled is reduced 4 times, .*x1/unlabelled 1 times: each level has"):
        read_levels((roots[0], roots[2]))
    with pytest.raises(InputError, match=r"x2/unlabelled is reduced 2 times, .*x4/unlabelled 4 times"):
        read_levels(roots[::-1])
    change_index(roots[1], lambda index: index.replace({"u2": "other"}, inplace=True))
    with pytest.raises(InputError, match=r"other is missing in .*x1/unlabelled and train in .*x2/unlabelled: all lev"):
        read_levels(roots)
    roots = write_levels(tmp_path / "again")
    change_index(roots[2], lambda index: index.replace({"val": "train"}, inplace=True))
    with pytest.raises(InputError, match=r"u3 is val in .*x2/unlabelled and train in .*x4/unlabelled"):
        read_levels(roots)
    roots = write_levels(tmp_path / "size")
    (roots[1] / "dataset.json").write_text(
        json.dumps(json.loads((roots[1] / "dataset.json").read_text()) | {"patch_size": 24})
    )
    with pytest.raises(InputError, match="one size is needed"):
        Levels(read_levels(roots), "train", 0)


def test_the_share_of_nuclei_and_the_colours_are_known_without_labels(tmp_path, write_patches):
    """Discs of a quarter of the side: their area is pi / 16 of a patch, 0.196, less what the border cuts."""
    roots = write_levels(tmp_path)
    patches = Patches(pretraining_folder(roots[0]))
    share = nuclei_share(patches)
    assert 0.15 < share < 0.25 and share == round(share, 3)
    assert target_colours(patches).shape == (2, 3) and 60 < target_colours(patches)[0, 0] < 100
    patches.index = patches.index[patches.index.split == "train"]  # what is held out is not looked at
    assert nuclei_share(patches) == share


def seeded(transform, image, seed=0):
    torch.manual_seed(seed)
    return transform({"image": tv_tensors.Image(image)})["image"]


def test_tiles_are_cut_anywhere_and_spoilt_alike():
    image = torch.arange(3 * 32 * 32).view(3, 32, 32).remainder(251).to(torch.uint8)
    plain = seeded(tiles(16, False, None, 0.0, 0.0, False), torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert plain.shape == (3, 16, 16) and not plain.any()
    cut = Tile(16, 0.0)
    places = {cut.make_params([])["side"] for _ in range(5)}
    corner = cut.transform(image, {"side": 16, "place": [0.0, 0.999]})
    assert places == {16} and torch.equal(corner, image[:, :16, 16:])
    sides = [Tile(64, 0.15).make_params([])["side"] for _ in range(200)]
    assert 56 <= min(sides) < 60 and 70 < max(sides) <= Tile.largest(64, 0.15) == 75
    assert torch.equal(seeded(Spoil(), image), seeded(Spoil(), image))
    assert not torch.equal(seeded(Spoil(), image), seeded(Spoil(), image, 1))
    stained = seeded(StainFactors(0.5), torch.full((3, 8, 8), 120, dtype=torch.uint8))
    assert not (stained == 120).all() and len(stained.unique()) <= 3  # all pixels alike
    whole = seeded(tiles(16, True, torch.tensor([[70.0, 10, -8], [6, 3, 3]]), 0.03, 0.15, True), image)
    assert whole.shape == (3, 16, 16) and whole.dtype == torch.uint8
