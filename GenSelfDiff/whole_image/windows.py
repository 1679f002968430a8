"""Overlapping windows over an image of any size, and what they say, kept block by block on disk.

A pixel's class probabilities are the mean over all windows that see it, weighted by a Gaussian around each window's
centre. The windows lie on one grid over the whole image, so the result does not depend on the blocks it is computed in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from GenSelfDiff.whole_image.slides import View
from utils_general import replace_file

Predictor = Callable[[np.ndarray], np.ndarray]
"""Images uint8 (N, H, W, 3) to class probabilities float32 (N, C, H, W)"""
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside"""
Wanted = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Left sides (n,) and tops (m,) of windows of so many pixels to whether there is something in each, bool (m, n)"""
Averaging = Literal["none", "flips", "all"]

SHAPE = " shape"  # what a block's file also has of a map that is written as one value

# Quarter turns, and whether a flip from left to right follows
SYMMETRIES: dict[str, list[tuple[int, bool]]] = {
    "none": [(0, False)],
    "flips": [(0, False), (0, True), (2, False), (2, True)],
    "all": [(turns, flip) for turns in range(4) for flip in (False, True)],
}


def averaged(predict: Predictor, averaging: Averaging) -> Predictor:
    """The mean of what `predict` says of square images seen in several ways: as they are, the 4 flips, or all 8."""

    def mean(images: np.ndarray) -> np.ndarray:
        total = np.float32(0)
        for turns, flip in SYMMETRIES[averaging]:
            seen = np.rot90(images, turns, axes=(1, 2))
            said = predict(np.ascontiguousarray(seen[:, :, ::-1] if flip else seen))
            total = total + np.rot90(said[..., ::-1] if flip else said, -turns, axes=(2, 3))
        return total / np.float32(len(SYMMETRIES[averaging]))

    return predict if averaging == "none" else mean


@dataclass(frozen=True)
class Windows:
    """A grid of square windows of `size` pixels, each of which shares the part `overlap` (0 to below 1) with the next.

    A quarter of the overlap at each side of a window has the weight 0. So a network that looks no further than
    `border` pixels gives exactly what it would give for the whole image (mirrored at its border) at once.
    """

    size: int
    overlap: float

    @property
    def step(self) -> int:
        """Pixels from one window to the next."""
        return max(1, round(self.size * (1 - self.overlap)))

    @property
    def border(self) -> int:
        """Pixels at each side of a window that do not count."""
        return (self.size - self.step) // 4

    def starts(self, first: int, last: int, length: int) -> np.ndarray:
        """Where the windows begin that count in pixels first..last-1 of an axis of `length` pixels."""
        low = max(0, (first - (self.size - 2 * self.border)) // self.step + 1)
        high = min(-(-length // self.step) - 1, (last - 1) // self.step)
        return np.arange(low, high + 1) * self.step - self.border

    def weights(self) -> np.ndarray:
        """A Gaussian of deviation size / 4 around the centre, float32 (size, size).

        It is lowered so that it reaches 0 where the border begins: a weight that jumped would be seen as a seam where
        two windows disagree, and so would a narrow Gaussian, between whose windows the change is sudden.
        """
        distance = np.arange(self.size) - (self.size - 1) / 2
        end = self.size / 2 - self.border
        axis = np.exp(-8 * (distance / self.size) ** 2) - np.exp(-8 * (end / self.size) ** 2)
        axis[np.abs(distance) >= end] = 0
        return np.outer(axis, axis).astype(np.float32)


def predict_box(
    predict: Predictor,
    classes: int,
    view: View,
    windows: Windows,
    box: Box,
    batch_size: int,
    wanted: Wanted,
    done: Callable[[int], None],
) -> np.ndarray:
    """Class probabilities of a region, float32 (classes, H, W).

    Windows in which nothing is `wanted` are left out; where none is left, it is background. `done` is told how many
    windows were looked at.
    """
    left, top, right, bottom = box
    xs, ys = windows.starts(left, right, view.width), windows.starts(top, bottom, view.height)
    corners = [(xs[j], ys[i]) for i, j in np.argwhere(wanted(xs, ys, windows.size))]
    total = np.zeros((classes, bottom - top, right - left), np.float32)
    covered = np.zeros(total.shape[1:], np.float32)
    if corners:
        pixels = view.read(xs[0], ys[0], xs[-1] + windows.size, ys[-1] + windows.size)
        views = np.lib.stride_tricks.sliding_window_view(pixels, (windows.size, windows.size), axis=(0, 1))
        weights = windows.weights()
    for start in range(0, len(corners), batch_size):
        batch = corners[start : start + batch_size]
        images = np.stack([views[y - ys[0], x - xs[0]] for x, y in batch]).transpose(0, 2, 3, 1)
        for (x, y), probabilities in zip(batch, predict(np.ascontiguousarray(images)), strict=True):
            x0, x1, y0, y1 = max(x, left), min(x + windows.size, right), max(y, top), min(y + windows.size, bottom)
            here, there = np.s_[y0 - top : y1 - top, x0 - left : x1 - left], np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
            covered[here] += weights[there]
            total[:, *here] += weights[there] * probabilities[:, *there]
        done(len(batch))
    total[0, covered == 0] = 1
    return total / np.where(covered == 0, 1, covered)


class Blocks:
    """Maps of a whole image (H, W), kept on disk in square blocks: memory holds a few of them at a time.

    A kind of map is written for a block at once, `write`, and read by block, or by rows and columns of the whole image,
    `gather`. What was written stays when the process ends: `has` tells.
    """

    def __init__(self, folder: Path, height: int, width: int, size: int):
        self.folder, self.height, self.width, self.size = folder, height, width, size
        self.rows, self.columns = -(-height // size), -(-width // size)

    def __len__(self) -> int:
        return self.rows * self.columns

    def box(self, block: int, margin: int = 0) -> Box:
        """Where a block is, with a margin as far as the image goes."""
        row, column = divmod(block, self.columns)
        left, top = column * self.size, row * self.size
        right, bottom = left + self.size + margin, top + self.size + margin
        return max(0, left - margin), max(0, top - margin), min(right, self.width), min(bottom, self.height)

    def before(self, block: int) -> list[int]:
        """The neighbours of a block that come before it: left, and the up to three above."""
        row, column = divmod(block, self.columns)
        places = [(row, column - 1), *((row - 1, column + i) for i in (-1, 0, 1))]
        return [r * self.columns + c for r, c in places if r >= 0 and 0 <= c < self.columns]

    def _file(self, kind: str, block: int) -> Path:
        return self.folder / f"{kind}_{block}.npz"

    def has(self, kind: str, block: int) -> bool:
        """Whether the maps of a kind are there."""
        return self._file(kind, block).is_file()

    def write(self, kind: str, block: int, **maps: np.ndarray) -> None:
        """Write maps of a block. Of a map that is the same everywhere, as of glass, only one value is written."""
        files = {}
        for name, a in maps.items():
            same = a.size > 0 and a.min() == a.max()
            files |= {name: a.flat[:1], f"{name}{SHAPE}": np.array(a.shape)} if same else {name: a}
        with replace_file(self._file(kind, block)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **files)

    def read(self, kind: str, block: int, name: str) -> np.ndarray:
        """A map of a block as it was written, not to be changed."""
        with np.load(self._file(kind, block)) as maps:
            if f"{name}{SHAPE}" in maps:
                return np.broadcast_to(maps[name][0], maps[f"{name}{SHAPE}"])
            return maps[name]

    def gather(self, kind: str, name: str, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """Pixels of a map at rising rows `ys` and columns `xs` of the whole image, (len(ys), len(xs))."""
        out = None
        for row in range(ys[0] // self.size, ys[-1] // self.size + 1):
            y = slice(*np.searchsorted(ys, [row * self.size, (row + 1) * self.size]))
            for column in range(xs[0] // self.size, xs[-1] // self.size + 1):
                x = slice(*np.searchsorted(xs, [column * self.size, (column + 1) * self.size]))
                block = self.read(kind, row * self.columns + column, name)
                out = np.zeros((len(ys), len(xs)), block.dtype) if out is None else out
                out[y, x] = block[_span(ys[y] - row * self.size)][:, _span(xs[x] - column * self.size)]
        return out


def _span(indices: np.ndarray) -> np.ndarray | slice:
    """Rising indices, as a slice where they are without a gap, which is much faster."""
    return slice(indices[0], indices[-1] + 1) if len(indices) and (np.diff(indices) == 1).all() else indices
