"""What are synthetic pairs of Nudiff worth, beside real labels? A grid of small runs, at equal steps.

    python3 experiments/nudiff.py --data data/MoNuSeg_2 --estimate
    python3 experiments/nudiff.py --data data/MoNuSeg_2

For each share of the labels and each draw of them both networks of Nudiff are trained on the chosen labels (the second
from a pre-training on all unlabelled images, which it goes on to see), pairs are drawn, and every arm is fine-tuned for
the same number of steps and tested. Every finished run is a row in experiments/records: stopped, the grid goes on.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.grid import at_once, folder_name, run, run_all
from experiments.nudiff_report import ARM, DRAW, METRICS, PERCENT, SECONDS_BEFORE, report
from experiments.records import ASKED, Records, hash_of_question
from experiments.timed import Record
from experiments.training_runs import (
    BATCH,
    SECONDS_A_TEST,
    figures,
    seconds_a_step,
    train_and_test,
    what_is_shown,
    what_is_tested,
)
from GenSelfDiff.data import PatchDataset, pretraining_folder
from GenSelfDiff.methods.nudiff.subsets import describe, write_subset
from GenSelfDiff.methods.nudiff.with_labels import labelled_patches
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import SCRATCH
from output_folder import locked, replace_folder
from utils_general import MONUSEG, ROOT, InputError, at_least, run_script

ArmName = Literal[
    "real", "real, 4 times the steps", "real, strong stain jitter", "real, from the pre-training", "real + synthetic",
    "synthetic", "real + images of real structures", "real + synthetic, from the pre-training",
]  # fmt: skip
SizeName = Literal["small", "gpu"]
KEY = (PERCENT, ARM, DRAW)
NUDIFF = "GenSelfDiff/methods/nudiff"
MARKER = "dataset.json"
FINISHED = "finished"  # a note in a file of seconds
FORWARD = 1 / 3  # of a training step, of which the backward pass is the rest
PERCENTS = (10, 20, 50, 100)
FEW = 20  # percent of the labels, up to which the draws of them are many
SEEDS_APART = 10_000  # between draws: pair i is drawn from seed + i, and no two draws shall share their noise


@dataclass(frozen=True)
class Arm:
    """What is learnt from, and how."""

    pairs: Literal["none", "synthetic", "real structures"] = "none"
    """what is beside the real patches: synthetic pairs, or synthetic images of the real structures"""
    without_real: bool = False
    times: int = 1
    """as many times the steps of the others"""
    pretrained: bool = False
    """from the pre-training that the second network of Nudiff starts from, which has seen all unlabelled images"""
    options: tuple[object, ...] = ()
    """of Diff_Seg.py, beside those of all"""


@dataclass(frozen=True)
class Size:
    """How large all networks are, and how long they are trained; the batch is 8 throughout."""

    dim: int
    pretraining: int
    """steps, as of the following"""
    structures: int
    images: int
    fine_tuning: int
    pairs: int
    """that are drawn"""
    guidance: float
    sampling_steps: int
    """of DPM-Solver++"""
    options: tuple[object, ...] = ("--recipe", "improved", "--workers", 0)
    """of all trainings; no workers, where the cores are busy with other trainings"""


ARMS: dict[ArmName, Arm] = {
    "real": Arm(),
    "real, 4 times the steps": Arm(times=4),
    "real, strong stain jitter": Arm(options=("--stain-jitter", 0.2)),
    "real, from the pre-training": Arm(pretrained=True),
    "real + synthetic": Arm("synthetic"),
    "synthetic": Arm("synthetic", without_real=True),
    "real + images of real structures": Arm("real structures"),
    "real + synthetic, from the pre-training": Arm("synthetic", pretrained=True),
}
SIZES: dict[SizeName, Size] = {
    "small": Size(16, 4000, 4000, 5000, 600, 256, 2.0, 20),
    "gpu": Size(64, 50_000, 50_000, 60_000, 3000, 512, 2.0, 50, ("--recipe", "improved", "--workers", 4)),
}
IMAGES = ("--drop", 0.2, "--unlabelled")  # of the training of images
NOISE = ("--schedule", "linear", "--p2-gamma", 0)  # of the pre-training: that of Nudiff


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Are synthetic pairs worth real labels?"""

    data: Path = MONUSEG
    """root of the data set"""
    size: SizeName = "small"
    """small: width 16, for two CPU cores; gpu: width 64, for patches of 128 pixels"""
    percents: tuple[int, ...] = PERCENTS
    """shares of the labelled images"""
    draws: int = 6
    """of up to 20 % of the labels, the same for all arms, and half as many of more; also the seeds of all networks"""
    arms: tuple[ArmName, ...] = ()
    """only these, and "real", which most are compared with; all if not given"""
    output: Path = ROOT / "experiments" / "results" / "nudiff"
    """folder for labels, networks, pairs, the table and the picture"""
    records: Path = ROOT / "experiments" / "records"
    """folder of the table of finished runs"""
    jobs: int | None = None
    """draws at a time, each with one thread on a CPU; if not given 2, and 1 on a GPU"""
    estimate: bool = False
    """say how many runs there are to do, and for how long, and do none"""

    def draws_of(self, percent: int) -> int:
        """How many draws of a share: of few labels they differ more."""
        return self.draws if percent <= FEW else -(-self.draws // 2)

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, draws=1, jobs=1)
        if not self.percents or len(set(self.percents)) < len(self.percents):
            raise InputError("--percents names no share, or one twice")
        if wrong := [percent for percent in self.percents if not 1 <= percent <= 100]:
            raise InputError(f"--percents names {wrong[0]}: 1 to 100 are possible")


class Grid:
    """All runs on a data set."""

    def __init__(self, settings: Settings):
        self.settings, self.size, self.jobs = settings, SIZES[settings.size], at_once(settings.jobs)
        self.arms = [arm for arm in ARMS if arm == "real" or not settings.arms or arm in settings.arms]
        self.data, self.output = settings.data.resolve(), settings.output.resolve()
        patches = labelled_patches(self.data)
        self.pixels = patches.data_set.patch_size
        self.check_folders()
        self.shown = self.what_is_read(patches)
        question = hash_of_question(self.shown, asdict(self.size), NOISE, IMAGES)
        self.work = self.output / folder_name(patches.data_set.name, settings.size, question[:6])
        """labels, networks and pairs of one question: asked another, none of them are taken for new ones"""
        name = folder_name("nudiff", settings.size, patches.data_set.name)
        self.records = Records(settings.records.resolve() / f"{name}.csv", KEY)

    def check_folders(self) -> None:
        """`InputError` now, not after hours, for a data set without test images or images to pre-train on."""
        if not (self.data / "test").is_dir():
            raise InputError(f"{self.data} has no folder test: cut the images by preprocess.py")
        if pretraining_folder(self.data) == self.data:
            raise InputError(
                f"{self.data} has neither a folder unlabelled nor labelled: cut the images by preprocess.py"
            )

    def what_is_read(self, patches: Patches) -> str:
        """A hash of all patches that the grid reads: labelled, of pre-training, and of the test."""
        unlabelled = PatchDataset([Patches(pretraining_folder(self.data))], "train", 0)
        labelled = [PatchDataset([patches], split, 0) for split in ("train", "val")]
        return hash_of_question(what_is_shown(*labelled, unlabelled), what_is_tested(self.data))

    def ask(self, percent: int, arm: ArmName, draw: int) -> dict[str, Any]:
        """A run: its key, and a hash of everything else that it is asked for."""
        asked = [self.shown, BATCH, asdict(self.size), asdict(ARMS[arm]), NOISE, IMAGES]
        return dict(zip(KEY, (percent, arm, draw), strict=True)) | {ASKED: hash_of_question(*asked)}

    def wanted(self) -> list[dict[str, Any]]:
        """All runs."""
        draws = [(p, draw) for p in sorted(self.settings.percents) for draw in range(1, self.settings.draws_of(p) + 1)]
        return [self.ask(percent, arm, draw) for percent, draw in draws for arm in self.arms]

    def missing(self) -> list[dict[str, Any]]:
        """Those that are not done."""
        return [row for row in self.wanted() if row not in self.records]

    def do(self) -> None:
        """All that is missing, a draw of a share after the other, some at a time."""
        blocks: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for row in self.missing():
            blocks.setdefault((row[PERCENT], row[DRAW]), []).append(row)
        run_all([partial(Block(self, *which).do, rows) for which, rows in blocks.items()], self.jobs)

    def pretrained(self, draw: int) -> Path:
        """A run of pre-training on all unlabelled images with a seed, trained unless it is there; others wait."""
        run_folder, size = self.pretraining(draw), self.size
        with locked(run_folder.parent):
            options = ["--data", self.data, "--seed", draw, "--dim", size.dim, *NOISE]
            self.train("GenSelfDiff/pretrain/SS_diff.py", size.pretraining, run_folder, options)
        return run_folder

    def pretraining(self, draw: int) -> Path:
        """The folder of that run."""
        return self.work / f"pretrained_{draw}" / "run"

    def train(self, script: str, steps: int, run_folder: Path, options: list[object]) -> None:
        """One of the trainings of diffusion models; what is finished is not done again.

        The last network counts, as where nothing is held out: the choice of one by few held-out images would help some
        shares of the labels and not others.
        """
        length = ["--steps", steps, "--validate-every", steps, "--batch-size", BATCH, "--sample-every", 0]
        with counted(run_folder) as is_missing:
            if is_missing:
                log = run_folder.with_name(f"{run_folder.name}.txt")
                run(script, "--run-name", run_folder, *options, *length, *self.size.options, log=log)

    def say_estimate(self) -> None:
        """Print how many runs are to do, and how long they take here, from a measured step."""
        rows, size = self.missing(), self.size
        kinds = {(row[PERCENT], row[DRAW], ARMS[row[ARM]].pairs) for row in rows} - {
            (row[PERCENT], row[DRAW], "none") for row in rows
        }
        blocks = {which[:2] for which in kinds}
        draws = {draw for _, draw, _ in kinds} | {row[DRAW] for row in rows if ARMS[row[ARM]].pretrained}
        drawn = [which for *_, which in kinds if which == "synthetic"]
        steps = sum(size.fine_tuning * ARMS[row[ARM]].times for row in rows) + len(draws) * size.pretraining
        steps += len(blocks) * size.images + len(drawn) * size.structures
        looks = len(kinds) * (1 + (size.guidance > 0)) + len(drawn)  # of each pair, at each step of its sampling
        steps += looks * size.pairs * size.sampling_steps * FORWARD / BATCH
        second = seconds_a_step(self.pixels, size.dim)
        hours = (steps * second + len(rows) * SECONDS_A_TEST) / self.jobs / 3600
        print(
            f"{len(blocks)} choices of labels to learn to draw from, {len(rows)} runs to fine-tune and test; a step "
            f"takes {second:.2f} s with one thread: about {hours:.1f} hours, {self.jobs} at a time"
        )


class Block:
    """All arms of one draw of one share of the labels."""

    def __init__(self, grid: Grid, percent: int, draw: int):
        self.grid, self.percent, self.draw = grid, percent, draw
        self.folder = grid.work / folder_name(percent, draw)
        self.labels = self.folder / "labels"

    def do(self, rows: list[dict[str, Any]]) -> None:
        """The missing arms."""
        self.choose()
        for row in rows:
            self.one_run(row)

    def choose(self) -> None:
        """The draw of the labels."""
        if not (self.labels / MARKER).is_file():
            words = ["--data", self.grid.data, "--output", self.labels, "--seed", self.draw]
            log = self.folder / "labels.txt"
            run(f"{NUDIFF}/choose_labels.py", *words, "--fraction", self.percent / 100, log=log)

    def one_run(self, row: dict[str, Any]) -> None:
        """Draw what is needed, fine-tune, test, write the row down; the weights are not kept."""
        arm, size = ARMS[row[ARM]], self.grid.size
        steps, folder = size.fine_tuning * arm.times, self.folder / folder_name(row[ARM])
        start = self.grid.pretrained(self.draw) if arm.pretrained else SCRATCH
        words = ["--pretrained", start, "--dim", size.dim, "--targets", "hv", *size.options, "--seed", self.draw]
        words += ["--steps", steps, "--validate-every", steps, *arm.options]
        data = self.labels if arm.pairs == "none" else self.with_pairs(arm)
        log = folder.with_name(f"{folder.name}.txt")
        found, about = train_and_test("GenSelfDiff/downstream_train/Diff_Seg.py", words, data, "test", folder, log)
        counts = Patches(data / "labelled", labelled=True).index.split.value_counts()
        about |= {"steps": steps, "patches": int(counts.get("train", 0))}
        about[SECONDS_BEFORE] = round(sum(Record(clock(made)).earlier for made in self.made_for(arm)), 1)
        self.grid.records.add(row | figures(found, METRICS, METRICS) | about)
        shutil.rmtree(folder)

    def with_pairs(self, arm: Arm) -> Path:
        """The data set of an arm, drawn unless it is there."""
        target = self.pairs(arm)
        if not (target / "nuclei.csv").is_file():
            self.draw_pairs(arm, target)
        return self.only_pairs(target) if arm.without_real else target

    def pairs(self, arm: Arm) -> Path:
        """The folder of both real patches and pairs."""
        return self.folder / folder_name("pairs", arm.pairs)

    def made_for(self, arm: Arm) -> list[Path]:
        """The folders of all that an arm needs made before it is fine-tuned; other arms may need them, too."""
        needed = {
            self.grid.pretraining(self.draw): arm.pretrained or arm.pairs != "none",
            self.folder / "structures": arm.pairs == "synthetic",
            self.folder / "images": arm.pairs != "none",
            self.pairs(arm): arm.pairs != "none",
        }
        return [folder for folder, is_needed in needed.items() if is_needed]

    def draw_pairs(self, arm: Arm, target: Path) -> None:
        """Train both networks, and draw; what is finished is not done again."""
        grid, size = self.grid, self.grid.size
        runs = {name: self.folder / name for name in ("structures", "images")}
        start = {"images": [*IMAGES, "--pretrained", grid.pretrained(self.draw)], "structures": ["--dim", size.dim]}
        for name in ("structures", "images") if arm.pairs == "synthetic" else ("images",):
            options = ["--data", self.labels, "--seed", self.draw, *start[name]]
            grid.train(f"{NUDIFF}/train_{name}.py", getattr(size, name), runs[name], options)
        words = ["--data", self.labels, "--output", target, "--count", size.pairs, "--seed", SEEDS_APART * self.draw]
        words += ["--structures", runs["structures"], "--images", runs["images"], "--guidance", size.guidance]
        words += ["--sampler", "dpm-solver++", "--steps", size.sampling_steps]
        words += ["--real-structures"] * (arm.pairs == "real structures")
        with counted(target):
            run(f"{NUDIFF}/synthesize.py", *words, log=target.with_name(f"{target.name}.txt"))

    def only_pairs(self, both: Path) -> Path:
        """The same data set without its real patches to train on; what is held out is real."""
        target = both.with_name(f"{both.name}_only")
        if not (target / MARKER).is_file():
            patches = Patches(both / "labelled", labelled=True)
            real = Patches(self.labels / "labelled", labelled=True).select("train")
            with replace_folder(target, MARKER, overwrite=False) as folder:
                write_subset(folder, patches, patches.index[~patches.index.patch.isin(real)])
                describe(patches.data_set, folder, target.name)
        return target


@contextmanager
def counted(made: Path) -> Iterator[bool]:
    """Add the seconds until a folder is made to those of earlier calls; gives whether there is anything to make."""
    record = Record(clock(made))
    is_missing = FINISHED not in record.notes or not made.is_dir()
    try:
        yield is_missing
        record.notes[FINISHED] = {}
    finally:
        if is_missing:
            record.keep()


def clock(made: Path) -> Path:
    """The file of the seconds that a folder took to make."""
    return made.with_name(f"{made.name}_seconds.json")


def main(settings: Settings) -> None:
    """Run what is missing, report."""
    settings.check()
    grid = Grid(settings)
    grid.say_estimate()
    if settings.estimate:
        return
    grid.do()
    planned = [(percent, arm) for percent in sorted({*PERCENTS, *settings.percents}) for arm in ARMS]
    report(grid.records.of(grid.wanted()), grid.arms, planned, grid.work)


if __name__ == "__main__":
    run_script(main, Settings)
