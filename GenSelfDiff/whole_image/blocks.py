"""Maps of a whole image of any size, kept block by block on disk."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from utils_general import replace_file

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside"""

SHAPE = " shape"  # what a block's file also has of a map that is written as one value


class Blocks:
    """Maps of a whole image (H, W), kept on disk in square blocks: memory holds a few of them at a time.

    A kind of map is written for a block at once, `write`, and read by block, or by rows and columns of the whole image,
    `gather`. What was written stays when the process ends: `has` tells. The kinds, and their maps:

    - "classes": `classes`, uint8 class indices; `probability_<c>` of each class but the background, uint8, 255 for 1;
      `map_<k>` of the network's targets, uint8, see `targets.to_bytes`
    - "labels": `labels`, int32, of the block with a margin; `class_of`, the class of each label (labels,)
    - "numbers": `numbers`, int32, the objects' numbers
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
        """Whether the maps of a kind are there, and whole: a power loss leaves files that are empty or broken."""
        file = self._file(kind, block)
        try:
            if not file.is_file():
                return False
            with zipfile.ZipFile(file) as maps:
                return maps.testzip() is None  # the check sum of all that is in it
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
            return False

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
