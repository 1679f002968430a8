"""Which cases benchmarks/training.py measures, in which order, and when it stops."""

import subprocess

import pandas as pd
import pytest

from benchmarks import training
from benchmarks.plain import KERNELS
from benchmarks.training_cases import ALL_CEILINGS, CEILINGS, COPY, GRAPH, OF_MEMORY, OFF, OURS, all_cases, plan
from benchmarks.training_networks import Job

TINY = {"dim": 8, "size": 16, "batch": 2}


@pytest.mark.parametrize(("on_gpu", "compiled"), [(False, False), (False, True), (True, True)])
def test_every_setting_is_measured_alone_and_with_all(on_gpu, compiled):
    everything = all_cases(on_gpu, compiled)
    ours, cases = [c for c in everything if c.network == OURS], {c.name: set(c.switches) for c in everything}
    assert len(cases) == len(everything) and cases[OFF] == set()
    alone = {"fused", "bfloat16", "checkpointing", *(("tf32", GRAPH) if on_gpu else ("allocator",)), *KERNELS}
    assert {c.switches[0] for c in ours if len(c.switches) == 1} == alone | ({"compile"} if compiled else set())
    assert cases["all float32"] == {*KERNELS, "fused", *(() if on_gpu else ("allocator",))}
    assert cases["all bfloat16 + checkpointing"] == cases["all float32"] | {"bfloat16", "checkpointing"}
    assert {CEILINGS[c.precision] for c in ours} <= set(cases) and COPY in cases
    assert (f"all bfloat16 + {GRAPH}" in cases) == on_gpu
    assert cases.get(f"all bfloat16 + {GRAPH}", set()) <= {*KERNELS, "fused", "bfloat16", GRAPH}


SIZES = [{"dim": 8, "size": 16, "batch": 2}, {"dim": 8, "size": 32, "batch": 2}]


def test_what_matters_most_is_measured_first():
    cases = all_cases(on_gpu=True, compiled=True)
    first, rest = plan(cases, SIZES, [TINY | {"batch": 64}], rounds=2)
    assert [case.name for _, size, case in first if size == SIZES[0]] == [
        "all bfloat16", "all float32", OFF, "all tf32", *CEILINGS.values(), COPY,
        "all bfloat16 + compile", f"all bfloat16 + {GRAPH}",
    ]  # fmt: skip
    assert [size for _, size, _ in first] == [SIZES[0]] * 10 + [SIZES[1]] * 10
    assert [number for number, _, _ in rest] == sorted(number for number, _, _ in rest)  # all once, before any twice
    assert [c.name for _, size, c in rest if size["batch"] == 64] == [c.name for c in cases if c.name in OF_MEMORY]
    every = [(number, size["size"], case.name) for number, size, case in first + rest if size["batch"] == 2]
    assert len(every) == len(set(every)) == 2 * 2 * len(cases)


class Clock:
    """Stands in for the time and for the processes that take it."""

    def __init__(self, monkeypatch, takes, failing=()):
        self.now, self.jobs, self.takes, self.failing = 0.0, [], takes, failing
        monkeypatch.setattr(training.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(training, "run_job", self.run)

    def run(self, job, limit):
        name = next(c.name for c in all_cases(True, True) if (c.network, c.switches) == (job.network, job.switches))
        self.jobs.append(name)
        self.now += min(limit, self.takes)
        if name in self.failing or limit < self.takes:
            return {"failure": "no memory" if limit >= self.takes else f"stopped after {limit:.0f} s"}
        return {"seconds": 1.0, "peak": 1, "gflop": 1.0, "parameters": 1.0, "numbers": 1.0}


def measured(tmp_path, minutes, rounds=2, names=()):
    cases = training.pick_cases(names, "cuda", True)
    first, rest = plan(cases, SIZES, [], rounds)
    settings = training.Settings(minutes=minutes)
    found = training.Measurements(settings, "cuda", training.Budget(minutes), tmp_path)
    found.run(first)
    found.run(rest)
    found.note_what_is_missing(first + rest)
    assert len(pd.read_csv(tmp_path / "measurements.csv")) == len(found.rows)
    return pd.DataFrame(found.rows).reindex(columns=["size", "round", "case", "seconds", "wall", "failure"])


def test_measuring_stops_in_time_and_says_what_is_missing(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, takes=10)
    table = measured(tmp_path, minutes=2.2, rounds=1)  # 117 s to measure in
    assert clock.now <= 60 * 2.2 - training.RESERVE
    first = [case.name for _, size, case in plan(all_cases(True, True), SIZES, [], 1)[0] if size == SIZES[0]]
    assert clock.jobs == [*first, "all bfloat16", "all float32"]  # the last was stopped for the end
    assert table[["size", "case"]].duplicated().sum() == 0 and len(table) == 2 * len(all_cases(True, True))
    assert table.loc[table["seconds"].notna(), ["size", "case"]].to_numpy().tolist() == [
        *[[16, name] for name in first],
        [32, "all bfloat16"],
        *[[32, name] for name in ALL_CEILINGS],  # are the same at every size: known already
    ]
    assert set(table["failure"].dropna()) == {"not measured: the 2.2 minutes were over"}


def test_ceilings_are_measured_once_a_round_whatever_the_number_of_sizes(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, takes=10)
    table = measured(tmp_path, minutes=None, rounds=2, names=("all tf32",))
    assert clock.jobs.count(CEILINGS["tf32"]) == clock.jobs.count(COPY) == 2 and clock.jobs.count(OFF) == 4
    assert (table["case"] == COPY).sum() == 4 and table["failure"].isna().all()


def test_what_failed_is_not_tried_again_and_stops_nothing(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, takes=10, failing=("all bfloat16 + compile",))
    table = measured(tmp_path, minutes=None, names=("all bfloat16 + compile", f"all bfloat16 + {GRAPH}"))
    assert clock.jobs.count("all bfloat16 + compile") == 2  # once a size
    assert table.loc[table["case"] == "all bfloat16 + compile", "failure"].tolist() == ["no memory"] * 2
    assert table.loc[table["case"] == f"all bfloat16 + {GRAPH}", "seconds"].tolist() == [1.0] * 4


def test_no_case_takes_the_time_of_all_others(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, takes=1000)
    table = measured(tmp_path, minutes=2)
    assert clock.now <= 120 and clock.jobs[:2] == ["all bfloat16", "all float32"]
    assert table["failure"].iloc[:2].tolist() == ["stopped after 40 s"] * 2
    third = table[(table["case"] == OFF) & (table["size"] == 16)]  # stopped by the end, not by its own limit
    assert third["failure"].tolist() == ["not measured: the 2 minutes were over"]


def test_a_case_is_not_begun_again_where_it_would_not_fit(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, takes=20)
    table = measured(tmp_path, minutes=3.2, rounds=3, names=("all bfloat16",))  # 177 s: 7 processes for all, 1 again
    assert len(clock.jobs) == 8 and clock.now == 160
    assert table["failure"].isna().all() and table.loc[table["round"] == 1, "case"].tolist() == ["all bfloat16"]


def test_a_process_is_stopped_at_its_limit(monkeypatch):
    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert training.run_job(Job(network=OURS, **TINY), 7.0) == {"failure": "stopped after 7 s"}


def test_defaults_are_those_of_the_device():
    assert training.for_device(training.Settings(), "cuda").sizes == ("64:256:8", "64:256:32")
    assert training.for_device(training.Settings(), "cpu").memory_sizes == ("64:256:8",)
    chosen = training.Settings(sizes=("16:64:8",), memory_sizes=("8:16:2",))
    assert training.for_device(chosen, "cuda") == chosen
    assert training.for_device(training.Settings(quick=True, sizes=("64:256:8",)), "cpu").sizes == ("8:16:2",)


def test_a_process_that_fails_is_a_row_too_and_gets_no_allocator_of_ours(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    ends = [(0, '{"seconds": 1}\n', ""), (1, "", "Traceback\nRuntimeError: no memory\n"), (-9, "", "")]
    environments = []

    def run(command, env, **_):
        environments.append(env)
        return subprocess.CompletedProcess(command, *ends.pop(0))

    monkeypatch.setattr(subprocess, "run", run)
    found = [training.run_job(Job(network=OURS, **TINY)) for _ in range(3)]
    assert found == [{"seconds": 1}, {"failure": "RuntimeError: no memory"}, {"failure": "ended with code -9"}]
    assert all("PATH" in environment and "MALLOC_TOP_PAD_" not in environment for environment in environments)
