"""Fixtures that several rooms share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from file_contents import DataSet
from utils_general import InputError, write_json

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = [
    *(None, True, -1, 0, 0.5, 1e300, 2**70, 10**400, "", "x", "a\nb", "../../x", "\ud800"),
    *([], [[]], {}, ["a", "a"], ["a", 1], [None], {"a": [1]}, float("nan"), float("inf")),
    *("9" * 5000, list(range(300)), 20, 2**15),
]
"""Values of all kinds but the one wanted."""
torch.set_num_threads(1)  # the suite runs in one process a core


@pytest.fixture(scope="session")
def golden():
    """Numbers that the paper's released code produced on fixed input."""
    return dict(np.load(Path(__file__).parent / "golden" / "released_code.npz"))


@pytest.fixture(scope="session")
def real_data():
    """The folder with the real MoNuSeg/ and GlaS/ downloads; tests that need it skip where there is none."""
    folder = os.environ.get("GENSELFDIFF_REAL_DATA")
    if not folder:
        pytest.skip("GENSELFDIFF_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def run_script_file():
    """Run one of the project's scripts by its path, as a user does, from a foreign folder."""

    def run(script, *arguments, check=True, **options):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, **options)
        if check and done.returncode:
            raise AssertionError(f"{script} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return run


def _write_patches(folder, sources, splits, size=16, per_source=4, labelled=True, seed=0):
    """A folder of patches as the preprocessing writes it: dark discs (class 1, one instance) on a pale ground."""
    rng = np.random.default_rng(seed)
    names = ["images", *(["labels", "instances"] if labelled else [])]
    for name in names:
        (folder / name).mkdir(parents=True)
    rows, across = [], int(per_source**0.5)
    ys, xs = np.mgrid[:size, :size]
    for source, split in zip(sources, splits, strict=True):
        for k in range(per_source):
            i = len(rows)
            y, x = rng.uniform(size * 0.3, size * 0.7, 2)
            disc = (ys - y) ** 2 + (xs - x) ** 2 < (size * 0.25) ** 2
            image = np.where(disc[..., None], [90, 60, 150], [230, 190, 220]) + rng.integers(-20, 20, (size, size, 3))
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"image_{i}.png")
            if labelled:
                Image.fromarray(disc.astype(np.uint8)).save(folder / "labels" / f"label_{i}.png")
                Image.fromarray((disc * (k + 1)).astype(np.uint16)).save(folder / "instances" / f"instance_{i}.png")
            rows.append((i, source, k % across * size, k // across * size, split))
    pd.DataFrame(rows, columns=["patch", "source", "x", "y", "split"]).to_csv(folder / "index.csv", index=False)
    sizes = [(source, across * size, -(-per_source // across) * size) for source in sources]
    pd.DataFrame(sizes, columns=["source", "width", "height"]).to_csv(folder / "sources.csv", index=False)


def read_or_refuse(read):
    """What `read` gives, or the one line in which it refuses; any other exception is the test's failure."""
    try:
        return read()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return None


def damaged(whole, rng):
    """Bytes with a few changed, taken out or put in, or with the end cut off: what disks and editors do."""
    content = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        place, kind = int(rng.integers(0, max(1, len(content)))), rng.integers(0, 8)
        if kind == 0:
            del content[place:]
        elif kind == 1:
            del content[place : place + int(rng.integers(1, 9))]
        elif kind == 2:
            content[place:place] = rng.bytes(int(rng.integers(1, 5)))
        else:
            content[place : place + 1] = rng.bytes(1)
    return bytes(content)


@pytest.fixture
def write_patches():
    """The function that writes a folder of patches."""
    return _write_patches


def write_tiny_data_set(root, seed=0, prefix=""):
    """A whole data set of 16-pixel patches at `root`: unlabelled (3 images), labelled (3), test (2)."""
    unlabelled, labelled = ([f"{prefix}{letter}{i}" for i in (1, 2, 3)] for letter in "ul")
    splits = ["train", "train", "val"]
    _write_patches(root / "unlabelled", unlabelled, splits, labelled=False, seed=seed)
    _write_patches(root / "labelled", labelled, splits, seed=seed + 1)
    _write_patches(root / "test", [f"{prefix}t1", f"{prefix}t2"], ["test", "test"], seed=seed + 2)
    data_set = DataSet("tiny", "paper", ["background", "nucleus"], "watershed", 16, 16, 2023)
    write_json(root / "dataset.json", data_set.__dict__)
    return root


@pytest.fixture
def tiny_data_set(tmp_path):
    """Root of a whole data set of 16-pixel patches, see `write_tiny_data_set`."""
    return write_tiny_data_set(tmp_path / "tiny")
