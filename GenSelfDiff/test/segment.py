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

import pandas as pd
from tqdm import tqdm

from GenSelfDiff import predictor
from GenSelfDiff.predictor import PredictorSettings, TrainedPredictor
from GenSelfDiff.whole_image.pipeline import WholeImageSettings, instance_method, segment_image
from GenSelfDiff.whole_image.slides import EXTENSIONS
from GenSelfDiff.whole_image.windows import windows_of
from utils_general import (
    RESULTS,
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
class Settings(PredictorSettings, WholeImageSettings):
    """Segment whole images with a fine-tuned network. Exit code 3: some images failed, the others are done."""

    images: Path
    """folder of images, or one image"""
    output: Path = RESULTS / "segmented"
    """folder for the results"""
    overwrite: bool = False
    """replace the results of an earlier run with other settings"""

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
    network = load_network(settings)
    resolved = {
        "script": "segment.py",
        **plain(settings),
        "images": str(settings.images.resolve()),
        "checkpoint": hashlib.sha256(network.path.read_bytes()).hexdigest(),
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
