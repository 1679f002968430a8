"""How does a network stand a change of stain? Tests of runs on images that were changed in fixed ways.

    python3 experiments/robustness.py --data data/MoNuSeg --runs MoNuSeg_finetune --methods otsu

The changes stand in experiments/changes.py. Each is made once, of whole images, as a data set of its own in the output;
every run is tested on it by test_script.py, every trivial method by baselines.py. Writes robustness.csv, robustness.md,
robustness.png and examples.png.
"""

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.tables import write_table
from experiments.changes import CHANGES, UNCHANGED
from experiments.grid import at_once, folder_name, hash_of, remember, run, run_all
from experiments.training_runs import WITHOUT_PICTURES
from GenSelfDiff import checkpoint
from GenSelfDiff.comparison.results import Result
from GenSelfDiff.data import pretraining_folder
from GenSelfDiff.evaluation.evaluate import TestSplit, patches_to_test
from GenSelfDiff.evaluation.images import ImagePatches
from GenSelfDiff.intervals import mean_interval
from GenSelfDiff.native import native_files
from GenSelfDiff.patches import Patches
from output_folder import replace_folder
from utils_general import MONUSEG, ROOT, InputError, at_least, contact_sheet, run_script, save_figure, write_png

SHOWN = ("Dice", "AJI", "object F1", "object Dice")
MARKER = "dataset.json"
EXAMPLE = 256  # pixels of the side of what examples.png shows


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Test runs on changed images. What is finished is not done again."""

    data: Path = MONUSEG
    """root of the data set"""
    runs: tuple[str, ...] = ("MoNuSeg_finetune",)
    """runs of fine-tuning, or paths of their folders"""
    methods: tuple[Literal["otsu", "background", "foreground"], ...] = ("otsu",)
    """trivial methods beside them"""
    split: TestSplit = "test"
    """test, or val: the labelled images that are held out of training"""
    output: Path = ROOT / "experiments" / "results" / "robustness"
    """folder for the changed images, the tests, the table and the pictures"""
    jobs: int | None = None
    """tests at a time, each with one thread on a CPU; if not given 2, and 1 on a GPU"""


def reference(settings: Settings) -> tuple[str, np.ndarray]:
    """The first image to train on by name, whose colours others are given: its name and its pixels uint8 (H, W, 3)."""
    patches = Patches(pretraining_folder(settings.data))
    index = patches.index[patches.index.split == "train"]
    if not len(index):
        raise InputError(f"{patches.folder} has no image to train on, whose colours could be given to others")
    rows = index[index.source == min(index.source.astype(str))]
    return str(rows.source.iloc[0]), np.concatenate([patches.image(patch) for patch in rows.patch])


def change_data_set(settings: Settings, name: str, other: np.ndarray) -> Path:
    """The data set whose images to test are changed, made if it is not there; returns its root."""
    root = settings.output.resolve() / "data" / folder_name(name)
    if (root / MARKER).is_file():
        return root
    patches = patches_to_test(settings.data, settings.split)
    with replace_folder(root, MARKER, overwrite=False, inputs=[settings.data]) as folder:
        target = folder / patches.folder.name
        groups = patches.index.groupby("source", sort=False, observed=True)
        for source, rows in tqdm(groups, name, groups.ngroups, disable=None):
            image = ImagePatches.read(patches, rows)
            changed, size = CHANGES[name](image.seen(), other), patches.data_set.patch_size
            for patch, (x, y) in zip(image.numbers, image.corners, strict=True):
                write_png(target / "images" / f"image_{patch}.png", changed[y : y + size, x : x + size])
                for kind in ("label", *(["instance"] if patches.has_instances else [])):
                    _copy(patches.folder / f"{kind}s" / f"{kind}_{patch}.png", target)
            for file in native_files(patches.folder, str(source)):
                if file.is_file():
                    _copy(file, target)
        patches.index.to_csv(target / "index.csv", index=False)
        if (patches.folder / "sources.csv").is_file():
            shutil.copy(patches.folder / "sources.csv", target)
        shutil.copy(settings.data / MARKER, folder)
    return root


def _copy(file: Path, target: Path) -> None:
    (target / file.parent.name).mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target / file.parent.name)


def one_test(settings: Settings, tested: str, trivial: bool, root: Path, folder: Path) -> None:
    """One run or method on one changed data set, unless that is done."""
    if (folder / "summary.json").is_file():
        return
    script = "baselines" if trivial else "test_script"
    which = ["--method", tested] if trivial else ["--run", checkpoint.find(tested).resolve()]
    words = ["--data", root, "--split", settings.split, "--output", folder, *WITHOUT_PICTURES, *which]
    run(f"GenSelfDiff/test/{script}.py", *words, log=folder.with_name(f"{folder.name}.txt"))


def names_to_show(settings: Settings) -> dict[str, str]:
    """What is tested, as it was asked for, and the name that the table has for it: as asked where two have the same."""
    names = {run: checkpoint.name_of(checkpoint.find(run)) for run in settings.runs}
    names |= {method: method for method in settings.methods}
    return {asked: name if [*names.values()].count(name) == 1 else asked for asked, name in names.items()}


def row_of(tested: str, name: str, found: Result, before: Result) -> dict[str, Any]:
    """Means over the images, and the difference in Dice from the unchanged images with its 95 % interval."""
    change = (found.images["Dice"] - before.images["Dice"]).to_numpy(float)
    row = {"tested": tested, "change": name, "images": len(change)} | {m: found.images[m].mean() for m in SHOWN}
    if name == UNCHANGED:
        return row
    low, high = mean_interval(change, -1, 1)
    return row | {"difference in Dice": float(np.nanmean(change)), "low": low, "high": high}


def draw(table: pd.DataFrame, path: Path) -> None:
    """The differences in Dice with their intervals, a row a change."""
    changed = table[table.change != UNCHANGED]
    names, tested = [*dict.fromkeys(changed.change)], [*dict.fromkeys(changed.tested)]
    figure, axes = plt.subplots(figsize=(8, 1 + 0.45 * len(names)), layout="constrained")
    for i, one in enumerate(tested):
        rows = changed[changed.tested == one].set_index("change").loc[names]
        places = np.arange(len(names)) + 0.6 * ((i + 0.5) / len(tested) - 0.5)
        means = rows["difference in Dice"]
        axes.hlines(places, rows["low"], rows["high"], color=f"C{i}", alpha=0.6)
        axes.plot(means, places, "o", color=f"C{i}", ms=5, label=one)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="Dice, difference from the unchanged images, with the 95 % interval of its mean")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_examples(settings: Settings, other: np.ndarray, path: Path) -> None:
    """The first image under every change, in their order."""
    patches = patches_to_test(settings.data, settings.split)
    rows = patches.index[patches.index.source == patches.index.source.iloc[0]]
    image = ImagePatches.read(patches, rows).seen()
    write_png(path, contact_sheet([change(image, other)[:EXAMPLE, :EXAMPLE] for change in CHANGES.values()], columns=5))


def main(settings: Settings) -> None:
    """Change, test, and write the tables and pictures."""
    at_least(settings, jobs=1)
    names = [*settings.runs, *settings.methods]
    if not names or len({folder_name(n) for n in names}) < len(names):
        raise InputError("--runs and --methods name nothing to test, or one twice")
    weights = {run: hash_of(checkpoint.find(run)) for run in settings.runs}
    if not patches_to_test(settings.data, settings.split).described:
        raise InputError(f"{settings.data} has no index.csv and dataset.json: cut the images by preprocess.py")
    source, other = reference(settings)
    output, data = settings.output.resolve(), hash_of(settings.data)
    folders = {(tested, name): output / folder_name(tested, name) for tested in names for name in CHANGES}
    same = {"data": data, "split": settings.split}
    changed = {output / "data" / folder_name(name): {"change": name, **same} for name in CHANGES}
    tests = {folder: {**same, "weights": weights.get(tested, "")} for (tested, _), folder in folders.items()}
    remember(output, changed | tests)
    roots = {name: change_data_set(settings, name, other) for name in CHANGES}
    run_all(
        [
            partial(one_test, settings, tested, tested not in weights, roots[name], folder)
            for (tested, name), folder in folders.items()
        ],
        at_once(settings.jobs),
    )
    results = {key: Result.read(folder) for key, folder in folders.items()}
    shown = names_to_show(settings)
    rows = [row_of(shown[tested], name, found, results[tested, UNCHANGED]) for (tested, name), found in results.items()]
    table = pd.DataFrame(rows)
    write_table(table, output / "robustness")
    draw(table, output / "robustness.png")
    draw_examples(settings, other, output / "examples.png")
    print(f"the other image, whose colours are given, is {source}")
    print(f"robustness.csv, robustness.md, robustness.png and examples.png are in {output}")


if __name__ == "__main__":
    run_script(main, Settings)
