"""Maps of a whole image as files: png, or for large images tiled, compressed tif pyramids, which QuPath opens."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from GenSelfDiff.palette import colours, draw_contours
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.objects import ImageFacts, Objects
from GenSelfDiff.whole_image.slides import thumbnail
from utils_general import replace_file, write_png

LARGE = 2**25  # pixels (5,800 x 5,800) from which on maps are pyramids and the overlay is an overview
OVERVIEW = 3000  # pixels of the overview's longer side
LARGEST_NUMBER = np.iinfo(np.uint16).max  # in a 16-bit png
TILE = 512  # pixels of a tile's side in a pyramid
SHRINK = 4  # from one level of a pyramid to the next
EIGHT_TO_SIXTEEN_BIT = 257  # the colours of a tif are 0 to 65535
MICROMETRES = 1e4  # in a centimetre


def map_endings(classes: list[str]) -> list[str]:
    """How the names of all files end that `Maps` may write, of `classes` by index."""
    kinds = ["classes", "instances", "overlay", *map(_probability, classes[1:])]
    return [f"_{kind}.{extension}" for kind in kinds for extension in ("png", "tif")]


def _probability(name: str) -> str:
    return f"probability_{name.replace('/', '_')}"


class Maps:
    """Writes the maps of one image, in the image's own pixels, to files that begin with `base`."""

    def __init__(self, blocks: Blocks, objects: Objects, image: ImageFacts, base: str):
        self.blocks, self.objects, self.image, self.base = blocks, objects, image, base
        self.width, self.height = image.view.source.width, image.view.source.height
        self.large = self.width * self.height > LARGE

    def write(self, probabilities: bool) -> None:
        """Class map, instance map, overlay, and on request the probabilities, 255 for 1, of each class."""
        classes = self.image.classes
        colour_map = np.zeros((3, 2**8), np.uint16)
        colour_map[:, : len(classes)] = EIGHT_TO_SIXTEEN_BIT * colours(np.arange(len(classes))).T.astype(np.uint16)
        self._map("classes", "classes", "classes", colour_map)
        self._map("instances", "numbers", "numbers")
        if probabilities:
            for c, name in enumerate(classes[1:], 1):
                self._map(_probability(name), "classes", f"probability_{c}")
        self._overlay()

    def _map(self, ending: str, kind: str, name: str, colour_map: np.ndarray | None = None) -> None:
        if self.large or (kind == "numbers" and len(self.objects) > LARGEST_NUMBER):
            self._pyramid(Path(f"{self.base}_{ending}.tif"), kind, name, colour_map)
        else:
            whole = self.blocks.gather(kind, name, self._rows(), self._columns())
            write_png(Path(f"{self.base}_{ending}.png"), whole.astype(np.uint16) if kind == "numbers" else whole)

    def _rows(self, step: float = 1) -> np.ndarray:
        """The rows of the working resolution at every `step` rows of the image."""
        return _nearest(self.height, self.blocks.height, step)

    def _columns(self, step: float = 1) -> np.ndarray:
        return _nearest(self.width, self.blocks.width, step)

    def _pyramid(self, path: Path, kind: str, name: str, colour_map: np.ndarray | None) -> None:
        levels = 1
        while max(self.width, self.height) > 2 * TILE * SHRINK ** (levels - 1):
            levels += 1
        dtype = np.dtype(np.uint32 if kind == "numbers" else np.uint8)
        mpp = self.image.mpp
        size = {} if mpp is None else {"resolution": (MICROMETRES / mpp,) * 2, "resolutionunit": "CENTIMETER"}
        with replace_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as file:
            for level in range(levels):
                ys, xs = self._rows(SHRINK**level), self._columns(SHRINK**level)
                file.write(
                    self._tiles(kind, name, ys, xs, dtype),
                    shape=(len(ys), len(xs)),
                    dtype=dtype,
                    tile=(TILE, TILE),
                    compression="zlib",
                    photometric="minisblack" if colour_map is None else "palette",
                    colormap=colour_map,
                    subfiletype=int(level > 0),
                    metadata=None,
                    **(size if level == 0 else {}),
                )

    def _tiles(self, kind: str, name: str, ys: np.ndarray, xs: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
        """The tiles of a level, row by row; those at the right and lower border are filled up with 0."""
        for top in range(0, len(ys), TILE):
            strip = self.blocks.gather(kind, name, ys[top : top + TILE], xs)
            for left in range(0, len(xs), TILE):
                tile = np.zeros((TILE, TILE), dtype)
                part = strip[:, left : left + TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    def _overlay(self) -> None:
        """The image with the objects' contours in the colours of their classes; of a large image an overview."""
        step = max(1.0, max(self.width, self.height) / OVERVIEW) if self.large else 1.0
        pixels = thumbnail(self.image.view.source, OVERVIEW if self.large else max(self.width, self.height))
        numbers = self.blocks.gather("numbers", "numbers", self._rows(step), self._columns(step))
        draw_contours(pixels, numbers, self.objects.class_of)
        write_png(Path(f"{self.base}_overlay.png"), pixels)


def _nearest(length: int, worked_at: int, step: float) -> np.ndarray:
    """The indices, of an axis of `worked_at` pixels, at the middle of every `step` of an axis of `length` pixels."""
    middles = (np.arange(round(length / step) or 1) + 0.5) * step
    return np.minimum((middles * worked_at / length).astype(np.int64), worked_at - 1)
