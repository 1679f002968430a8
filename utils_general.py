"""Paths of every data set and run (edit them here), and the small helpers that all scripts share."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parent

# Where the downloads were unpacked: the input of the scripts under pre_process/
MONUSEG_RAW = ROOT / "pre_process" / "MoNuSeg"
GLAS_RAW = ROOT / "pre_process" / "GlaS" / "Warwick QU Dataset (Released 2016_07_08)"
HN_RAW = ROOT / "pre_process" / "HN" / "raw"

# Patches: the output of the scripts under pre_process/, the input of every other script
MONUSEG = ROOT / "data" / "MoNuSeg"
GLAS = ROOT / "data" / "GlaS"
HN = ROOT / "data" / "HN"
OWN_DATA = ROOT / "data" / "own_data"

SNAPSHOTS = ROOT / "snapshots"  # one folder a training run
RESULTS = ROOT / "results"  # one folder a test
GENERATED = ROOT / "generated"  # synthetic images, and the real ones to compare them with

SPLIT_SEED = 2023  # the paper's seed for every split
PATCH_SIZE = 256  # pixels of the paper's patches, and of published checkpoints, which do not say it
SIDE_MULTIPLE = 8  # the U-Net halves its input three times: sides of patches are multiples of this
SHEET_COLUMNS = 8  # of a contact sheet
SHEET = SHEET_COLUMNS**2  # images on it
DPI = 120  # of figures
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DISK_TROUBLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),  # no room, or a broken disk
    *(
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    ),  # not to be written there
}


class InputError(Exception):
    """A mistake the user can mend: one line that says what was looked for, where, what was found and what to do."""


def run_script(main: Callable[[Any], None], settings: type, parse: Callable[[type], Any] = tyro.cli) -> None:
    """Run a script: its command line comes from the dataclass `settings`, and a user's mistake ends in one clear line.

    `parse` makes settings of the command line. Exit codes: 0 done, 1 a mistake that the last line explains, 2 a wrong
    option, 130 stopped with Ctrl-C.
    """
    try:
        main(parse(settings))
    except InputError as error:
        # A data loader's worker hands an error on with its traceback in front: the message is the last line.
        sys.exit("error: " + str(error).strip().splitlines()[-1].removeprefix("utils_general.InputError: "))
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        sys.exit(f"error: cannot write or read {error.filename or 'a file'}: {os.strerror(error.errno)}")
    except KeyboardInterrupt:
        sys.exit(130)


def at_least(settings: Any, **lowest: float) -> None:
    """`InputError` for a setting below its lowest sensible value, or not a number; settings of None are left alone."""
    for name, bound in lowest.items():
        value = getattr(settings, name)
        if value is not None and not bound <= value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} is {value}: {bound} or more is needed")


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` only if nothing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(path: Path, marker: str, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place once it is complete.

    An existing, non-empty `path` is an `InputError`, so that two runs never mix. With `overwrite` it is replaced, but
    only if it holds the file `marker`: proof that this project made it.
    """
    path = path.resolve()  # where it is a link, the folder it leads to is replaced, not the link
    filled = path.is_dir() and any(path.iterdir())
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; an output folder is wanted there: choose another")
    if filled and not overwrite:
        raise InputError(f"{path} already holds files; --overwrite replaces them, or choose another output folder")
    if filled and not (path / marker).is_file():
        raise InputError(f"{path} holds files that this script did not write (no {marker}): choose another folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be made, a file is where a folder is wanted: choose another output") from None
    unfinished = path.with_name(path.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        if path.exists():
            shutil.rmtree(path)
        unfinished.replace(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as a dict of numbers, strings and lists: safe to store in a checkpoint."""

    def simple(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [simple(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return {f.name: simple(getattr(settings, f.name)) for f in fields(settings)}


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; paths become strings."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; `InputError` where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def natural_order(path: Path) -> list[str | int]:
    """Sort key by name in which `image_2` comes before `image_10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def image_names(folder: Path, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[str]:
    """The names of all image files directly in `folder`, in no order; `InputError` where there are none."""
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist")
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(extensions) and not e.name.startswith(".")]
    if not names:
        raise InputError(f"no image in {folder}: looked for *{', *'.join(extensions)}")
    return names


def list_images(folder: Path, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[Path]:
    """The same as paths, in natural order."""
    return sorted((folder / name for name in image_names(folder, extensions)), key=natural_order)


def open_image(path: Path, wanted: str) -> Image.Image:
    """Open and decode an image file completely; `InputError` names a file that cannot be."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise InputError(f"{wanted} {path} is missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {wanted} {path}: {error}; is the file complete?") from None


def read_rgb(path: Path) -> np.ndarray:
    """Read an 8-bit image as RGB, uint8 (H, W, 3); grey, palette, CMYK and alpha images are converted."""
    image = open_image(path, "image")
    if image.mode[0] in "IF":
        raise InputError(f"image {path} has more than 8 bits a channel (mode {image.mode}): convert it to 8-bit RGB")
    return np.asarray(image.convert("RGB"))


def read_index_map(path: Path) -> np.ndarray:
    """Read a map of class indices or instance numbers, int32 (H, W), as stored: 1, 8 or 16 bit, palette or grey."""
    image = open_image(path, "label image")
    array = np.asarray(image)
    if array.ndim != 2:
        raise InputError(f"label image {path} has {array.shape[2]} channels: one with an index in each pixel is wanted")
    return array.astype(np.int32)


def write_png(path: Path, array: np.ndarray) -> None:
    """Write uint8 (H, W, 3) or (H, W), or uint16 (H, W), as PNG."""
    with replace_file(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", compress_level=3)


def contact_sheet(images: list[np.ndarray], columns: int = SHEET_COLUMNS) -> np.ndarray:
    """Put images of one size, each uint8 (H, W, 3), into one picture, row by row, on white."""
    height, width = images[0].shape[:2]
    gap, rows = 2, -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG and close it. A `$` in a name is a `$`: only logarithmic axes use formulas."""
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis) if axis.get_scale() == "log"]
    powers = {label for axis in axes for label in axis.get_ticklabels(which="both")}
    for text in set(figure.findobj(Text)) - powers:
        text.set_parse_math(False)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight", pil_kwargs={"compress_level": 3})
    plt.close(figure)


@dataclass(frozen=True)
class DataSet:
    """What `dataset.json` in a folder of patches says about them."""

    name: str
    protocol: str
    """how the source images were divided, e.g. "paper" or "official" """
    classes: list[str]
    """names by class index, the background first; empty where nothing is labelled"""
    instances: str
    """how a class map becomes instances: "watershed" for touching round objects, "components" otherwise"""
    patch_size: int
    """pixels"""
    stride: int
    """pixels between the corners of neighbouring patches"""
    seed: int
    """of the split"""
    mpp: float | None = None
    """micrometres a pixel; None where unknown, and in what was written before this was asked for"""

    @classmethod
    def read(cls, root: Path) -> "DataSet":
        """Read `root/dataset.json`."""
        if not (root / "dataset.json").is_file():
            raise InputError(f"{root} holds no dataset.json: run the data set's preprocess.py first, or mend the path")
        try:
            return cls(**read_json(root / "dataset.json"))
        except TypeError as error:
            raise InputError(f"{root / 'dataset.json'} is not what preprocess.py writes: {error}") from None
