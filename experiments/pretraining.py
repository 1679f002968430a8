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
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from experiments.grid import at_once, folder_name, run, run_all
from experiments.pretraining_report import SEED, TRIVIAL, report
from experiments.questions import ARMS, DIM, PRETRAININGS, QUESTIONS, RATES, RATES_OF, SMALL, Arm, Question
from experiments.records import ASKED, Records, hash_of_question
from experiments.training_runs import (
    BATCH,
    SECONDS_A_TEST,
    about,
    commit,
    figures,
    seconds_a_step,
    tested,
    train_and_test,
    what_is_shown,
    what_is_tested,
)
from GenSelfDiff import checkpoint
from GenSelfDiff.data import PatchDataset, labelled_folder
from GenSelfDiff.patches import Patches
from output_folder import locked
from utils_general import ROOT, InputError, at_least, run_script

QuestionName = Literal[
    "GlaS", "GlaS-all", "GlaS-features", "GlaS-budgets", "GlaS-transfer", "GlaS-noise", "MoNuSeg", "MoNuSeg-features"
]
Split = Literal["val", "test"]
KEY = ("arm", "labelled images", "draw", "learning rate")
METRICS = ("Dice", "object F1", "object Dice", "AJI", "GlaS F1")
PRETRAINING_SEEDS = 3  # draws take them in turn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Does pre-training pay? A grid of small runs."""

    question: QuestionName = "GlaS"
    """which table, see experiments/questions.py"""
    data: Path | None = None
    """root of the question's data set; data/<its name> if not given"""
    output: Path = ROOT / "experiments" / "results" / "pretraining"
    """folder for pre-trained networks, the table and the picture"""
    records: Path = ROOT / "experiments" / "records"
    """folder of the tables of finished runs"""
    weights: Path = ROOT / "experiments" / "weights"
    """folder of the pre-trained networks that runs begin with"""
    arms: tuple[str, ...] = ()
    """only these of the question's arms, by their names; all if not given"""
    jobs: int | None = None
    """runs at a time, each with one thread on a CPU; if not given 2, and 1 on a GPU"""
    estimate: bool = False
    """say how many runs there are to do, and for how long, and do none"""
    phase: Literal["choose", "test"] = "test"
    """choose: only what is seen of development images; test: that, and then the test images"""


class Grid:
    """All runs of a question."""

    def __init__(self, settings: Settings, question: Question):
        self.question, self.jobs = question, at_once(settings.jobs)
        self.arms = [arm for arm in question.arms if arm in settings.arms] or question.arms
        if unknown := set(settings.arms) - set(question.arms):
            raise InputError(f"--arms: no arm is named {min(unknown)!r}; there are {', '.join(question.arms)}")
        self.data = (settings.data or ROOT / "data" / question.data).resolve()
        output = settings.output.resolve()
        self.output, self.work = output / settings.question, output / question.data
        self.weights = settings.weights.resolve() / question.data
        self.records = {split: records_of(settings, question, split) for split in ("val", "test")}
        patches = Patches(labelled_folder(self.data), labelled=True)
        self.size = patches.data_set.patch_size
        patches.check_labels(len(patches.data_set.classes))
        self.patches = what_is_shown(*(PatchDataset([patches], split, 0) for split in ("train", "val")))
        patches.keep_sources(max(question.steps))  # too many: said now
        self.tested = what_is_tested(self.data)

    def ask(self, arm: str, labelled: int, draw: int, rate: float, split: Split = "test") -> dict[str, Any]:
        """A run: its key, and a hash of everything else that it is asked for; of tests also the test images."""
        row = dict(zip(KEY, (arm, labelled, draw, rate), strict=True))
        pretraining = PRETRAININGS.get(ARMS[arm].pretraining)
        asked = [self.patches, self.steps(row), BATCH, SMALL, asdict(ARMS[arm]), pretraining and asdict(pretraining)]
        asked += [self.tested] if split == "test" else []
        return row | {ASKED: hash_of_question(*asked)}

    def choices(self) -> list[dict[str, Any]]:
        """Runs on development images, by which the learning rates are chosen."""
        asking = dict.fromkeys(ARMS[name].rate_of or name for name in self.arms)
        return [
            self.ask_choice(arm, draw, rate)
            for draw in self.question.choice_draws
            for arm in asking
            for rate in rates_of(arm)
        ]

    def ask_choice(self, arm: str, draw: int, rate: float) -> dict[str, Any]:
        """A run on development images; see `ask`."""
        return self.ask(arm, self.question.chosen_with, draw, rate, "val")

    def rate(self, arm: str) -> float:
        """The learning rate with the best mean Dice on development images; of equals the lowest."""
        arm = ARMS[arm].rate_of or arm
        wanted = [self.ask_choice(arm, draw, rate) for draw in self.question.choice_draws for rate in rates_of(arm)]
        rows = self.records["val"].of(wanted)
        if len(rows) < len(wanted):
            raise InputError(f"the learning rate of {arm} is not chosen yet: {len(rows)} runs are done")
        return float(rows.groupby("learning rate")["Dice"].mean().idxmax())

    def wanted(self) -> list[tuple[str, int, int]]:
        """Arm, labelled images and draw of all runs on test images, those of the primary figure first."""
        numbers = sorted(self.question.draws, key=lambda n: (n != self.question.chosen_with, n))
        return [
            (arm, n, draw)
            for n in numbers
            for draw in range(1, self.question.draws[n] + 1)
            for arm in self.arms
            if draw <= self.question.draws_of(arm).get(n, 0)
        ]

    def tests(self) -> list[dict[str, Any]]:
        """Runs on test images, at the rates that were chosen."""
        return [self.ask(*which, self.rate(which[0])) for which in self.wanted()]

    def labelled(self) -> dict[int, str]:
        """The labelled image of each draw of one."""
        draws = range(1, self.question.draws.get(1, 0) + 1)
        return {draw: Patches(labelled_folder(self.data), labelled=True).keep_sources(1, draw)[0] for draw in draws}

    def missing(self, split: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the runs that are not done."""
        return [row for row in runs if row not in self.records[split]]

    def steps(self, row: dict[str, Any]) -> int:
        """Of a run's fine-tuning."""
        return self.question.steps[row["labelled images"]] + ARMS[row["arm"]].more_steps

    def do(self, split: str, runs: list[dict[str, Any]]) -> None:
        """Pre-train what is missing; beside it, fine-tune and test, what needs no missing weights first."""
        ready = [row for row in runs if self.is_ready(row)]
        others = [row for row in runs if row not in ready]
        needed = {(ARMS[row["arm"]].pretraining, _seed(row)) for row in others}
        in_order = sorted(needed, key=lambda which: ([*PRETRAININGS].index(which[0]), which[1]))
        others.sort(key=lambda row: in_order.index((ARMS[row["arm"]].pretraining, _seed(row))))
        done = {which: threading.Event() for which in in_order}
        tasks = [partial(self.pretrain_and_say, which, done[which]) for which in in_order]
        tasks += [partial(self.one_run, split, row) for row in ready]
        tasks += [
            partial(self.wait_and_run, split, row, done[ARMS[row["arm"]].pretraining, _seed(row)]) for row in others
        ]
        run_all(tasks, self.jobs)

    def pretrain_and_say(self, which: tuple[str, int], done: threading.Event) -> None:
        """Pre-train; `done` is set however it ends."""
        try:
            self.pretrain(*which)
        finally:
            done.set()

    def wait_and_run(self, split: str, row: dict[str, Any], done: threading.Event) -> None:
        """A run whose weights another task makes, which has begun before."""
        done.wait()
        if self.is_ready(row):  # else the pre-training failed, and says so
            self.one_run(split, row)

    def is_ready(self, row: dict[str, Any]) -> bool:
        """Whether the weights that a run begins with are there, or none are needed."""
        pretraining = ARMS[row["arm"]].pretraining
        return not pretraining or self.has(pretraining, _seed(row))

    def pretrained(self, name: str, seed: int) -> Path:
        """Checkpoint of a pre-trained network, in half precision: all runs begin with it, on whichever machine."""
        return self.weights / f"{folder_name(name, seed)}.pth"

    def shuffled(self, name: str, seed: int) -> Path:
        """Checkpoint with its weights shuffled."""
        return self.work / "pretrained" / f"{folder_name(name, seed)}.shuffled.pth"

    def ask_pretraining(self, name: str, seed: int) -> str:
        """A hash of all that a pre-training is asked for."""
        return hash_of_question(self.patches, BATCH, seed, asdict(PRETRAININGS[name]))

    def has(self, name: str, seed: int) -> bool:
        """Whether a pre-trained network is there; `InputError` where it was pre-trained in another way."""
        path = self.pretrained(name, seed)
        if not path.is_file():
            return False
        if checkpoint.load(path).get(ASKED) != self.ask_pretraining(name, seed):
            raise InputError(
                f"{path} was asked for something else: other steps, options or data; remove it, or choose another "
                "--weights"
            )
        return True

    def pretrain(self, name: str, seed: int) -> None:
        """Pre-train, or go on, unless that is done; another grid that wants the same waits meanwhile."""
        plan, folder = PRETRAININGS[name], self.work / "pretrained" / folder_name(name, seed)
        words = ["--data", self.data, "--run-name", folder, "--seed", seed, "--batch-size", BATCH]
        length = ["--steps", plan.steps, "--validate-every", max(1, plan.steps // 4), "--sample-every", 0]
        log = self.work / f"{folder.name}.txt"
        with locked(folder):
            if not self.has(name, seed):
                run("GenSelfDiff/pretrain/SS_diff.py", *words, *length, *plan.options, log=log)
                self.weights.mkdir(parents=True, exist_ok=True)
                keep_weights(folder / "best.pth", self.pretrained(name, seed), self.ask_pretraining(name, seed))

    def start(self, arm: Arm, seed: int) -> str:
        """What Diff_Seg.py starts from."""
        if arm.start == "scratch":
            return "scratch"
        weights, shuffled = self.pretrained(arm.pretraining, seed), self.shuffled(arm.pretraining, seed)
        if arm.start == "pre-trained":
            return str(weights)
        shuffled.parent.mkdir(parents=True, exist_ok=True)
        shuffle_weights(weights, shuffled, seed)
        return str(shuffled)

    def one_run(self, split: str, row: dict[str, Any]) -> None:
        """Fine-tune, test, write the row down; the weights are not kept."""
        arm, steps = ARMS[row["arm"]], self.steps(row)
        folder = self.output / split / folder_name(*(row[name] for name in KEY))
        words = ["--pretrained", self.start(arm, _seed(row)), *SMALL]
        words += ["--labelled-images", row["labelled images"], "--draw-seed", row["draw"], "--seed", row["draw"]]
        words += ["--learning-rate", row["learning rate"], "--steps", steps, "--validate-every", steps, *arm.options]
        log = folder.with_name(f"{folder.name}.txt")
        found, how = train_and_test(arm.script, words, self.data, split, folder, log)
        record = row | {"steps": steps, SEED: _seed(row) if arm.pretraining else ""} | figures(found, METRICS, ["Dice"])
        self.records[split].add(record | how)
        shutil.rmtree(folder)

    def ask_trivial(self, arm: str, method: str) -> dict[str, Any]:
        """The test of a method that learns nothing: see `ask`."""
        return dict(zip(KEY, (arm, 0, 0, 0.0), strict=True)) | {ASKED: hash_of_question(self.tested, method)}

    def test_trivial(self) -> None:
        """Test the methods that learn nothing, unless that is done: rows of no labelled image."""
        for arm, method in TRIVIAL.items():
            row = self.ask_trivial(arm, method)
            if row not in self.records["test"]:
                folder = self.output / "test" / method
                log, begin, version = folder.with_name(f"{method}.txt"), time.monotonic(), commit()
                found = tested("GenSelfDiff/test/baselines.py", ["--method", method], self.data, "test", folder, log)
                how = about(0, round(time.monotonic() - begin), version)
                self.records["test"].add(row | figures(found, METRICS, ["Dice"]) | how)

    def say_estimate(self, phase: str) -> None:
        """Print how many runs are to do, and how long they take here, from a measured step."""
        runs = self.missing("val", self.choices())
        if phase == "test":
            done = {tuple(which) for which in self.records["test"].table[list(KEY[:3])].itertuples(index=False)}
            runs += [dict(zip(KEY, which, strict=False)) for which in self.wanted() if which not in done]
        names = {ARMS[row["arm"]].pretraining for row in runs} - {""}
        whole = [(name, seed) for name in names for seed in range(1, PRETRAINING_SEEDS + 1)]
        missing = [which for which in whole if not self.has(*which)]
        steps = sum(map(self.steps, runs)) + sum(PRETRAININGS[name].steps for name, _ in missing)
        second = seconds_a_step(self.size, DIM)
        hours = (steps * second + len(runs) * SECONDS_A_TEST) / self.jobs / 3600
        print(
            f"{len(missing)} networks to pre-train, {len(runs)} runs to fine-tune and test; a step takes "
            f"{second:.2f} s with one thread: about {hours:.1f} hours, {self.jobs} at a time"
        )


def records_of(settings: Settings, question: Question, split: Split) -> Records:
    """The finished runs of a question."""
    return Records(settings.records / f"{question.records}_{split}.csv", KEY)


def rates_of(arm: str) -> tuple[float, ...]:
    """The learning rates that an arm is tried with on development images."""
    return RATES_OF.get(arm, RATES)


def _seed(row: dict[str, Any]) -> int:
    """Of the pre-training that a draw begins with: the draws take them in turn."""
    return 1 + row["draw"] % PRETRAINING_SEEDS


def keep_weights(source: Path, target: Path, asked: str) -> None:
    """Write a checkpoint with its numbers in half precision, names for the paths of this machine in its settings, and
    what it was asked for."""
    loaded = checkpoint.load(source)
    told = loaded["settings"]
    loaded["settings"] = told | {"run_name": Path(told["run_name"]).name, "data": [Path(p).name for p in told["data"]]}
    loaded["model_state_dict"] = {name: value.half() for name, value in loaded["model_state_dict"].items()}
    checkpoint.save(target, loaded | {ASKED: asked})


def shuffle_weights(source: Path, target: Path, seed: int) -> None:
    """Write a checkpoint in which the numbers of each tensor stand in random order."""
    loaded, generator = checkpoint.load(source), torch.Generator().manual_seed(seed)
    state = loaded["model_state_dict"]
    for name, value in state.items():
        order = torch.randperm(value.numel(), generator=generator)
        state[name] = value.flatten()[order].view_as(value)
    checkpoint.save(target, loaded)


def main(settings: Settings) -> None:
    """Choose, test, report."""
    at_least(settings, jobs=1)
    grid = Grid(settings, QUESTIONS[settings.question])
    grid.say_estimate(settings.phase)
    if settings.estimate:
        return
    grid.do("val", grid.missing("val", grid.choices()))
    for arm in grid.arms:
        print(f"{arm}: learning rate {grid.rate(arm):g}, chosen on development images")
    if settings.phase == "test":
        grid.do("test", grid.missing("test", grid.tests()))
        if grid.question.draws:
            grid.test_trivial()
    continued = []
    if grid.question.continued:
        more = QUESTIONS[grid.question.continued]
        continued.append((more, records_of(settings, more, "test").table))
    tables = [grid.records[split].table for split in ("val", "test")]
    report(grid.question, *tables, grid.labelled(), grid.output, continued)


if __name__ == "__main__":
    run_script(main, Settings)
