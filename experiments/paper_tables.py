"""The paper's tables, one command each: what is missing is run, then the table is written.

    python3 experiments/paper_tables.py methods --data-set GlaS --estimate
    python3 experiments/paper_tables.py methods --data-set GlaS

The tables and their sizes stand in experiments/tables.py: `small` is for two CPU cores overnight, `paper` for a GPU.
Each way's learning rate is chosen on development images (`small`); test images are looked at with the chosen ones.
Every finished run is a row in experiments/records: stopped, a table goes on from there, and several machines that share
--runs and --records share the work.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
import tyro

from experiments import pretraining, table_report
from experiments.grid import at_once
from experiments.questions import QUESTIONS
from experiments.records import Records
from experiments.table_runs import TableRuns, Wanted, wanted_of
from experiments.tables import SIZES, TABLES, DataSetName, SizeName, TableName
from utils_general import RESULTS, ROOT, InputError, at_least, run_script


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Make one of the paper's tables."""

    table: tyro.conf.Positional[TableName]
    """which"""
    size: SizeName = "small"
    """small: width 16, patches of 64 pixels, for two CPU cores; paper: the paper's size, for a GPU"""
    data_set: tuple[DataSetName, ...] = ("MoNuSeg", "GlaS")
    """data sets of the table"""
    seeds: int = 3
    """runs of each way, and of each pre-training: seeds 1, 2, ..."""
    data: Path = ROOT / "data"
    """folder of the data sets, as docs/tables.md makes them"""
    output: Path = RESULTS / "tables"
    """folder of the table's files"""
    runs: Path = ROOT / "experiments" / "results" / "tables"
    """folder of pre-trained networks and of runs that are going on"""
    records: Path = ROOT / "experiments" / "records"
    """folder of the rows of finished runs"""
    jobs: int | None = None
    """runs at a time, each with one thread on a CPU; if not given 2, and 1 on a GPU"""
    estimate: bool = False
    """say how many runs there are to do, and for how long, and do none"""


def run_table(settings: Settings) -> pd.DataFrame | None:
    """Do the runs of a table; a row a run, see `table_report.summarise`. None after an estimate."""
    table, size = TABLES[settings.table], SIZES[settings.size]
    roots = {name: (settings.data / size.data[name]).resolve() for name in settings.data_set}
    runs = TableRuns(settings.size, size, roots, settings.runs, settings.records, at_once(settings.jobs))
    all_named = wanted_of(table, size, [*roots], settings.seeds)
    named = [(name, wanted) for name, wanted in all_named if not runs.lacking(wanted)]
    for reason in dict.fromkeys(runs.lacking(wanted) for _, wanted in all_named):  # each once
        if reason:
            print(f"left out: {reason}")
    choices = {c: None for _, wanted in named for c in runs.choices(wanted.way, wanted.data)}  # each once
    tests = {wanted: None for _, wanted in named}
    todo = [("val", wanted, False) for wanted in choices] + [("test", wanted, table.across) for wanted in tests]
    print(runs.estimate(todo), flush=True)
    if settings.estimate:
        left = {name: None for name, wanted in named if not runs.is_known("test", wanted, table.across)}
        print(f"rows that are not done: {'; '.join(left) or 'none'}")
        return None
    runs.do("val", [*choices])
    chosen = {wanted: replace(wanted, rate=runs.rate(wanted.way, wanted.data)) for wanted in tests}
    runs.do("test", [*chosen.values()], table.across)
    return pd.DataFrame([row for name, wanted in named for row in rows_of(runs, name, chosen[wanted], table.across)])


def rows_of(runs: TableRuns, name: str, wanted: Wanted, across: bool) -> list[dict[str, Any]]:
    """The finished runs of a row of the table: one, or one a data set that was tested on."""
    found = []
    for on in runs.tests_on(wanted, across):
        method = name if on == wanted.data else f"{name}, fine-tuned on {wanted.data}"
        place = {"data set": on, "labelled images": wanted.labelled, "method": method}
        found.append(runs.row(wanted, on, "test").to_dict() | place)
    return found


def run_questions(settings: Settings) -> pd.DataFrame | None:
    """The same for few labels at the small size: the runs are those of experiments/pretraining.py."""
    found = []
    for name in settings.data_set:
        if name not in QUESTIONS:
            raise InputError(f"few labels of {name} are no question of experiments/questions.py")
        question, data = QUESTIONS[name], settings.data / SIZES["small"].data[name]
        asked = pretraining.Settings(
            question=name, data=data, records=settings.records, jobs=settings.jobs, estimate=settings.estimate,
            output=settings.runs.parent / "pretraining",
        )  # fmt: skip
        pretraining.main(asked)
        rows = Records(settings.records / f"{question.records}_test.csv", pretraining.KEY).table
        rows = rows[rows["arm"].isin(question.arms) & rows["labelled images"].isin([*question.draws])]
        order = {arm: i for i, arm in enumerate(question.arms)}
        rows = rows.sort_values("arm", key=lambda arms: arms.map(order), kind="stable")
        rows = rows.sort_values("labelled images", kind="stable").rename(columns={"arm": "method", "draw": "seed"})
        found.append(rows.assign(**{"data set": name}))
    return None if settings.estimate else pd.concat(found, ignore_index=True)


def main(settings: Settings) -> None:
    """Say what is to do, do it, write the table."""
    at_least(settings, jobs=1, seeds=1)
    size = SIZES[settings.size]
    if not settings.data_set or len({*settings.data_set}) < len(settings.data_set):
        raise InputError("--data-set names none, or one twice")
    for name in settings.data_set:
        if name not in size.data or not (settings.data / size.data[name]).is_dir():
            where = settings.data / size.data.get(name, name)
            raise InputError(f"there is no {where}: docs/tables.md says how to make it; or choose another --data-set")
    few = settings.table == "few-labels" and settings.size == "small"
    runs = run_questions(settings) if few else run_table(settings)
    if runs is None:
        return
    asked = "draws as in experiments/questions.py" if few else f"{settings.seeds} seeds"
    lengths = f"{size.pretraining.in_words()} of pre-training, {size.training.in_words()} of training"
    said = f"size {settings.size}: width {size.dim}, recipe {size.recipe}, {lengths}, {asked}"
    if few:
        said = f"size small: width {size.dim}, recipe {size.recipe}, lengths and {asked}"
    rates = "chosen on development images" if few or size.rates else "the recipe's"
    about = {"settings": f"{said}, learning rates {rates}", "size": settings.size}
    table_report.write(runs, TABLES[settings.table].title, about, settings.output, settings.table)


if __name__ == "__main__":
    run_script(main, Settings)
