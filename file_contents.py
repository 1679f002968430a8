"""What files hold, looked at once, where they are read: tables, names, numbers, and dataset.json."""

import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils_general import MOST_CLASSES, SIDE_MULTIPLE, InputError, read_json


def read_table(path: Path, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a csv file; the columns `text` hold names, also "NA", "null" and "007". `InputError` where it is broken.

    An empty cell is NaN, and no other.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than the header
            return pd.read_csv(
                path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""], index_col=False
            )
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read as a table: {reason[:160]}") from None


class Wanted(NamedTuple):
    """What a value in a file has to be: in words for a message, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def whole(lowest: int, highest: int = 2**53) -> Wanted:
    """A whole number, not a truth value."""
    return Wanted(
        f"a whole number from {lowest} to {highest}", lambda value: type(value) is int and lowest <= value <= highest
    )


def number(lowest: float, highest: float) -> Wanted:
    """A finite number."""
    return Wanted(
        f"a number from {lowest:g} to {highest:g}",
        lambda value: type(value) in (int, float) and lowest <= value <= highest,
    )


def one_of(*values: str) -> Wanted:
    """One of some words."""
    return Wanted(f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


def optional(wanted: Wanted) -> Wanted:
    """The same, or None."""
    return Wanted(f"{wanted.words}, or null", lambda value: value is None or wanted.holds(value))


def _is_one_line(value: Any) -> bool:
    """Whether it is text without control characters, ends of lines and halves of characters (no UTF-8)."""
    return isinstance(value, str) and not {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, value))


TEXT = Wanted("a text of one line", _is_one_line)


def _are_class_names(value: Any) -> bool:
    names = value if isinstance(value, list | tuple) else [None]
    return len(names) <= MOST_CLASSES and all(TEXT.holds(n) and n for n in names) and len(set(names)) == len(names)


CLASS_NAMES = Wanted(f"at most {MOST_CLASSES} class names, each once", _are_class_names)
PATCH_SIDE = Wanted(
    f"a multiple of {SIDE_MULTIPLE} up to 65536",
    lambda value: whole(1, 2**16).holds(value) and not value % SIDE_MULTIPLE,
)
RESOLUTION = optional(number(1e-3, 1e6))


def check_fields(content: dict[str, Any], wanted: dict[str, Wanted], where: str) -> None:
    """`InputError` for the first value that is there and not as wanted; `where` names the file."""
    for name, rule in wanted.items():
        if name in content and not rule.holds(content[name]):
            raise InputError(f"{where} holds {name} = {shown(content[name])}; wanted: {rule.words}")


def shown(value: Any) -> str:
    """A value for a message: its beginning, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number too long or a list too deep to be written
        text = f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def check_name(name: Any, where: str) -> None:
    """`InputError` unless `name` can be a part of a file's name on its own, so that no path is made of it."""
    usable = _is_one_line(name) and name not in ("", ".", "..") and not set(name) & set("/\\")
    if not usable or len(name.encode()) > 200:
        raise InputError(
            f"{where} names an image {shown(name)}: "
            "a name without /, \\ and control characters, in UTF-8 and of at most 200 bytes, is wanted"
        )


DATA_SET_FIELDS = {
    "name": TEXT,
    "protocol": TEXT,
    "classes": CLASS_NAMES,
    "instances": one_of("watershed", "components"),
    "patch_size": PATCH_SIDE,
    "stride": whole(0),
    "seed": whole(0),
    "mpp": RESOLUTION,
    "downscale": number(1, 1e3),
}


@dataclass(frozen=True)
class DataSet:
    """What `dataset.json` in a folder of patches says about them."""

    name: str
    protocol: str
    """how the source images were divided, e.g. "paper" or "official" """
    classes: list[str]
    """names by class index, the background first; empty where nothing is labelled"""
    instances: str
    """how a class map becomes instances: "watershed" for touching round objects, "components" otherwise"""
    patch_size: int
    """pixels"""
    stride: int
    """pixels between the corners of neighbouring patches"""
    seed: int
    """of the split"""
    mpp: float | None = None
    """micrometres a pixel; None where unknown, and in what was written before this was asked for"""
    downscale: float = 1.0
    """how many times smaller the patches are than the images they are of, in each direction"""

    @property
    def described(self) -> str:
        """In a few words, as a checkpoint of pre-training has it under "data_sets"."""
        return f"{self.name} ({self.protocol})"

    @classmethod
    def read(cls, root: Path) -> "DataSet":
        """Read `root/dataset.json`; `InputError` for what preprocess.py would not write."""
        if not (root / "dataset.json").is_file():
            raise InputError(f"{root} holds no dataset.json: run the data set's preprocess.py first, or mend the path")
        path = root / "dataset.json"
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError(f"{path} is not what preprocess.py writes: it holds a {type(content).__name__}")
        try:
            data_set = cls(**content)
        except TypeError as error:
            raise InputError(f"{path} is not what preprocess.py writes: {error}") from None
        check_fields(content, DATA_SET_FIELDS, str(path))
        return data_set
