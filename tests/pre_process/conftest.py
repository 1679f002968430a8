"""Small source images and label maps on disk."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils_general import write_png


@pytest.fixture
def picture():
    """Write a random RGB image of (height, width) and return its pixels, uint8 (H, W, 3); other for every file name."""

    def write(path, height=24, width=32):
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(path.stem.encode(), "little") % 2**32
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return pixels

    return write


@pytest.fixture
def index_map():
    """Write an index map, uint8 or uint16 (H, W), as an image."""

    def write(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            write_png(path, array)
        else:
            Image.fromarray(array).save(path)

    return write


@pytest.fixture
def truncate():
    """Cut a file off in the middle, as a broken download does."""

    def cut(path):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    return cut


@pytest.fixture
def read_folder():
    """What a folder of patches holds: its index (a DataFrame), and the arrays of each kind by patch number."""

    def read(folder):
        index = pd.read_csv(folder / "index.csv", dtype={"source": str})
        stems = {"images": "image", "labels": "label", "instances": "instance"}
        arrays = {
            kind: [np.asarray(Image.open(folder / kind / f"{stem}_{i}.png")) for i in index.patch]
            for kind, stem in stems.items()
            if (folder / kind).is_dir()
        }
        for kind, found in arrays.items():
            assert len(list((folder / kind).iterdir())) == len(found)
        return index, arrays

    return read
