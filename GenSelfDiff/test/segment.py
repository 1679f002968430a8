"""Segmenting whole images of any size with a fine-tuned network: png, jpg, bmp, tif, and slides (svs, pyramidal tif).

    python3 ./GenSelfDiff/test/segment.py --run MoNuSeg_finetune --images FOLDER_OR_FILE --output DIR

Of each image: class map, instance map, overlay, a table of its objects and a GeoJSON file for QuPath, in the pixels of
the image. Started again, it goes on where it stopped. An image that cannot be read is named, and the others are done:
the exit code is then 3.
"""

import glob
import hashlib
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from GenSelfDiff import checkpoint
from GenSelfDiff.data import to_input
from GenSelfDiff.devices import InPrecision, Precision, set_up_alone
from GenSelfDiff.whole_image.pipeline import Network, WholeImageSettings, segment_image
from GenSelfDiff.whole_image.slides import EXTENSIONS
from GenSelfDiff.whole_image.windows import Averaging, averaged
from utils_general import (
    RESULTS,
    SIDE_MULTIPLE,
    InputError,
    at_least,
    list_images,
    plain,
    read_json,
    replace_file,
    run_script,
    write_json,
)

MARKER, SUMMARY, STATE = "settings.json", "summary.csv", ".unfinished"
# Of the files of an image, behind its name
ENDINGS = (".geojson", "_objects.csv", *(f"_{kind}.*" for kind in ("classes", "instances", "overlay", "probability_*")))
# When a run is continued; the network is known by its weights, whatever its name or path.
MAY_CHANGE = {"device", "batch_size", "overwrite", "output", "run"}
SOME_FAILED = 3  # exit code
DIFFERENT = 1.2  # factor between resolutions from which on a network may see what it was not trained for


@dataclass(frozen=True, kw_only=True)
class Settings(WholeImageSettings):
    """Segment whole images with a fine-tuned network. Exit code 3: some images failed, the others are done."""

    images: Path
    """folder of images, or one image"""
    run: str = "MoNuSeg_finetune"
    """run of fine-tuning, or the path of its folder or of a (published) .pth"""
    output: Path = RESULTS / "segmented"
    """folder for the results"""
    window: int | None = None
    """pixels of a window's side, a multiple of 8; that of the training's patches if not given (256 where unknown)"""
    tta: Averaging = "none"
    """average over the image seen in several ways: none, flips (4 times the time) or all, with quarter turns (8)"""
    batch_size: int = 8
    """windows at a time"""
    precision: Precision = "float32"
    """float32, or bfloat16 (autocast: faster, rounded)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    overwrite: bool = False
    """replace the results of an earlier run with other settings"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, mpp=1e-3, image_mpp=1e-3, overlap=0, tissue=0, block_size=16, batch_size=1, window=SIDE_MULTIPLE)
        at_least(self, minimum_area=0, peak_distance=1, largest_hole=0, smoothing=0)
        if self.overlap > 0.9:
            raise InputError(f"--overlap {self.overlap}: 0 to 0.9 is wanted")
        if self.window is not None and self.window % SIDE_MULTIPLE:
            raise InputError(f"--window {self.window}: the network wants a multiple of {SIDE_MULTIPLE}")


def load_network(settings: Settings, path: Path) -> Network:
    """The network of a checkpoint, ready to segment."""
    device = set_up_alone(settings.device).device
    model, loaded = checkpoint.load_segmentation(path, device)
    model = InPrecision(model, settings.precision)
    input_range = tuple(loaded["settings"]["input_range"])

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.stack([to_input(image, input_range) for image in images]).to(device)
            return model(x).softmax(1).cpu().numpy()

    classes, method = loaded["classes"], settings.instances
    if method == "auto":  # a checkpoint that does not say it is older than the question
        nuclei = any("nucle" in name for name in classes)
        method = loaded.get("instances", "watershed" if nuclei else "components")
    window = settings.window or loaded.get("patch_size") or 256
    mpp = loaded.get("mpp")
    print(f"{path}: epoch {loaded['epoch']}, classes {', '.join(classes[1:])}; windows of {window} pixels, {method}")
    if settings.mpp and mpp and not 1 / DIFFERENT <= settings.mpp / mpp <= DIFFERENT:
        print(f"warning: --mpp {settings.mpp:g}, but the network was trained at {mpp:g} micrometres a pixel")
    return Network(averaged(predict, settings.tta), classes, window, mpp, method, settings.batch_size)


def find_images(images: Path) -> dict[str, Path]:
    """The images by the name that their results get: the file's without extension, with it where two are alike."""
    if not images.exists():
        raise InputError(f"{images} does not exist: --images wants a folder of images, or one image")
    files = list_images(images, EXTENSIONS) if images.is_dir() else [images]
    stems = Counter(file.stem for file in files)
    names = {file.stem if stems[file.stem] == 1 else file.name: file for file in files}
    return names if len(names) == len(files) else {file.name: file for file in files}


def open_output(settings: Settings, resolved: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the output folder, or go on with it; returns the rows of the images that are done."""
    folder = settings.output
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; an output folder is wanted there: choose another")
    if folder.is_dir() and any(folder.iterdir()):
        before = read_json(folder / MARKER) if (folder / MARKER).is_file() else {}
        if before.get("script") != resolved["script"]:  # a training run's folder has a settings.json, too
            raise InputError(f"{folder} holds files that this script did not write: choose another folder")
        changed = [k for k in resolved if k not in MAY_CHANGE and resolved[k] != before.get(k)]
        if not changed and not settings.overwrite:
            return finished(folder / SUMMARY)
        if not settings.overwrite:
            raise InputError(
                f"{folder} holds results with other settings: {', '.join(changed)} ({changed[0]} was "
                f"{before.get(changed[0])}, now {resolved[changed[0]]}); use those, --overwrite or another --output"
            )
        remove_results(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARKER, resolved)
    return []


def finished(path: Path) -> list[dict[str, Any]]:
    """The rows of a summary of the images that did not fail."""
    if not path.is_file():
        return []
    rows = pd.read_csv(path, dtype={"image": str, "error": str, "note": str})
    return rows[rows.error.isna()].to_dict("records")


def remove_results(folder: Path) -> None:
    """Remove what this script wrote into a folder, and nothing else that is there."""
    for row in finished(folder / SUMMARY):
        for base in {row["image"], Path(row["image"]).stem}:
            for ending in ENDINGS:
                for file in folder.glob(glob.escape(base) + ending):
                    file.unlink()
    shutil.rmtree(folder / STATE, ignore_errors=True)
    (folder / SUMMARY).unlink(missing_ok=True)


def stamp(file: Path) -> dict[str, Any]:
    """What tells that a file is still the one that was segmented."""
    try:
        about = file.stat()
    except OSError:  # it will be named as one that cannot be read
        return {"bytes": 0, "modified": ""}
    return {"bytes": about.st_size, "modified": datetime.fromtimestamp(about.st_mtime).isoformat()}


def main(settings: Settings) -> None:
    """Check everything, segment image by image, write the summary."""
    settings.check()
    images = find_images(settings.images)
    path = checkpoint.find(settings.run)
    network = load_network(settings, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    resolved = {
        "script": "segment.py",
        **plain(settings),
        "images": str(settings.images.resolve()),
        "checkpoint": digest,
        "classes": network.classes,
    }
    stamps = {file.name: stamp(file) for file in images.values()}
    rows = [row for row in open_output(settings, resolved) if same(row, stamps.get(row["image"]))]
    done = {row["image"] for row in rows}
    for name, file in tqdm(images.items(), "images", disable=None):
        if file.name in done:
            continue
        about = stamps[file.name]
        state = settings.output / STATE / f"{name}_{about['bytes']}_{about['modified'].replace(':', '')}"
        try:
            row = segment_image(file, str(settings.output / name), state, network, settings)
        except InputError as error:
            row = {"error": str(error)}
            tqdm.write(f"failed: {error}")
        rows.append({"image": file.name, **about, **row})
        with replace_file(settings.output / SUMMARY) as temporary:
            table(rows).to_csv(temporary, index=False, float_format="%.6g")
    shutil.rmtree(settings.output / STATE, ignore_errors=True)
    report(settings, table(rows), len(done))


def same(row: dict[str, Any], about: dict[str, Any] | None) -> bool:
    """Whether a row of the summary is of an image as it is now; an image that has gone keeps its row."""
    return about is None or (row.get("bytes"), row.get("modified")) == (about["bytes"], about["modified"])


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The summary, a row an image; what an image failed of is in the last column."""
    columns = dict.fromkeys(name for row in rows for name in row if name != "error")
    summary = pd.DataFrame(rows).reindex(columns=[*columns, "error"])
    return summary.astype({name: "Int64" for name in ("bytes", "width", "height", "objects") if name in summary})


def report(settings: Settings, summary: pd.DataFrame, done_before: int) -> None:
    """Print what was done, and exit with 3 where an image failed."""
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
