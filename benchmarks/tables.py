"""What benchmarks and experiments write: tables as GitHub shows them, and the machine they were made on."""

import os
import platform
from pathlib import Path

import pandas as pd
import torch

from file_contents import read_table
from GenSelfDiff.report import tables
from utils_general import replace_file


def markdown(table: pd.DataFrame, digits: int = 4) -> str:
    """The table with numbers of so many significant digits; empty where a row has no such figure."""
    known = table.astype(object).where(table.notna(), "")
    cells = known.map(lambda c: f"{c:.{digits}g}" if isinstance(c, float) else str(c))
    return tables.markdown(cells.set_index(table.columns[0]))


def machine(device: str) -> str:
    """The processor in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file() and "model name" in (text := information.read_text()):
        name = text.split("model name")[1].splitlines()[0].strip("\t :")
    return f"{name} ({os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())} threads)"


def typed_in(path: Path, table: pd.DataFrame, column: str, place: list[str]) -> list[str]:
    """What was typed into a column of an earlier table, a csv file, by the rows of this one: `place`, columns of both,
    tells which is which."""
    earlier = read_table(path) if path.is_file() else pd.DataFrame()
    if not {column, *place} <= set(earlier):
        return [""] * len(table)
    known = {tuple(map(str, row[place])): row[column] for _, row in earlier.iterrows() if not pd.isna(row[column])}
    return [str(known.get(tuple(map(str, row)), "")) for row in table[place].itertuples(index=False)]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """The table as `path`.csv and, rounded, as `path`.md; printed too."""
    with replace_file(path.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False)
    with replace_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(table, digits=3))
    print(table.to_string(index=False, float_format="{:.4g}".format))
