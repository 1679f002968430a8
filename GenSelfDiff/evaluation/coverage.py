"""How large the source images of patches are: what their patches do not cover is never tested."""

from pathlib import Path

import pandas as pd

from file_contents import read_table
from utils_general import InputError

LARGEST_SIDE = 10**6  # pixels
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
    whole = list(sizes.columns) == COLUMNS and all(map(pd.api.types.is_integer_dtype, sizes.dtypes[1:]))
    if not whole or not sizes[COLUMNS[1:]].apply(lambda side: side.between(1, LARGEST_SIDE)).all(axis=None):
        raise InputError(
            f"{path} wants a row an image and the columns {', '.join(COLUMNS)}: sizes from 1 to {LARGEST_SIDE} pixels"
        )
    return dict(zip(sizes.source, sizes.width * sizes.height, strict=True))
