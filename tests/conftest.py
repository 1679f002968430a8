"""Fixtures that several rooms share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
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
