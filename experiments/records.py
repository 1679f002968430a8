"""Tables of finished runs that are kept in the repository: a stopped grid goes on elsewhere, from the same rows."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from file_contents import read_table
from output_folder import locked
from utils_general import InputError, replace_file

ASKED, COMMIT = "asked", "commit"


def hash_of_question(*parts: Any) -> str:
    """A short hash of what a run is asked for, given as plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Records:
    """A csv file with a row a finished run, found by the columns `key`; rows are added one by one, from any thread
    or process, each of which keeps what the others added.

    The column "asked" says, as a hash, all that a run was asked for: a row that was asked for something else under the
    same key is no result of this grid.
    """

    def __init__(self, path: Path, key: tuple[str, ...]):
        """`InputError` for a file that is no such table."""
        self.path, self.key = path, key
        self.look_again()

    def look_again(self) -> None:
        """Read the file: others may have added rows."""
        self.table = self._read()

    def _read(self) -> pd.DataFrame:
        text = (ASKED, COMMIT)  # hashes: some look like numbers
        table = read_table(self.path, text) if self.path.is_file() else pd.DataFrame(columns=[*self.key, ASKED])
        if missing := [name for name in (*self.key, ASKED) if name not in table]:
            raise InputError(f"{self.path} has no column {missing[0]}: it is no table of these runs")
        if len(twice := table[table.duplicated(list(self.key))]):
            named = ", ".join(map(str, twice[list(self.key)].iloc[0]))
            raise InputError(f"{self.path} has two rows of {named}: remove one")
        return table

    def __contains__(self, run: dict[str, Any]) -> bool:
        """`InputError` where it was done when something else was asked."""
        key = {name: run[name] for name in self.key}
        rows = self.select(**key)
        if len(rows) and set(rows[ASKED]) != {run[ASKED]}:
            named = ", ".join(map(str, key.values()))
            raise InputError(
                f"{self.path} has a row of {named} that was asked for something else: other steps, options or data; "
                "remove it, or choose another --records"
            )
        return len(rows) > 0

    def select(self, **values: Any) -> pd.DataFrame:
        """The rows with these values."""
        rows = self.table
        for name, value in values.items():
            rows = rows[rows[name] == value]
        return rows

    def of(self, runs: list[dict[str, Any]]) -> pd.DataFrame:
        """The rows of these runs, and no others that the file may hold."""
        keys = {tuple(run[name] for name in self.key) for run in runs if run in self}
        return self.table[[key in keys for key in self.table[list(self.key)].itertuples(index=False, name=None)]]

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to what the file holds now, and write it; a row of this key that another has added stays."""
        with locked(self.path.parent):
            self.table = self._read()
            if row in self:
                return
            table = pd.concat([self.table, pd.DataFrame([row])], ignore_index=True)
            self.table = table.sort_values(list(self.key), ignore_index=True)
            with replace_file(self.path) as temporary:
                whole = self.table.replace("", None).convert_dtypes()  # else a gap makes 2 to 2.0
                whole.to_csv(temporary, index=False, float_format="%.6g")
