"""Folders of patches on disk: which patches there are, complete or refused, and reading them."""

import hashlib
import os
from array import array
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from file_contents import DataSet, check_name, read_table
from GenSelfDiff.released_layout import ReleasedLayout
from utils_general import SPLIT_SEED, InputError, read_index_map, read_rgb

INDEX_COLUMNS = ["patch", "source", "x", "y", "split"]
FARTHEST = 2**31  # x and y of a patch in its source image, pixels


class Layout(Protocol):
    """How a folder of patches lies on disk: what `Patches` asks of it. Made with `InputError` if incomplete."""

    described: bool
    """whether index.csv and dataset.json say what each patch is for and what the classes are called"""
    index: pd.DataFrame
    """a row a patch, with `INDEX_COLUMNS`: all there are"""
    data_set: DataSet
    """what dataset.json says, or would say"""
    has_instances: bool

    def file(self, patch: int) -> Path:
        """The image file of a patch."""

    def label_file(self, patch: int) -> Path:
        """The file that holds the label of a patch."""

    def image(self, patch: int) -> np.ndarray:
        """Image uint8 (H, W, 3)."""

    def label(self, patch: int) -> np.ndarray:
        """Class indices int32 (H, W)."""

    def instances(self, patch: int) -> np.ndarray | None:
        """Instance numbers of the source image, int32 (H, W), 0 background; None in a layout that has none."""


class Rows(Protocol):
    """One array a patch, by its number."""

    def __getitem__(self, patch: int) -> np.ndarray: ...


class IndexedLayout:
    """`images/image_<i>.png`, and where labelled `labels/` and `instances/`, with `index.csv`; a `Layout`.

    Every patch of the index has its files, and every file is in the index.
    """

    described = True

    def __init__(self, folder: Path, labelled: bool):
        self.folder = folder
        self.index = self._read_index()
        self._check_complete("images", "image")
        if labelled:
            self._check_complete("labels", "label")
        self.data_set = DataSet.read(folder.parent)
        self.has_instances = labelled and (folder / "instances").is_dir()
        if self.has_instances:
            self._check_complete("instances", "instance")

    def _read_index(self) -> pd.DataFrame:
        path = self.folder / "index.csv"
        index = read_table(path, text=("source", "split"))
        if list(index.columns) != INDEX_COLUMNS or not len(index):
            raise InputError(f"{path} wants a row a patch and the columns {', '.join(INDEX_COLUMNS)}")
        for name in ("patch", "x", "y"):
            highest = FARTHEST if name in "xy" else np.iinfo(np.int64).max
            if not pd.api.types.is_integer_dtype(index[name]) or not index[name].between(0, highest).all():
                raise InputError(f"{path} holds something else than whole numbers from 0 in its column {name}")
        if index.patch.duplicated().any():
            raise InputError(f"{path} names patch {index.patch[index.patch.duplicated()].iloc[0]} twice")
        text = {"source": "", "split": ""}  # an empty cell is a name that check_name refuses
        index = index.fillna(text).astype(dict.fromkeys(text, "category"))  # each name is kept once
        for name in text:  # the names of pictures and maps are made of them
            for value in index[name].cat.categories:
                check_name(value, f"{path}, column {name},")
        return index

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

    def file(self, patch: int) -> Path:
        """The image file of a patch."""
        return self.folder / "images" / f"image_{patch}.png"

    def label_file(self, patch: int) -> Path:
        """The label file of a patch."""
        return self.folder / "labels" / f"label_{patch}.png"

    def image(self, patch: int) -> np.ndarray:
        """Image uint8 (H, W, 3)."""
        return read_rgb(self.file(patch))

    def label(self, patch: int) -> np.ndarray:
        """Class indices int32 (H, W)."""
        return read_index_map(self.label_file(patch))

    def instances(self, patch: int) -> np.ndarray:
        """Instance numbers of the source image, int32 (H, W), 0 background."""
        return read_index_map(self.folder / "instances" / f"instance_{patch}.png")


class Patches:
    """One folder of patches, in either of two layouts: with an `index.csv` beside them, or as the released code's.

    `index` has a row a patch: patch (its number), source (name of the source image), x, y (pixels), split. `described`
    says whether that and the names of the classes come from the folder; as released, it has none of them. Nothing else
    is kept of each patch, no path and no Python object, so that 300,000 of them cost a process and its workers no more
    than 10 MB. Raises `InputError` where the folder is incomplete.
    """

    def __init__(self, folder: Path, labelled: bool = False):
        self.folder = Path(folder)
        self.labelled = labelled
        if not self.folder.is_dir():
            raise InputError(
                f"folder {self.folder} does not exist: run the data set's preprocess.py, or name those you have, --data"
            )
        kind = IndexedLayout if (self.folder / "index.csv").is_file() else ReleasedLayout
        self.layout: Layout = kind(self.folder, labelled)
        self.index, self.data_set = self.layout.index, self.layout.data_set
        self.described, self.has_instances = self.layout.described, self.layout.has_instances
        self.decoded: dict[str, Rows] = {}  # "image" and "label", where a decoded copy is read instead of their files
        self.labels_hash = ""  # of the pixels of all labels, once they have been looked at

    def __len__(self) -> int:
        return len(self.index)

    def select(self, split: str) -> np.ndarray:
        """The numbers of the patches of a split."""
        return self.index.patch[self.index.split == split].to_numpy()

    def file(self, patch: int) -> Path:
        """The image file of a patch."""
        return self.layout.file(patch)

    @property
    def files(self) -> dict[int, Path]:
        """The image files of all patches by number, in its order: made anew each time, for what reads them all."""
        return {int(patch): self.file(patch) for patch in sorted(self.index.patch)}

    def image(self, patch: int) -> np.ndarray:
        """Image uint8 (H, W, 3)."""
        return self.decoded["image"][patch] if "image" in self.decoded else self.layout.image(patch)

    def label(self, patch: int) -> np.ndarray:
        """Class indices int32 (H, W)."""
        return self.decoded["label"][patch].astype(np.int32) if "label" in self.decoded else self.layout.label(patch)

    def instances(self, patch: int) -> np.ndarray | None:
        """Instance numbers of the source image, int32 (H, W), 0 background; None where the data set has none."""
        return self.layout.instances(patch) if self.has_instances else None

    def keep_sources(self, number: int, seed: int = SPLIT_SEED) -> list[str]:
        """Keep the training patches of only so many source images, for few labels; returns their names, as drawn.

        Draws of one seed are nested: the images of a smaller number are among those of a larger.
        """
        sources = np.array(sorted(self.index.source[self.index.split == "train"].unique()))
        if not 1 <= number <= len(sources):
            raise InputError(f"{number} labelled images were asked for; {self.folder} has {len(sources)} to train on")
        kept = sources[np.random.RandomState(seed).permutation(len(sources))[:number]]
        self.index = self.index[(self.index.split != "train") | self.index.source.isin(kept)]
        return kept.tolist()

    def check_labels(self, classes: int) -> None:
        """Read every label once: `InputError` names the first with another size or a class too many.

        Leaves `labels_hash`, by which a run that goes on knows labels that were corrected.
        """
        size, digest = self.data_set.patch_size, hashlib.sha256()
        for patch in self.index.patch:
            label = self.label(patch)
            name = f"label of patch {patch} in {self.folder}"
            if label.shape != (size, size):
                raise InputError(f"{name} is {label.shape[1]}x{label.shape[0]} pixels; its image is {size}x{size}")
            if label.max() >= classes or label.min() < 0:
                wrong = label.max() if label.max() >= classes else label.min()
                raise InputError(f"{name} holds class {wrong}; with {classes} classes, 0 to {classes - 1} are allowed")
            digest.update(label.astype(np.uint8).tobytes())
        self.labels_hash = digest.hexdigest()


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
