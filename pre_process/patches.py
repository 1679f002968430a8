"""From source images to folders of patches: what the data sets share.

A data set's script finds its source images, says how their labels are read and which image goes where; from here on
all data sets are treated alike. Splits are made by source image, so that no two folders and no two splits ever hold
pixels of the same image, and labels are written losslessly.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.draw import polygon
from tqdm import tqdm

from file_contents import CLASS_NAMES, DATA_SET_FIELDS, DataSet, check_fields, check_name
from output_folder import input_paths, replace_folder
from pre_process.resolution import Maps, reduce, reduced_shape, write_native
from utils_general import (
    SIDE_MULTIPLE,
    SPLIT_SEED,
    InputError,
    at_least,
    natural_order,
    read_index_map,
    read_rgb,
    write_json,
    write_png,
)

Labels = tuple[np.ndarray, np.ndarray | None]
"""class indices (H, W), and instance numbers (H, W), 0 for the background, or None where instances are unknown"""

LARGEST_INSTANCE = np.iinfo(np.uint16).max


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """What the preprocessing of every data set asks for."""

    output: Path
    """folder for the patches"""
    patch_size: int = 256
    """height and width of a patch in pixels, a multiple of 8"""
    stride: int = 64
    """pixels from one patch to the next"""
    test_stride: int | None = None
    """the same of the patches in test/, all of which of one image a test holds in memory; as `stride` if not given"""
    border_windows: bool | None = None
    """add patches flush with the right and bottom border where the windows would leave a rest of the image unused; if
    not given, with the protocol official, whose figures are of whole images, and not with the paper's"""
    mpp: float | None = None
    """micrometres a pixel of the images, where known: segment.py brings other images to this resolution"""
    downscale: float = 1.0
    """work on images so many times smaller, by area averaging; tests still measure at their own size"""
    working_mpp: float | None = None
    """the same, as micrometres a pixel of the smaller images; needs mpp"""
    validation_images: int | None = None
    """how many images outside test/ are held out for validation; a tenth if not given"""
    overwrite: bool = False
    """replace the patches of an earlier run"""

    def check(self) -> None:
        """Raise `InputError` for a size or stride that cannot work."""
        if self.patch_size < SIDE_MULTIPLE or self.patch_size % SIDE_MULTIPLE:
            raise InputError(f"--patch-size {self.patch_size}: the network wants a multiple of {SIDE_MULTIPLE}")
        for name, stride in (("--stride", self.stride), ("--test-stride", self.test_stride)):
            if stride is not None and stride < 1:
                raise InputError(f"{name} {stride}: at least 1 pixel is wanted")
        at_least(self, mpp=1e-3, downscale=1, working_mpp=1e-3, validation_images=0)
        if self.working_mpp is not None and (self.mpp is None or self.downscale != 1):
            raise InputError("--working-mpp wants the images' --mpp, and no --downscale beside it")
        if self.factor < 1:
            raise InputError(f"--working-mpp {self.working_mpp:g} is finer than the images' --mpp {self.mpp:g}")

    @property
    def factor(self) -> float:
        """How many times smaller the images are made, in each direction."""
        return self.downscale if self.working_mpp is None else self.working_mpp / self.mpp

    def of(self, folder: str) -> "PatchSettings":
        """The settings that the patches of one of the data set's folders are cut with."""
        return replace(self, stride=self.test_stride) if folder == "test" and self.test_stride else self


@dataclass(frozen=True)
class SourceImage:
    """One image to be cut, and where its labels come from; nothing is decoded before `read` is called."""

    file: Path
    label_file: Path | None = None
    read_labels: Callable[[tuple[int, int]], Labels] | None = None
    """called with the image's (height, width)"""
    test_split: str = "test"
    """what index.csv says of its patches if the image goes to test/"""

    @property
    def name(self) -> str:
        """The file's name without its extension."""
        return self.file.stem

    def read(self, settings: PatchSettings, classes: Sequence[str], told: list[str] | None = None) -> Maps:
        """The whole image with its labels.

        `told` is given what is to be said of how the image is read. Raises `InputError` for an image smaller than a
        patch, labels of another size, a class that has no name, and instance numbers that do not fit 16 bit.
        """
        image = read_rgb(self.file, told)
        height, width = image.shape[:2]
        if min(reduced_shape((height, width), settings.factor)) < settings.patch_size:
            size = f"{settings.patch_size}x{settings.patch_size}"
            reduced = f" reduced {settings.factor:g} times" if settings.factor > 1 else ""
            raise InputError(
                f"{self.file} is {width}x{height} pixels{reduced}, smaller than a patch of {size}: "
                "remove it or choose a smaller --patch-size"
            )
        if self.read_labels is None:
            return Maps(image)
        class_map, instance_map = self.read_labels((height, width))
        if class_map.shape != (height, width):
            found = f"{class_map.shape[1]}x{class_map.shape[0]}"
            raise InputError(f"{self.label_file} is {found} pixels, but its image {self.file} is {width}x{height}")
        class_map = self._checked(class_map, "class", len(classes) - 1, f"indices of {', '.join(classes)}")
        if instance_map is not None:
            why = "more do not fit a 16-bit PNG: number them from 1"
            instance_map = self._checked(instance_map, "instance", LARGEST_INSTANCE, why).astype(np.uint16)
        return Maps(image, class_map.astype(np.uint8), instance_map)

    def _checked(self, array: np.ndarray, kind: str, highest: int, why: str) -> np.ndarray:
        wrong = array.max() if array.max() > highest else array.min()
        if not 0 <= wrong <= highest:
            raise InputError(f"{self.label_file} holds {kind} {wrong}; 0 to {highest} are allowed ({why})")
        return array


def by_name(files: Collection[Path], suffix: str = "") -> dict[str, Path]:
    """Files by their name without extension, and without `suffix` at its end; two of one name are an `InputError`."""
    named: dict[str, Path] = {}
    for file in files:
        name = file.stem.removesuffix(suffix)
        if name in named:
            raise InputError(f"{named[name]} and {file.name} have the same name: rename or remove one")
        named[name] = file
    return named


def check_pairs(
    images: dict[str, Path], labels: dict[str, Path], labelled: Collection[str], image_folder: Path, looked_for: str
) -> None:
    """Raise `InputError` for a label without its image, or an image named in `labelled` without its label.

    `looked_for` says in the message what the label of such an image would have been.
    """
    if alone := [name for name in labels if name not in images]:
        raise InputError(
            f"{labels[alone[0]]} labels {alone[0]}, but {image_folder} holds no image of that name "
            f"({len(alone)} of {len(labels)} labels have no image): add the images or remove the labels"
        )
    if missing := [name for name in labelled if name not in labels]:
        raise InputError(
            f"{images[missing[0]]} has no label: looked for {looked_for} "
            f"({len(missing)} of {len(labelled)} images have none): add the labels or remove the images"
        )


def split_by_image(items: Sequence, fraction: float) -> tuple[list, list]:
    """Divide `items` (one an image) into the first `fraction` of a seeded permutation and the rest, both in order."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(items))
    first = order[: int(round(fraction * len(items), 6))]  # 0.7 * 10 is 6.999..., and 7 is meant
    rest = order[len(first) :]
    return [items[i] for i in sorted(first)], [items[i] for i in sorted(rest)]


def read_instance_labels(file: Path, shape: tuple[int, int]) -> Labels:
    """Labels from an image of instance numbers: class 1 wherever there is a number. Any `shape` is read as it is."""
    numbers = read_index_map(file)
    return (numbers > 0).astype(np.uint8), numbers


def polygon_pixels(vertices: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels whose centre lies in a polygon or on its edge.

    `vertices` (N, 2) are x, y with (0, 0) at the top left corner of the image, so the centre of the first pixel is
    (0.5, 0.5). What lies outside `shape` (H, W) is left out; fewer than three vertices cover nothing.
    """
    if len(vertices) < 3:
        return np.empty(0, int), np.empty(0, int)
    return polygon(vertices[:, 1] - 0.5, vertices[:, 0] - 0.5, shape)


def window_positions(shape: tuple[int, int], settings: PatchSettings) -> list[tuple[int, int]]:
    """Left and top (x, y) of every patch in an image of `shape` (H, W), row by row from the top left.

    Windows that would cross the border are dropped, as in the paper; with `border_windows` one more column and row
    flush with the border takes their place.
    """

    def starts(length: int) -> list[int]:
        positions = list(range(0, length - settings.patch_size + 1, settings.stride))
        if settings.border_windows and positions[-1] + settings.patch_size < length:
            positions.append(length - settings.patch_size)
        return positions

    height, width = shape
    return [(x, y) for y in starts(height) for x in starts(width)]


def write_data_set(
    settings: PatchSettings, protocol: str, classes: list[str], instances: str, folders: dict[str, list[SourceImage]]
) -> int:
    """Cut the source images of each folder ("unlabelled", "labelled", "test") and write the data set's root folder.

    Every image and label is read and checked before the first patch is written. `protocol`, `classes` and `instances`
    go to dataset.json (see `DataSet`). Prints a summary; returns the number of instances in all images together.
    """
    settings.check()
    check_fields({"class names": classes}, {"class names": CLASS_NAMES}, "the data set")
    if settings.border_windows is None:
        settings = replace(settings, border_windows=protocol == "official")
    folders = {
        name: sorted(sources, key=lambda s: natural_order(s.file)) for name, sources in folders.items() if sources
    }
    name = settings.output.resolve().name
    data_set = DataSet(
        name, protocol, classes, instances, settings.patch_size, settings.stride, SPLIT_SEED,
        settings.mpp and settings.mpp * settings.factor, settings.factor,
    )  # fmt: skip
    check_fields(asdict(data_set), DATA_SET_FIELDS, f"{settings.output / 'dataset.json'}, as these settings make it,")
    with replace_folder(settings.output, "dataset.json", settings.overwrite, input_paths(settings)) as root:
        summary = _check(settings, classes, folders)
        with tqdm(total=int(summary.patches.sum()), desc="cutting", unit="patch", disable=None) as bar:
            for folder, sources in folders.items():
                splits = _splits(folder, sources, settings)
                _write_folder(root / folder, settings.of(folder), classes, sources, splits, bar)
        write_json(root / "dataset.json", asdict(data_set))
    table = summary.groupby(["folder", "split"], sort=False).sum(min_count=1).reset_index()
    table["instances"] = ["-" if pd.isna(n) else n for n in table.instances]
    print(table.to_string(index=False))
    return int(summary.instances.sum())


def _splits(folder: str, sources: list[SourceImage], settings: PatchSettings) -> list[str]:
    """The split of each source image: outside test/, some are held out; if not said otherwise a tenth, rounded up."""
    if folder == "test":
        return [source.test_split for source in sources]
    share = 0.9
    if settings.validation_images is not None:
        if settings.validation_images >= len(sources):
            raise InputError(
                f"--validation-images {settings.validation_images}: there are {len(sources)} images in {folder}, "
                "and at least one has to be left to train on"
            )
        share = 1 - settings.validation_images / len(sources)
    train = range(len(sources)) if len(sources) == 1 else split_by_image(range(len(sources)), share)[0]
    return ["train" if i in train else "val" for i in range(len(sources))]


def _check(settings: PatchSettings, classes: list[str], folders: dict[str, list[SourceImage]]) -> pd.DataFrame:
    """Read everything once. A row a source image: folder, split, images (1), patches, instances (NA if unknown)."""
    names = [source.name for sources in folders.values() for source in sources]
    # On other machines files of their names would be one where case or the form of accents does not count.
    folded, number = Counter(map(_folded, names)).most_common(1)[0]
    if number > 1:
        alike = sorted({name for name in names if _folded(name) == folded})
        raise InputError(f"{number} images are named {' and '.join(alike)}: names tell images apart, rename them")
    rows, remarks = [], defaultdict(list)
    with tqdm(total=sum(map(len, folders.values())), desc="checking", unit="image", disable=None) as bar:
        for folder, sources in folders.items():
            for source, split in zip(sources, _splits(folder, sources, settings), strict=True):
                check_name(source.name, str(source.file.parent))
                native = source.read(settings, classes, told := [])
                for remark in told:
                    remarks[remark].append(source.file)
                shape = reduced_shape(native.image.shape[:2], settings.factor)
                patches = len(window_positions(shape, settings.of(folder)))
                instances = pd.NA if native.instances is None else np.count_nonzero(np.unique(native.instances))
                rows.append((folder, split, 1, patches, instances))
                bar.update()
    for remark, files in remarks.items():
        print(f"note: {files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {remark}")
    table = pd.DataFrame(rows, columns=["folder", "split", "images", "patches", "instances"])
    return table.astype({"instances": "Int64"})


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _write_folder(
    folder: Path, settings: PatchSettings, classes: list[str], sources: list[SourceImage], splits: list[str], bar: tqdm
) -> None:
    """Write the patches of `sources`, numbered from 0, their index.csv, and the sizes of their images, sources.csv.

    Those are the images' own sizes, also where the patches are of smaller ones: labelled images are kept whole then.
    """
    rows, sizes = [], []
    for source, split in zip(sources, splits, strict=True):
        native = source.read(settings, classes)
        sizes.append((source.name, *native.image.shape[1::-1]))
        seen = reduce(native, settings.factor)
        if seen is not native and native.classes is not None:
            write_native(folder, source.name, native)
        maps = {"images/image": seen.image, "labels/label": seen.classes, "instances/instance": seen.instances}
        for x, y in window_positions(seen.image.shape[:2], settings):
            for stem, array in maps.items():
                if array is not None:
                    patch = array[y : y + settings.patch_size, x : x + settings.patch_size]
                    write_png(folder / f"{stem}_{len(rows)}.png", patch)
            rows.append((len(rows), source.name, x, y, split))
            bar.update()
    pd.DataFrame(rows, columns=["patch", "source", "x", "y", "split"]).to_csv(folder / "index.csv", index=False)
    pd.DataFrame(sizes, columns=["source", "width", "height"]).to_csv(folder / "sources.csv", index=False)
