"""Segmenting whole images of any size with a fine-tuned network: png, jpg, bmp, tif, and slides (svs, pyramidal tif).

    python3 ./GenSelfDiff/test/segment.py --run MoNuSeg_finetune --images FOLDER_OR_FILE --output DIR

Of each image: class map, instance map, overlay, a table of its objects and a GeoJSON file for QuPath, in the pixels of
the image. Started again, it goes on where it stopped. An image that cannot be read is named, and the others are done:
the exit code is then 3.
"""

import contextlib
import errno
import hashlib
import os
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tqdm import tqdm

from GenSelfDiff import predictor
from GenSelfDiff.predictor import PredictorSettings, TrainedPredictor
from GenSelfDiff.whole_image.doubts import DIFFERENT
from GenSelfDiff.whole_image.output import Output, Part, Row, file_facts, readable, table
from GenSelfDiff.whole_image.pipeline import WholeImageSettings, instance_method, segment_image
from GenSelfDiff.whole_image.reader import Reader
from GenSelfDiff.whole_image.slides import EXTENSIONS
from GenSelfDiff.whole_image.windows import windows_of
from utils_general import (
    RESULTS,
    InputError,
    at_least,
    list_images,
    natural_order,
    plain,
    run_script,
)

# When a run is continued; the network is known by its weights, whatever its name or path.
MAY_CHANGE = {"device", "batch_size", "overwrite", "output", "run", "part"}
SOME_FAILED = 3  # exit code
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # where nothing more can be written, of any image


@dataclass(frozen=True, kw_only=True)
class Settings(PredictorSettings, WholeImageSettings):
    """Segment whole images with a fine-tuned network. Exit code 3: some images failed, the others are done."""

    images: Path
    """folder of images, or one image"""
    output: Path = RESULTS / "segmented"
    """folder for the results"""
    overwrite: bool = False
    """replace the results of an earlier run with other settings"""
    part: str | None = None
    """do one of several parts of the images, as 3/8 for the third of eight; parts may run at once, also elsewhere"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, mpp=1e-3, image_mpp=1e-3, tissue=0, block_size=16)
        at_least(self, minimum_area=0, peak_distance=1, largest_hole=0, smoothing=0)
        self.check_windows()


def load_network(settings: Settings) -> TrainedPredictor:
    """The network of a run, ready to segment; says which it is, and where it may see what it was not trained for."""
    network = predictor.load(settings)
    window, method = windows_of(network, settings).size, instance_method(network, settings)
    print(
        f"{network.path}: epoch {network.epoch}, classes {', '.join(network.classes[1:])}; windows of {window} pixels, "
        f"{method}"
    )
    if settings.mpp and network.mpp and not 1 / DIFFERENT <= settings.mpp / network.mpp <= DIFFERENT:
        print(f"warning: --mpp {settings.mpp:g}, but the network was trained at {network.mpp:g} micrometres a pixel")
    return network


def find_images(images: Path) -> dict[str, Path]:
    """The images by the name that their results get: the file's without extension, with it where two are alike."""
    if not images.exists():
        raise InputError(f"{images} does not exist: --images wants a folder of images, or one image")
    files = list_images(images, EXTENSIONS) if images.is_dir() else [images]
    files.sort(key=lambda file: (natural_order(file), file.name))  # the same on all machines, as parts need it
    stems = Counter(file.stem for file in files)
    names = {file.stem if stems[file.stem] == 1 else file.name: file for file in files}
    return names if len(names) == len(files) else {file.name: file for file in files}


def main(settings: Settings) -> None:
    """Check everything, segment image by image, write the summary."""
    settings.check()
    part = Part.parse(settings.part)
    images = find_images(settings.images)
    with contextlib.closing(Reader()) as reader:
        network = load_network(settings)
        resolved = {
            "script": "segment.py",
            **plain(settings),
            "images": str(settings.images.resolve()),
            "checkpoint": hashlib.sha256(network.path.read_bytes()).hexdigest(),
            "classes": network.classes,
        }
        output, before = Output(settings.output, part, resolved, MAY_CHANGE, settings.overwrite), 0
        for name, file in tqdm(part.take(list(images.items())), "images", disable=None):
            shown = readable(file.name)
            if output.has(shown, file):
                before += 1
                continue
            row = attempt(file, name, output, network, settings, reader)
            if row.get("warning"):
                tqdm.write(f"warning: {shown}: {row['warning']}")
            output.add({"image": shown, **row})
        output.close(done=True)
    report(settings, list(output.rows.values()), before)


def attempt(
    file: Path, name: str, output: Output, network: TrainedPredictor, settings: Settings, reader: Reader
) -> Row:
    """The row of one image: of what was found, or of the error. Whatever fails, the other images are to be done."""
    row: dict[str, Any] = {}
    try:
        row = file_facts(file)
        state = output.state(name, row["sha256"])
        return row | segment_image(file, str(settings.output / name), state, network, settings, reader.open)
    except InputError as error:
        reason = str(error)
    except MemoryError:
        reason = f"{file} needs more memory than there is: choose a smaller --block-size"
    except torch.OutOfMemoryError:
        reason = f"{file} needs more memory than the GPU has: choose a smaller --batch-size"
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        reason = f"cannot read or write {error.filename or file}: {os.strerror(error.errno or errno.EIO)}"
    except Exception as error:
        traceback.print_exc()  # a mistake of this code, which its authors want to see
        reason = f"{file}: {type(error).__name__}: {error}"
    reason = readable(" ".join(reason.split()))
    tqdm.write(f"failed: {reason}")
    return row | {"error": reason}


def report(settings: Settings, rows: list[Row], done_before: int) -> None:
    """Print what was done, and exit with 3 where an image failed."""
    summary = table(rows)
    failed = summary.error.notna()
    objects = summary.objects.sum() if "objects" in summary else 0
    print(f"{(~failed).sum()} images, {objects} objects; {done_before} were done before, {failed.sum()} failed")
    if "note" in summary:
        for note, names in summary.image.groupby(summary.note):
            print(f"note: {names.iloc[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}")
    print(f"maps, overlays, tables and GeoJSON are in {settings.output}")
    if failed.any():
        sys.exit(SOME_FAILED)


if __name__ == "__main__":
    run_script(main, Settings)
