"""Patches on disk as data sets for both stages, and the one place where images become network input."""

import contextlib
import hashlib
import os
import signal
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from GenSelfDiff.devices import Devices
from utils_general import SIDE_MULTIPLE, SPLIT_SEED, DataSet, InputError, image_names, read_index_map, read_rgb

# The input range each stage was published with; a setting of both, stored in the checkpoint.
PRETRAINING_RANGE = (-1.0, 1.0)
FINETUNING_RANGE = (0.0, 1.0)
RELEASED = "released"  # the protocol of folders in the released code's layout
INDEX_COLUMNS = ["patch", "source", "x", "y", "split"]


def to_input(image: np.ndarray | Tensor, input_range: tuple[float, float]) -> Tensor:
    """An image uint8 (H, W, 3) becomes float32 (3, H, W) in `input_range`: 0 its lower end, 255 its upper."""
    low, high = input_range
    return torch.as_tensor(image).movedim(-1, 0).float().div(255).mul(high - low).add(low)


def to_image(x: Tensor, input_range: tuple[float, float]) -> np.ndarray:
    """The inverse of `to_input` for (..., 3, H, W): uint8 (..., H, W, 3), clamped to the range and rounded."""
    low, high = input_range
    unit = ((x.float() - low) / (high - low)).clamp(0, 1)
    return unit.mul(255).round().byte().movedim(-3, -1).cpu().numpy()


class Patches:
    """One folder of patches: `images/image_<i>.png`, and where labelled `labels/` and `instances/`, with `index.csv`.

    Folders of the released code are read too: `image_<i>.jpg`, in the folder or in its `images/`, with the labels in
    `label_patches.mat` beside them (array `data` (N, H, W)).

    `index` has a row a patch: patch (its number), source (name of the source image), x, y (pixels), split. Nothing else
    is kept of each patch, no path and no Python object, so that 300,000 of them cost a process and its workers no more
    than 10 MB. Raises `InputError` where the folder is incomplete.
    """

    def __init__(self, folder: Path, labelled: bool = False):
        self.folder = Path(folder)
        self.labelled = labelled
        if not self.folder.is_dir():
            raise InputError(f"folder {self.folder} does not exist: run the data set's preprocess.py, or mend the path")
        self.matrix: np.ndarray | None = None
        self.names: np.ndarray | None = None  # of the files of the released layout, in the order of `numbers`
        if (self.folder / "index.csv").is_file():
            self._read_index()
        else:
            self._read_released_layout()

    def _read_index(self) -> None:
        path = self.folder / "index.csv"
        try:
            self.index = pd.read_csv(path, dtype={"source": "category", "split": "category"})
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        if list(self.index.columns) != INDEX_COLUMNS or not len(self.index):
            raise InputError(f"{path} wants a row a patch and the columns {', '.join(INDEX_COLUMNS)}")
        if not pd.api.types.is_integer_dtype(self.index.patch):
            raise InputError(f"{path} names patches by something else than whole numbers in its column patch")
        if self.index.patch.duplicated().any():
            raise InputError(f"{path} names patch {self.index.patch[self.index.patch.duplicated()].iloc[0]} twice")
        self._check_complete("images", "image")
        if self.labelled:
            self._check_complete("labels", "label")
        self.data_set = DataSet.read(self.folder.parent)
        self.has_instances = self.labelled and (self.folder / "instances").is_dir()
        if self.has_instances:
            self._check_complete("instances", "instance")

    def _check_complete(self, kind: str, stem: str) -> None:
        """Every patch of the index has its file in the subfolder `kind`, and every file is in the index."""
        folder, wanted = self.folder / kind, self.index.patch.to_numpy()
        found, others = _patch_numbers(folder, stem) if folder.is_dir() else (wanted[:0], [])
        if len(lost := np.setdiff1d(wanted, found, assume_unique=True)):
            missing = sorted(f"{stem}_{patch}.png" for patch in lost)
            raise InputError(f"{len(missing)} of {len(wanted)} files are missing in {folder}: {', '.join(missing[:3])}")
        if extra := sorted([*others, *(f"{stem}_{patch}.png" for patch in np.setdiff1d(found, wanted, assume_unique=True))]):
            raise InputError(f"{folder} holds {len(extra)} files that index.csv does not know: {', '.join(extra[:3])}")

    def _read_released_layout(self) -> None:
        """No index: patch numbers from the file names, each patch its own source, 90/10 split by patch as released."""
        numbers, self.names = _numbered_images(self._image_folder())
        self.numbers = numbers
        splits = np.full(len(numbers), "val", dtype=object)
        splits[np.random.RandomState(SPLIT_SEED).permutation(len(numbers))[: int(0.9 * len(numbers))]] = "train"
        sources = [Path(os.fsdecode(name)).stem for name in self.names]
        self.index = pd.DataFrame({"patch": numbers, "source": sources, "x": 0, "y": 0, "split": splits})
        self.index["split"] = self.index.split.astype("category")
        self.has_instances = False
        height, width = self.image(numbers[0]).shape[:2]
        classes: list[str] = []
        if self.labelled:
            self.matrix = self._read_matrix(numbers, (height, width))
            classes = ["background", *(f"class {c}" for c in range(1, int(self.matrix.max()) + 1))]
        self.data_set = DataSet(self.folder.name, RELEASED, classes, "components", height, 0, SPLIT_SEED)

    def _image_folder(self) -> Path:
        images = self.folder / "images"
        return images if images.is_dir() else self.folder

    def _read_matrix(self, numbers: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        path = self.folder / "label_patches.mat"
        if not path.is_file():
            raise InputError(f"{self.folder} has neither index.csv nor label_patches.mat: its patches have no labels")
        try:
            matrix = scipy.io.loadmat(path)["data"]
        except (ValueError, KeyError, NotImplementedError, OSError) as error:
            raise InputError(f"{path} cannot be read as a MATLAB file with an array 'data': {error}") from None
        if matrix.shape != (len(numbers), *shape) or (numbers != np.arange(len(numbers))).any():
            raise InputError(f"{path} holds labels {matrix.shape}, the folder {len(numbers)} patches of {shape}")
        return matrix

    def __len__(self) -> int:
        return len(self.index)

    def select(self, split: str) -> np.ndarray:
        """The numbers of the patches of a split."""
        return self.index.patch[self.index.split == split].to_numpy()

    def file(self, patch: int) -> Path:
        """The image file of a patch."""
        if self.names is None:
            return self.folder / "images" / f"image_{patch}.png"
        return self._image_folder() / os.fsdecode(self.names[np.searchsorted(self.numbers, patch)])

    @property
    def files(self) -> dict[int, Path]:
        """The image files of all patches by number, in its order: made anew each time, for what reads them all."""
        return {int(patch): self.file(patch) for patch in sorted(self.index.patch)}

    def image(self, patch: int) -> np.ndarray:
        """Image uint8 (H, W, 3)."""
        return read_rgb(self.file(patch))

    def label(self, patch: int) -> np.ndarray:
        """Class indices int32 (H, W)."""
        if self.matrix is not None:
            return self.matrix[patch].astype(np.int32)
        return read_index_map(self.folder / "labels" / f"label_{patch}.png")

    def instances(self, patch: int) -> np.ndarray | None:
        """Instance numbers of the source image, int32 (H, W), 0 background; None where the data set has none."""
        if not self.has_instances:
            return None
        return read_index_map(self.folder / "instances" / f"instance_{patch}.png")

    def keep_sources(self, number: int) -> None:
        """Keep the training patches of only so many source images, drawn with the paper's seed; for few labels."""
        sources = np.array(sorted(self.index.source[self.index.split == "train"].unique()))
        if not 1 <= number <= len(sources):
            raise InputError(f"{number} labelled images were asked for; {self.folder} has {len(sources)} to train on")
        kept = sources[np.random.RandomState(SPLIT_SEED).permutation(len(sources))[:number]]
        self.index = self.index[(self.index.split != "train") | self.index.source.isin(kept)]

    def check_labels(self, classes: int) -> None:
        """Read every label once: `InputError` names the first with another size or a class too many."""
        size = self.data_set.patch_size
        for patch in self.index.patch:
            label = self.label(patch)
            name = f"label of patch {patch} in {self.folder}"
            if label.shape != (size, size):
                raise InputError(f"{name} is {label.shape[1]}x{label.shape[0]} pixels; its image is {size}x{size}")
            if label.max() >= classes or label.min() < 0:
                wrong = label.max() if label.max() >= classes else label.min()
                raise InputError(f"{name} holds class {wrong}; with {classes} classes, 0 to {classes - 1} are allowed")


def _patch_numbers(folder: Path, stem: str) -> tuple[np.ndarray, list[str]]:
    """The numbers i of all files `<stem>_<i>.png` in a folder, and the names of all other files but hidden ones."""
    numbers, others = array("q"), []
    start, end = f"{stem}_", ".png"
    with os.scandir(folder) as entries:
        for entry in entries:
            number = entry.name.removeprefix(start).removesuffix(end)
            if number.isdecimal() and len(number) < 19 and entry.name == f"{start}{int(number)}{end}":
                numbers.append(int(number))
            elif not entry.name.startswith("."):
                others.append(entry.name)
    return np.frombuffer(numbers, np.int64), others


def _numbered_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The i of all images `image_<i>` in a folder, rising, and their names as bytes, both (N,)."""
    names = image_names(folder)
    ends = [name.rpartition(".")[0].rpartition("_")[2] for name in names]
    if wrong := [folder / name for name, end in zip(names, ends, strict=True) if not end.isdecimal()]:
        raise InputError(f"{min(wrong)} is not named image_<number>: is {folder} a folder of patches?")
    numbers, names = np.array(ends, dtype=np.int64), np.array([os.fsencode(name) for name in names])
    order = np.argsort(numbers)
    numbers, names = numbers[order], names[order]
    if len(twice := np.flatnonzero(numbers[1:] == numbers[:-1])):
        pair = " and ".join(os.fsdecode(names[twice[0] + i]) for i in range(2))
        raise InputError(f"{folder} holds {pair}: one image of each number is wanted")
    return numbers, names


def pretraining_folder(root: Path) -> Path:
    """Where a data set's images for pre-training are: `unlabelled`, or else `labelled`, or the folder itself."""
    return _first_folder(root, "unlabelled", "labelled")


def labelled_folder(root: Path) -> Path:
    """Where a data set's labelled patches for fine-tuning are: `labelled`, `train` (released layout), or itself."""
    return _first_folder(root, "labelled", "train")


def _first_folder(root: Path, *names: str) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root)


class PatchDataset(Dataset):
    """One split of one or several folders of patches as network input.

    Items are asked for by (epoch, i); what is random depends on these and the seed only, so the data of a step are
    the same whatever the number of workers or processes, and after a restart. An item is a dict: image (3, H, W) in
    `input_range`, label (H, W) where labelled, file (the image's), seed (for what is drawn later: step and noise).
    """

    def __init__(
        self,
        folders: list[Patches],
        split: str,
        input_range: tuple[float, float],
        seed: int,
        augmentation: v2.Transform | None = None,
    ):
        self.folders, self.input_range = folders, input_range
        self.seed, self.augmentation = seed, augmentation
        for folder in folders:
            if split == "train" and folder.data_set.protocol == RELEASED:
                print(f"{folder.folder} has no index.csv: split 90/10 by patch, so overlapping patches may be in both")
        selected = [folder.select(split) for folder in folders]
        self.numbers = np.concatenate(selected)
        self.ends = np.cumsum([len(s) for s in selected])  # of each folder's patches in `numbers`
        self._fingerprint: str | None = None
        sizes = {folder.data_set.patch_size for folder in folders}
        if len(sizes) > 1 or min(sizes) % SIDE_MULTIPLE:
            raise InputError(f"patches of {sorted(sizes)} pixels: one size is needed, a multiple of {SIDE_MULTIPLE}")
        self.size = sizes.pop()

    def __len__(self) -> int:
        return len(self.numbers)

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

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor | int | str]:
        epoch, i = key
        patches = self.folders[np.searchsorted(self.ends, i, side="right")]
        patch = int(self.numbers[i])
        file, seed = str(patches.file(patch)), derived_seed(self.seed, epoch, i)
        image = patches.image(patch)
        if image.shape[:2] != (self.size, self.size):
            raise InputError(f"{file} is {image.shape[1]}x{image.shape[0]} pixels, not {self.size}x{self.size}")
        item = {"image": tv_tensors.Image(torch.from_numpy(image.copy()).movedim(-1, 0))}
        if patches.labelled:
            item["label"] = tv_tensors.Mask(torch.from_numpy(patches.label(patch)).long())
        if self.augmentation is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                item = self.augmentation(item)
        item = {name: value.as_subclass(Tensor) for name, value in item.items()}
        item["image"] = to_input(item["image"].movedim(0, -1), self.input_range).contiguous()
        return {**item, "file": file, "seed": seed}


def derived_seed(*parts: int) -> int:
    """One seed out of several numbers, well mixed, in 0 .. 2^32 - 1."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class EpochBatches(Sampler):
    """Batches of (epoch, i) of one epoch: a new order each epoch, or (`shuffle=False`) all in order with epoch 0.

    In training every process takes its share of each joint batch and the last, incomplete batch is left out, so that
    all steps weigh the same (a data set smaller than one batch is one batch). In validation nothing is left out.
    `epoch` and `first` (the batch to start with) are set from outside: that is how a run continues in mid-epoch.
    """

    def __init__(self, length: int, batch_size: int, seed: int, devices: Devices, shuffle: bool):
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = devices.rank, devices.world_size
        self.batch_size = batch_size * self.world_size  # of all processes together
        self.epoch, self.first = 0, 0
        if shuffle and length < self.world_size:
            raise InputError(f"{length} training patches are too few for {self.world_size} processes: start fewer")
        if shuffle and length < self.batch_size:
            self.batch_size = length - length % self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.length // self.batch_size if self.shuffle else -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch if self.shuffle else 0
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng(derived_seed(self.seed, epoch)).permutation(self.length)
        for batch in range(self.first, len(self)):
            joint = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            if len(share := joint[self.rank :: self.world_size]):
                yield [(epoch, int(i)) for i in share]


def _leave_signals_to_the_main_process(_worker: int) -> None:
    """Ctrl-C and SLURM signal all processes of a job: the main one needs its workers to finish the step and save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def loader(dataset: Dataset, batches: EpochBatches, workers: int, devices: Devices) -> DataLoader:
    """A loader of `dataset` in the order of `batches`; its workers live as long as it does."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_main_process,
        pin_memory=devices.device.type == "cuda",
    )


@contextlib.contextmanager
def dead_workers_explained() -> Iterator[None]:
    """Make one clear line of a worker's sudden death, which the main process learns of wherever it is just then."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"a process that reads patches died ({str(error).splitlines()[0].rstrip('. ')}); where memory is short, "
            "use fewer: --workers N; the same command goes on from the last checkpoint"
        ) from None


def stop_workers(data_loader: DataLoader) -> None:
    """End the workers of a loader: Python would do it at exit, with the SIGTERM that they ignore, and wait forever."""
    iterator = data_loader._iterator
    if iterator is not None and data_loader.num_workers:
        iterator._shutdown_workers()
