"""Folders that scripts write: complete or not there, never two runs in one, and nothing lost that is of others.

Everything happens inside the folder, so that it may be a mount point, and what is beside it is nobody's business.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from utils_general import InputError, read_json, replace_file

LIST = ".written.json"  # the files that the script wrote: all that --overwrite may remove
LOCK = ".in_use"
UNFINISHED = ".unfinished-"  # what is being written, and what a killed run left
REPLACED = ".replaced-"  # the earlier files, until the new ones are in their place
KEPT = "unplaced-"  # complete new files that could not take their place
NOT_FILES = (LOCK, "lost+found")  # in every new ext4 disk
UNFINISHED_FILES = ".*.*-????????.unfinished"  # of `replace_file`
ADVICE = "wait for it, or choose another output folder"
SAID = 100  # bytes of a lock that are read, at most


class FolderLock:
    """The right to write in a folder, which the system takes back however the process ends.

    It is POSIX's, of a hidden file: processes forked from this one, such as a loader's workers, do not hold it, and
    network file systems know it. A file system without locks has none (`known` is False). Of one process, all calls are
    one.
    """

    def __init__(self, folder: Path, advice: str):
        """`InputError` with the `advice` where another process holds it."""
        self.path, self.known = folder / LOCK, True
        while True:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                holder = os.read(self.file, SAID).decode(errors="replace").strip() or "another process"
                os.close(self.file)
                raise InputError(f"{folder} is in use: {holder} writes there; {advice}") from None
            except OSError:
                self.known = False
                break
            if self._is_there():
                break
            os.close(self.file)  # its holder has just removed it
        with contextlib.suppress(OSError):  # on a full disk it says nothing, and holds
            os.ftruncate(self.file, 0)
            os.pwrite(self.file, f"process {os.getpid()} on {socket.gethostname()}"[:SAID].encode(), 0)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.file), os.stat(self.path))  # noqa: PTH116
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the folder back, without a trace."""
        with contextlib.suppress(OSError):
            if self._is_there():
                self.path.unlink()
        os.close(self.file)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def input_paths(settings: Any) -> list[Path]:
    """The files and folders that a settings dataclass names, but for its `output`."""
    values = [getattr(settings, f.name) for f in fields(settings) if f.name != "output"]
    return [v for value in values for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Path)]


@contextlib.contextmanager
def replace_folder(path: Path, marker: str, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a new folder inside `path`; its files become those of `path` once they are complete.

    An existing, non-empty `path` is an `InputError`, so that two runs never mix. With `overwrite` the files that this
    function put there are replaced, if `marker` is among them; those of others stay. So is a `path` that is in use,
    and one that is, holds or lies in one of the `inputs`. If the new files cannot take their place, the earlier ones
    are left as they were, and the new ones are kept beside them.
    """
    path = path.resolve()  # where it is a link, the folder that it leads to is filled
    _check_inputs(path, inputs)
    _earlier(path, marker, overwrite)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be made, a file is where a folder is wanted: choose another output") from None
    try:
        with FolderLock(path, ADVICE) as lock:
            _earlier(path, marker, overwrite)
            for left in path.glob(f"{UNFINISHED}*") if lock.known else ():
                shutil.rmtree(left, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=path))
            try:
                yield unfinished
                _put_in_place(path, unfinished, marker, overwrite)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    finally:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()  # if nothing is in it


@contextlib.contextmanager
def add_files(path: Path) -> Iterator[None]:
    """What is written into a folder of `replace_folder` in here is also the script's, and `overwrite` replaces it."""
    path = path.resolve()
    with FolderLock(path, ADVICE):
        before = set(_files(path))
        try:
            yield
        finally:
            _write_list(path, sorted({*_read_list(path), *set(_files(path)) - before}))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a folder and hold it for a moment, without a trace; nobody waits where the system knows no locks."""
    path.mkdir(parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def write_together(path: Path) -> Iterator[None]:
    """Make a folder that is filled file by file, and hold it, so that no other run fills it at once.

    What a killed run left half of a file is removed, and the folder too if it stays empty.
    """
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        with FolderLock(path, ADVICE) as lock:
            for left in path.glob(UNFINISHED_FILES) if lock.known else ():
                left.unlink()
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()


def holds_files(path: Path) -> bool:
    """Whether something is in a folder that neither a new disk nor a run that is going on has there."""
    return any(f.name not in NOT_FILES and not f.name.startswith(UNFINISHED) for f in path.iterdir())


def _check_inputs(path: Path, inputs: Iterable[Path]) -> None:
    for given in map(Path.resolve, inputs):
        if given == path or path in given.parents:
            raise InputError(f"output folder {path} holds the input {given}: choose another output folder")
        if given in path.parents and given.is_dir():
            raise InputError(f"output folder {path} lies in the input {given}: choose another output folder")


def _earlier(path: Path, marker: str, overwrite: bool) -> list[str]:
    """The files of an earlier run that may be replaced; `InputError` where `path` is filled with anything else."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; an output folder is wanted there: choose another")
    if not path.is_dir() or not holds_files(path):
        return []
    if left := sorted(path.glob(f"{REPLACED}*")):
        raise InputError(
            f"{path}: a run was killed while it replaced files, or could not remove them; the earlier ones are in "
            f"{left[0]}: move away what you want to keep, and remove that folder"
        )
    if not overwrite:
        raise InputError(f"{path} already holds files; --overwrite replaces them, or choose another output folder")
    if not (path / marker).is_file():
        raise InputError(f"{path} holds files that this script did not write (no {marker}): choose another folder")
    if not (path / LIST).is_file():
        raise InputError(
            f"{path} does not say which of its files a script wrote (no {LIST}; earlier versions left none): "
            "remove it yourself, or choose another output folder"
        )
    written = _read_list(path)
    if marker not in written:
        raise InputError(f"{path} holds files that another script wrote: choose another output folder")
    return written


def _read_list(path: Path) -> list[str]:
    """The relative paths in a folder's list; `InputError` for what `_write_list` would not write."""
    names = read_json(path / LIST)
    wanted = isinstance(names, list) and all(isinstance(n, str) and "\0" not in n for n in names)
    if not wanted or any(Path(n).is_absolute() or ".." in Path(n).parts for n in names):
        raise InputError(f"{path / LIST} is no list of files in that folder: choose another output folder")
    return names


def _write_list(path: Path, names: list[str]) -> None:
    with replace_file(path / LIST) as temporary:
        temporary.write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")


def _files(path: Path) -> list[str]:
    """The relative paths of all files in a folder, links among them, but the list and what lies in hidden folders."""
    names = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        links = [name for name in below if (Path(folder) / name).is_symlink()]
        names += [os.path.relpath(Path(folder) / name, path) for name in (*files, *links)]
    return sorted(name for name in names if name not in (LIST, LOCK))


def _put_in_place(path: Path, unfinished: Path, marker: str, overwrite: bool) -> None:
    """Move the earlier files aside and the new ones in; after any failure move all back, and keep the new ones."""
    moves: list[tuple[Path, Path]] = []
    token = unfinished.name.removeprefix(UNFINISHED)
    aside, kept = path / (REPLACED + token), path / (KEPT + token)
    try:
        _write_list(unfinished, _files(unfinished))
        written = _earlier(path, marker, overwrite)
        aside.mkdir()
        for name in [LIST] * bool(written) + written:
            _set_aside(path, name, aside, moves)
        entries = sorted(unfinished.iterdir(), key=lambda entry: (entry.name == marker, entry.name))
        for entry in entries:  # the marker, by which the results are known, is the last
            _merge(entry, path / entry.name, moves)
    except BaseException as error:
        for source, target in reversed(moves):
            source.parent.mkdir(parents=True, exist_ok=True)
            target.rename(source)
        shutil.rmtree(aside, ignore_errors=True)
        unfinished.rename(kept)
        if not isinstance(error, OSError | InputError):
            raise
        reason = f"{error.filename or path}: {error.strerror}" if isinstance(error, OSError) else error
        raise InputError(f"{reason}; nothing was replaced, and the new files are complete in {kept}") from None
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        print(f"note: earlier files could not be removed, they are in {aside}")


def _set_aside(path: Path, name: str, aside: Path, moves: list[tuple[Path, Path]]) -> None:
    """Move one earlier file, if it is still there, and remove the folders that it leaves empty."""
    source, target = path / name, aside / name
    if source.parent.resolve() != source.parent or not (source.is_file() or source.is_symlink()):
        return  # behind a link, or as a folder, that somebody put there, it is not the file that was written
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    moves.append((source, target))
    folder = source.parent
    with contextlib.suppress(OSError):
        while folder != path:
            folder.rmdir()
            folder = folder.parent


def _merge(source: Path, target: Path, moves: list[tuple[Path, Path]]) -> None:
    """Move a file or a folder; into a folder that is there, move what is in it."""
    if not os.path.lexists(target):
        source.rename(target)
        moves.append((source, target))
    elif source.is_dir() and target.is_dir() and not target.is_symlink():
        for entry in source.iterdir():
            _merge(entry, target / entry.name, moves)
    else:
        raise InputError(f"{target} is a file that this script did not write: move it away")
