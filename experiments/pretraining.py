"""Does pre-training pay? Networks fine-tuned from pre-training and from scratch, over the number of labelled images.

    python3 experiments/pretraining.py --question GlaS --estimate
    python3 experiments/pretraining.py --question GlaS

The questions stand in experiments/questions.py. Everything is done by the project's scripts: SS_diff.py, Diff_Seg.py,
test_script.py. First each arm's learning rate is chosen on development images, then the arms are tested. Every
finished run is a row in experiments/records; what is there is not done again, on whichever machine. Writes a table and
curves.
"""

import shutil
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.tables import machine
from experiments.grid import folder_name, run, run_all
from experiments.pretraining_report import report
from experiments.questions import ARMS, CHOICE_DRAWS, DIM, PRETRAININGS, QUESTIONS, RATES, SMALL, Arm, Question
from experiments.records import ASKED, Records, hash_of_question
from GenSelfDiff import checkpoint
from GenSelfDiff.comparison.results import Result
from GenSelfDiff.data import PatchDataset, labelled_folder
from GenSelfDiff.patches import Patches
from GenSelfDiff.unet import SegNet
from utils_general import ROOT, InputError, at_least, run_script

KEY = ("arm", "labelled images", "draw", "learning rate")
METRICS = ("Dice", "object F1", "object Dice", "AJI", "GlaS F1")
BATCH = 8
SECONDS_A_TEST = 40.0  # about: starting two scripts, testing
PRETRAINING_SEEDS = 3  # draws take them in turn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Does pre-training pay? A grid of small runs."""

    question: Literal["GlaS", "GlaS-features"] = "GlaS"
    """which table, see experiments/questions.py"""
    data: Path | None = None
    """root of the question's data set; data/<its name> if not given"""
    output: Path = ROOT / "experiments" / "results" / "pretraining"
    """folder for pre-trained networks, the table and the picture"""
    records: Path = ROOT / "experiments" / "records"
    """folder of the tables of finished runs"""
    jobs: int = 2
    """runs at a time, each with one thread on a CPU"""
    estimate: bool = False
    """say how many runs there are to do, and for how long, and do none"""
    phase: Literal["choose", "test"] = "test"
    """choose: only what is seen of development images; test: that, and then the test images"""


class Grid:
    """All runs of a question."""

    def __init__(self, settings: Settings, question: Question):
        self.question, self.jobs = question, settings.jobs
        self.data = (settings.data or ROOT / "data" / question.data).resolve()
        output = settings.output.resolve()
        self.output, self.weights = output / settings.question, output / question.data
        name = settings.question.lower()
        self.records = {split: Records(settings.records / f"{name}_{split}.csv", KEY) for split in ("val", "test")}
        patches = Patches(labelled_folder(self.data), labelled=True)
        patches.keep_sources(max(question.draws))  # too many: said now
        self.size = patches.data_set.patch_size
        self.patches = PatchDataset([patches], "train", 0).fingerprint()

    def ask(self, arm: str, labelled: int, draw: int, rate: float) -> dict[str, Any]:
        """A run: its key, and a hash of everything else that it is asked for."""
        row = dict(zip(KEY, (arm, labelled, draw, rate), strict=True))
        pretraining = PRETRAININGS.get(ARMS[arm].pretraining)
        asked = [self.patches, self.steps(row), BATCH, SMALL, asdict(ARMS[arm]), pretraining and asdict(pretraining)]
        return row | {ASKED: hash_of_question(*asked)}

    def choices(self) -> list[dict[str, Any]]:
        """Runs on development images, by which the learning rates are chosen."""
        asking = [name for name in self.question.arms if not ARMS[name].rate_of]
        keys = [(arm, draw, rate) for draw in CHOICE_DRAWS for arm in asking for rate in RATES]
        return [self.ask(arm, self.question.chosen_with, draw, rate) for arm, draw, rate in keys]

    def rate(self, arm: str) -> float:
        """The learning rate with the best mean Dice on development images; of equals the lowest."""
        arm = ARMS[arm].rate_of or arm
        rows = self.records["val"].of([row for row in self.choices() if row["arm"] == arm])
        if len(rows) < len(CHOICE_DRAWS) * len(RATES):
            raise InputError(f"the learning rate of {arm} is not chosen yet: {len(rows)} runs are done")
        return float(rows.groupby("learning rate")["Dice"].mean().idxmax())

    def wanted(self) -> list[tuple[str, int, int]]:
        """Arm, labelled images and draw of all runs on test images, those of the primary figure first."""
        numbers = sorted(self.question.draws, key=lambda n: (n != self.question.chosen_with, n))
        return [
            (arm, n, draw)
            for n in numbers
            for draw in range(1, self.question.draws[n] + 1)
            for arm in self.question.arms
            if n in self.question.only.get(arm, (n,))
        ]

    def tests(self) -> list[dict[str, Any]]:
        """Runs on test images, at the rates that were chosen."""
        return [self.ask(*which, self.rate(which[0])) for which in self.wanted()]

    def missing(self, split: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the runs that are not done."""
        return [row for row in runs if row not in self.records[split]]

    def steps(self, row: dict[str, Any]) -> int:
        """Of a run's fine-tuning."""
        return self.question.steps[row["labelled images"]] + ARMS[row["arm"]].more_steps

    def do(self, split: str, runs: list[dict[str, Any]]) -> None:
        """Fine-tune and test: first what needs nothing that is missing, then pre-train, then the rest.

        Also of weights that are there SS_diff.py is asked, which refuses them where they are of other data or settings.
        """
        ready = [row for row in runs if self.is_ready(row)]
        for part in (ready, [row for row in runs if row not in ready]):
            needed = {(ARMS[row["arm"]].pretraining, _seed(row)) for row in part if ARMS[row["arm"]].pretraining}
            in_order = sorted(needed, key=lambda which: ([*PRETRAININGS].index(which[0]), which[1]))
            run_all([partial(self.pretrain, *which) for which in in_order], self.jobs)
            run_all([partial(self.one_run, split, row) for row in part], self.jobs)

    def is_ready(self, row: dict[str, Any]) -> bool:
        """Whether the weights that a run begins with are there, or none are needed."""
        pretraining = ARMS[row["arm"]].pretraining
        return not pretraining or self.shuffled(pretraining, _seed(row)).is_file()

    def pretrained(self, name: str, seed: int) -> Path:
        """Folder of a run of pre-training."""
        return self.weights / "pretrained" / folder_name(name, seed)

    def shuffled(self, name: str, seed: int) -> Path:
        """Checkpoint with its weights shuffled, written when it is done."""
        return self.pretrained(name, seed).with_suffix(".shuffled.pth")

    def pretrain(self, name: str, seed: int) -> None:
        """Pre-train, or go on, if that is not done; and write the same weights, shuffled, beside."""
        plan, folder = PRETRAININGS[name], self.pretrained(name, seed)
        words = ["--data", self.data, "--run-name", folder, "--seed", seed, "--batch-size", BATCH]
        length = ["--steps", plan.steps, "--validate-every", max(1, plan.steps // 4), "--sample-every", 0]
        run("GenSelfDiff/pretrain/SS_diff.py", *words, *length, *plan.options, log=self.weights / f"{folder.name}.txt")
        if not self.shuffled(name, seed).is_file():
            shuffle_weights(folder / "best.pth", self.shuffled(name, seed), seed)

    def start(self, arm: Arm, seed: int) -> str:
        """What Diff_Seg.py starts from."""
        if arm.start == "scratch":
            return "scratch"
        shuffled = arm.start == "shuffled"
        return str(self.shuffled(arm.pretraining, seed) if shuffled else self.pretrained(arm.pretraining, seed))

    def one_run(self, split: str, row: dict[str, Any]) -> None:
        """Fine-tune, test, write the row down; the weights are not kept."""
        arm, steps, begin = ARMS[row["arm"]], self.steps(row), time.monotonic()
        folder = self.output / split / folder_name(*(row[name] for name in KEY))
        log = folder.with_name(f"{folder.name}.txt")
        words = ["--data", self.data, "--run-name", folder, "--pretrained", self.start(arm, _seed(row))]
        words += ["--labelled-images", row["labelled images"], "--draw-seed", row["draw"], "--seed", row["draw"]]
        words += ["--learning-rate", row["learning rate"], "--steps", steps, "--validate-every", steps]
        run(arm.script, *SMALL, *words, "--batch-size", BATCH, *arm.options, log=log)
        trained = time.monotonic()
        test = ["--data", self.data, "--run", folder, "--output", folder / "results", "--split", split]
        run("GenSelfDiff/test/test_script.py", *test, "--pictures", 1, "--overwrite", log=log)
        found, tested = Result.read(folder / "results"), time.monotonic()
        record = row | {"steps": steps, "pre-training seed": _seed(row) if arm.pretraining else ""}
        record |= {metric: found.images[metric].mean() for metric in METRICS}
        record |= {f"Dice {image}": value for image, value in found.images["Dice"].items()}
        record |= {"seconds": round(trained - begin), "seconds of the test": round(tested - trained)}
        self.records[split].add(record | {"torch": torch.__version__, "machine": machine("cpu")})
        shutil.rmtree(folder)

    def say_estimate(self, phase: str) -> None:
        """Print how many runs are to do, and how long they take here, from a measured step."""
        runs = self.missing("val", self.choices())
        if phase == "test":
            done = {tuple(which) for which in self.records["test"].table[list(KEY[:3])].itertuples(index=False)}
            runs += [dict(zip(KEY, which, strict=False)) for which in self.wanted() if which not in done]
        names = {ARMS[row["arm"]].pretraining for row in runs} - {""}
        whole = [(name, seed) for name in names for seed in range(1, PRETRAINING_SEEDS + 1)]
        missing = [which for which in whole if not self.shuffled(*which).is_file()]
        steps = sum(map(self.steps, runs)) + sum(PRETRAININGS[name].steps for name, _ in missing)
        second = seconds_a_step(self.size)
        hours = (steps * second + len(runs) * SECONDS_A_TEST) / self.jobs / 3600
        print(
            f"{len(missing)} networks to pre-train, {len(runs)} runs to fine-tune and test; a step takes "
            f"{second:.2f} s with one thread: about {hours:.1f} hours, {self.jobs} at a time"
        )


def _seed(row: dict[str, Any]) -> int:
    """Of the pre-training that a draw begins with: the draws take them in turn."""
    return 1 + row["draw"] % PRETRAINING_SEEDS


def shuffle_weights(source: Path, target: Path, seed: int) -> None:
    """Write a checkpoint in which the numbers of each tensor stand in random order."""
    loaded, generator = checkpoint.load(source), torch.Generator().manual_seed(seed)
    state = loaded["model_state_dict"]
    for name, value in state.items():
        order = torch.randperm(value.numel(), generator=generator)
        state[name] = value.flatten()[order].view_as(value)
    checkpoint.save(target, loaded)


def seconds_a_step(size: int) -> float:
    """Of training the small network with one thread, here and now: the median of five."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = SegNet(DIM)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    seconds = []
    for _ in range(6):
        begin = time.monotonic()
        model(torch.zeros(BATCH, 3, size, size)).square().mean().backward()
        optimizer.step()
        seconds.append(time.monotonic() - begin)
    torch.set_num_threads(threads)
    return sorted(seconds[1:])[2]


def main(settings: Settings) -> None:
    """Choose, test, report."""
    at_least(settings, jobs=1)
    grid = Grid(settings, QUESTIONS[settings.question])
    grid.say_estimate(settings.phase)
    if settings.estimate:
        return
    grid.do("val", grid.missing("val", grid.choices()))
    for arm in grid.question.arms:
        print(f"{arm}: learning rate {grid.rate(arm):g}, chosen on development images")
    if settings.phase == "test":
        grid.do("test", grid.missing("test", grid.tests()))
        report(grid.question, grid.records["test"].of(grid.tests()), grid.output)


if __name__ == "__main__":
    run_script(main, Settings)
