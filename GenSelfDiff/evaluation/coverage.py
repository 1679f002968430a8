"""How large the source images of patches are: what their patches do not cover is never tested."""

from pathlib import Path

import pandas as pd

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
    try:
        sizes = pd.read_csv(path, dtype={"source": str, "width": int, "height": int}, keep_default_na=False)
        if list(sizes.columns) != COLUMNS or (sizes[["width", "height"]] < 1).any(axis=None):
            raise ValueError("sizes of 1 pixel and more are wanted")
    except (ValueError, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0]
        raise InputError(f"{path} wants a row an image and the columns {', '.join(COLUMNS)}: {detail}") from None
    return dict(zip(sizes.source, sizes.width * sizes.height, strict=True))
