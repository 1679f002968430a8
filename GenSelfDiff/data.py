"""Patches as data sets for both stages, and the one place where images become network input."""

import contextlib
import hashlib
import multiprocessing
import multiprocessing.queues
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from GenSelfDiff.devices import Devices, keep_freed_memory
from GenSelfDiff.patches import Patches
from GenSelfDiff.targets import MAPS, Targets, target_maps
from utils_general import SIDE_MULTIPLE, InputError

if TYPE_CHECKING:
    from GenSelfDiff.transforms import v2

# The input range each stage was published with; a setting of both, stored in the checkpoint.
PRETRAINING_RANGE = (-1.0, 1.0)
FINETUNING_RANGE = (0.0, 1.0)

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # tell a training to save and end

# Open files of a training process: its own, and for each worker of its two loaders (measured: 9 to 11 a loader).
FILES, FILES_A_WORKER = 32, 24

SEEN = 64  # images whose pixels tell whether a run goes on with the same: a quarter of a second at 256 pixels


def to_input(images: np.ndarray | Tensor, input_range: tuple[float, float]) -> Tensor:
    """Images uint8 (..., H, W, 3) become float32 (..., 3, H, W) in `input_range`: 0 its lower end, 255 its upper."""
    low, high = input_range
    x = torch.as_tensor(images).movedim(-1, -3).contiguous().float()
    # A GPU divides by a number by multiplying with its rounded inverse, by a tensor it divides: the bits are a CPU's.
    return x.div_(torch.full((), 255.0, device=x.device)).mul_(high - low).add_(low)


def to_image(x: Tensor, input_range: tuple[float, float]) -> np.ndarray:
    """The inverse of `to_input` for (..., 3, H, W): uint8 (..., H, W, 3), clamped to the range and rounded."""
    low, high = input_range
    unit = ((x.float() - low) / (high - low)).clamp(0, 1)
    return unit.mul(255).round().byte().movedim(-3, -1).cpu().numpy()


def pretraining_folder(root: Path) -> Path:
    """Where a data set's images for pre-training are: `unlabelled`, or else `labelled`, or the folder itself."""
    return _first_folder(root, "unlabelled", "labelled")


def labelled_folder(root: Path) -> Path:
    """Where a data set's labelled patches for fine-tuning are: `labelled`, `train` (released layout), or itself."""
    return _first_folder(root, "labelled", "train")


def _first_folder(root: Path, *names: str) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root)


class PatchDataset(Dataset):
    """One split of one or several folders of patches, augmented.

    Items are asked for by (epoch, i); what is random depends on these and the seed only, so the data of a step are
    the same whatever the number of workers or processes, and after a restart. An item is a dict: image uint8
    (H, W, 3), label (H, W) where labelled, maps (K, H, W) of the `targets` where these have any (made of the augmented
    instances: a flip changes them), file (the image's), seed (for what is drawn later: step and noise). Images stay
    uint8 until they are where the network is (`to_input`), and labels, which `Patches.check_labels` has seen, take one
    byte where there are at most 256 classes: a quarter of the bytes to hand from process to process and to a GPU.
    """

    def __init__(
        self,
        folders: list[Patches],
        split: str,
        seed: int,
        augmentation: "v2.Transform | None" = None,
        targets: Targets = "classes",
    ):
        self.folders, self.seed, self.augmentation, self.targets = folders, seed, augmentation, targets
        for folder in folders:
            if split == "train" and not folder.described:
                print(f"{folder.folder} has no index.csv: split 90/10 by patch, so overlapping patches may be in both")
        selected = [folder.select(split) for folder in folders]
        self.numbers = np.concatenate(selected)
        self.ends = np.cumsum([len(s) for s in selected])  # of each folder's patches in `numbers`
        self._fingerprint: str | None = None
        self._contents: str | None = None
        sizes = {folder.data_set.patch_size for folder in folders}
        if len(sizes) > 1 or min(sizes) % SIDE_MULTIPLE:
            raise InputError(f"patches of {sorted(sizes)} pixels: one size is needed, a multiple of {SIDE_MULTIPLE}")
        self.size = sizes.pop()

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(self, batch_size: int, seed: int, devices: Devices, shuffle: bool) -> "EpochBatches":
        """In which order they are read, so many at a time by each process."""
        return EpochBatches(len(self), batch_size, seed, devices, shuffle)

    def fingerprint(self) -> str:
        """Changes with the patches and their order, not with the folder they lie in: the hash of their index."""
        if self._fingerprint is None:
            self._fingerprint = self._hash_index()
        return self._fingerprint

    def _hash_index(self) -> str:
        digest = hashlib.sha256()
        for folder, numbers in zip(self.folders, np.split(self.numbers, self.ends[:-1]), strict=True):
            rows = folder.index[folder.index.patch.isin(numbers)]
            for start in range(0, max(1, len(rows)), 10_000):  # piece by piece: as text it is many times larger
                piece = rows.iloc[start : start + 10_000].to_csv(index=False, header=start == 0)
                digest.update(piece.encode())
        return digest.hexdigest()

    def contents(self) -> str:
        """Changes with what the patches of one index show, not with how they are compressed.

        A hash of the pixels of `SEEN` images that are spread evenly, and so over the source images, and of all labels
        where `Patches.check_labels` has read them: constant in time for 300,000 images. One image of many that has
        changed may stay unseen, other images under the same names are not.
        """
        if self._contents is None:
            digest = hashlib.sha256("".join(folder.labels_hash for folder in self.folders).encode())
            for i in np.unique(np.linspace(0, len(self) - 1, SEEN).round().astype(int)) if len(self) else ():
                digest.update(sized_image(*self._patch(int(i))).tobytes())
            self._contents = digest.hexdigest()
        return self._contents

    def _patch(self, i: int) -> tuple[Patches, int]:
        """The folder and the number of a patch."""
        return self.folders[np.searchsorted(self.ends, i, side="right")], int(self.numbers[i])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor | int | str]:
        from GenSelfDiff.transforms import tv_tensors  # tests and whole images do without

        epoch, i = key
        patches, patch = self._patch(i)
        file, seed = str(patches.file(patch)), derived_seed(self.seed, epoch, i)
        item = {"image": tv_tensors.Image(torch.from_numpy(sized_image(patches, patch).copy()).movedim(-1, 0))}
        if patches.labelled:
            item["label"] = tv_tensors.Mask(torch.from_numpy(sized_label(patches, patch).astype(label_type(patches))))
        if MAPS[self.targets]:
            item["instances"] = tv_tensors.Mask(torch.from_numpy(sized_instances(patches, patch)))
        if self.augmentation is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                item = self.augmentation(item)
        item = {name: value.as_subclass(Tensor) for name, value in item.items()}
        item["image"] = item["image"].movedim(0, -1).contiguous()
        if "instances" in item:
            item["maps"] = torch.from_numpy(target_maps(self.targets, item.pop("instances").numpy()))
        return {**item, "file": file, "seed": seed}


def sized_image(patches: Patches, patch: int) -> np.ndarray:
    """Image uint8 (H, W, 3) of the size that the data set says; `InputError` for another."""
    image, size = patches.image(patch), patches.data_set.patch_size
    if image.shape[:2] != (size, size):
        raise InputError(f"{patches.file(patch)} is {image.shape[1]}x{image.shape[0]} pixels, not {size}x{size}")
    return image


def sized_label(patches: Patches, patch: int) -> np.ndarray:
    """Class indices int32 (H, W) of the size and the classes that the data set says; `InputError` for others.

    `Patches.check_labels` has seen all before; while a run goes on, files may change.
    """
    label, size, classes = patches.label(patch), patches.data_set.patch_size, len(patches.data_set.classes)
    name = f"label of patch {patch} in {patches.folder}"
    if label.shape != (size, size):
        raise InputError(f"{name} is {label.shape[1]}x{label.shape[0]} pixels now, not {size}x{size}: was it changed?")
    if classes and not 0 <= label.min() <= label.max() < classes:
        wrong = label.min() if label.min() < 0 else label.max()
        raise InputError(f"{name} holds class {wrong} now; there are 0 to {classes - 1}: was it changed?")
    return label


def sized_instances(patches: Patches, patch: int) -> np.ndarray:
    """Instance numbers int32 (H, W) of the size that the data set says; `InputError` for another."""
    instances, size = patches.instances(patch), patches.data_set.patch_size
    if instances.shape != (size, size):
        found = f"{instances.shape[1]}x{instances.shape[0]}"
        raise InputError(f"instance_{patch}.png in {patches.folder} is {found} pixels, not {size}x{size}")
    return instances


def label_type(patches: Patches) -> np.dtype:
    """The smallest type that holds the class indices: uint8 up to 256 classes."""
    return np.dtype(np.uint8 if len(patches.data_set.classes) <= 256 else np.int32)


def derived_seed(*parts: int) -> int:
    """One seed out of several numbers, well mixed, in 0 .. 2^32 - 1."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class EpochBatches(Sampler):
    """Batches of (pass, i): in training a new order each pass over the patches, in validation (`shuffle=False`) once
    through all, in order, as pass 0.

    In training every process takes its share of each joint batch and the last, incomplete batch of a pass is left out,
    so that all steps weigh the same (a data set smaller than one batch is one batch). In validation nothing is left
    out. `first` and `end` are set from outside: the steps, counted from the beginning of the run over all passes, that
    are trained now; `end` is not among them. The order of a step does not depend on where one begins or ends.
    """

    def __init__(self, length: int, batch_size: int, seed: int, devices: Devices, shuffle: bool):
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = devices.rank, devices.world_size
        self.batch_size = batch_size * self.world_size  # of all processes together
        if shuffle and length < self.world_size:
            raise InputError(f"{length} training patches are too few for {self.world_size} processes: start fewer")
        if shuffle and length < self.batch_size:
            self.batch_size = length - length % self.world_size
        self.first, self.end = 0, len(self)

    def __len__(self) -> int:
        """Batches of a whole pass."""
        return self.length // self.batch_size if self.shuffle else -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, ordered = np.arange(self.length), None
        for step in range(self.first, self.end):
            number, batch = divmod(step, len(self))
            if self.shuffle and number != ordered:
                order = np.random.default_rng(derived_seed(self.seed, number)).permutation(self.length)
                ordered = number
            joint = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            if len(share := joint[self.rank :: self.world_size]):
                yield [(number, int(i)) for i in share]


def _prepare_worker(_worker: int) -> None:
    """Leave signals to the main process, keep the memory that images leave, and end where a batch cannot be sent.

    Ctrl-C and SLURM signal all processes of a job: the main one needs its workers to finish the step and save.
    """
    keep_freed_memory()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    # A thread sends what a worker has read. By default it drops what it cannot send, for want of file descriptors or
    # of room in /dev/shm, and the main process waits for it for ever: the death of a worker it would notice.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)


def _end_worker(error: Exception, _batch: object) -> None:
    # In one piece, with its end of line: the worker's other thread may end the process between two writes.
    sys.stderr.write(f"a batch could not be handed on: {error}\n")
    sys.stderr.flush()
    os._exit(1)


def loader(dataset: Dataset, batches: EpochBatches, workers: int, devices: Devices) -> DataLoader:
    """A loader of `dataset` in the order of `batches`; its workers live as long as it does.

    `InputError` where this process may not open as many files as they need.
    """
    allow_files(FILES + FILES_A_WORKER * workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_prepare_worker,
        pin_memory=devices.device.type == "cuda",
    )


def allow_files(needed: int) -> None:
    """Raise the limit of open files to `needed`; `InputError` where the system does not allow that."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    except (ValueError, OSError):
        raise InputError(
            f"{needed} open files are needed for so many --workers, {most} are allowed: allow more, "
            f"ulimit -n {needed}, or use fewer"
        ) from None


@contextlib.contextmanager
def worker_errors_explained() -> Iterator[None]:
    """Make one clear line of a worker's sudden death, and of what it hands on with its traceback in front."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")[2]) from None
    except (OSError, RuntimeError) as error:
        text = str(error).strip()
        if "Too many open files" in text:
            reason = "too many files are open; allow more, ulimit -n"
        elif "shared memory" in text or "/torch_" in text:
            reason = f"the shared memory, /dev/shm, has no room for batches ({text.splitlines()[-1]}); allow more"
        elif text.startswith("DataLoader worker"):
            reason = f"a process that reads patches died ({text.splitlines()[0].rstrip('. ')}); where memory is short"
        elif isinstance(error, OSError) and "in DataLoader worker process" in text:
            raise InputError(f"a process that reads patches cannot go on: {text.splitlines()[-1]}") from None
        else:
            raise
        raise InputError(
            f"{reason}, use fewer: --workers N; the same command goes on from the last checkpoint"
        ) from None


def stop_workers(*loaders: DataLoader) -> None:
    """End the workers of all loaders: Python would do it at exit, with the SIGTERM that they ignore, and wait forever.

    A loader that failed while it started them does not know those that it had: all of this process are killed then.
    """
    iterators = [data_loader._iterator for data_loader in loaders if data_loader.num_workers]
    for iterator in iterators:
        if iterator is not None:
            iterator._shutdown_workers()
    if None in iterators:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()
