"""Nuclei without any label: attention, networks that learn what it says, and all that they have to beat.

    python3 experiments/attention.py --estimate
    python3 experiments/attention.py

The arms stand in experiments/attention_arms.py. Everything is done by the project's scripts: SS_attention.py,
pseudo_labels.py, SS_diff.py, Diff_Seg.py, test_script.py, baselines.py. No annotation is read before the tests, and
nothing is chosen. Every tested arm and seed is a row in experiments/records; what is there is not done again. Writes
table and controls; the pictures of each test are in the output.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.tables import typed_in, write_table
from experiments import attention_arms as plan
from experiments.attention_arms import ARMS, FLOOR, OTSU, RUNS, SCRATCH, Arm
from experiments.attention_report import OF_EACH_IMAGE, PUBLISHED, controls_of, table_of
from experiments.grid import at_once, folder_name, hash_of, run, run_all
from experiments.questions import DIM, SMALL
from experiments.records import ASKED, Records, hash_of_question
from experiments.training_runs import (
    BATCH,
    SECONDS_A_TEST,
    about,
    commit,
    figures,
    seconds_a_step,
    tested,
    what_is_shown,
    what_is_tested,
)
from GenSelfDiff.data import PatchDataset, pretraining_folder
from GenSelfDiff.devices import pick_device
from GenSelfDiff.evaluation.evaluate import patches_to_test
from GenSelfDiff.history import read_history
from GenSelfDiff.methods.attention.levels import Levels, read_levels
from GenSelfDiff.methods.attention.network import SelfAttention, make_classifier
from GenSelfDiff.methods.attention.SS_attention import Settings as AttentionSettings
from GenSelfDiff.patches import Patches
from output_folder import locked
from utils_general import MONUSEG, MONUSEG_RAW, ROOT, InputError, at_least, list_images, run_script, write_json

KEY = ("arm", "seed")
MEANS = ("Dice", "AJI", "PQ", "object F1")
WITHOUT_LABELS = ("accuracy", "accuracy_of_mask", "dye", "area")
"""Figures of held-out tiles that a row has of its attention"""
LOOKS = 14  # times that a pixel is seen in a test: by four views, by windows that overlap, in patches


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Nuclei without any label: a grid of small runs."""

    levels: tuple[Path, ...] = AttentionSettings.data
    """roots of the same images at several magnifications, the finest first; tests are on the first"""
    data: Path = MONUSEG.with_name(f"{MONUSEG.name}_2")
    """root of the data set as Diff_Seg.py sees it: what diffusion is pre-trained on, and where its runs are tested"""
    images: Path = MONUSEG_RAW / "MoNuSeg 2018 Training Data" / "Tissue Images"
    """folder of the images to train on, whole, which pseudo-labels are made of"""
    output: Path = ROOT / "experiments" / "results" / "attention"
    """folder for runs, pseudo-labels, tests and tables"""
    records: Path = ROOT / "experiments" / "records"
    """folder of the table of finished runs"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """the arm that is judged and its controls are trained once with each, all others with the first three"""
    arms: tuple[str, ...] = ()
    """only these, by their names; all if not given"""
    jobs: int | None = None
    """runs at a time, each with one thread on a CPU; if not given 2, and 1 on a GPU"""
    estimate: bool = False
    """say how much there is to do, and for how long, and do nothing"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, jobs=1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError("--seeds names no seed, or one twice")
        if unknown := set(self.arms) - set(ARMS):
            raise InputError(f"--arms: no arm is named {min(unknown)!r}; there are {', '.join(ARMS)}")


class Grid:
    """All runs, each in a folder that is named by all it was asked for."""

    def __init__(self, settings: Settings):
        self.settings, self.output, self.jobs = settings, settings.output.resolve(), at_once(settings.jobs)
        levels = read_levels(settings.levels)
        patches = Patches(pretraining_folder(settings.data))
        self.patch_size = patches.data_set.patch_size
        shown = what_is_shown(Levels(levels, "train", 0), PatchDataset([patches], "train", 0))
        list_images(settings.images)  # none there: said now
        self.shown = [shown, hash_of(settings.images)]
        self.resolution = levels[0].data_set.mpp
        to_test = [patches_to_test(root) for root in (settings.levels[0], settings.data)]
        if set(to_test[0].index.source) != set(to_test[1].index.source):
            raise InputError(f"{settings.levels[0]} and {settings.data} are to be tested on different images")
        self.tested = {root: what_is_tested(root) for root in (settings.levels[0], settings.data)}
        self.pixels = {"train": pixels_of(levels[0]), "test": pixels_of(to_test[0])}
        self.records = Records(settings.records / "attention_MoNuSeg_test.csv", KEY)

    # --- what is asked ---

    def arms(self) -> dict[str, Arm]:
        """Those of the settings, the floor among them."""
        return {
            name: arm for name, arm in ARMS.items() if name in (*self.settings.arms, FLOOR) or not self.settings.arms
        }

    def rows(self) -> list[dict[str, Any]]:
        """Key and question of each row."""
        return [
            {"arm": name, "seed": seed, ASKED: self.question(arm)}
            for name, arm in self.arms().items()
            for seed in plan.seeds_of(name, self.settings.seeds)
        ]

    def question(self, arm: Arm) -> str:
        """A hash of all that a row is asked for."""
        return hash_of_question(self.shown, self._described(arm), self.tested[self.tested_on(arm)])

    def tested_on(self, arm: Arm) -> Path:
        """Root of the data set: what learns what is said sees it as Diff_Seg.py does, the others the finest level."""
        return self.settings.data if arm.start else self.settings.levels[0]

    def _described(self, arm: Arm) -> list[Any]:
        asked: list[Any] = [arm.said_by, arm.start]
        said_by = arm.said_by
        while said_by in RUNS:
            asked.append(asdict(RUNS[said_by]))
            said_by = RUNS[said_by].start
        if arm.start:
            asked += [plan.LABELS, plan.SEGMENTATION_STEPS, plan.RATE, SMALL, BATCH]
        return [*asked, plan.ATTENTION, plan.SEEN, plan.PRETRAINING if arm.start == plan.DIFFUSION else ()]

    def missing(self) -> list[dict[str, Any]]:
        """Rows that are not there."""
        return [row for row in self.rows() if row not in self.records]

    # --- what is made ---

    def folder(self, kind: str, name: str, seed: int) -> Path:
        """Of a run or of pseudo-labels."""
        diffusion = [plan.DIFFUSION, plan.PRETRAINING, BATCH]
        asked = diffusion if name == plan.DIFFUSION else self._described(Arm(name))
        asked += [plan.LABELS, self.resolution] if kind == "labels" else []
        return self.output / kind / folder_name(name, hash_of_question(self.shown, asked), seed)

    def train(self, name: str, seed: int) -> Path:
        """The attention, or the diffusion model, of that name: trained, or going on, unless that is done."""
        folder = self.folder("runs", name, seed)
        with locked(folder.with_name(f".{folder.name}")):
            if self.is_trained(name, seed):
                return folder
            words: list[object] = ["--run-name", folder, "--seed", seed]
            if name == plan.DIFFUSION:
                words += ["--data", self.settings.data.resolve(), "--batch-size", BATCH, *plan.PRETRAINING]
                script = "GenSelfDiff/pretrain/SS_diff.py"
            else:
                wanted = RUNS[name]
                words += ["--data", *(root.resolve() for root in self.settings.levels), *plan.ATTENTION]
                words += ["--steps", wanted.steps, "--validate-every", max(1, wanted.steps // 10), *wanted.options]
                words += ["--start", self.train(wanted.start, seed)] if wanted.start else []
                script = "GenSelfDiff/methods/attention/SS_attention.py"
            run(script, *words, log=folder.with_name(f"{folder.name}.txt"))
            write_json(folder / "done.json", {"trained": name})
        return folder

    def is_trained(self, name: str, seed: int) -> bool:
        """Whether that is done."""
        return (self.folder("runs", name, seed) / "done.json").is_file()

    def label(self, said_by: str, seed: int) -> Path:
        """Root of the images to train on with what a run, or Otsu's threshold, says of them."""
        folder = self.folder("labels", said_by, 0 if said_by == OTSU else seed)
        with locked(folder.with_name(f".{folder.name}")):
            if not (folder / "dataset.json").is_file():
                words: list[object] = ["--images", self.settings.images.resolve(), "--output", folder, *plan.LABELS]
                words += ["--border-windows", True]
                words += ["--mpp", self.resolution] if self.resolution else []
                which = ["--method", "otsu"] if said_by == OTSU else ["--run", self.train(said_by, seed), *plan.SEEN]
                script = "GenSelfDiff/methods/attention/pseudo_labels.py"
                run(script, *words, *which, log=folder.with_name(f"{folder.name}.txt"))
        return folder

    def do(self, row: dict[str, Any]) -> None:
        """Train what is missing for a row, test, write it down."""
        arm, seed = ARMS[row["arm"]], row["seed"]
        folder, begin = self.output / "tests" / folder_name(row["arm"], row[ASKED], seed), time.monotonic()
        log, trained, version = folder.with_name(f"{folder.name}.txt"), [], commit()
        test = partial(tested, data=self.tested_on(arm).resolve(), split="test", results=folder, log=log)
        script = "GenSelfDiff/test/test_script.py"
        if arm.start:
            found = test(script, ["--run", self.learn(arm, seed, trained)])
        elif arm.said_by == OTSU:
            found = test("GenSelfDiff/test/baselines.py", ["--method", "otsu"])
        else:
            found = test(script, ["--run", self.train(arm.said_by, seed), *plan.SEEN])
        if arm.said_by != OTSU:
            trained += self._with_starts(arm.said_by, seed)
        spent = sum(read_history(folder / "history.csv")["seconds"].sum() for folder in trained)
        known = self._without_labels(self.folder("runs", arm.said_by, seed)) if arm.said_by in RUNS else {}
        how = about(round(spent), round(time.monotonic() - begin), version)
        self.records.add(row | figures(found, MEANS, OF_EACH_IMAGE) | known | how)

    def learn(self, arm: Arm, seed: int, trained: list[Path]) -> Path:
        """The run of Diff_Seg.py that learns what is said; it and what it starts from are added to what was trained."""
        asked = hash_of_question(self.shown, self._described(arm))
        folder = self.output / "runs" / folder_name("learnt", asked, seed)
        weights = SCRATCH if arm.start == SCRATCH else self.train(arm.start, seed)
        words: list[object] = [
            "--data",
            self.label(arm.said_by, seed),
            "--run-name",
            folder,
            "--seed",
            seed,
            *SMALL,
        ]
        words += ["--pretrained", weights, "--batch-size", BATCH, "--learning-rate", plan.RATE]
        words += ["--keep-last-block"] if weights != SCRATCH else []
        words += ["--steps", plan.SEGMENTATION_STEPS, "--validate-every", plan.SEGMENTATION_STEPS]
        run("GenSelfDiff/downstream_train/Diff_Seg.py", *words, log=folder.with_name(f"{folder.name}.txt"))
        trained += [folder, *([weights] if weights != SCRATCH else [])]
        return folder

    def _with_starts(self, name: str, seed: int) -> list[Path]:
        """Folders of a run and of those that it began with."""
        return [
            self.folder("runs", name, seed),
            *(self._with_starts(RUNS[name].start, seed) if RUNS[name].start else []),
        ]

    def _without_labels(self, folder: Path) -> dict[str, float]:
        last = read_history(folder / "history.csv").iloc[-1]
        return {f"held out: {name}": float(last[f"val_{name}"]) for name in WITHOUT_LABELS if f"val_{name}" in last}

    # --- in which order, and how long ---

    def tasks(self) -> list[list[Callable[[], object]]]:
        """What is to be done for the missing rows; a list needs all those before it."""
        missing = self.missing()
        wanted = {(ARMS[row["arm"]].said_by, row["seed"]) for row in missing if ARMS[row["arm"]].said_by in RUNS}
        starts = {(RUNS[name].start, seed) for name, seed in wanted if RUNS[name].start}
        diffusion = {(plan.DIFFUSION, row["seed"]) for row in missing if ARMS[row["arm"]].start == plan.DIFFUSION}
        said = {
            (arm.said_by, 0 if arm.said_by == OTSU else row["seed"])
            for row in missing
            if (arm := ARMS[row["arm"]]).start
        }
        first = [which for which in sorted(wanted | starts | diffusion) if which not in starts]
        return [
            [partial(self.train, *which) for which in sorted(starts)],
            [partial(self.train, *which) for which in first],
            [partial(self.label, *which) for which in sorted(said)],
            [partial(self.do, row) for row in missing],
        ]

    def say_estimate(self) -> None:
        """Print what is missing, and how long it takes here, from a measured step of each network."""
        missing, tasks = self.missing(), self.tasks()
        names = [task.args[0] for task in tasks[0] + tasks[1] if not self.is_trained(*task.args)]
        attention = sum(RUNS[name].steps for name in names if name in RUNS)
        learnt = [row for row in missing if ARMS[row["arm"]].start]
        unet = plan.DIFFUSION_STEPS * names.count(plan.DIFFUSION) + plan.SEGMENTATION_STEPS * len(learnt)
        looks = (
            len([row for row in missing if row not in learnt and ARMS[row["arm"]].said_by != OTSU])
            * self.pixels["test"]
        )
        looks += len([task for task in tasks[2] if task.args[0] != OTSU]) * self.pixels["train"]
        seconds = unet * seconds_a_step(self.patch_size, DIM) if unet else 0.0
        if attention or looks:
            step, pixel = seconds_of_attention(len(self.settings.levels))
            seconds += attention * step + LOOKS * looks * pixel
        hours = (seconds + len(missing) * SECONDS_A_TEST) / self.jobs / 3600
        print(
            f"{len(missing)} rows are missing: {attention:,} steps of attention, {unet:,} of the U-Net; about "
            f"{hours:.1f} hours, {self.jobs} at a time"
        )


def pixels_of(patches: Patches) -> int:
    """Of all images together, as far as patches cover them."""
    corners = patches.index.groupby("source", observed=True)[["x", "y"]].max() + patches.data_set.patch_size
    return int((corners.x * corners.y).sum())


def seconds_of_attention(levels: int) -> tuple[float, float]:
    """With one thread, here and now: of a step of the improved recipe, and of looking at a pixel; the second of two."""
    asked, threads = AttentionSettings.of("improved"), torch.get_num_threads()
    torch.set_num_threads(1)
    device = pick_device("auto")
    classifier = make_classifier(asked.classifier, asked.dim, levels)
    model = SelfAttention(classifier, levels, 0.25, buckets=levels, **asked.attending).to(device)
    number = torch.arange(asked.batch_size, device=device)
    images = torch.rand(len(number), 3, asked.tile, asked.tile, device=device)
    for _ in range(2):
        begin = time.monotonic()
        with torch.no_grad():
            model(images, number % levels)["attention"].sum().item()
        seen = time.monotonic()
        loss = sum(value.mean() for value in model(images, number % levels, number).values())
        loss.backward()
        loss.item()
        ended = time.monotonic()
    torch.set_num_threads(threads)
    return ended - seen, (seen - begin) / (len(number) * asked.tile**2)


def main(settings: Settings) -> None:
    """Make what is missing, test, report."""
    settings.check()
    grid = Grid(settings)
    grid.say_estimate()
    if settings.estimate:
        return
    for tasks in grid.tasks():
        run_all(tasks, grid.jobs)
    done = grid.records.of(grid.rows())
    arms = [name for name in ARMS if name in set(done.arm)]
    table = table_of(done, arms)
    table[PUBLISHED] = typed_in(grid.output / "table.csv", table, PUBLISHED, ["arm"])
    write_table(table, grid.output / "table")
    if len(controls := controls_of(done, arms)):
        write_table(controls, grid.output / "controls")
    print(f"table.csv, table.md and controls of them are in {grid.output}, the pictures of each test in its tests")


if __name__ == "__main__":
    run_script(main, Settings)
