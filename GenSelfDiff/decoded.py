"""A decoded copy of a folder's patches, made once: for GPUs that would wait for PNG files to be decoded."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from GenSelfDiff.data import (
    EpochBatches,
    label_type,
    loader,
    sized_image,
    sized_label,
    stop_workers,
    worker_errors_explained,
)
from GenSelfDiff.devices import Devices
from GenSelfDiff.patches import Patches
from utils_general import InputError, replace_file

FOLDER = ".cache"  # beside the patches, whose checks look at no hidden file
TOGETHER = 32  # patches between two writes


class DecodedRows:
    """The images (N, H, W, 3) or labels (N, H, W) of all patches of a folder, by patch number; mapped, not read.

    What goes to a worker that is not forked is the path: each process maps the file for itself.
    """

    def __init__(self, path: Path, numbers: np.ndarray):
        self.path, self.numbers = path, numbers
        self.rows = np.asarray(np.load(path, mmap_mode="r"))

    def __getitem__(self, patch: int) -> np.ndarray:
        return self.rows[np.searchsorted(self.numbers, patch)]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "numbers": self.numbers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def read_decoded(patches: Patches, workers: int) -> None:
    """Let `patches` read images, and labels where labelled, from the copy in its folder's `.cache`; make it if needed.

    A copy holds all patches of the folder and is named by a hash of its shape and of every patch's number, file size
    and time of change: when any changes, a new copy takes the place of the old one. Processes and runs that start at
    once wait for the first of them. `workers` processes decode. `InputError` where the folder cannot be written or has
    no room.
    """
    numbers = np.sort(patches.layout.index.patch.to_numpy())
    for kind in ("image", "label") if patches.labelled else ("image",):
        if kind not in patches.decoded:
            copy = _Copy(patches, kind, numbers)
            if not copy.is_complete():
                copy.make(workers)
            patches.decoded[kind] = DecodedRows(copy.path, numbers)


class _Copy:
    """The file that holds one kind of a folder's patches ("image" or "label") decoded."""

    def __init__(self, patches: Patches, kind: str, numbers: np.ndarray):
        self.patches, self.kind, self.numbers = patches, kind, numbers
        size = patches.data_set.patch_size
        self.shape = (len(numbers), size, size, 3) if kind == "image" else (len(numbers), size, size)
        self.type = np.dtype(np.uint8) if kind == "image" else label_type(patches)
        self.folder = patches.folder / FOLDER
        self.path = self.folder / f"{kind}-{self._stamp()}.npy"

    def _stamp(self) -> str:
        """16 digits that change with what the copy would hold."""
        file = self.patches.layout.file if self.kind == "image" else self.patches.layout.label_file
        digest = hashlib.sha256(f"{self.shape} {self.type}".encode())
        for patch in self.numbers.tolist():
            found = os.stat(file(patch))  # noqa: PTH116  one of 300,000
            digest.update(b"%d %d %d\n" % (patch, found.st_size, found.st_mtime_ns))
        return digest.hexdigest()[:16]

    def is_complete(self) -> bool:
        """Whether the copy is there; files get their name when they are complete."""
        try:
            found = np.load(self.path, mmap_mode="r")
        except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
            return False
        return found.shape == self.shape and found.dtype == self.type

    def make(self, workers: int) -> None:
        """Write the copy, unless another process has while this one waited for its turn."""
        try:
            self.folder.mkdir(exist_ok=True)
            with _one_at_a_time(self.folder):
                if not self.is_complete():
                    self._remove_others()
                    self._check_room()
                    self._write(workers)
        except OSError as error:
            raise InputError(
                f"--cache cannot write {self.folder}: {error.strerror}; leave --cache out, or use a copy of the "
                "patches in a folder that can be written"
            ) from None

    def _remove_others(self) -> None:
        """Copies of what the patches were before, and what a killed process left half."""
        for old in (*self.folder.glob(f"{self.kind}-*.npy"), *self.folder.glob(f".{self.kind}-*.unfinished")):
            old.unlink()

    def _check_room(self) -> None:
        needed, free = int(np.prod(self.shape)) * self.type.itemsize, shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"--cache needs {needed / 1e9:.2f} GB for the {self.kind}s in {self.folder}, {free / 1e9:.2f} GB are "
                "free: make room, or leave --cache out"
            )

    def _write(self, workers: int) -> None:
        alone = Devices(torch.device("cpu"))
        batches = EpochBatches(len(self.numbers), TOGETHER, 0, alone, shuffle=False)
        reader = loader(_Undecoded(self.patches, self.kind, self.numbers, self.type), batches, workers, alone)
        bar = tqdm(total=len(self.numbers), desc=f"decoding {self.kind}s", unit="patch", leave=False, disable=None)
        header = {"descr": np.lib.format.dtype_to_descr(self.type), "fortran_order": False, "shape": self.shape}
        try:
            # Written, not mapped: on a full disk a write fails, a mapped page ends the process.
            with worker_errors_explained(), bar, replace_file(self.path) as temporary, temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for batch in reader:
                    file.write(batch.numpy().tobytes())
                    bar.update(len(batch))
        finally:
            stop_workers(reader)
        print(f"{len(self.numbers)} {self.kind}s of {self.patches.folder} were decoded once, into {self.path}")


class _Undecoded(Dataset):
    """All patches of a folder in the order of `numbers`, decoded from their files and else as they are."""

    def __init__(self, patches: Patches, kind: str, numbers: np.ndarray, kept_as: np.dtype):
        self.patches, self.kind, self.numbers, self.kept_as = patches, kind, numbers, kept_as

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        patch = int(self.numbers[key[1]])
        read = sized_image if self.kind == "image" else sized_label
        return torch.from_numpy(read(self.patches, patch).astype(self.kept_as))


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back however a process ends.

    Where the file system knows no locks each process makes its own copy, and the last one stays.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which decodes the patches into {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
