"""Synthetic H&E images from the general network, pre-trained on all data sets together (HE_diff_general.py).

python3 ./image_generation_general.py
"""

from dataclasses import dataclass
from pathlib import Path

import image_generation
from utils_general import GENERATED, GLAS, HN, MONUSEG, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(image_generation.Settings):
    """Generate images: by ancestral sampling, all T steps, or in fewer steps."""

    pretrained: str = "general_pretrain"
    data: tuple[Path, ...] = (MONUSEG, GLAS, HN)
    output: Path = GENERATED / "general_generated"


if __name__ == "__main__":
    run_script(image_generation.main, Settings)
