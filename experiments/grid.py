"""What the experiments share: many small runs of the project's scripts, side by side."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
from tqdm import tqdm

from GenSelfDiff.devices import pick_device
from utils_general import IMAGE_EXTENSIONS, ROOT, InputError, read_json, write_json

matplotlib.use("Agg")

DATA_FILES = (*IMAGE_EXTENSIONS, ".csv", ".json", ".mat")


def remember(output: Path, asked: dict[Path, dict[str, Any]]) -> None:
    """Write down what each run is asked, by its folder, in `output/asked.json`, before any begins.

    What lies in a folder that was asked for something else, or that nobody knows, is no result of this grid:
    `InputError` names the folder and what differs.
    """
    file = output / "asked.json"
    known = read_json(file) if file.is_file() else {}
    if not isinstance(known, dict) or not all(isinstance(before, dict) for before in known.values()):
        raise InputError(f"{file} is not what this script writes: remove it, or choose another --output")
    for folder, now in asked.items():
        before = known.get(folder.name)
        if folder.exists() and before != now:
            what = "nobody knows what it was asked for"
            if before is not None:
                name = next(name for name in {**now, **before} if before.get(name) != now.get(name))
                what = f"{name} was {before.get(name)}, now it is {now.get(name)}"
            raise InputError(f"{folder} holds another run: {what}; remove that folder, or choose another --output")
    write_json(file, known | {folder.name: now for folder, now in asked.items()})


def hash_of(path: Path) -> str:
    """A hash of what a file holds, or of all pictures, labels and tables in a folder, wherever it lies."""
    digest = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in DATA_FILES) if path.is_dir() else [path]
    for file in files:
        digest.update(f"{file.relative_to(path)}\n".encode(errors="surrogateescape"))
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def run(script: str, *words: object, log: Path) -> None:
    """One of the project's scripts, in a process with one thread; `InputError` with its last line if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        lines = log.read_text().strip().splitlines() or ["it said nothing"]
        raise InputError(f"{script} ended with {done.returncode}: {lines[-1]} (all of it: {log})")


def at_once(jobs: int | None) -> int:
    """How many runs at a time: as asked, or two on a CPU, and one on a GPU, which a training has for itself."""
    return jobs or (1 if pick_device("auto").type == "cuda" else 2)


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
