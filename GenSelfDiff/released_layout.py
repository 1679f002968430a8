"""Folders of patches as the released code wrote them: `image_<i>.jpg`, and the labels in `label_patches.mat`."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from file_contents import DataSet, check_name
from GenSelfDiff.isolated import isolated
from utils_general import MOST_CLASSES, SPLIT_SEED, InputError, image_names, read_rgb, whole_numbers

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
        for source in sources:
            check_name(source, str(self.folder))
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
        matrix = _read_data(path)
        if matrix.shape != (number, *shape) or (self.numbers != np.arange(number)).any():
            raise InputError(
                f"{path} holds labels {matrix.shape}, the folder {number} patches of {shape}; "
                "as many are wanted, numbered from 0"
            )
        return matrix


def _read_data(path: Path) -> np.ndarray:
    """The array `data` of a MATLAB file: class indices uint8. SciPy's reader crashes on some damaged files."""
    import scipy.io  # a quarter of a second, which no other layout needs

    try:
        content = isolated(partial(scipy.io.loadmat, variable_names=["data"]), path, what=str(path))
        data = content["data"]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails anywhere in SciPy, in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read as a MATLAB file with an array 'data': {reason[:200]}") from None
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "buif":
        raise InputError(f"{path} holds no array of class indices in 'data'")
    wrong = [edge for edge in (data.min(), data.max()) if not 0 <= edge < MOST_CLASSES] if data.size else []
    if wrong:
        raise InputError(f"{path} holds class {wrong[0]}; 0 to {MOST_CLASSES - 1} are allowed")
    return whole_numbers(data, str(path)).astype(np.uint8)


def _numbered_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The i of all images `image_<i>` in a folder, rising, and their names as bytes, both (N,)."""
    names = image_names(folder)
    ends = [name.rpartition(".")[0].rpartition("_")[2] for name in names]
    numbered = [end.isdecimal() and len(end) < 19 for end in ends]  # and fits 64 bit
    if wrong := [folder / name for name, good in zip(names, numbered, strict=True) if not good]:
        raise InputError(f"{min(wrong)} is not named image_<number>: is {folder} a folder of patches?")
    numbers, names = np.array(ends, dtype=np.int64), np.array([os.fsencode(name) for name in names])
    order = np.argsort(numbers)
    numbers, names = numbers[order], names[order]
    if len(twice := np.flatnonzero(numbers[1:] == numbers[:-1])):
        pair = " and ".join(os.fsdecode(names[twice[0] + i]) for i in range(2))
        raise InputError(f"{folder} holds {pair}: one image of each number is wanted")
    return numbers, names
