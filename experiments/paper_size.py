"""The paper's own row inside a given time: pre-training, fine-tuning with it and from scratch, tests, one table.

    python3 experiments/paper_size.py --data data/MoNuSeg --minutes 27
    python3 experiments/paper_size.py --data data/MoNuSeg --official data/MoNuSeg_official --minutes 120

Measures a step, says what fits, and shortens the published schedules where they do not fit, by a factor that the table
names. Every network is trained and tested by the project's own scripts. Stopped (Ctrl-C, SIGTERM, a lost machine) and
started again, it goes on; the minutes are counted over all calls, and more can be given later. A small size, for a CPU:

    python3 experiments/paper_size.py --data demo/patches --output demo/paper_size --dim 8 --pretrain-epochs 4 \
        --finetune-epochs 4 --precision float32 --reserve-minutes 1 --minutes 3
"""

import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from benchmarks.tables import machine, markdown
from experiments.timed import Record, run_for, stopped_gently
from GenSelfDiff import checkpoint
from GenSelfDiff.comparison.results import Result
from GenSelfDiff.data import labelled_folder, pretraining_folder
from GenSelfDiff.decoded import read_decoded
from GenSelfDiff.devices import Precision, check_precision, pick_device
from GenSelfDiff.history import read_history
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import RecipeName
from utils_general import MONUSEG, ROOT, SPLIT_SEED, InputError, at_least, plain, replace_file, run_script, write_json

PUBLISHED_LOSS = 0.02807 / 8  # the authors' best validation loss on MoNuSeg, an image
FORWARD = 1 / 3  # of the operations of a training step: what an image costs that is only looked at
WORTH_WHILE = 0.05  # a chain that would get less of its schedules than this is left out
SHOWN_BYTES = 40 * 2**20
MAY_CHANGE = {"minutes", "reserve_minutes", "measure_seconds", "official", "recipes", "images", "workers", "output"}
TESTED = "summary.json"  # the last file that a test writes
METRICS = ("Dice", "Jaccard", "HD95", "AJI", "PQ", "object F1")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Run the whole chain at the paper's size inside a given time."""

    data: Path = MONUSEG
    """root of the data set, preprocessed under the protocol "paper" """
    official: Path | None = None
    """root of the same data set under the protocol "official", which is fine-tuned and tested if time is left"""
    output: Path = ROOT / "experiments" / "results" / "paper_size"
    """folder for runs, results and table; what there is to look at is in its subfolder "shown", at most 40 MiB"""
    minutes: float = 27.0
    """wall clock for everything, over all calls"""
    reserve_minutes: float = 3.0
    """of these, kept for the tests, images and tables of each chain"""
    measure_seconds: float = 60.0
    """how long a run is measured, its start counted in; --compile wants 180"""
    recipes: tuple[RecipeName, ...] = ("paper", "improved")
    """in this order; each gets the time that is left"""
    pretrain_epochs: int = 100
    """the whole schedule of pre-training"""
    finetune_epochs: int = 150
    """the whole schedule of each fine-tuning"""
    dim: int = 64
    """width of the network"""
    batch_size: int = 8
    """patches a step"""
    images: int = 64
    """synthetic images, by 20 steps of DPM-Solver++"""
    precision: Precision = "bfloat16"
    """of training, tests and sampling"""
    compile: bool = False
    """torch.compile in training: minutes to start, once"""
    workers: int = 8
    """processes that read patches"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    seed: int = SPLIT_SEED
    """of all runs"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, minutes=0.1, reserve_minutes=0, measure_seconds=1, pretrain_epochs=1, finetune_epochs=1)
        at_least(self, batch_size=1, images=1, workers=0, seed=0)
        if self.dim < 8 or self.dim % 8:
            raise InputError(f"--dim is {self.dim}: a multiple of 8 is needed")
        if not self.recipes:
            raise InputError("--recipes names no recipe")
        if self.reserve_minutes >= self.minutes:
            raise InputError(f"--reserve-minutes {self.reserve_minutes:g} leaves nothing of --minutes {self.minutes:g}")


@dataclass(frozen=True)
class Chain:
    """Pre-training, two fine-tunings and their tests on one data set by one recipe."""

    name: str
    data: Path
    recipe: RecipeName
    pretrained_by: str
    """the chain whose pre-trained network is fine-tuned: this one's own, or an earlier one's"""


@dataclass(frozen=True)
class Cost:
    """Training patches and held-out ones of a stage, and what an epoch costs in images trained on."""

    training: int
    validation: int
    batch_size: int

    @classmethod
    def of(cls, patches: Patches, batch_size: int) -> "Cost":
        """Of a folder of patches."""
        return cls(len(patches.select("train")), len(patches.select("val")), batch_size)

    @property
    def steps(self) -> int:
        """Of an epoch; the last incomplete batch is left out."""
        return max(1, self.training // self.batch_size)

    @property
    def images(self) -> float:
        """Images of a training step that an epoch takes as long as."""
        return self.steps * min(self.batch_size, self.training) + FORWARD * self.validation


class Experiment:
    """The chains one after the other, and the time they have."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.output = settings.output.resolve()
        self.record = Record(self.output / "record.json")
        self.chains = [Chain(recipe, settings.data, recipe, recipe) for recipe in settings.recipes]
        if settings.official:
            first = settings.recipes[0]
            self.chains.append(Chain(f"official, {first}", settings.official, first, first))
        self.pretraining = Cost.of(Patches(pretraining_folder(settings.data)), settings.batch_size)
        self.finetuning = {
            chain.data: Cost.of(Patches(labelled_folder(chain.data), labelled=True), settings.batch_size)
            for chain in self.chains
        }
        common = ["--precision", settings.precision, "--device", settings.device]
        self.testing = common
        self.training = [*common, "--seed", settings.seed, "--batch-size", settings.batch_size]
        self.training += ["--workers", settings.workers, "--save-minutes", 1, "--cache"]
        self.training += ["--compile"] if settings.compile else []
        self._check_same_experiment()  # last: a wrong path leaves nothing behind

    def _check_same_experiment(self) -> None:
        """What is in the output was made with these settings, but for those that only say what is still to be done."""
        ours = {k: v for k, v in plain(self.settings).items() if k not in MAY_CHANGE}
        ours["data"] = str(self.settings.data.resolve())
        theirs = self.record.notes.get("settings", ours)
        if changed := [k for k in ours if ours[k] != theirs.get(k)]:
            name = changed[0]
            raise InputError(
                f"{self.output} holds an experiment with another {name} ({theirs.get(name)}, now {ours[name]}): "
                "choose another --output"
            )
        self.record.note("settings", **ours)

    @property
    def left(self) -> float:
        """Seconds that are left for training, now."""
        return 60 * (self.settings.minutes - self.settings.reserve_minutes) - self.record.seconds

    def folder(self, chain: str, stage: str) -> Path:
        """Of a run: its name says chain and stage."""
        return self.output / "runs" / f"{chain}_{stage}".replace(", ", "_").replace(" ", "_")

    def measure(self) -> float:
        """Seconds an image of training takes, by a run that is thrown away; remembered over calls."""
        if "measured" not in self.record.notes:
            for root in {chain.data for chain in self.chains}:  # once, and in nobody's time
                read_decoded(Patches(pretraining_folder(root)), self.settings.workers)
                read_decoded(Patches(labelled_folder(root), labelled=True), self.settings.workers)
            run = self.folder("measure", "a_step")
            shutil.rmtree(run, ignore_errors=True)  # a measurement that was itself interrupted
            words = ["--data", self.settings.data.resolve(), "--run-name", run, "--dim", self.settings.dim]
            words += [*self.training, "--epochs", 1, "--sample-every", 0]
            begin = self.record.seconds
            run_for(self.record, "GenSelfDiff/pretrain/SS_diff.py", *words, seconds=self.settings.measure_seconds)
            steps, seconds = _progress(run)
            if not steps:
                wanted = f"--measure-seconds {2 * self.settings.measure_seconds:g}"
                raise InputError(f"no step was done in {self.settings.measure_seconds:g} s: give it more, {wanted}")
            images = steps * min(self.settings.batch_size, self.pretraining.training)
            start = self.record.seconds - begin - seconds
            saving = _seconds_to_save(run)
            self.record.note("measured", seconds_an_image=seconds / images, steps=steps, start=start, saving=saving)
            shutil.rmtree(run)
        return self.record.notes["measured"]["seconds_an_image"]

    def say_what_fits(self) -> None:
        """Print the measurement, the whole schedules' time, and the time there is."""
        measured, each = self.record.notes["measured"], self.measure()
        print(
            f"a step: {each * self.settings.batch_size * 1e3:.1f} ms, {1 / each:.1f} images a second, over "
            f"{measured['steps']} steps, the first ones included; a script takes {measured['start']:.0f} s to start, a "
            f"checkpoint {measured['saving']:.1f} s"
        )
        for chain in self.chains:
            seconds = sum(self.whole(chain, stage) for stage in self.stages(chain))
            print(f"{chain.name}: the whole schedules take {seconds / 60:.1f} minutes of training")
        print(
            f"there are {self.left / 60:.1f} minutes for training, and {self.settings.reserve_minutes:g} for the rest"
        )

    def run(self) -> None:
        """Everything that fits, the most wanted first."""
        self.measure()
        self.say_what_fits()
        try:
            for chain in self.chains:
                if self.takes_part(chain):
                    self._train_chain(chain)
                    self._test_chain(chain)
        finally:  # stopped in the middle, too, there is something to take home
            print(self.write_tables())

    def takes_part(self, chain: Chain) -> bool:
        """Whether there is time for the chain; the first one must go, and what was begun is finished."""
        begun = any(f"{chain.name}, {stage}" in self.record.notes for stage in self.stages(chain))
        share = self._share([self.whole(chain, stage) for stage in self.stages(chain)])
        one_epoch = 1 / min(self.settings.pretrain_epochs, self.settings.finetune_epochs)
        enough = begun or chain == self.chains[0] or share >= max(WORTH_WHILE, one_epoch)
        reason = "" if enough else f"there is time for {max(0, share):.1%} of its schedules only"
        self.record.note(chain.name, left_out=reason)  # looked at anew in each call: more minutes may be given
        if reason:
            print(f"{chain.name}: left out, {reason}")
        return enough

    @staticmethod
    def stages(chain: Chain) -> list[str]:
        """The trainings of a chain, in order."""
        own = ["pre-training"] if chain.pretrained_by == chain.name else []
        return [*own, "from scratch", "pre-trained"]

    def whole(self, chain: Chain, stage: str) -> float:
        """Seconds that the whole schedule of a stage takes, by what was measured; an epoch ends with checkpoints."""
        full, cost = self._schedule(chain, stage)
        return full * (cost.images * self.measure() + self.record.notes["measured"]["saving"])

    def _schedule(self, chain: Chain, stage: str) -> tuple[int, Cost]:
        """Epochs of the whole schedule of a stage, and what one costs."""
        if stage == "pre-training":
            return self.settings.pretrain_epochs, self.pretraining
        return self.settings.finetune_epochs, self.finetuning[chain.data]

    def _share(self, whole: list[float]) -> float:
        """Which part of several whole schedules fits into the time that is left, each script's start counted in."""
        return min(1.0, (self.left - len(whole) * self.record.notes["measured"]["start"]) / sum(whole))

    def _train_chain(self, chain: Chain) -> None:
        """Every stage for its share of the time, planned anew before each but the last.

        What is planned is done, so that learning rates decay as they should and both fine-tunings are equally long.
        """
        stages = self.stages(chain)
        for i, stage in enumerate(stages):
            name = f"{chain.name}, {stage}"
            note = self.record.notes.get(name, {})
            if note.get("done"):
                continue
            if "epochs" not in note:
                rest = [self.whole(chain, s) for s in stages[i:]]
                note = self.record.note(name, epochs=self.planned(chain, stage, rest))
            run_for(self.record, *self._command(chain, stage, note["epochs"]))
            self.record.note(name, done=True)

    def planned(self, chain: Chain, stage: str, rest: list[float]) -> int:
        """Epochs of a stage: of the published schedule as many as fit; of the second fine-tuning as of the first."""
        if stage == "pre-trained":
            return self.record.notes[f"{chain.name}, from scratch"]["epochs"]
        full, _ = self._schedule(chain, stage)
        epochs = math.floor(full * self._share(rest))
        if not epochs:
            more = (sum(rest) / full - self.left) / 60 + self.settings.minutes + 1
            raise InputError(f"{chain.name}, {stage}: not one epoch fits; --minutes {more:.0f} or more is needed")
        print(f"{chain.name}, {stage}: {epochs} of {full} epochs ({epochs / full:.0%}) fit")
        return epochs

    def _command(self, chain: Chain, stage: str, epochs: int) -> list[Any]:
        words = ["--recipe", chain.recipe, "--data", chain.data.resolve(), "--epochs", epochs, *self.training]
        words += ["--run-name", self.folder(chain.name, stage)]
        if stage == "pre-training":
            return ["GenSelfDiff/pretrain/SS_diff.py", *words, "--dim", self.settings.dim, "--sample-every", 0]
        start = ["--pretrained", "scratch", "--dim", self.settings.dim]
        if stage == "pre-trained":
            start = ["--pretrained", self.folder(chain.pretrained_by, "pre-training")]
        return ["GenSelfDiff/downstream_train/Diff_Seg.py", *words, *start]

    def _test_chain(self, chain: Chain) -> None:
        """Test both networks and a trivial method, compare them, draw images."""
        data, tested = ["--data", chain.data.resolve()], []
        for stage in ("from scratch", "pre-trained"):
            run = self.folder(chain.name, stage)
            words = [*data, "--run", run, "--output", self._results(chain, stage), *self.testing]
            tested.append(self._once("GenSelfDiff/test/test_script.py", words, self._results(chain, stage), TESTED))
        trivial = self._results(chain, "otsu")
        words = [*data, "--method", "otsu", "--output", trivial]
        tested.append(self._once("GenSelfDiff/test/baselines.py", words, trivial, TESTED))
        compared = self._results(chain, "compare")
        self._once("GenSelfDiff/test/compare.py", [*tested, "--output", compared], compared, "compare.csv")
        drawn = f"{chain.name}, images"
        if chain.pretrained_by == chain.name and drawn not in self.record.notes:
            words = [*data, "--pretrained", self.folder(chain.name, "pre-training"), "--count", self.settings.images]
            words += ["--sampler", "dpm-solver++", "--batch-size", min(32, self.settings.images), *self.testing]
            run_for(self.record, "image_generation.py", *words, "--output", self._results(chain, "generated"))
            self.record.note(drawn, number=self.settings.images)

    def _results(self, chain: Chain, name: str) -> Path:
        return self.output / "results" / self.folder(chain.name, name).name

    def _once(self, script: str, words: list[Any], folder: Path, marker: str) -> Path:
        """Run what has not left its `marker` yet: a killed one leaves a folder without it, which the next clears."""
        if not (folder / marker).is_file():
            run_for(self.record, script, *words)
        return folder

    def write_tables(self) -> str:
        """runs (a row a training), table (a row a tested method), the folder with what to look at; returns the text."""
        runs, rows = [], []
        for chain in self.chains:
            for stage in self.stages(chain):
                if (self.folder(chain.name, stage) / "history.csv").is_file():
                    runs.append(self._run_row(chain, stage))
            for method in ("otsu", "from scratch", "pre-trained"):
                folder = self._results(chain, method)
                if (folder / TESTED).is_file():
                    result = Result.read(folder)
                    behind = self._behind(chain, method)
                    shares = {f"share of {kind}": self._share_done(*run) for kind, run in behind.items()}
                    means = {name: result.means()[name] for name in METRICS}
                    row = {"chain": chain.name, "method": method, "test images": len(result.images)}
                    rows.append({**row, **means, **shares})
        about = {**plain(self.settings), **self.record.notes.get("measured", {}), "notes": self.record.notes}
        write_json(self.output / "settings.json", about)
        text = [self._about()]
        for name, table in (("runs", pd.DataFrame(runs)), ("table", pd.DataFrame(rows))):
            with replace_file(self.output / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
            text.append(markdown(table, 4) if len(table) else "nothing yet\n")
        with replace_file(self.output / "table.md") as temporary:
            temporary.write_text("\n".join(text))
        left_out = collect(self.output, self.output / "shown", SHOWN_BYTES)
        return "\n".join([*text, f"what there is to look at is in {self.output / 'shown'}; {left_out}"])

    def _behind(self, chain: Chain, method: str) -> dict[str, tuple[str, str]]:
        """The trainings behind a tested network."""
        if method == "otsu":
            return {}
        behind = {"fine-tuning": (chain.name, method)}
        return behind if method == "from scratch" else {"pre-training": (chain.pretrained_by, "pre-training"), **behind}

    def _about(self) -> str:
        chosen = self.settings
        left_out = {name: note["left_out"] for name, note in self.record.notes.items() if note.get("left_out")}
        return (
            f"Width {chosen.dim}, batch {chosen.batch_size}, {chosen.precision}, seed {chosen.seed}; "
            f"{machine(str(pick_device(chosen.device)))}, {self.record.seconds / 60:.1f} of {chosen.minutes:g} min. "
            f"The authors' best validation P2 loss on MoNuSeg is {PUBLISHED_LOSS:.5f} an image: least of 100 epochs, "
            "with steps and noise drawn anew in each, on 37 images divided by patch; here they are fixed, the images "
            "are divided, and schedules may be shortened (share).\n"
            + "".join(f"\n{name}: left out, {reason}.\n" for name, reason in left_out.items())
        )

    def _share_done(self, chain: str, stage: str) -> float:
        """Epochs done of those of the whole schedule."""
        full = self.settings.pretrain_epochs if stage == "pre-training" else self.settings.finetune_epochs
        return len(read_history(self.folder(chain, stage) / "history.csv")) / full

    def _run_row(self, chain: Chain, stage: str) -> dict[str, Any]:
        history = read_history(self.folder(chain.name, stage) / "history.csv", "steps")
        note, (full, cost) = self.record.notes[f"{chain.name}, {stage}"], self._schedule(chain, stage)
        seconds = history["seconds"].sum()
        row = {"chain": chain.name, "stage": stage, "epochs": len(history), "planned": note["epochs"]}
        row |= {"whole schedule": full, "share": len(history) / full, "steps": int(history["steps"].sum())}
        row |= {"minutes of steps": seconds / 60}
        row["images a second"] = row["steps"] * min(cost.batch_size, cost.training) / seconds
        if "val_loss" in history:
            best = history["val_loss"].idxmin()
            row |= {"best epoch": int(history["epoch"][best]), "best validation loss": history["val_loss"][best]}
        return row


def _seconds_to_save(run: Path) -> float:
    """How long it takes to write the last.pth and the best.pth of an epoch."""
    content, begin = checkpoint.load(run / "last.pth"), time.monotonic()
    checkpoint.save(run / "last.pth", content)
    checkpoint.save(run / "best.pth", {"model_state_dict": content["model_state_dict"]})
    return time.monotonic() - begin


def _progress(run: Path) -> tuple[int, float]:
    """Steps that a run of one epoch has done and the seconds they took."""
    if (run / "history.csv").is_file():
        history = read_history(run / "history.csv", "steps")
        return int(history["steps"].sum()), float(history["seconds"].sum())
    if not (run / "last.pth").is_file():
        return 0, 0.0
    last = checkpoint.load(run / "last.pth")
    return last["step"], last["seconds"]


def collect(output: Path, shown: Path, most: int) -> str:
    """Copy tables, curves, reports and pictures to `shown`, the smallest first, until `most` bytes; what was left out.

    Weights and the single files of label maps stay where they are.
    """
    shutil.rmtree(shown, ignore_errors=True)
    wanted = [f for f in output.rglob("*") if f.suffix in (".csv", ".json", ".md", ".png", ".html")]
    wanted = [f for f in wanted if "label_maps" not in f.relative_to(output).parts]
    wanted = [f for f in wanted if not f.name.startswith(".") and not f.name.startswith("image_")]
    size, missing = 0, 0
    for file in sorted(wanted, key=lambda f: (f.suffix == ".png", f.stat().st_size)):
        if size + file.stat().st_size > most:
            missing += 1
            continue
        size += file.stat().st_size
        target = shown / file.relative_to(output)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return f"{missing} larger files are only in {output}" if missing else "weights and single images are beside it"


def main(settings: Settings) -> None:
    """Check everything, then run what fits."""
    settings.check()
    check_precision(settings.precision, pick_device(settings.device))
    experiment = Experiment(settings)
    with stopped_gently():
        experiment.run()
    print(f"the table is in {experiment.output}: table.md, table.csv, runs.csv")


if __name__ == "__main__":
    run_script(main, Settings)
