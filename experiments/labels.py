"""What pre-training is worth with few labels: figures of the test images over the number of labelled images.

    python3 experiments/labels.py --data data/MoNuSeg_64 --pretrained MoNuSeg_pretrain
    python3 experiments/labels.py --data data/MoNuSeg_64 --labels 1 \
        --variants "t = 0: --pretrained A" "t = 50: --pretrained A --timestep 50"

Fine-tunes every variant with every number of labelled images and every seed by Diff_Seg.py, each for about the same
number of steps, and tests it by test_script.py; writes labels.csv (a row a run), means.csv, means.md and labels.png.
"""

import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.tables import write_table
from experiments.grid import GridSettings, at_once, folder_name, hash_of, remember, run, run_all, weights_of
from GenSelfDiff.comparison.results import Result
from GenSelfDiff.data import labelled_folder
from GenSelfDiff.patches import Patches
from utils_general import MONUSEG, ROOT, InputError, at_least, replace_file, run_script, save_figure

BATCH = 8
SHOWN = ("Dice", "AJI", "object F1")


@dataclass(frozen=True, kw_only=True)
class Settings(GridSettings):
    """Compare ways of fine-tuning by the number of labelled images."""

    data: Path = MONUSEG
    output: Path = ROOT / "experiments" / "results" / "labels"
    pretrained: str = "MoNuSeg_pretrain"
    """run of pre-training that stands for PRETRAINED in the variants"""
    variants: tuple[str, ...] = (
        "from scratch: --recipe improved --pretrained scratch --dim 16",
        "pre-trained: --recipe improved --pretrained PRETRAINED",
    )
    labels: tuple[int, ...] = (1, 2, 4, 9)
    """numbers of labelled source images"""
    steps: int = 224
    """of fine-tuning, about: whole epochs are trained"""


def one_run(settings: Settings, words: list[str], labels: int, seed: int, folder: Path) -> None:
    """Fine-tune and test; what was tested is not tested again."""
    results, log = folder / "results", folder.parent / f"{folder.name}.txt"
    if (results / "summary.json").is_file():
        return
    patches = Patches(labelled_folder(settings.data), labelled=True)
    patches.keep_sources(labels)
    epochs = max(1, round(settings.steps / max(1, len(patches.select("train")) // BATCH)))
    common = ["--data", settings.data.resolve(), "--seed", seed, "--batch-size", BATCH, "--epochs", epochs]
    common += ["--labelled-images", labels, "--workers", 0, "--run-name", folder]
    run("GenSelfDiff/downstream_train/Diff_Seg.py", *common, *words, log=log)
    test = ["--data", settings.data.resolve(), "--run", folder, "--output", results, "--pictures", 3]
    run("GenSelfDiff/test/test_script.py", *test, log=log)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Mean over the seeds, with every seed as a dot, for each figure."""
    figure, panels = plt.subplots(1, len(SHOWN), figsize=(4 * len(SHOWN), 3.6), layout="constrained")
    for panel, shown in zip(panels, SHOWN, strict=True):
        for i, (name, runs) in enumerate(table.groupby("variant", sort=False)):
            mean = runs.groupby("labelled images")[shown].mean()
            panel.plot(mean.index, mean, "-", color=f"C{i}", label=name)
            panel.plot(runs["labelled images"], runs[shown], ".", color=f"C{i}", alpha=0.6)
        panel.set(xlabel="labelled images", ylabel=f"{shown}, mean over test images", xscale="log")
        panel.set_xticks(sorted(table["labelled images"].unique()), minor=False)
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    save_figure(figure, path)


def main(settings: Settings) -> None:
    """Fine-tune and test all, then the tables and the picture."""
    options = settings.check()
    at_least(settings, steps=1)
    if not settings.labels or len(set(settings.labels)) < len(settings.labels):
        raise InputError("--labels names no number of images, or one twice")
    for labels in settings.labels:
        Patches(labelled_folder(settings.data), labelled=True).keep_sources(labels)  # too many: said now
    output, tasks, runs, asked = settings.output.resolve(), [], [], {}
    data = hash_of(settings.data)
    for name, words in options.items():
        known = [settings.pretrained if word == "PRETRAINED" else word for word in words]
        same = {"options": shlex.join(known), "steps": settings.steps, "data": data, "weights": weights_of(known)}
        for labels in settings.labels:
            for seed in settings.seeds:
                folder = output / folder_name(name, labels, seed)
                tasks.append(partial(one_run, settings, known, labels, seed, folder))
                asked[folder] = {**same, "labelled images": labels, "seed": seed}
                runs.append(({"variant": name, "labelled images": labels, "seed": seed}, folder))
    remember(output, asked)
    run_all(tasks, at_once(settings.jobs))
    rows = [key | Result.read(folder / "results").means() for key, folder in runs]
    table = pd.DataFrame(rows)
    with replace_file(output / "labels.csv") as temporary:
        table.to_csv(temporary, index=False)
    by = table.groupby(["variant", "labelled images"], sort=False)[list(SHOWN)]
    write_table(by.mean().join(by.std().add_suffix(" deviation")).reset_index(), output / "means")
    draw(table, output / "labels.png")
    print(f"labels.csv, means.csv, means.md and labels.png are in {output}")


if __name__ == "__main__":
    run_script(main, Settings)
