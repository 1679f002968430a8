"""What experiments/recipes.py and experiments/labels.py share: many small runs of one training script, side by side."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from tqdm import tqdm

from utils_general import ROOT, InputError, at_least

matplotlib.use("Agg")


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Settings that both experiments share. What is finished already is not done again."""

    data: Path
    """root of the data set"""
    output: Path
    """folder for the runs, the tables and the picture"""
    variants: tuple[str, ...]
    """what is compared: "name: options of the training script", each"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """each variant is trained once with each"""
    jobs: int = 2
    """runs at a time, each with one thread on a CPU"""

    def check(self) -> dict[str, list[str]]:
        """The options of each variant by its name; `InputError` for settings that cannot work."""
        at_least(self, jobs=1)
        if not self.seeds:
            raise InputError("--seeds names no seed")
        options = {}
        for variant in self.variants:
            name, colon, words = variant.partition(":")
            if not colon or not name.strip() or name.strip() in options:
                raise InputError(f'--variants wants "name: options", each name once; one is {variant!r}')
            options[name.strip()] = shlex.split(words)
        if not options:
            raise InputError("--variants names nothing to compare")
        return options


def run(script: str, *words: object, log: Path) -> None:
    """One of the project's scripts, in a process with one thread; `InputError` with its last line if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        lines = log.read_text().strip().splitlines() or ["it said nothing"]
        raise InputError(f"{script} ended with {done.returncode}: {lines[-1]} (all of it: {log})")


def run_all(tasks: list[Callable[[], None]], jobs: int) -> None:
    """Do all tasks, some at a time, with a progress bar; the first failure stops those not begun."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in tqdm(futures, "runs", disable=None):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def folder_name(*parts: object) -> str:
    """A name for a run's folder from the parts, with nothing in it that a file system minds."""
    return "_".join(re.sub(r"[^\w.+-]+", "-", str(part)) for part in parts)
