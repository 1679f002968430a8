"""What a training step of pre-training costs: each of our settings alone, all together, and two peers from PyPI.

    python3 benchmarks/training.py
    python3 benchmarks/training.py --sizes 64:256:2 --memory-sizes --cases "all float32" "all bfloat16"

A round goes through all cases, each in a process of its own; ratios are to "everything off" in the same round. `make
bench` installs the peers (requirements-bench.txt) and runs it all: 20 minutes on two cores with nothing beside it.

On a GPU that is there for some minutes: `--minutes 8` measures what matters most first, and stops in time.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from tqdm import tqdm

from benchmarks.report import draw, summarise, write_tables
from benchmarks.training_cases import ALL_CEILINGS, CEILINGS, COPY, OFF, Case, Size, all_cases, plan
from benchmarks.training_loader import loader_rates
from benchmarks.training_networks import Job
from GenSelfDiff.devices import pick_device
from output_folder import replace_folder
from utils_general import MONUSEG, ROOT, InputError, at_least, run_script

RESERVE = 15.0  # seconds of --minutes that are kept for tables and picture
START = 5.0  # seconds below which no process is worth starting
LARGEST_SHARE = 1 / 3  # of --minutes, for one process: nothing that hangs in a compiler takes the time of all others


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure seconds, operations and memory of a training step."""

    sizes: tuple[str, ...] | None = None
    """dim:pixels:batch to measure; 64:256 is the paper's. Default 16:64:8 32:128:8 64:256:2 on a CPU, 64:256:8
    64:256:32 on a GPU"""
    memory_sizes: tuple[str, ...] | None = None
    """dim:pixels:batch of which only the memory is of interest: few cases, one round. Default 64:256:8 on a CPU"""
    minutes: float | None = None
    """stop after so long, tables written; what matters most is measured first. Default: when all is measured"""
    rounds: int = 3
    """times that every case is measured"""
    steps: int | None = None
    """timed steps between two looks at the clock; default 1 on a CPU, 10 on a GPU"""
    seconds: float = 2.0
    """each measurement takes so long at least"""
    cases: tuple[str, ...] = ()
    """only these cases, by name; default all"""
    compile: bool = False
    """try torch.compile on a CPU, too: it needs a C++ compiler, and minutes"""
    data: Path = MONUSEG
    """root of the data set whose labelled patches the loader reads; a picture of scikit-image where there is none"""
    loader_seconds: float = 3.0
    """the loader alone is measured for so long with each number of workers; 0 leaves it out"""
    quick: bool = False
    """only see that everything runs: one round at width 8, 16 pixels"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    output: Path = ROOT / "benchmarks" / "results" / "training"
    """folder for tables and picture"""
    overwrite: bool = False
    """replace an existing output folder"""


class Budget:
    """What is left of so many minutes; None: as long as it takes."""

    def __init__(self, minutes: float | None):
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds for measuring."""
        return self.end - RESERVE - time.monotonic()

    def limit(self) -> float:
        """Seconds that the next process may take."""
        return min(self.left(), LARGEST_SHARE * self.seconds)


def parse_size(text: str) -> Size:
    """ "64:256:2" to dim, size and batch."""
    try:
        dim, size, batch = map(int, text.split(":"))
    except ValueError:
        raise InputError(f"size {text!r} is not dim:pixels:batch, such as 64:256:2") from None
    if dim < 8 or dim % 8 or size < 8 or size % 8 or batch < 1:
        raise InputError(f"size {text!r}: dim and pixels are multiples of 8, the batch is 1 or more")
    return {"dim": dim, "size": size, "batch": batch}


def pick_cases(names: tuple[str, ...], device: str, compiled: bool) -> list[Case]:
    """All cases, or those named and what they are compared with."""
    on_gpu = device.startswith("cuda")
    cases = all_cases(on_gpu, compiled or on_gpu)
    if unknown := sorted(set(names) - {case.name for case in cases}):
        known = ", ".join(case.name for case in cases)
        raise InputError(f"--cases: there is no {unknown[0]!r} on {device}; there are: {known}")
    picked = [case for case in cases if not names or case.name in {*names, OFF}]
    ceilings = {COPY, *(CEILINGS[case.precision] for case in picked)}
    return [case for case in cases if case in picked or case.name in ceilings]


def run_job(job: Job, limit: float = math.inf) -> dict[str, Any]:
    """What benchmarks/training_step.py says in a new process, or a "failure"; this one's allocator is not passed on.

    `limit`: seconds after which the process is stopped.
    """
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("MALLOC_")}
    command = [sys.executable, str(Path(__file__).with_name("training_step.py")), json.dumps(dataclasses.asdict(job))]
    timeout = None if limit == math.inf else limit
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"failure": f"stopped after {limit:.0f} s"}
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1][:150]}
    return json.loads(done.stdout.splitlines()[-1])


class Measurements:
    """Measures what is planned as long as there is time, each case in a process of its own.

    `rows`: dim, size, batch, round, case, precision, wall (seconds of the process), and what it said: seconds (an
    image), peak, gflop, parameters, numbers, or failure. They are in measurements.csv at once, so that a run that is
    killed leaves them. What failed is not tried again.
    """

    def __init__(self, settings: Settings, device: str, budget: Budget, folder: Path):
        self.settings, self.device, self.budget, self.folder = settings, device, budget, folder
        self.rows: list[dict[str, Any]] = []
        self.work: dict[Any, dict[str, float]] = {}  # of each network and shape: counted once
        self.ceilings: dict[tuple[str, int], dict[str, Any]] = {}  # the same at every size: measured once a round

    def run(self, planned: list[tuple[int, Size, Case]]) -> None:
        """Measure one after the other; what would not fit into the time that is left is left out."""
        for number, size, case in (bar := tqdm(planned, unit="process")):
            before, known = self._rows(size, case), self.ceilings.get((case.name, number))
            needed = max([START, *(row["wall"] for row in before)])
            if not known and (any("failure" in row for row in before) or self.budget.left() < needed):
                continue
            begun = time.monotonic()
            result = known or self._measure(size, case, self.budget.limit())
            result = {"wall": time.monotonic() - begun, **result}
            if not known and "failure" in result and self.budget.left() <= 0:
                continue  # it was stopped for the end, which says nothing about it
            if case.name in ALL_CEILINGS:
                self.ceilings[case.name, number] = result
            row = {**size, "round": number, "case": case.name, "precision": case.precision}
            self._add(row | result)
            said = result.get("failure") or f"{result['seconds']:.4g} s an image, peak {result['peak'] / 2**30:.2f} GiB"
            bar.write(f"{':'.join(map(str, size.values()))}, round {number + 1}, {case.name}: {said}")

    def note_what_is_missing(self, planned: list[tuple[int, Size, Case]]) -> None:
        """A row for each case that there was no time for."""
        for number, size, case in planned:
            if not self._rows(size, case):
                row = {**size, "round": number, "case": case.name, "precision": case.precision, "wall": 0.0}
                self._add({**row, "failure": f"not measured: the {self.settings.minutes:g} minutes were over"})

    def _measure(self, size: Size, case: Case, limit: float) -> dict[str, Any]:
        on_gpu = self.device.startswith("cuda")
        shape = case.shape(size, on_gpu)
        job = Job(
            network=case.network, **shape, switches=case.switches, device=self.device, seconds=self.settings.seconds,
            steps=self.settings.steps or (10 if on_gpu else 1), count=(case.network, *shape.values()) not in self.work,
        )  # fmt: skip
        result = run_job(job, limit)
        if job.count and "failure" not in result:
            names = ("gflop", "parameters", "numbers")
            self.work[case.network, *shape.values()] = {name: result[name] for name in names if name in result}
        return result | self.work.get((case.network, *shape.values()), {})

    def _rows(self, size: Size, case: Case) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["case"] == case.name and row.items() >= size.items()]

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        pd.DataFrame(self.rows).to_csv(self.folder / "measurements.csv", index=False)


def for_device(settings: Settings, device: str) -> Settings:
    """The settings with what their defaults come to there."""
    if settings.quick:
        return dataclasses.replace(settings, sizes=("8:16:2",), memory_sizes=(), rounds=1, seconds=0.0)
    sizes, memory_sizes = ("16:64:8", "32:128:8", "64:256:2"), ("64:256:8",)
    if device.startswith("cuda"):
        sizes, memory_sizes = ("64:256:8", "64:256:32"), ()
    return dataclasses.replace(
        settings,
        sizes=sizes if settings.sizes is None else settings.sizes,
        memory_sizes=memory_sizes if settings.memory_sizes is None else settings.memory_sizes,
    )


def main(settings: Settings) -> None:
    """Measure every case at every size, then make tables and picture."""
    budget = Budget(settings.minutes)
    at_least(settings, rounds=1, steps=1, seconds=0, minutes=0.1, loader_seconds=0)
    device = str(pick_device(settings.device))
    settings = for_device(settings, device)
    sizes = [parse_size(size) for size in settings.sizes]
    memory_sizes = [parse_size(size) for size in settings.memory_sizes]
    cases = pick_cases(settings.cases, device, settings.compile)
    first, rest = plan(cases, sizes, memory_sizes, settings.rounds)
    with replace_folder(settings.output, "measurements.csv", settings.overwrite) as folder:
        measurements = Measurements(settings, device, budget, folder)
        loader = loader_rates(settings.data, 0, settings.quick, budget.left, folder)  # no rows yet
        try:
            measurements.run(first)
            loader = loader_rates(settings.data, settings.loader_seconds, settings.quick, budget.left, folder)
            measurements.run(rest)
        except KeyboardInterrupt:
            print("stopped: the tables hold what was measured until now")
        loader.to_csv(folder / "loader.csv", index=False)
        measurements.note_what_is_missing(first + rest)
        table = summarise(pd.DataFrame(measurements.rows), [case.name for case in cases])
        table.to_csv(folder / "training.csv", index=False)
        print(write_tables(table, loader, folder / "training.md", device))
        draw(table, folder / "training.png")
    print(f"tables and picture are in {settings.output}: training.md, training.png, and the csv files of both")


if __name__ == "__main__":
    run_script(main, Settings)
