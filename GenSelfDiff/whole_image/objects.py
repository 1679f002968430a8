"""The objects of a whole image of any size: found block by block, joined over the blocks' borders.

Every block is labelled together with a margin that it shares with its neighbours. What two blocks say of the same
pixels tells which of their labels are the same object; so an object is whole, over however many blocks it lies.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.measure import label

from GenSelfDiff.distance_maps import SMOOTHING
from GenSelfDiff.instances import InstanceMethod, InstanceSettings
from GenSelfDiff.targets import MAPS, decode, from_bytes
from GenSelfDiff.whole_image.blocks import Blocks, Box
from GenSelfDiff.whole_image.slides import View

# Pixels that neighbouring blocks share. Connected components need the next pixel only, and their perimeter one more;
# what is made of a nucleus that is divided from others depends on the nuclei around it.
MARGINS: dict[InstanceMethod, int] = {"components": 2, "watershed": 128, "border": 128, "hv": 128}
Progress = Callable[[], None]


@dataclass
class Objects:
    """The objects of an image, numbered from 1 in the order of the last block that they reach."""

    class_of: np.ndarray
    """class by number (n + 1,); 0 is the background"""
    last: np.ndarray
    """the last block of each, by number (n + 1,)"""
    area: np.ndarray
    """pixels, by number (n + 1,)"""
    numbers: np.ndarray
    """by label, all blocks' labels in a row"""
    first: np.ndarray
    """where the labels of each block begin in `numbers` (blocks + 1,)"""

    def __len__(self) -> int:
        return len(self.class_of) - 1

    def renumber(self, block: int, labels: np.ndarray) -> np.ndarray:
        """The objects' numbers where a block has its labels."""
        return self.numbers[self.first[block] : self.first[block + 1]][labels]


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What is known of the image in which objects were found."""

    name: str
    """of its file: with an object's number it makes the object's id"""
    classes: list[str]
    view: View
    """at the resolution that was worked at"""
    mpp: float | None
    """micrometres a pixel of the image; None where unknown"""


def _pixels(blocks: Blocks, kind: str, name: str, box: Box) -> np.ndarray:
    left, top, right, bottom = box
    return blocks.gather(kind, name, np.arange(top, bottom), np.arange(left, right))


def inner(blocks: Blocks, block: int, outer: Box) -> tuple[slice, slice]:
    """Where the block itself is in a map of its `outer` box."""
    left, top, right, bottom = blocks.box(block)
    return slice(top - outer[1], bottom - outer[1]), slice(left - outer[0], right - outer[0])


def label_blocks(blocks: Blocks, method: InstanceMethod, settings: InstanceSettings, progress: Progress) -> None:
    """Label every block with its margin: "labels" (h, w) and the class of each label, from 0 (the background).

    For connected components the background's own components are labelled, too: which of them are holes is seen when
    all blocks are known.
    """
    for block in range(len(blocks)):
        if not blocks.has("labels", block):
            box = blocks.box(block, MARGINS[method])
            class_map = _pixels(blocks, "classes", "classes", box).astype(np.int32)
            if method != "components":
                maps = [_pixels(blocks, "classes", f"map_{k}", box) for k in range(MAPS.get(method, 0))]
                labels = _divided(class_map, maps, method, settings)
            else:
                labels = label(class_map, connectivity=2)
                ground = label(class_map == 0, connectivity=1)
                labels = np.where(class_map == 0, ground + labels.max(), labels)
            class_of = np.zeros(int(labels.max()) + 1, np.int32)
            things = class_map > 0  # a filled hole is background in the class map
            class_of[labels[things]] = class_map[things]
            blocks.write("labels", block, labels=labels.astype(np.int32), class_of=class_of)
        progress()


def _divided(
    class_map: np.ndarray, maps: list[np.ndarray], method: InstanceMethod, settings: InstanceSettings
) -> np.ndarray:
    """The labels of a method that divides, sought no farther than its smoothing reaches around what there is."""
    labels = np.zeros(class_map.shape, np.int32)
    reach = math.ceil(4 * max(settings.smoothing, SMOOTHING)) + 2
    ys, xs = (np.flatnonzero(class_map.any(axis)) for axis in (1, 0))
    if len(ys):
        part = np.s_[max(0, ys[0] - reach) : ys[-1] + reach + 1, max(0, xs[0] - reach) : xs[-1] + reach + 1]
        seen = from_bytes(np.array([of_target[part] for of_target in maps]))
        labels[part] = decode(class_map[part], seen, method, replace(settings, minimum_area=1))
    return labels


def join_blocks(blocks: Blocks, method: InstanceMethod, minimum_area: int, progress: Progress) -> Objects:
    """Find out which labels of neighbouring blocks are the same object; smaller ones than `minimum_area` are left out.

    Connected components: labels that share a pixel. All else: labels that share more than half of their pixels where
    both blocks see them. Background that one class alone encloses joins it, as in `instances.fill_holes`.
    """
    classes = [blocks.read("labels", block, "class_of") for block in range(len(blocks))]
    first = np.concatenate([[0], np.cumsum([len(class_of) for class_of in classes])])
    areas, borders = [], []
    same, around = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for block, class_of in enumerate(classes):
        box = blocks.box(block, MARGINS[method])
        labels = blocks.read("labels", block, "labels")
        areas.append(np.bincount(labels[inner(blocks, block, box)].ravel(), minlength=len(class_of)))
        borders.append(np.isin(np.arange(len(class_of)), _on_image_border(labels, box, blocks)))
        for other in blocks.before(block):
            shared = _shared(labels, box, blocks.read("labels", other, "labels"), blocks.box(other, MARGINS[method]))
            same.append(_same(*shared, method) + [first[block], first[other]])
        if method == "components":
            around.append(_touching(labels, class_of) + first[block])
        progress()
    everything = _Labels(first, np.concatenate(classes), np.concatenate(areas), np.concatenate(borders))
    same, around = np.concatenate(same), np.concatenate(around)
    group = _groups(first[-1], same)
    if method == "components":
        holes = _holes(group, everything, around)
        group = _groups(first[-1], np.concatenate([same, around[holes[group[around[:, 0]]]]]))
    return _number(group, everything, minimum_area)


@dataclass(frozen=True)
class _Labels:
    """The labels of all blocks in a row, and what each is, (labels,)."""

    first: np.ndarray
    """where those of each block begin (blocks + 1,)"""
    class_of: np.ndarray
    """0 is the background"""
    area: np.ndarray
    """pixels inside its block"""
    at_border: np.ndarray
    """whether it reaches the border of the image"""


def _shared(labels: np.ndarray, box: Box, others: np.ndarray, other_box: Box) -> tuple[np.ndarray, np.ndarray]:
    """What two blocks say of the pixels that both see, (2, n)."""
    left, top = max(box[0], other_box[0]), max(box[1], other_box[1])
    right, bottom = min(box[2], other_box[2]), min(box[3], other_box[3])
    parts = ((labels, box), (others, other_box))
    return tuple(a[top - b[1] : bottom - b[1], left - b[0] : right - b[0]].ravel() for a, b in parts)


def _same(ours: np.ndarray, theirs: np.ndarray, method: InstanceMethod) -> np.ndarray:
    """Pairs (n, 2) of labels that are the same object, of the labels of two blocks at the same pixels."""
    both = (ours > 0) & (theirs > 0)
    width = int(theirs.max(initial=0)) + 1
    codes, shared = np.unique(ours[both].astype(np.int64) * width + theirs[both], return_counts=True)
    a, b = codes // width, codes % width
    if method != "components":
        either = np.bincount(ours)[a] + np.bincount(theirs)[b] - shared if len(codes) else shared
        a, b = a[2 * shared > either], b[2 * shared > either]
    return np.stack([a, b], axis=1)


def _touching(labels: np.ndarray, class_of: np.ndarray) -> np.ndarray:
    """Pairs (n, 2) of a background label and a label of a class that it touches (4 neighbours)."""
    found = []
    for one, other in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        edge = (class_of[one] == 0) != (class_of[other] == 0)
        found.append(np.stack([one[edge], other[edge]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0).astype(np.int64)
    return np.where((class_of[pairs[:, :1]] == 0), pairs, pairs[:, ::-1])


def _on_image_border(labels: np.ndarray, box: Box, blocks: Blocks) -> np.ndarray:
    """The labels that reach the border of the image."""
    sides = ((box[0] == 0, labels[:, 0]), (box[1] == 0, labels[0]))
    ends = ((box[2] == blocks.width, labels[:, -1]), (box[3] == blocks.height, labels[-1]))
    return np.unique(np.concatenate([np.zeros(0, int), *(pixels for there, pixels in (*sides, *ends) if there)]))


def _groups(nodes: int, pairs: np.ndarray) -> np.ndarray:
    """The number of the group that each node belongs to, where pairs (n, 2) are joined."""
    ones = np.ones(len(pairs), bool)
    return connected_components(coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), (nodes, nodes)), directed=False)[1]


def _holes(group: np.ndarray, labels: _Labels, around: np.ndarray) -> np.ndarray:
    """Which groups are background that one class alone encloses; `around`: pairs of background and class label."""
    groups = int(group.max(initial=0)) + 1
    lowest, highest = np.full(groups, np.iinfo(np.int64).max), np.zeros(groups, np.int64)
    np.minimum.at(lowest, group[around[:, 0]], labels.class_of[around[:, 1]])
    np.maximum.at(highest, group[around[:, 0]], labels.class_of[around[:, 1]])
    open_ = np.zeros(groups, bool)
    open_[group[labels.at_border]] = True
    return (lowest == highest) & ~open_


def _number(group: np.ndarray, labels: _Labels, minimum_area: int) -> Objects:
    """Number the groups that are objects, in the order of the last block that they reach."""
    groups = int(group.max(initial=0)) + 1
    sizes, classes, last = (np.zeros(groups, np.int64) for _ in range(3))
    np.add.at(sizes, group, labels.area)
    np.maximum.at(classes, group, labels.class_of)
    block_of = np.repeat(np.arange(len(labels.first) - 1), np.diff(labels.first))
    np.maximum.at(last, group, np.where(labels.area > 0, block_of, 0))
    kept = np.flatnonzero((classes > 0) & (sizes >= max(1, minimum_area)))
    kept = kept[np.argsort(last[kept], kind="stable")]
    number = np.zeros(groups, np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    by_number = {"class_of": classes, "last": last, "area": sizes}
    return Objects(
        **{name: np.concatenate([[0], values[kept]]) for name, values in by_number.items()},
        numbers=number[group],
        first=labels.first,
    )
