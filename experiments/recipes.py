"""How many steps of pre-training each recipe takes to the validation loss that the first one ends with.

    python3 experiments/recipes.py --data data/MoNuSeg_64

Trains every variant with every seed by SS_diff.py; writes curves.png, recipes.csv and recipes.md. Seconds are not
compared here, where several runs share the machine: benchmarks/training.py measures those of a step.
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
from experiments.grid import at_once, folder_name, hash_of, remember, run, run_all
from GenSelfDiff.data import pretraining_folder
from GenSelfDiff.history import read_history
from GenSelfDiff.patches import Patches
from utils_general import MONUSEG, ROOT, InputError, at_least, run_script, save_figure


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Compare recipes of pre-training by their steps. What is finished already is not done again."""

    data: Path = MONUSEG
    """root of the data set"""
    output: Path = ROOT / "experiments" / "results" / "recipes"
    """folder for the runs, the table and the picture"""
    variants: tuple[str, ...] = (
        "paper: --recipe paper --epochs 25 --dim 16",
        "improved: --recipe improved --epochs 5 --dim 16 --precision bfloat16",
    )
    """what is compared: "name: options of SS_diff.py", each"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """each variant is trained once with each"""
    jobs: int | None = None
    """runs at a time, each with one thread on a CPU; if not given 2, and 1 on a GPU"""

    def check(self) -> dict[str, list[str]]:
        """The options of each variant by its name; `InputError` for settings that cannot work."""
        at_least(self, jobs=1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError("--seeds names no seed, or one twice")
        options: dict[str, list[str]] = {}
        for variant in self.variants:
            name, colon, words = variant.partition(":")
            taken = {folder_name(known) for known in options}
            if not colon or not name.strip() or folder_name(name.strip()) in taken:
                raise InputError(f'--variants wants "name: options", each name once; one is {variant!r}')
            try:
                options[name.strip()] = shlex.split(words)
            except ValueError as error:
                raise InputError(f"--variants: the options of {name.strip()} cannot be read: {error}") from None
        if not options:
            raise InputError("--variants names nothing to compare")
        return options


def read(folder: Path) -> pd.DataFrame:
    """The history of a run with the steps done."""
    history = read_history(folder / "history.csv", "steps", "val_loss")
    return history.assign(step=history["epoch"] * history["steps"])


def compare(histories: dict[str, list[pd.DataFrame]], seeds: tuple[int, ...]) -> pd.DataFrame:
    """A row a variant and seed: steps, the last validation loss, and the steps to the first variant's last loss.

    The loss is looked at after each epoch, so the steps are an upper bound; NaN where it was not reached.
    """
    first = next(iter(histories.values()))
    rows = []
    for name, runs in histories.items():
        for seed, history, reference in zip(seeds, runs, first, strict=True):
            target = reference["val_loss"].iloc[-1]
            reached = history["step"][history["val_loss"] <= target].min()
            row = {"recipe": name, "seed": seed, "steps": history["step"].iloc[-1]}
            row |= {"last validation loss": history["val_loss"].iloc[-1], "target": target}
            rows.append(row | {"steps to the target": reached, "ratio": reference["step"].iloc[-1] / reached})
    return pd.DataFrame(rows)


def draw(histories: dict[str, list[pd.DataFrame]], path: Path) -> None:
    """The validation loss over the steps, a line a seed."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for i, (name, runs) in enumerate(histories.items()):
        for j, history in enumerate(runs):
            label = None if j else f"{name}, {len(runs)} seeds"
            axes.plot(history["step"], history["val_loss"], color=f"C{i}", alpha=0.8, label=label)
    axes.set(xlabel="steps", ylabel="validation P2 loss an image", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    save_figure(figure, path)


def main(settings: Settings) -> None:
    """Train all, compare, draw."""
    options = settings.check()
    Patches(pretraining_folder(settings.data))  # looked at now, not in the first run
    output = settings.output.resolve()
    folders = {name: [output / folder_name(name, seed) for seed in settings.seeds] for name in options}
    tasks, asked, data = [], {}, hash_of(settings.data)
    for name, words in options.items():
        for seed, folder in zip(settings.seeds, folders[name], strict=True):
            where = ["--data", settings.data.resolve(), "--run-name", folder, "--seed", seed, "--sample-every", 0]
            log = output / "logs" / f"{folder.name}.txt"
            asked[folder] = {"options": shlex.join(words), "data": data, "seed": seed}
            tasks.append(partial(run, "GenSelfDiff/pretrain/SS_diff.py", *where, "--workers", 0, *words, log=log))
    remember(output, asked)
    run_all(tasks, at_once(settings.jobs))
    histories = {name: [read(folder) for folder in runs] for name, runs in folders.items()}
    write_table(compare(histories, settings.seeds), output / "recipes")
    draw(histories, output / "curves.png")
    print(f"recipes.csv, recipes.md and curves.png are in {output}")


if __name__ == "__main__":
    run_script(main, Settings)
