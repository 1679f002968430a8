"""The folder that segment.py writes to: which files in it are its own, who works in it, and which images are done."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pandas as pd

from file_contents import read_table
from GenSelfDiff.whole_image.map_files import map_endings
from utils_general import InputError, read_json, replace_file, write_json

MARKER, SUMMARY, STATE = "settings.json", "summary.csv", ".unfinished"
LOCK = "lock"  # in STATE
MOST_PARTS = 99_999
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # of a disk that knows none
TEXT = ("image", "modified", "sha256", "error", "note", "warning")  # columns of the summary; the others are numbers
WHOLE = ("bytes", "width", "height", "objects")  # columns of whole numbers
Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Which images a process does: every `of`-th from the `number`-th on, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Part":
        """From "3/8"; None is all."""
        if text is None:
            return cls()
        match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--part {text}: NUMBER/OF is wanted, as 3/8 for the third of eight parts")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def take(self, everything: list[T]) -> list[T]:
        """What of a list is this part's."""
        return everything[self.number - 1 :: self.of]

    @property
    def summary(self) -> str:
        """The name of its summary."""
        return SUMMARY if self.of == 1 else f"summary_{self.number}_of_{self.of}.csv"


def readable(name: str) -> str:
    """A name as text that can be printed and written: what is no character, or a line's end, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def file_facts(file: Path) -> Row:
    """What tells that a file is still the one that was segmented: its bytes; and its size and time, as a quick hint.

    The time is UTC, so that a computer in another zone sees the same. What is no file has no bytes: a pipe, for one,
    would be waited for.
    """
    about = file.stat()
    if not file.is_file():
        return {"bytes": 0, "modified": "", "sha256": ""}
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": about.st_size, "modified": _utc(about.st_mtime_ns), "sha256": digest}


def _utc(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{np.datetime64(seconds, 's')}.{rest:09d}Z"


def unchanged(row: Row, file: Path) -> bool:
    """Whether a row of the summary is of a file as it is now; only of a file that was touched the bytes are read."""
    try:
        about = file.stat()
        if row.get("bytes") != about.st_size:
            return False
        return row.get("modified") == _utc(about.st_mtime_ns) or row.get("sha256") == file_facts(file)["sha256"]
    except OSError:  # it will be named as one that cannot be read
        return False


class Output:
    """An output folder that this process works in, alone or beside the other parts.

    `rows` are those of its own summary by the image's name; `others` those of the other parts' summaries.
    """

    def __init__(self, folder: Path, part: Part, resolved: Row, may_change: set[str], overwrite: bool):
        """Make the folder or go on with it; `InputError` if it is another's, at work, or of other settings."""
        self.folder, self.part = folder, part
        if overwrite and part.of > 1:
            raise InputError("--overwrite would remove the other parts' results: use it without --part, or not at all")
        _marker(folder, resolved["script"])
        self.lock = _take_lock(folder, part)
        if part.of > 1:
            _locked(self.lock, 0, 1, wait=True)  # parts that begin at once look at the folder one after the other
        before = _marker(folder, resolved["script"])
        changed = [k for k in resolved if k not in may_change and resolved[k] != before.get(k)] if before else []
        if changed and not overwrite:
            raise InputError(
                f"{folder} holds results with other settings: {', '.join(changed)} ({changed[0]} was "
                f"{before.get(changed[0])}, now {resolved[changed[0]]}); use those, --overwrite or another --output"
            )
        if before and overwrite:
            _remove_results(folder, before)
        if not before or overwrite:
            write_json(folder / MARKER, resolved)
        self._read()
        if part.of > 1:
            _unlock(self.lock, 0, 1)

    def _read(self) -> None:
        """What is done; the summaries of parts go over into that of all once nobody works on a part."""
        self.rows, self.others = {}, {}
        merged = self.part.of == 1
        files = _summaries(self.folder)
        for file in files:
            rows = {row["image"]: row for row in read_summary(file) if pd.isna(row.get("error"))}
            (self.rows if merged or file.name == self.part.summary else self.others).update(rows)
        if merged and any(file.name != SUMMARY for file in files):
            self.write()
            for file in files:
                if file.name != SUMMARY:
                    file.unlink()

    def has(self, name: str, file: Path) -> bool:
        """Whether an image is done, and still the same."""
        row = self.rows.get(name) or self.others.get(name)
        return row is not None and unchanged(row, file)

    def add(self, row: Row) -> None:
        """Take in the row of an image, and write the summary."""
        self.rows[row["image"]] = row
        self.write()

    def write(self) -> None:
        """Write this part's summary."""
        with replace_file(self.folder / self.part.summary) as temporary:
            table(list(self.rows.values())).to_csv(temporary, index=False, float_format="%.6g")

    def state(self, name: str, sha256: str) -> Path:
        """The folder for what an image's pixels have been computed to so far."""
        return self.folder / STATE / f"{name}_{sha256[:16]}"

    def close(self, done: bool) -> None:
        """Let the others in; where all is `done` and none is at work, what was kept to go on with is removed."""
        if done and _locked(self.lock):
            shutil.rmtree(self.folder / STATE, ignore_errors=True)
        self.lock.close()


def _marker(folder: Path, script: str) -> Row:
    """The settings of the results in a folder, {} for an empty one; `InputError` if `script` did not write them."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; an output folder is wanted there: choose another")
    if not folder.is_dir() or all(file.name.startswith(".") for file in folder.iterdir()):
        return {}
    before = read_json(folder / MARKER) if (folder / MARKER).is_file() else {}
    if not isinstance(before, dict) or before.get("script") != script:  # a training run's has a settings.json, too
        raise InputError(f"{folder} holds files that this script did not write: choose another folder")
    return before


def _take_lock(folder: Path, part: Part) -> IO[str]:
    """Lock a folder for one part; `InputError` where another process works on the same images.

    Ranges of one file are locked: all of it for all images; for part k of n the place k, and the place `MOST_PARTS` + n
    together with the other parts of n, so that parts of another n are seen. The system lets go when the process ends.
    """
    path = folder / STATE / LOCK
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # removed by one that has ended just now
            file = path.open("a+")
            if not _lock_part(file, part):
                file.close()
                raise InputError(
                    f"another segment.py works on {folder} (on all images, this part, or parts of another number): "
                    "wait for it, or choose another --output"
                )
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
            file.close()


def _lock_part(file: IO[str], part: Part) -> bool:
    if part.of == 1:
        return _locked(file)
    size = MOST_PARTS + part.of
    if not _locked(file, part.number, 1) or not _locked(file, size, 1, fcntl.LOCK_SH):
        return False
    alone = _locked(file, MOST_PARTS + 1, part.of - 1) and _locked(file, size + 1, MOST_PARTS)
    _unlock(file, MOST_PARTS + 1, part.of - 1)
    _unlock(file, size + 1, MOST_PARTS)
    return alone


def _locked(file: IO[str], start: int = 0, length: int = 0, kind: int = fcntl.LOCK_EX, wait: bool = False) -> bool:
    """Lock a range of a file (0, 0: all of it); False where another process has it."""
    try:
        fcntl.lockf(file, kind if wait else kind | fcntl.LOCK_NB, length, start)
    except OSError as error:
        return error.errno in NO_LOCKS
    return True


def _unlock(file: IO[str], start: int, length: int) -> None:
    with contextlib.suppress(OSError):  # where there are no locks
        fcntl.lockf(file, fcntl.LOCK_UN, length, start)


def _summaries(folder: Path) -> list[Path]:
    """The summary of all, and those of parts."""
    names = sorted(f.name for f in folder.glob("summary_*_of_*.csv") if re.fullmatch(r"summary_\d+_of_\d+.csv", f.name))
    return [folder / name for name in (SUMMARY, *names) if (folder / name).is_file()]


def read_summary(path: Path) -> list[Row]:
    """The rows of a summary. One that is broken has none, and it is said: its images are then done again."""
    try:
        rows = read_table(path, TEXT)
        rows = rows[rows.image.notna()].astype({name: "Int64" for name in WHOLE if name in rows})
        return rows.reindex(columns=dict.fromkeys([*rows.columns, "error"])).to_dict("records")
    except (InputError, ValueError, TypeError, AttributeError, OverflowError) as error:
        print(f"warning: {path} is broken ({' '.join(str(error).split())}): its images are done again")
        return []


def table(rows: list[Row]) -> pd.DataFrame:
    """The summary, a row an image; what an image failed of is in the last column."""
    columns = dict.fromkeys(["image", *(name for row in rows for name in row if name != "error"), "error"])
    summary = pd.DataFrame(rows, columns=list(columns))
    return summary.astype({name: "Int64" for name in WHOLE if name in summary})


def _remove_results(folder: Path, before: Row) -> None:
    """Remove the files that this script writes, by their exact names, and nothing else that is there.

    Nothing is believed of what a summary or settings.json says but names of files that lie in the folder itself.
    """
    said = before.get("classes")
    classes = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    endings = (".geojson", "_objects.csv", *map_endings(classes))
    for name in _image_names(folder):
        for base in {name, Path(name).stem}:
            for ending in endings:
                file = folder / f"{base}{ending}"
                if file.is_file() or file.is_symlink():
                    file.unlink()
    for file in _summaries(folder):
        file.unlink()
    for state in (folder / STATE).iterdir():
        if state.name != LOCK:
            shutil.rmtree(state, ignore_errors=True)


def _image_names(folder: Path) -> Iterator[str]:
    """The images of the summaries, without names that are paths."""
    for file in _summaries(folder):
        for row in read_summary(file):
            name = row["image"]
            if name and "\0" not in name and Path(name).name == name:
                yield name
