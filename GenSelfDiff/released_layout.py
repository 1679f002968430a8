"""Folders of patches as the released code wrote them: `image_<i>.jpg`, and the labels in `label_patches.mat`."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from utils_general import SPLIT_SEED, DataSet, InputError, image_names, read_rgb

LABELS = "label_patches.mat"


class ReleasedLayout:
    """Images `image_<i>` in the folder or in its `images/`, labels in the array `data` (N, H, W) of one MATLAB file.

    Nothing says which patch is for what, and no class has a name: a patch number comes from its file's name, each patch
    is its own source, the split is 90/10 by patch as released. A `Layout`.
    """

    described = False
    has_instances = False

    def __init__(self, folder: Path, labelled: bool):
        self.folder = folder
        self.numbers, self.names = _numbered_images(self._image_folder())
        self.index = self._make_index()
        shape = self.image(self.numbers[0]).shape[:2]
        self.matrix = self._read_matrix(shape) if labelled else None
        classes: list[str] = []
        if self.matrix is not None:
            classes = ["background", *(f"class {c}" for c in range(1, int(self.matrix.max()) + 1))]
        self.data_set = DataSet(folder.name, "released", classes, "components", shape[0], 0, SPLIT_SEED)

    def _make_index(self) -> pd.DataFrame:
        number = len(self.numbers)
        splits = np.full(number, "val", dtype=object)
        splits[np.random.RandomState(SPLIT_SEED).permutation(number)[: int(0.9 * number)]] = "train"
        sources = [Path(os.fsdecode(name)).stem for name in self.names]
        index = pd.DataFrame({"patch": self.numbers, "source": sources, "x": 0, "y": 0, "split": splits})
        return index.astype({"split": "category"})

    def file(self, patch: int) -> Path:
        """The image file of a patch."""
        return self._image_folder() / os.fsdecode(self.names[np.searchsorted(self.numbers, patch)])

    def label_file(self, _patch: int) -> Path:
        """The file that holds the label of a patch, and those of all others."""
        return self.folder / LABELS

    def image(self, patch: int) -> np.ndarray:
        """Image uint8 (H, W, 3)."""
        return read_rgb(self.file(patch))

    def label(self, patch: int) -> np.ndarray:
        """Class indices int32 (H, W)."""
        return self.matrix[patch].astype(np.int32)

    def instances(self, _patch: int) -> None:
        """The layout has none."""

    def _image_folder(self) -> Path:
        images = self.folder / "images"
        return images if images.is_dir() else self.folder

    def _read_matrix(self, shape: tuple[int, int]) -> np.ndarray:
        path, number = self.folder / LABELS, len(self.numbers)
        if not path.is_file():
            raise InputError(f"{self.folder} has neither index.csv nor {LABELS}: its patches have no labels")
        try:
            matrix = scipy.io.loadmat(path)["data"]
        except (ValueError, KeyError, NotImplementedError, OSError) as error:
            raise InputError(f"{path} cannot be read as a MATLAB file with an array 'data': {error}") from None
        if matrix.shape != (number, *shape) or (self.numbers != np.arange(number)).any():
            raise InputError(f"{path} holds labels {matrix.shape}, the folder {number} patches of {shape}")
        return matrix


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
