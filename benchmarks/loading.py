"""What a data set of any size costs to open, and how fast its patches reach a training step.

    python3 benchmarks/loading.py

Each row is a training process of its own. Patches are links to a few files, so that 301,490 of them need no room. They
come from the disk's cache: on a slow or shared disk reading comes on top.

The last column is for a step at H200 speed. One image of pre-training at the paper's size is 455e9 operations, forward
and backward. An H200 multiplies bfloat16 at 989e12 operations a second at most. A U-Net that reaches 30 % of that takes
0.30 x 989e12 / 455e9 = 652 images a second; so many workers a GPU are then to be asked for with `--workers`.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from skimage.data import immunohistochemistry
from tqdm import tqdm

from benchmarks.tables import machine, markdown
from GenSelfDiff.augmentation import finetuning_augmentation, flips
from GenSelfDiff.data import EpochBatches, PatchDataset, Patches, labelled_folder, loader, stop_workers
from GenSelfDiff.devices import set_up_alone
from utils_general import (
    MONUSEG,
    ROOT,
    SPLIT_SEED,
    DataSet,
    at_least,
    replace_folder,
    run_script,
    write_json,
    write_png,
)

H200_IMAGES_PER_SECOND = 0.30 * 989e12 / 455e9
LINKED = 144  # different files among the patches
AUGMENTATIONS = {"pretrain": flips, "finetune": finetuning_augmentation}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure start-up, memory and speed of loading, for several sizes of the data set."""

    data: Path = MONUSEG
    """root of the data set whose labelled patches are used; a picture of scikit-image where there is none"""
    counts: tuple[int, ...] = (30_149, 301_490)
    """patches in the data set; the paper has 30,149"""
    workers: tuple[int, ...] = (0, 1, 2)
    """processes that read"""
    batch_size: int = 8
    """patches a step"""
    seconds: float = 5.0
    """for so long patches are counted"""
    images_per_second: float = H200_IMAGES_PER_SECOND
    """what a training step takes"""
    output: Path = ROOT / "benchmarks" / "results" / "loading"
    """folder for loading.csv and loading.md"""
    overwrite: bool = False
    """replace an existing output folder"""


def originals(data: Path, folder: Path) -> tuple[list[tuple[Path, Path]], int]:
    """Some patches of `data` and their labels, copied to `folder`, and their side in pixels."""
    folder.mkdir()
    if labelled_folder(data).is_dir():
        patches = Patches(labelled_folder(data), labelled=True)
        pairs = [(patches.image(i), patches.label(i)) for i in patches.index.patch[:LINKED]]
    else:
        whole = immunohistochemistry()
        corners = [(y, x) for y in range(0, 257, 64) for x in range(0, 257, 64)]
        images = [whole[y : y + 256, x : x + 256] for y, x in corners]
        pairs = [(image, image[..., 0] < 128) for image in images]
    files = [(folder / f"image_{i}.png", folder / f"label_{i}.png") for i in range(len(pairs))]
    for paths, arrays in zip(files, pairs, strict=True):
        for path, array in zip(paths, arrays, strict=True):
            write_png(path, array.astype(np.uint8))
    return files, pairs[0][0].shape[0]


def make_data_set(root: Path, count: int, data: Path) -> Path:
    """A labelled folder of `count` patches under `root`, all links to few files; every tenth image is held out."""
    folder = root / "labelled"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    files, size = originals(data, root / "originals")
    for i in tqdm(range(count), f"{count} patches", unit_scale=True, leave=False, disable=None):
        image, label = files[i % len(files)]
        os.link(image, folder / "images" / f"image_{i}.png")
        os.link(label, folder / "labels" / f"label_{i}.png")
    number = np.arange(count)
    source = number // 144
    index = {
        "patch": number,
        "source": [f"image_{s}" for s in source],
        "x": number % 12 * 64,
        "y": number // 12 % 12 * 64,
    }
    index = pd.DataFrame({**index, "split": np.where(source % 10 == 9, "val", "train")})
    index.to_csv(folder / "index.csv", index=False)
    write_json(root / "dataset.json", DataSet("links", "paper", ["a", "b"], "watershed", size, 64, SPLIT_SEED).__dict__)
    return folder


def memory(pid: int | str = "self") -> dict[str, float]:
    """MiB of a process: resident, and of that its own, not shared with the one it was forked from; Linux only."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.is_file():
        return {"resident": np.nan, "own": np.nan}
    kib = {line.split()[0]: int(line.split()[1]) for line in rollup.read_text().splitlines()[1:]}
    return {"resident": kib["Rss:"] / 1024, "own": (kib["Private_Clean:"] + kib["Private_Dirty:"]) / 1024}


def measure(folder: Path, stage: str, workers: int, settings: Settings) -> dict[str, Any]:
    """One training process up to its first batch, then its speed; called in a new process."""
    torch.set_num_threads(1)
    # The system's own way to start workers, not the one by which this process was started.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    devices = set_up_alone("cpu")
    before, start = memory()["resident"], time.perf_counter()
    patches = Patches(folder, labelled=stage == "finetune")
    training = PatchDataset([patches], "train", (-1.0, 1.0), SPLIT_SEED, AUGMENTATIONS[stage]())
    validation = PatchDataset([patches], "val", (-1.0, 1.0), SPLIT_SEED)
    for dataset in (training, validation):
        dataset.fingerprint()
    batches = EpochBatches(len(training), settings.batch_size, SPLIT_SEED, devices, shuffle=True)
    data_loader = loader(training, batches, workers, devices)
    opened = time.perf_counter()
    stream = chain.from_iterable(repeat(data_loader))  # epoch after epoch
    next(stream)
    first = time.perf_counter()
    for _ in islice(stream, 10 * max(1, workers)):  # what was read ahead is not counted
        pass
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < settings.seconds:
        count += len(next(stream)["image"])
    rate = count / (time.perf_counter() - begin)
    readers = [memory(worker.pid) for worker in data_loader._iterator._workers] if workers else []
    row = {"open s": opened - start, "first batch s": first - opened, "process MiB": memory()["resident"]}
    row["of which data set MiB"] = row["process MiB"] - before
    row |= {
        f"worker {name} MiB": np.mean([r[name] for r in readers]) if readers else None for name in ("resident", "own")
    }
    stop_workers(data_loader)
    return {**row, "patches/s": rate}


def in_new_process(*arguments: Any) -> dict[str, Any]:
    """`measure` where nothing was done before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def main(settings: Settings) -> None:
    """Measure everything; table."""
    at_least(settings, batch_size=1, seconds=0.1, images_per_second=0)
    rows = []
    with replace_folder(settings.output, "loading.csv", settings.overwrite) as output:
        for count in settings.counts:
            with tempfile.TemporaryDirectory(dir=output) as temporary:
                folder = make_data_set(Path(temporary) / "data", count, settings.data)
                for stage in tqdm(AUGMENTATIONS, f"{count} patches", disable=None):
                    for workers in settings.workers:
                        row = in_new_process(folder, stage, workers, settings)
                        needed = settings.images_per_second * max(1, workers) / row["patches/s"]
                        rows.append(
                            {"stage": stage, "patches": count, "workers": workers, **row, "workers needed": needed}
                        )
        table = pd.DataFrame(rows)
        table.to_csv(output / "loading.csv", index=False)
        about = f"{machine('cpu')}; workers needed: for {settings.images_per_second:.0f} images a second"
        (output / "loading.md").write_text(f"{about}\n\n{markdown(table, 3)}")
        print((output / "loading.md").read_text())
    print(f"the table is in {settings.output}: loading.csv, loading.md")


if __name__ == "__main__":
    run_script(main, Settings)
