"""The loader beside the step of benchmarks/training.py: images a second that it gives when nothing waits for it."""

import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.loading import Case, Settings, in_new_process, make_data_set, measure
from benchmarks.training_step import failure
from utils_general import DataSet

PATCHES = 4320  # of MoNuSeg's 30 training images, as published
ENOUGH = 60.0  # seconds that have to be left for it


def loader_rates(data: Path, seconds: float, quick: bool, left: Callable[[], float], folder: Path) -> pd.DataFrame:
    """Images a second by the number of workers, of pre-training, from links to patches of `data` made under `folder`.

    Columns: workers, cache (whether from a decoded copy), size (pixels of a patch), images_per_second (NaN where it
    failed), failure. Without rows where `seconds` is 0, or not `ENOUGH` of them are `left()`.
    """
    columns = ["workers", "cache", "size", "images_per_second", "failure"]
    if not seconds or left() < ENOUGH:
        return pd.DataFrame(columns=columns)
    processors = os.cpu_count() or 1
    workers = [1] if quick else sorted({1, max(1, processors // 2), processors})
    settings = Settings(data=data, seconds=0.1 if quick else seconds)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        count = 40 if quick else PATCHES
        patches = make_data_set(Path(temporary) / "data", count, data)
        size = DataSet.read(patches.parent).patch_size
        for cache, number in itertools.product((False, True), workers):
            case = Case(stage="pretrain", recipe="paper", patches=count, cache=cache, workers=number)
            try:
                said = {"images_per_second": in_new_process(measure, patches, case, settings)["patches/s"]}
            except Exception as error:
                said = {"failure": failure(error)}
            rows.append({"workers": number, "cache": cache, "size": size, **said})
    return pd.DataFrame(rows, columns=columns)
