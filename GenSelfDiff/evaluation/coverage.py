"""How large the source images of patches are: what their patches do not cover is never tested."""

from pathlib import Path

import pandas as pd

from file_contents import read_table
from GenSelfDiff.patches import FARTHEST
from utils_general import InputError

SIZES, COLUMNS = "sources.csv", ["source", "width", "height"]


def source_areas(folder: Path) -> dict[str, int]:
    """Pixels of every source image of a folder of patches, by name, as the preprocessing wrote them beside them.

    Empty where it did not: in a folder as released, and in one that an earlier version made. `InputError` for a file
    that is something else.
    """
    path = folder / SIZES
    if not path.is_file():
        return {}
    sizes = read_table(path, text=("source",))
    if list(sizes.columns) != COLUMNS or not all(map(_are_sizes, (sizes.width, sizes.height))):
        raise InputError(
            f"{path} wants a row an image and the columns {', '.join(COLUMNS)}: pixels, whole numbers from 1"
        )
    return dict(zip(sizes.source, sizes.width * sizes.height, strict=True))


def _are_sizes(values: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(values) and values.between(1, FARTHEST).all()
