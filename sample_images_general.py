"""Real patches of all data sets together, to compare with the images of image_generation_general.py.

python3 ./sample_images_general.py
"""

from dataclasses import dataclass
from pathlib import Path

import sample_images
from utils_general import GENERATED, GLAS, HN, MONUSEG, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(sample_images.Settings):
    """Copy real patches, the first of a seeded permutation."""

    data: tuple[Path, ...] = (MONUSEG, GLAS, HN)
    output: Path = GENERATED / "general_real"


if __name__ == "__main__":
    run_script(sample_images.main, Settings)
