"""What grids of small runs share: to train and test once, to see how long a step takes, to share work over a folder."""

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import machine
from experiments.grid import run
from experiments.records import COMMIT, hash_of_question
from GenSelfDiff.comparison.results import MetricName, Result
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.devices import pick_device
from GenSelfDiff.downstream_train.labelled import check_instances
from GenSelfDiff.evaluation.evaluate import patches_to_test
from GenSelfDiff.native import native_files
from GenSelfDiff.unet import SegNet
from output_folder import FolderLock
from utils_general import ROOT, InputError, read_index_map, read_rgb

BATCH = 8
SECONDS_A_TEST = 40.0  # about: starting two scripts, testing
WITHOUT_PICTURES = ("--no-report", "--pictures", 0)
PATIENCE = 20.0  # seconds after which no further step is measured


def what_is_shown(*parts: PatchDataset) -> str:
    """A hash of patches that are read: which there are, and what they show; labels where `check_labels` was called."""
    return hash_of_question(*((part.fingerprint(), part.contents()) for part in parts))


def what_is_tested(root: Path) -> str:
    """A hash of all that a test on a data set's test images reads: patches of whichever split, their labels and
    instances, and of reduced images those at their own size, which figures are of."""
    patches = patches_to_test(root)
    patches.check_labels(len(patches.data_set.classes))
    if patches.has_instances:
        check_instances(patches, "tested objects are")  # from here on they are in the hash of the labels
    splits = [PatchDataset([patches], str(split), 0) for split in patches.index.split.unique()]
    native = hashlib.sha256()
    for source in patches.index.source.unique():
        files = zip(native_files(patches.folder, source), (read_rgb, read_index_map, read_index_map), strict=True)
        for pixels in (read(file) for file, read in files if file.is_file()):
            native.update(pixels.tobytes())
    return hash_of_question(what_is_shown(*splits), native.hexdigest())


def train_and_test(
    script: str, words: list[object], data: Path, split: str, folder: Path, log: Path
) -> tuple[Result, dict[str, Any]]:
    """Train by one of the scripts, with the options `words`, and test: the results, and what a row says of the run."""
    begin, version = time.monotonic(), commit()
    run(script, "--data", data, "--run-name", folder, *words, "--batch-size", BATCH, log=log)
    trained = time.monotonic()
    found = tested("GenSelfDiff/test/test_script.py", ["--run", folder], data, split, folder / "results", log)
    return found, about(round(trained - begin), round(time.monotonic() - trained), version)


def tested(script: str, words: list[object], data: Path, split: str, results: Path, log: Path) -> Result:
    """The results of one of the scripts that test."""
    where = ["--data", data, "--output", results, "--split", split, "--overwrite", *WITHOUT_PICTURES]
    run(script, *words, *where, log=log)
    return Result.read(results)


def figures(found: Result, metrics: Iterable[MetricName], of_each: Iterable[MetricName]) -> dict[str, float]:
    """What a row says of a test: means over its images, and of some metrics each image's value, "Dice testA_1"."""
    return found.images[[*metrics]].mean().to_dict() | {
        f"{metric} {image}": value for metric in of_each for image, value in found.images[metric].items()
    }


def about(seconds: int, of_the_test: int, version: str) -> dict[str, Any]:
    """What a row says of how its run was made; `version`: `commit` when it began."""
    device = str(pick_device("auto"))
    spent = {"seconds": seconds, "seconds of the test": of_the_test}
    return spent | {COMMIT: version, "torch": torch.__version__, "machine": machine(device)}


def commit() -> str:
    """The version of the project, with a + where code was changed since; "unknown" outside of git."""
    said = []
    changed = ("status", "--porcelain", "--untracked-files=no", "*.py")  # a grid changes the records all the time
    for words in (("rev-parse", "--short=10", "HEAD"), changed):
        try:
            done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
        except OSError:  # no git
            return "unknown"
        if done.returncode:
            return "unknown"
        said.append(done.stdout.strip())
    return said[0] + ("+" if said[1] else "")


def seconds_a_step(size: int, dim: int) -> float:
    """Of training our network with one thread, here and now: the median of five, or of as many as there is time for."""
    threads, device = torch.get_num_threads(), pick_device("auto")
    torch.set_num_threads(1)
    model = SegNet(dim).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    seconds: list[float] = []
    while len(seconds) < 6 and (len(seconds) < 2 or sum(seconds) < PATIENCE):
        begin = time.monotonic()
        loss = model(torch.zeros(BATCH, 3, size, size, device=device)).square().mean()
        loss.backward()
        optimizer.step()
        loss.item()  # a GPU has to be waited for
        seconds.append(time.monotonic() - begin)
    torch.set_num_threads(threads)
    return sorted(seconds[1:])[(len(seconds) - 1) // 2]


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[bool]:
    """Whether the work of a folder is this process's; no other, on whichever machine that shares it, takes it then."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder, "it is left to it")
    except InputError:
        lock = None
    with lock or contextlib.nullcontext():
        yield lock is not None
