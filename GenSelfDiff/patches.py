"""Folders of patches on disk: which patches there are, complete or refused, and reading them."""

import os
from array import array
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from utils_general import SPLIT_SEED, DataSet, InputError, image_names, read_index_map, read_rgb

RELEASED = "released"  # the protocol of folders in the released code's layout
INDEX_COLUMNS = ["patch", "source", "x", "y", "split"]


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
            self.index = pd.read_csv(path, dtype={"source": str, "split": str})
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        if list(self.index.columns) != INDEX_COLUMNS or not len(self.index):
            raise InputError(f"{path} wants a row a patch and the columns {', '.join(INDEX_COLUMNS)}")
        self.index = self.index.astype({"source": "category", "split": "category"})  # each name is kept once
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
        if extra := sorted(
            [*others, *(f"{stem}_{patch}.png" for patch in np.setdiff1d(found, wanted, assume_unique=True))]
        ):
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
