"""Patches at several magnifications: which image is for what is the same at all of them, and every batch has all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from GenSelfDiff.data import EpochBatches, PatchDataset, derived_seed, pretraining_folder
from GenSelfDiff.devices import Devices
from GenSelfDiff.haematoxylin import haematoxylin_threshold
from GenSelfDiff.methods.attention.colour import colours
from GenSelfDiff.patches import Patches
from utils_general import InputError

SAME = 1.02  # times that a level may be more or less than half the one before
LOOKED_AT = 16  # patches of an image, spread evenly, by which the area of its nuclei is estimated
BLUR = 1.0  # pixels, before Otsu's threshold


def read_levels(roots: tuple[Path, ...], leave_out: tuple[str, ...] = ()) -> list[Patches]:
    """The patches of each root, the finest level first; `InputError` unless they are levels of the same images.

    `leave_out`: beginnings of the names of images that are not taken.
    """
    if len(roots) < 2:
        raise InputError(
            f"--data names {len(roots)} data set: a root for each magnification is needed, the finest first, as "
            "--downscale 1, 2 and 4 of the preprocessing make them"
        )
    levels = [Patches(pretraining_folder(root)) for root in roots]
    for before, after in zip(levels, levels[1:], strict=False):
        factor = after.data_set.downscale / before.data_set.downscale
        if not 2 / SAME <= factor <= 2 * SAME:
            raise InputError(
                f"{after.folder} is reduced {after.data_set.downscale:g} times, {before.folder} "
                f"{before.data_set.downscale:g} times: each level has to be half as large as the one before "
                "(--downscale 1, 2, 4 of the preprocessing)"
            )
        _check_same_split(before, after)
    for name in leave_out:
        if not levels[0].index.source.astype(str).str.startswith(name).any():
            raise InputError(f"--leave-out {name}: no image in {levels[0].folder} has a name that begins so")
    for level in levels:
        level.index = level.index[~level.index.source.astype(str).str.startswith(tuple(leave_out))]
    if not (levels[0].index.split == "train").any():
        how = f" is left by --leave-out {' '.join(leave_out)}" if leave_out else ""
        raise InputError(f"no image to train on{how} in {levels[0].folder}")
    return levels


def _check_same_split(one: Patches, other: Patches) -> None:
    """`InputError` names an image that is not in both, or is for training in one and held out in the other."""
    splits = [dict(zip(p.index.source.astype(str), p.index.split.astype(str), strict=True)) for p in (one, other)]
    for source in sorted(splits[0].keys() | splits[1].keys()):
        found = [of_level.get(source, "missing") for of_level in splits]
        if found[0] != found[1]:
            raise InputError(
                f"{source} is {found[0]} in {one.folder} and {found[1]} in {other.folder}: all levels are made of the "
                "same images with the same options, but for --downscale"
            )


class Levels(PatchDataset):
    """One split of all levels. An item has its level, too, and which level is said to be the right one, `told`.

    That is its level; with `shuffled`, any, always the same of one patch: nothing can be learnt from it but the patch.
    """

    shuffled = False

    def level(self, i: int) -> int:
        """Of a patch by its place."""
        return int(np.searchsorted(self.ends, i, side="right"))

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor | int | str]:
        """See `PatchDataset`."""
        level = self.level(key[1])
        told = derived_seed(self.seed, key[1]) % len(self.folders) if self.shuffled else level
        return {**super().__getitem__(key), "level": level, "told": told}

    def batches(self, batch_size: int, seed: int, devices: Devices, shuffle: bool) -> EpochBatches:
        """See `PatchDataset`."""
        return BalancedBatches(self.ends, batch_size, seed, devices, shuffle)


class BalancedBatches(EpochBatches):
    """Batches with as many patches of each level as of any other, up to one.

    In training each level is gone through in a new order again and again, and a pass is one over the largest. Held out
    are as many of each as the smallest level has, spread evenly over it, once, in order. With several processes each
    has its share of each level.
    """

    def __init__(self, ends: np.ndarray, batch_size: int, seed: int, devices: Devices, shuffle: bool):
        self.first_of, self.counts = np.concatenate([[0], ends[:-1]]), np.diff(ends, prepend=0)
        if shuffle and not self.counts.min():
            raise InputError("a level has no patch to train on")
        self.orders: dict[int, tuple[int, np.ndarray]] = {}
        each = self.counts.max() if shuffle else self.counts.min()
        super().__init__(int(each) * len(ends), batch_size, seed, devices, shuffle)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.end):
            joint = range(step * self.batch_size, (step + 1) * self.batch_size)
            joint = joint if self.shuffle else joint[: max(0, self.length - joint.start)]
            share = np.array_split(joint, self.world_size)[self.rank]
            if len(share):
                yield [self._patch(int(slot)) for slot in share]

    def _patch(self, slot: int) -> tuple[int, int]:
        """Number of the pass over its level, and place, of the patch that is the `slot`th since the beginning."""
        number, level = divmod(slot, len(self.counts))
        count = int(self.counts[level])
        if not self.shuffle:
            spread = np.linspace(0, count - 1, self.counts.min()).round().astype(int)
            return 0, int(self.first_of[level] + spread[number])
        turn, place = divmod(number, count)
        return turn, int(self.first_of[level] + self._order(level, turn)[place])

    def _order(self, level: int, turn: int) -> np.ndarray:
        """Of the patches of a level, in one pass over them; the last one of each level is remembered."""
        if self.orders.get(level, (None,))[0] != turn:
            random = np.random.default_rng(derived_seed(self.seed, level, turn))
            self.orders[level] = turn, random.permutation(int(self.counts[level]))
        return self.orders[level][1]


def nuclei_share(patches: Patches) -> float:
    """What part of the images to train on is nuclei, without labels: the mean over them of what Otsu's threshold of
    haematoxylin finds in some patches of each. Rounded, so that it is the same on all machines."""
    sources = sorted(patches.index.source[patches.index.split == "train"].astype(str).unique())
    shares = [haematoxylin_threshold(some_patches(patches, source), BLUR).mean() for source in sources]
    return round(float(np.mean(shares)), 3)


def target_colours(patches: Patches) -> Tensor:
    """Mean and deviation in CIELAB (2, 3) of the first image to train on by name, which all others are given."""
    first = min(patches.index.source[patches.index.split == "train"].astype(str))
    pixels = np.concatenate(some_patches(patches, first))
    return colours(torch.from_numpy(pixels).movedim(-1, 0)[None] / 255)[0]


def some_patches(patches: Patches, source: str) -> np.ndarray:
    """At most `LOOKED_AT` of the patches of an image, spread evenly, uint8 (N, H, W, 3)."""
    numbers = patches.index.patch[patches.index.source == source].to_numpy()
    chosen = np.unique(np.linspace(0, len(numbers) - 1, LOOKED_AT).round().astype(int))
    return np.stack([patches.image(patch) for patch in numbers[chosen]])
