"""Images of any kind and size as one thing, of which regions are read at the resolution that is wanted.

Slides and tiled tif (svs, pyramids) are read by regions, by OpenSlide. Other images are decoded whole, by Pillow; large
tif files without tiles are unpacked into a temporary file, by tifffile, so that they need no memory either. Pixels are
taken as they are stored, as QuPath does: where a file asks for a turned view of them, or holds more than one image, a
note says so.
"""

import contextlib
import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image as PillowImage
from scipy.ndimage import binary_dilation, uniform_filter

from utils_general import (
    IMAGE_EXTENSIONS,
    IMAGE_FORMATS,
    TURNED,
    InputError,
    has_opacity,
    on_white,
    open_image,
    remarks,
)

EXTENSIONS = (*IMAGE_EXTENSIONS, ".svs", ".ndpi", ".scn", ".bif", ".mrxs")
PLAUSIBLE = (0.02, 20.0)  # micrometres a pixel of a microscope; 72 or 300 dpi, written by programs unasked, are not
TIF_INCH, TIF_CENTIMETRE = 2, 3
TIF_UNITS = {TIF_INCH: 25_400.0, TIF_CENTIMETRE: 10_000.0}  # micrometres
DECODED_WHOLE = 2**27  # pixels; an image without tiles that is larger is not decoded in memory
ROUNDED = 1.001  # the sides of a pyramid's levels are whole pixels: 4.001 times smaller is meant to be 4 times
NEIGHBOURS, RIM = 3, 2  # pixels of a thumbnail: over which colour is averaged, and added around what is tissue
PIECE = 4096  # pixels of a side that are read at once where a whole slide is looked through
TO_SLIDE = "convert it, e.g. with: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
UPRIGHT = "write it upright, e.g. with: vips autorot IN OUT.tif[tile,pyramid,compression=jpeg]"
TO_8_BIT = "how they are to be scaled is not known here, convert it to 8-bit RGB"
ORIENTATION = 274  # the tag of tif and EXIF
# How an image that Pillow turned as its tag says is turned back
BACK = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_90,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_270,
}
MICROMETRE = {"um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0, "mm": 1e3, "nm": 1e-3}

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said here, in one line


class Source:
    """An image of which regions can be read."""

    path: Path
    width: int
    height: int
    mpp: float | None
    """micrometres a pixel, as far as the file says so"""
    downsamples: tuple[float, ...] = (1.0,)
    """of the levels of a pyramid, the first of which is the whole image"""
    note: str = ""
    """what was converted in reading, for the user"""

    def level_size(self, level: int) -> tuple[int, int]:
        """Width and height of a level."""
        return self.width, self.height

    def best_level(self, scale: float) -> int:
        """The smallest level that is still fine enough to read it with a pixel for `scale` pixels of the image."""
        return max(i for i, d in enumerate(self.downsamples) if i == 0 or d <= scale * ROUNDED)

    def region(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level inside its bounds, uint8 (height, width, 3); `InputError` where they cannot be read."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the file go."""


class DecodedImage(Source):
    """An image that was decoded whole: `pixels` (H, W, 3), (H, W, 4) with opacity, or grey (H, W), uint8."""

    def __init__(self, path: Path, pixels: np.ndarray, mpp: float | None, note: str = ""):
        self.path, self.pixels, self.mpp, self.note = path, pixels, mpp, note
        self.height, self.width = pixels.shape[:2]

    def region(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See `Source`."""
        return _rgb(self.pixels[top : top + height, left : left + width])


class Slide(Source):
    """A slide or tiled tif, read by regions; transparent and unscanned parts are white."""

    def __init__(self, path: Path, mpp: float | None, note: str = ""):
        self.path, self.note = path, note
        try:
            self.slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise InputError(f"cannot read slide {path}: {error}; is the file complete?") from None
        # Some formats have a large empty surround, and say where the slide is in it: that is what QuPath opens, too.
        whole = {"x": 0, "y": 0, "width": self.slide.dimensions[0], "height": self.slide.dimensions[1]}
        bounds = [int(self.slide.properties.get(f"openslide.bounds-{name}", whole[name])) for name in whole]
        self.left, self.top, self.width, self.height = bounds
        self.bounded = bounds != list(whole.values())
        self.downsamples = self.slide.level_downsamples
        own = (self.slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy")
        own = [_plausible(float(value)) for value in own if value]
        self.mpp = math.sqrt(own[0] * own[1]) if len(own) == 2 and all(own) else mpp

    def level_size(self, level: int) -> tuple[int, int]:
        """See `Source`."""
        if not self.bounded:
            return self.slide.level_dimensions[level]
        return tuple(max(1, int(side / self.downsamples[level])) for side in (self.width, self.height))

    def region(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See `Source`."""
        corner = (
            self.left + round(left * self.width / self.level_size(level)[0]),
            self.top + round(top * self.height / self.level_size(level)[1]),
        )
        try:
            return _rgb(np.asarray(self.slide.read_region(corner, level, (width, height))))
        except openslide.OpenSlideError as error:
            where = f"level {level} at x {left}, y {top}"
            raise InputError(f"cannot read slide {self.path}, {where}: {error}; is the file complete?") from None

    def close(self) -> None:
        """See `Source`."""
        self.slide.close()


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Grey (H, W), or pixels with opacity (H, W, 4), as uint8 (H, W, 3), what is transparent white."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=-1)
    return on_white(pixels) if pixels.shape[-1] == 4 else np.ascontiguousarray(pixels[..., :3])


def open_source(path: Path) -> Source:
    """Open an image of any kind; `InputError` says in one line why that cannot be done."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is no ordinary file")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not start:
        raise InputError(f"{path} is empty")
    is_tif = start[:2] in (b"II", b"MM")
    mpp, note = _check_tif(path) if is_tif else (None, "")
    if _is_slide(path):
        if TURNED in note:
            raise InputError(
                f"{path} wants to be turned (tif's Orientation), which OpenSlide does tile by tile: {UPRIGHT}"
            )
        return Slide(path, mpp, note)
    if path.suffix.lower() not in IMAGE_EXTENSIONS:
        raise InputError(f"{path} is no slide that OpenSlide can read; is the file complete?")
    return (_whole_tif(path, mpp, note) if is_tif else None) or _decoded(path, mpp)


def _is_slide(path: Path) -> bool:
    try:
        return openslide.OpenSlide.detect_format(path) is not None
    except openslide.OpenSlideError as error:
        raise InputError(f"cannot read slide {path}: {error}; is the file complete?") from None


def _check_tif(path: Path) -> tuple[float | None, str]:
    """The micrometres a pixel that a tif says, and a note of what in it is not read.

    `InputError` for a broken one and for more than 8 bits a channel.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            bits = int(np.max(page.bitspersample))  # a number for each channel where they differ
            complete = path.stat().st_size >= max(map(sum, _segments(page)), default=0)
            mpp, note = _tif_mpp(file, page), _tif_note(file, page)
    except Exception:  # a broken tif fails anywhere in tifffile, in many ways and words
        raise InputError(f"cannot read image {path}: its parts are not where it says; is the file complete?") from None
    if bits > 8:
        raise InputError(f"{path} has {bits} bits a channel: {TO_8_BIT}")
    if not complete:
        raise InputError(f"cannot read image {path}: it ends before its last pixels do; is the file complete?")
    return mpp, note


def _tif_note(file: tifffile.TiffFile, first: tifffile.TiffPage) -> str:
    """Of further images of the same size, which are no levels of a pyramid, and of a turned view."""
    size = first.imagewidth, first.imagelength
    same = [page for page in file.pages if (page.imagewidth, page.imagelength) == size and not page.is_reduced]
    turned = first.tags["Orientation"].value if "Orientation" in first.tags else None
    notes = [f"has {len(same)} pages: the first is read"] * (len(same) > 1) + [TURNED] * (turned in BACK)
    return "; ".join(notes)


def _segments(page: tifffile.TiffPage) -> Iterator[tuple[int, int]]:
    """Where the strips or tiles of a page begin, and how many bytes they have."""
    return zip(page.dataoffsets, page.databytecounts, strict=True)


def _tif_mpp(file: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    """From OME's or ImageJ's description, or from the resolution tags."""
    if file.ome_metadata:
        size = re.search(r'PhysicalSizeX="([^"]+)"', file.ome_metadata)
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', file.ome_metadata)
        return _plausible(float(size[1]) * MICROMETRE.get(unit[1] if unit else "µm", 0)) if size else None
    if "XResolution" not in page.tags:
        return None
    pixels, units = page.tags["XResolution"].value
    unit = page.tags["ResolutionUnit"].value if "ResolutionUnit" in page.tags else TIF_INCH
    micrometres = TIF_UNITS.get(int(unit), 0.0)
    if file.imagej_metadata and "unit" in file.imagej_metadata:
        micrometres = MICROMETRE.get(str(file.imagej_metadata["unit"]).lower(), 0.0)
    return _plausible(micrometres * units / pixels) if pixels else None


def _plausible(mpp: float) -> float | None:
    return mpp if PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1] else None


def _whole_tif(path: Path, mpp: float | None, note: str) -> DecodedImage | None:
    """A large tif without tiles, unpacked into a temporary file; None for what Pillow reads."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if page.imagewidth * page.imagelength <= DECODED_WHOLE:
                return None
            if page.dtype != np.uint8 or page.shape[2:] not in ((), (3,), (4,)) or page.photometric not in (1, 2):
                raise ValueError(f"{page.photometric.name} {page.dtype} {page.shape}")
            return DecodedImage(path, page.asarray(out=_on_disk(path, page.shape)), mpp, note)
    except (ValueError, tifffile.TiffFileError) as error:
        raise InputError(f"{path} is too large to be decoded at once ({error}): {TO_SLIDE}") from None


def _on_disk(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """An array uint8 in a temporary file for which there is room: a mapped file without it ends the process."""
    size = math.prod(shape)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            where = f"a temporary file of {size / 1e9:.1f} GB in {tempfile.gettempdir()}"
            raise InputError(
                f"{path} wants {where}: {os.strerror(error.errno)}; set TMPDIR to a folder on a larger disk"
            ) from None
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _opened(path: Path) -> PillowImage.Image:
    """Not decoded yet; `InputError` for more pixels than Pillow dares to."""
    try:
        return PillowImage.open(path, formats=IMAGE_FORMATS)
    except PillowImage.DecompressionBombError:
        raise InputError(f"{path} has too many pixels to be decoded at once: {TO_SLIDE}") from None


def _decoded(path: Path, mpp: float | None) -> DecodedImage:
    """An image that Pillow decodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
        with contextlib.suppress(OSError, SyntaxError, ValueError), _opened(path) as image:
            if image.width * image.height > DECODED_WHOLE:
                raise InputError(f"{path} has {image.width}x{image.height} pixels, too many at once: {TO_SLIDE}")
            if image.mode[0] in "IF" or any(";16" in str(tile.args) for tile in image.tile):
                raise InputError(f"{path} has more than 8 bits a channel: {TO_8_BIT}")
            turned = image.getexif().get(ORIENTATION)
        image = open_image(path, "image")
    dpi = image.info.get("dpi", (0, 0))[0]
    if mpp is None and image.format != "TIFF" and dpi:
        mpp = _plausible(TIF_UNITS[TIF_INCH] / float(dpi))
    notes = remarks(image)
    rgb = image.convert("RGBA" if has_opacity(image) else "RGB")
    if image.format == "TIFF" and turned in BACK:
        rgb, notes = rgb.transpose(BACK[turned]), [*notes, TURNED]
    return DecodedImage(path, np.asarray(rgb), mpp, "; ".join(notes))


@dataclass(frozen=True)
class View:
    """An image at a working resolution of `width` x `height` pixels, read by regions."""

    source: Source
    width: int
    height: int

    @classmethod
    def scaled(cls, source: Source, scale: float) -> "View":
        """A pixel of the view is `scale` pixels of the image, but for rounding the view's size to whole pixels."""
        return cls(source, max(1, round(source.width / scale)), max(1, round(source.height / scale)))

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image in one of the view, along x and y."""
        return self.source.width / self.width, self.source.height / self.height

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """A region, uint8 (bottom - top, right - left, 3); beyond its borders the image is mirrored."""
        xs, ys = mirrored(left, right, self.width), mirrored(top, bottom, self.height)
        x, y = int(xs.min()), int(ys.min())
        pixels = self._inside(x, y, int(xs.max()) + 1, int(ys.max()) + 1)
        if left >= 0 and top >= 0 and right <= self.width and bottom <= self.height:
            return pixels
        return pixels[np.ix_(ys - y, xs - x)]

    def _inside(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """A region inside the image: the same pixels, but for rounding, whatever region they are read with.

        (Pillow clips between its two passes, whose order depends on the size: a kernel that overshoots would not do.)
        """
        level = self.source.best_level(min(self.scale))
        width, height = self.source.level_size(level)
        if (width, height) == (self.width, self.height):
            return self.source.region(level, left, top, right - left, bottom - top)
        factors = width / self.width, height / self.height
        margin = math.ceil(max(*factors, 1)) + 1  # how far the kernel looks, which averages where it makes smaller
        box = (left * factors[0], top * factors[1], right * factors[0], bottom * factors[1])
        x, y = max(0, math.floor(box[0]) - margin), max(0, math.floor(box[1]) - margin)
        w, h = min(width, math.ceil(box[2]) + margin) - x, min(height, math.ceil(box[3]) + margin) - y
        pixels = PillowImage.fromarray(self.source.region(level, x, y, w, h))
        box = (box[0] - x, box[1] - y, min(box[2] - x, w), min(box[3] - y, h))
        size = (right - left, bottom - top)
        return np.asarray(pixels.resize(size, PillowImage.Resampling.BILINEAR, box=box))


def mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices start..stop-1 of an axis of `size` pixels that goes on mirrored beyond both its ends."""
    if size == 1:
        return np.zeros(stop - start, int)
    folded = np.arange(start, stop) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def thumbnail(source: Source, longest: int) -> np.ndarray:
    """The whole image with at most `longest` pixels a side, uint8 (H, W, 3); read piece by piece."""
    view = View.scaled(source, max(1.0, max(source.width, source.height) / longest))
    level = source.best_level(min(view.scale))
    piece = max(1, int(PIECE / max(1.0, view.scale[0] / source.downsamples[level])))
    pixels = np.zeros((view.height, view.width, 3), np.uint8)
    for top in range(0, view.height, piece):
        for left in range(0, view.width, piece):
            bottom, right = min(top + piece, view.height), min(left + piece, view.width)
            pixels[top:bottom, left:right] = view.read(left, top, right, bottom)
    return pixels


class Tissue:
    """Where an image shows tissue, from its thumbnail `overview`, uint8 (H, W, 3).

    Glass, and what was not scanned, is white, grey or black: its channels are alike. Stained tissue has a colour: its
    channels differ by more than `threshold` (of 0 to 1) on average over 3 x 3 pixels. A rim two pixels of the thumbnail
    wide is added.
    """

    def __init__(self, view: View, overview: np.ndarray, threshold: float):
        colour = overview.max(-1).astype(np.float32) - overview.min(-1)
        self.mask = binary_dilation(uniform_filter(colour, NEIGHBOURS) > 255 * threshold, iterations=RIM)
        self.scale = overview.shape[1] / view.width, overview.shape[0] / view.height
        # Of the mask's pixels above and left of each corner of a pixel (a summed-area table)
        self.sums = np.pad(self.mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def inside(self, xs: np.ndarray, ys: np.ndarray, size: int) -> np.ndarray:
        """Whether there is tissue in the squares of `size` pixels of the view at (x, y): (len(ys), len(xs))."""
        (left, right), (top, bottom) = (
            (np.clip(np.floor(a * s), 0, n).astype(int), np.clip(np.ceil((a + size) * s), 0, n).astype(int))
            for a, s, n in zip((xs, ys), self.scale, self.mask.shape[::-1], strict=True)
        )
        tops, bottoms = self.sums[top], self.sums[bottom]
        return bottoms[:, right] - bottoms[:, left] - tops[:, right] + tops[:, left] > 0
