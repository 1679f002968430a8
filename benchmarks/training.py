"""What a training step of pre-training costs: each of our settings alone, all together, and two peers from PyPI.

    python3 benchmarks/training.py
    python3 benchmarks/training.py --sizes 64:256:2 --memory-sizes --cases "all float32" "all bfloat16"

A round goes through all cases, each in a process of its own; ratios are to "everything off" in the same round. `make
bench` installs the peers (requirements-bench.txt) and runs it all: 20 minutes on two cores with nothing beside it.
"""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from tqdm import tqdm

from benchmarks.report import draw, summarise, write_tables
from benchmarks.training_cases import CEILINGS, OF_MEMORY, OFF, Case, all_cases
from benchmarks.training_step import Job
from GenSelfDiff.devices import pick_device
from utils_general import ROOT, InputError, at_least, replace_folder, run_script


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure seconds, operations and memory of a training step."""

    sizes: tuple[str, ...] = ("16:64:8", "32:128:8", "64:256:2")
    """dim:pixels:batch to measure; 64:256 is the paper's"""
    memory_sizes: tuple[str, ...] = ("64:256:8",)
    """dim:pixels:batch of which only the memory is of interest: few cases, one round"""
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
    quick: bool = False
    """only see that everything runs: one round at width 8, 16 pixels"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    output: Path = ROOT / "benchmarks" / "results" / "training"
    """folder for tables and picture"""
    overwrite: bool = False
    """replace an existing output folder"""


def parse_size(text: str) -> dict[str, int]:
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
    ceilings = {CEILINGS[case.precision] for case in picked}
    return [case for case in cases if case in picked or case.name in ceilings]


def run_job(job: Job) -> dict[str, Any]:
    """What benchmarks/training_step.py says in a new process, or a "failure"; this one's allocator is not passed on."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("MALLOC_")}
    command = [sys.executable, str(Path(__file__).with_name("training_step.py")), json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1][:150]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(settings: Settings, cases: list[Case], device: str) -> pd.DataFrame:
    """One row a measurement: dim, size, batch, round, case, precision, seconds, peak, gflop, parameters, failure."""
    on_gpu = device.startswith("cuda")
    large = {"dim": 512, "size": 128, "batch": 32} if on_gpu else {"dim": 256, "size": 64, "batch": 8}
    small = [case for case in cases if case.name in OF_MEMORY]
    wanted = [(parse_size(s), number, c) for s in settings.sizes for number in range(settings.rounds) for c in cases]
    wanted += [(parse_size(s), 0, c) for s in settings.memory_sizes for c in small]
    work: dict[Any, dict[str, float]] = {}  # of each network and shape: counted once
    rows = []
    for size, number, case in (bar := tqdm(wanted, unit="process")):
        shape = large if case.network == "convolution" else size
        job = Job(network=case.network, **shape, switches=case.switches, device=device, seconds=settings.seconds)
        key = (case.network, *shape.values())
        result = run_job(dataclasses.replace(job, steps=settings.steps or (10 if on_gpu else 1), count=key not in work))
        if "gflop" in result:
            work[key] = {name: result[name] for name in ("gflop", "parameters")}
        result |= work.get(key, {})
        rows.append({**size, "round": number, "case": case.name, "precision": case.precision, **result})
        said = result.get("failure") or f"{result['seconds']:.4g} s an image, peak {result['peak'] / 2**30:.2f} GiB"
        bar.write(f"{':'.join(map(str, size.values()))}, round {number + 1}, {case.name}: {said}")
    return pd.DataFrame(rows)


def main(settings: Settings) -> None:
    """Measure every case at every size, then make tables and picture."""
    at_least(settings, rounds=1, steps=1, seconds=0)
    if settings.quick:
        settings = dataclasses.replace(settings, sizes=("8:16:2",), memory_sizes=(), rounds=1, seconds=0.0)
    for size in (*settings.sizes, *settings.memory_sizes):
        parse_size(size)
    device = str(pick_device(settings.device))
    cases = pick_cases(settings.cases, device, settings.compile)
    with replace_folder(settings.output, "measurements.csv", settings.overwrite) as folder:
        measurements = measure(settings, cases, device)
        measurements.to_csv(folder / "measurements.csv", index=False)
        table = summarise(measurements)
        table.to_csv(folder / "training.csv", index=False)
        print(write_tables(table, folder / "training.md", device))
        draw(table, folder / "training.png")
    print(f"tables and picture are in {settings.output}: training.md, training.csv, training.png, measurements.csv")


if __name__ == "__main__":
    run_script(main, Settings)
