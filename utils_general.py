"""Paths of every data set and run (edit them here), and the small helpers that all scripts share."""

import contextlib
import errno
import io
import json
import math
import os
import re
import secrets
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tyro
from PIL import ExifTags, Image

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
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # by content, whatever the name: an EPS would start Ghostscript
TURNED = "its EXIF data want it turned: it is read as stored"  # a remark on an image
MOST_CLASSES = 256  # class maps are written as 8-bit images
LARGEST = 2**32 - 1  # of whole numbers in settings: that of NumPy's seeds
OS_TROUBLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),  # no room, or a broken disk
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),  # not to be written there
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE),  # too many open files
}


class InputError(Exception):
    """A mistake the user can mend: one line that says what was looked for, where, what was found and what to do."""


def run_script(main: Callable[[Any], None], settings: type, parse: Callable[[type], Any] = tyro.cli) -> None:
    """Run a script: its command line comes from the dataclass `settings`, and a user's mistake ends in one clear line.

    `parse` makes settings of the command line. Exit codes: 0 done, 1 a mistake that the last line explains, 2 a wrong
    option, 130 stopped with Ctrl-C, 141 nobody reads what it prints (`| head -1`).
    """
    _prepare_streams()
    try:
        check_working_folder()
        main(parse(settings))
        sys.stdout.flush()
    except InputError as error:
        _stop(str(error))
    except BrokenPipeError:
        if not any(_nobody_reads(stream) for stream in (sys.stdout, sys.stderr)):
            raise
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in OS_TROUBLE:
            raise
        advice = "; allow more: ulimit -n" if error.errno == errno.EMFILE else ""
        _stop(f"cannot write or read {error.filename or 'a file'}: {os.strerror(error.errno)}{advice}")
    except UnicodeEncodeError as error:
        if not any("\ud800" <= letter <= "\udfff" for letter in error.object):
            raise
        _stop(f"a name is not valid UTF-8, rename it: {error.object[max(0, error.start - 80) : error.end + 80]}")
    except MemoryError as error:
        _stop(f"there is not enough memory: {error}")
    except RuntimeError as error:
        if not (reason := _reason(error)):
            raise
        _stop(reason)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _flush()


def _reason(error: RuntimeError) -> str:
    """What a user can do about it; "" where it is a mistake of the code."""
    if str(error).startswith("Symlink loop"):  # of pathlib, before Python 3.13
        return f"a link leads to itself, remove it: {error}"
    if any(words in str(error) for words in ("out of memory", "can't allocate memory")):  # PyTorch's: GPU, CPU
        return (
            f"there is not enough memory: {error}; a smaller --batch-size or --dim needs less, in training also "
            "--checkpoint-activations"
        )
    return ""


def _stop(message: str) -> NoReturn:
    """Exit with code 1 and one line, whatever names with line breaks are in the message."""
    sys.exit("error: " + " ".join(line.strip() for line in message.strip().splitlines()))


def _prepare_streams() -> None:
    """Let stdin, stdout and stderr be there, also where they were closed, and print names of any bytes.

    A file that is opened later would get the number of the closed one, and what libraries print would go into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_working_folder() -> None:
    """Exit with one line where the working folder was removed: PyTorch's libraries would abort without the reason."""
    try:
        Path.cwd()
    except FileNotFoundError:
        _stop("the working folder does not exist any more: start from another, cd ~")


def _nobody_reads(stream: Any) -> bool:
    """Whether a stream leads into a pipe whose other end is closed."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return False
    pipe = select.poll()
    pipe.register(number, 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def _flush() -> None:
    """Write what is left to print; Python would do it at exit, and change the exit code where it cannot."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def at_least(settings: Any, **lowest: float) -> None:
    """`InputError` for a setting below its lowest sensible value, no number, or huge; None is left alone."""
    for name, bound in lowest.items():
        value = getattr(settings, name)
        if value is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if not bound <= value < math.inf:
            raise InputError(f"{option} is {value}: {bound} or more is needed")
        if isinstance(value, int) and value > LARGEST:
            raise InputError(f"{option} is {value}: at most {LARGEST} is possible")


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` only if nothing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.unfinished")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


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
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; `InputError` where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, RecursionError, MemoryError) as error:  # no JSON, no UTF-8, nested too deep, too long
        raise InputError(f"{path} is not valid JSON: {error or 'it is too large'}") from None


def natural_order(path: Path) -> list[str | int]:
    """Sort key by name in which `image_2` comes before `image_10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def image_names(folder: Path, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[str]:
    """The names of all image files directly in `folder`, in no order; `InputError` where there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder" if folder.exists() else f"folder {folder} does not exist")
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(extensions) and not e.name.startswith(".")]
    if not names:
        raise InputError(f"no image in {folder}: looked for *{', *'.join(extensions)}")
    return names


def list_images(folder: Path, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[Path]:
    """The same as paths, in natural order."""
    return sorted((folder / name for name in image_names(folder, extensions)), key=natural_order)


def open_image(path: Path, wanted: str) -> Image.Image:
    """Open and decode an image file completely, its first page; `InputError` names a file that cannot be.

    Only `IMAGE_FORMATS` are opened, whatever the file is called. Colours of more than 8 bits are refused: Pillow would
    drop the lower ones.
    """
    if not path.is_file() and path.exists():
        raise InputError(f"{wanted} {path} is no file")  # opening a pipe would wait for ever
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            deep = len(image.getbands()) > 1 and _bits(image) > 8
            with contextlib.suppress(Exception):  # of a tif whose further pages are damaged they are not known
                image.info["pages"] = getattr(image, "n_frames", 1)  # not to be had of a closed file
            if not deep:
                image.load()
    except FileNotFoundError:
        raise InputError(f"{wanted} {path} is missing") from None
    except Image.DecompressionBombError:
        raise InputError(f"{wanted} {path} has too many pixels to be decoded at once: cut it into parts") from None
    except Exception as error:  # a damaged file fails anywhere in Pillow, in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot read {wanted} {path}: {reason[:300]}; is the file complete?") from None
    if deep:
        raise InputError(f"{wanted} {path} has more than 8 bits a channel (mode {image.mode}): convert it to 8-bit RGB")
    return image


def _bits(image: Image.Image) -> int:
    """Of a channel in the file, of an image that is not decoded yet."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))  # BitsPerSample
    return 16 if any(";16" in str(tile.args) for tile in image.tile) else 8


def has_opacity(image: Image.Image) -> bool:
    """Whether an image says how transparent its pixels are."""
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Pixels with opacity uint8 (..., 4) laid on white, the ground of a slide: uint8 (..., 3)."""
    if (pixels[..., 3] == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    opacity = pixels[..., 3:] / np.float32(255)
    return (pixels[..., :3] * opacity + 255 * (1 - opacity) + 0.5).astype(np.uint8)


def remarks(image: Image.Image) -> list[str]:
    """What a user should know about how this image is read, if anything."""
    said = {"1": "black and white", "L": "grey, not H&E in colour", "CMYK": "CMYK, colours are approximate"}
    found = [said[image.mode]] if image.mode in said else []
    if has_opacity(image):
        found.append("has opacity: what is transparent is taken as white")
    if (pages := image.info.get("pages", 1)) > 1:
        found.append(f"has {pages} pages: the first is read")
    with contextlib.suppress(Exception):  # of damaged EXIF data nothing is known
        if image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1):
            found.append(TURNED)
    return found


def read_rgb(path: Path, told: list[str] | None = None) -> np.ndarray:
    """Read an 8-bit image as RGB, uint8 (H, W, 3); grey, palette and CMYK images are converted.

    What is transparent becomes white; the first page is read, as stored. `told` is given the `remarks` on it.
    """
    image = open_image(path, "image")
    if image.mode[0] in "IF":
        raise InputError(f"image {path} has more than 8 bits a channel (mode {image.mode}): convert it to 8-bit RGB")
    if told is not None:
        told += remarks(image)
    return on_white(np.asarray(image.convert("RGBA"))) if has_opacity(image) else np.asarray(image.convert("RGB"))


def read_index_map(path: Path) -> np.ndarray:
    """Read a map of class indices or instance numbers, int32 (H, W), as stored: 1, 8 or 16 bit, palette or grey.

    `InputError` for what would not be the numbers meant: several channels or pages, fractions, JPEG compression.
    """
    image = open_image(path, "label image")
    array = np.asarray(image)
    if array.ndim != 2:
        raise InputError(f"label image {path} has {array.shape[2]} channels: one with an index in each pixel is wanted")
    if "jpeg" in (str(image.format).lower(), image.info.get("compression")):
        raise InputError(f"label image {path} is compressed as JPEG, which changes indices: write it anew, as png")
    if (pages := image.info["pages"]) > 1:
        raise InputError(f"label image {path} has {pages} pages: one with an index in each pixel is wanted")
    return whole_numbers(array, f"label image {path}").astype(np.int32)


def whole_numbers(array: np.ndarray, where: str) -> np.ndarray:
    """`array` as it is; `InputError` where it holds fractions, or what is no number of 32 bit."""
    if array.dtype.kind == "f" and len(wrong := array[(array != np.rint(array)) | ~(np.abs(array) < 2**31)]):
        raise InputError(f"{where} holds {wrong[0]}: whole numbers are wanted, an index in each pixel")
    return array


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
