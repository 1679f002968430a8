"""The runs behind experiments/paper_tables.py: pre-train, choose a learning rate, fine-tune, test, write a row down.

Several processes, on several machines, may do so over one folder: each takes runs that no other has taken.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import training_runs
from experiments.grid import folder_name, run, run_all
from experiments.records import ASKED, Records, hash_of_question
from experiments.tables import (
    ALL,
    BASELINES,
    CHOICE_SEED,
    DIFFUSION,
    MONAI,
    OURS,
    TARGETS,
    SelfSupervised,
    Size,
    Table,
    Way,
)
from experiments.training_runs import (
    BATCH,
    SECONDS_A_TEST,
    about,
    commit,
    seconds_a_step,
    taken,
    tested,
    train_and_test,
    what_is_shown,
    what_is_tested,
)
from GenSelfDiff import checkpoint
from GenSelfDiff.comparison.results import MetricName, Result
from GenSelfDiff.data import PatchDataset, labelled_folder, pretraining_folder
from GenSelfDiff.metrics import AS_PUBLISHED, PUBLISHED
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import SCRATCH
from utils_general import InputError, write_json

KEY = ("trained on", "way", "labelled images", "seed", "learning rate")
OF_EACH_IMAGE: tuple[MetricName, ...] = ("Dice", "AJI", "object Dice")
"""Of these a row has each image's value, too: intervals over images are made of them"""
PUBLISHED_MARK = "published: "  # before the published figures, of which some are called as standard ones
VALIDATIONS = 5  # of a training: the best network is taken
WAIT = 10.0  # seconds, before it is looked again whether what others do is done


@dataclass(frozen=True)
class Wanted:
    """A run: a way on a data set, with a number of labelled images (0: all), a seed, a learning rate (0: its own)."""

    way: Way
    data: str
    labelled: int
    seed: int
    rate: float = 0.0


class TableRuns:
    """All runs of a size on some data sets."""

    def __init__(self, size_name: str, size: Size, roots: dict[str, Path], runs: Path, records: Path, jobs: int):
        self.size, self.roots, self.jobs = size, roots, jobs
        self.folder, self.records_folder, self.name = runs.resolve() / size_name, records, size_name
        self.tables: dict[tuple[str, str], Records] = {}
        self.labelled = {name: Patches(labelled_folder(root), labelled=True) for name, root in roots.items()}
        for patches in self.labelled.values():
            patches.check_labels(len(patches.data_set.classes))
        unlabelled = {name: Patches(pretraining_folder(root)) for name, root in roots.items()}
        self.train, self.shown = _to_train_on(self.labelled)
        self.pretrain_on, self.shown_unlabelled = _to_train_on(unlabelled)
        self.tested = {name: what_is_tested(root) for name, root in roots.items()}
        self.patch_size = {patches.data_set.patch_size for patches in self.labelled.values()}
        if len(self.patch_size) > 1:
            raise InputError(f"patches of {sorted(self.patch_size)} pixels: all data sets of a table want the same")

    # --- what is asked ---

    def rows(self, data: str, split: str) -> Records:
        """The rows of runs that were tested on a data set."""
        key = data, split
        if key not in self.tables:
            self.tables[key] = Records(self.records_folder / f"tables_{self.name}_{data}_{split}.csv", KEY)
        return self.tables[key]

    def sources(self, start: SelfSupervised, data: str) -> list[str]:
        """The data sets that are pre-trained on."""
        return [*self.roots] if start.on == ALL else [start.on or data]

    def pretraining_words(self, start: SelfSupervised, way: Way) -> list[object]:
        """Options of a pre-training but for data, seed and folder."""
        words = ["--recipe", way.recipe or self.size.recipe, "--dim", self.size.dim, *start.options]
        words += self.size.of_script.get(start.script, ())
        return words + (["--sample-every", 0] if start.script == DIFFUSION else [])

    def training_words(self, wanted: Wanted) -> list[object]:
        """Options of a training but for data, folder and what it starts from."""
        way, steps = wanted.way, self.steps(wanted)
        if way.script == BASELINES:
            return [*way.options]
        words = ["--recipe", way.recipe or self.size.recipe, *way.options, *self.size.of_script.get(way.script, ())]
        words += ["--steps", steps, "--validate-every", max(1, steps // VALIDATIONS), "--seed", wanted.seed]
        words += ["--learning-rate", wanted.rate] if wanted.rate else []
        if wanted.labelled:
            words += ["--labelled-images", wanted.labelled, "--draw-seed", wanted.seed]
        return words if way.start else [*words, "--dim", self.size.dim]

    def steps(self, wanted: Wanted) -> int:
        """Of a training: as many with few labels as with all."""
        return 0 if wanted.way.script == BASELINES else self.size.training.in_steps(len(self.train[wanted.data]), BATCH)

    def pretraining_steps(self, start: SelfSupervised, data: str) -> int:
        """Of a pre-training."""
        patches = sum(len(self.pretrain_on[name]) for name in self.sources(start, data))
        return self.size.pretraining.in_steps(patches, BATCH)

    def describe(self, way: Way, data: str) -> str:
        """A way in words that stay the same whatever its row is called: scripts and options."""
        parts = []
        if way.start:
            on = "+".join(self.sources(way.start, data))
            parts.append(f"{Path(way.start.script).name} on {on} {_text(self.pretraining_words(way.start, way))}")
        recipe = ["--recipe", way.recipe or self.size.recipe] if way.script != BASELINES else []
        return "; ".join([*parts, f"{Path(way.script).name} {_text([*recipe, *way.options])}"])

    def ask(self, wanted: Wanted, on: str, split: str) -> dict[str, Any]:
        """The key of a run's row, and a hash of all else that it is asked for, the test images of `on` among it."""
        way, data = wanted.way, wanted.data
        asked: list[Any] = [self.shown[data], BATCH, self.training_words(replace(wanted, seed=0))]
        asked += [self.tested[on]] if split == "test" else []
        if way.start:
            asked += [self.shown_unlabelled[name] for name in self.sources(way.start, data)]
            asked += [self.pretraining_words(way.start, way), self.pretraining_steps(way.start, data)]
        key = (data, self.describe(way, data), wanted.labelled, wanted.seed, wanted.rate)
        return dict(zip(KEY, key, strict=True)) | {ASKED: f"asked {hash_of_question(*asked)}"}

    def tests_on(self, wanted: Wanted, across: bool) -> list[str]:
        """The data sets that a run is tested on; `across`: also those of the same classes."""
        classes = self.labelled[wanted.data].data_set.classes
        same = [name for name, patches in self.labelled.items() if across and patches.data_set.classes == classes]
        return [wanted.data, *(name for name in same if name != wanted.data)]

    # --- what is to be done ---

    def lacking(self, wanted: Wanted) -> str:
        """What a run asks for and its data set has not, in words: instances, as targets are made of them, or images."""
        if TARGETS in wanted.way.options and not self.labelled[wanted.data].has_instances:
            return f"{wanted.data} has no instances, which {TARGETS} are made of"
        index = self.labelled[wanted.data].index
        images = index.source[index.split == "train"].nunique()
        if wanted.labelled > images:
            return f"{wanted.data} has {images} images to train on, not {wanted.labelled}"
        return ""

    def choices(self, way: Way, data: str) -> list[Wanted]:
        """Runs on development images by which a way's learning rate is chosen; none where there is no choice."""
        way = way.rate_of or way
        rates = self.size.rates if way.script != BASELINES else ()
        return [Wanted(way, data, 0, CHOICE_SEED, rate) for rate in rates] if len(rates) > 1 else []

    def rate(self, way: Way, data: str) -> float:
        """The learning rate with the best Dice on development images; of equals the lowest. 0: the recipe's own."""
        if not (choices := self.choices(way, data)):
            single = self.size.rates if way.script != BASELINES else ()
            return single[0] if single else 0.0
        dice = {wanted.rate: float(self.row(wanted, data, "val")["Dice"]) for wanted in choices}
        return max(sorted(dice), key=dice.__getitem__)

    def row(self, wanted: Wanted, on: str, split: str) -> pd.Series:
        """The row of a finished run."""
        asked = self.ask(wanted, on, split)
        if asked not in self.rows(on, split):
            raise InputError(f"a run is not done yet: {asked['way']}, seed {wanted.seed}, on {on}")
        return self.rows(on, split).select(**{name: asked[name] for name in KEY}).iloc[0]

    def is_done(self, wanted: Wanted, on: list[str], split: str) -> bool:
        """Whether a run was tested on all of these."""
        return all(self.ask(wanted, name, split) in self.rows(name, split) for name in on)

    def do(self, split: str, wanted: list[Wanted], across: bool = False) -> None:
        """Do all runs that are not done, by this process or by others that share the folder."""
        while left := [w for w in wanted if not self.is_done(w, self.tests_on(w, across), split)]:
            starts = {self.weights(w): w for w in left if w.way.start}
            missing = [w for folder, w in starts.items() if not (folder / "done.json").is_file()]
            self.moved = False
            tasks: list[Callable[[], None]] = [partial(self.pretrain, w) for w in missing]
            run_all([*tasks, *(partial(self.one_run, split, w, across) for w in left)], self.jobs)
            for records in self.tables.values():
                records.look_again()
            if not self.moved:
                time.sleep(WAIT)

    def weights(self, wanted: Wanted) -> Path:
        """Folder of the pre-training that a run starts from."""
        start, data = wanted.way.start, wanted.data
        seed = 1 if wanted.seed == CHOICE_SEED else wanted.seed
        sources = self.sources(start, data)
        words = [self.pretraining_words(start, wanted.way), self.pretraining_steps(start, data)]
        asked = hash_of_question(start.script, *words, *(self.shown_unlabelled[name] for name in sources))
        return self.folder / "pretrained" / folder_name(Path(start.script).stem, "+".join(sources), asked, seed)

    def pretrain(self, wanted: Wanted) -> None:
        """Pre-train, or go on, unless another process does."""
        start, folder = wanted.way.start, self.weights(wanted)
        with taken(folder) as ours:
            if not ours or (folder / "done.json").is_file():
                return
            steps = self.pretraining_steps(start, wanted.data)
            words = ["--data", *(self.roots[name] for name in self.sources(start, wanted.data))]
            words += ["--run-name", folder / "run", "--seed", folder.name.rpartition("_")[2], "--batch-size", BATCH]
            words += [
                "--steps",
                steps,
                "--validate-every",
                max(1, steps // VALIDATIONS),
                "--workers",
                self.size.workers,
            ]
            begin = time.monotonic()
            run(start.script, *words, *self.pretraining_words(start, wanted.way), log=folder / "log.txt")
            write_json(folder / "done.json", {"steps": steps, "seconds": round(time.monotonic() - begin)})
            self.moved = True

    def one_run(self, split: str, wanted: Wanted, across: bool) -> None:
        """Train, test, write a row down for each data set that is tested on; the weights are not kept."""
        if wanted.way.start and not (self.weights(wanted) / "done.json").is_file():
            return  # another process pre-trains: next time
        on = self.tests_on(wanted, across)
        unique = hash_of_question(*self.ask(wanted, wanted.data, split).values())
        folder = self.folder / split / folder_name(wanted.data, wanted.labelled, wanted.seed, unique)
        with taken(folder) as ours:
            for name in on:
                self.rows(name, split).look_again()
            if not ours or self.is_done(wanted, on, split):
                return
            for name, found, how in self._results(split, wanted, folder, on):
                if (asked := self.ask(wanted, name, split)) not in self.rows(name, split):
                    self.rows(name, split).add(asked | figures(found) | how)
            shutil.rmtree(folder)
            self.moved = True

    def _results(
        self, split: str, wanted: Wanted, folder: Path, on: list[str]
    ) -> Iterator[tuple[str, Result, dict[str, Any]]]:
        """What a run comes to on each data set, and how it was made."""
        words, log = self.training_words(wanted), folder.with_name(f"{folder.name}.txt")
        steps = {"steps": self.steps(wanted)}
        first, root = on[0], self.roots[on[0]]
        if wanted.way.script == BASELINES:
            begin, version = time.monotonic(), commit()
            found = tested(BASELINES, words, root, split, folder / "results", log)
            how = about(0, round(time.monotonic() - begin), version)
        else:
            if wanted.way.start:
                words = ["--pretrained", checkpoint.find(str(self.weights(wanted) / "run")), *words]
            elif wanted.way.script != MONAI:
                words = ["--pretrained", SCRATCH, *words]
            found, how = train_and_test(
                wanted.way.script, [*words, "--workers", self.size.workers], root, split, folder / "run", log
            )
        yield first, found, steps | how
        for name in on[1:]:
            test = ["--run", folder / "run"]
            found = tested("GenSelfDiff/test/test_script.py", test, self.roots[name], split, folder / name, log)
            yield name, found, steps | how

    def estimate(self, runs: list[tuple[str, Wanted, bool]]) -> str:
        """What is still to do of runs, each with the split and whether it is tested across; and for how long, here."""
        left = [w for split, w, across in runs if not self.is_known(split, w, across)]
        starts = {self.weights(w): w for w in left if w.way.start}
        missing = [w for folder, w in starts.items() if not (folder / "done.json").is_file()]
        steps = sum(map(self.steps, left)) + sum(self.pretraining_steps(w.way.start, w.data) for w in missing)
        second = seconds_a_step(*self.patch_size, self.size.dim) if steps else 0.0
        hours = (steps * second + len(left) * SECONDS_A_TEST) / self.jobs / 3600
        return (
            f"{len(missing)} networks to pre-train, {len(left)} runs to train and test, {steps:,} steps; one takes "
            f"{second:.3g} s here: about {hours:.3g} hours, {self.jobs} at a time"
        )

    def is_known(self, split: str, wanted: Wanted, across: bool) -> bool:
        """Whether a run is done, with the learning rate that is chosen for it, if it is chosen already."""
        if split == "test":
            if not all(self.is_done(choice, [wanted.data], "val") for choice in self.choices(wanted.way, wanted.data)):
                return False
            wanted = replace(wanted, rate=self.rate(wanted.way, wanted.data))
        return self.is_done(wanted, self.tests_on(wanted, across), split)


def _to_train_on(folders: dict[str, Patches]) -> tuple[dict[str, PatchDataset], dict[str, str]]:
    """By data set, the patches to train on, and a hash of these and of those held out, which choose the network."""
    train, held_out = (
        {name: PatchDataset([patches], split, 0) for name, patches in folders.items()} for split in ("train", "val")
    )
    return train, {name: what_is_shown(train[name], held_out[name]) for name in folders}


def wanted_of(table: Table, size: Size, data: list[str], seeds: int) -> list[tuple[str, Wanted]]:
    """The runs on test images that a table is made of, each with the name of its row; rates are not chosen yet."""
    numbers = size.labels if table.few_labels else (0,)
    found = []
    for name in data:
        for labelled in numbers:
            for row, way in table.ways.items():
                if way.start and way.start.on not in ("", *data, *([ALL] if len(data) > 1 else [])):
                    continue  # pre-trained on a data set that is not here
                every = (1,) if way.script == BASELINES else range(1, seeds + 1)
                found += [(row, Wanted(_plain(way, name), name, labelled, seed)) for seed in every]
    return found


def _plain(way: Way, data: str) -> Way:
    """The way that is meant on this data set: pre-trained on the data set itself is `OURS`, whatever the row says."""
    return OURS if way.start == SelfSupervised(on=data) else way


def figures(found: Result) -> dict[str, float]:
    """What a row holds of a test: standard means, published figures, and values of each image."""
    published = found.summary["figures"][AS_PUBLISHED]
    together = published[[*published][-1]]  # of all splits
    row = found.means() | {f"{PUBLISHED_MARK}{name}": together[metric.label] for name, metric in PUBLISHED.items()}
    return row | {"images": len(found.images)} | training_runs.figures(found, (), OF_EACH_IMAGE)


def _text(words: list[object]) -> str:
    return " ".join(map(str, words))
