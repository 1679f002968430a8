"""What a data set of any size costs to open, how fast its patches reach a training step, and what part costs what.

    python3 benchmarks/loading.py

Each row of the first table is a training process of its own, which reads as the two stages do, up to the network's
input on `--device`. Patches are links to a few files, so that 301,490 of them need no room; only the decoded copy
(`cache`) is as large as in earnest. All comes from the memory of the system: a slow or shared disk comes on top.
Figures in ms are of one image and one core, in processor time, so that other work on the machine counts little. They
are for all processes together; "main ms" is the part of the one that trains. What is mapped of a decoded copy counts
as resident memory, though the system takes it back where memory is short. The second table has the parts.

"workers needed" is for a step at H200 speed. One image of pre-training at the paper's size is 455e9 operations, forward
and backward. An H200 multiplies bfloat16 at 989e12 operations a second at most. A U-Net that reaches 30 % of that takes
0.30 x 989e12 / 455e9 = 652 images a second; so many workers a GPU are then to be asked for with `--workers`.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, islice, product, repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from skimage.data import immunohistochemistry
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from benchmarks.tables import machine, markdown
from file_contents import DataSet
from GenSelfDiff.augmentation import finetuning_augmentation, flips, tv_tensors
from GenSelfDiff.data import (
    EpochBatches,
    PatchDataset,
    derived_seed,
    labelled_folder,
    loader,
    stop_workers,
    to_input,
)
from GenSelfDiff.decoded import read_decoded
from GenSelfDiff.devices import Devices, set_up_alone
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.patches import Patches
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.settings import RecipeName
from GenSelfDiff.training import to_device
from output_folder import replace_folder
from utils_general import MONUSEG, ROOT, SPLIT_SEED, at_least, run_script, write_json, write_png

H200_IMAGES_PER_SECOND = 0.30 * 989e12 / 455e9
LINKED = 144  # different files among the patches
AUGMENTATIONS = {
    "pretrain": lambda recipe: flips(SS_diff.Settings.of(recipe).quarter_turns),
    "finetune": lambda recipe: finetuning_augmentation(
        Diff_Seg.Settings.of(recipe).quarter_turns, Diff_Seg.Settings.of(recipe).stain_jitter
    ),
}
RANGE = (-1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure start-up, memory and speed of loading, for several sizes of the data set."""

    data: Path = MONUSEG
    """root of the data set whose labelled patches are used; a picture of scikit-image where there is none"""
    counts: tuple[int, ...] = (4_320, 30_149, 301_490)
    """patches in the data set: MoNuSeg's, all of the paper's, ten times as many"""
    decode_up_to: int = 4_320
    """patches of the largest data set that is measured with --cache, too; one of 256 pixels takes 0.26 MB of disk"""
    recipes: tuple[RecipeName, ...] = ("paper", "improved")
    """whose augmentations are measured"""
    workers: tuple[int, ...] = (0, 1, 2)
    """processes that read"""
    batch_size: int = 8
    """patches a step"""
    seconds: float = 5.0
    """for so long patches are counted"""
    images_per_second: float = H200_IMAGES_PER_SECOND
    """what a training step takes"""
    output: Path = ROOT / "benchmarks" / "results" / "loading"
    """folder for loading.csv, loading.md and, of what --decode-up-to lets decode, parts.csv"""
    device: str = "auto"
    """where the network's input is wanted: auto, cpu, cuda or cuda:N"""
    overwrite: bool = False
    """replace an existing output folder"""


def originals(data: Path, folder: Path) -> tuple[list[tuple[Path, Path]], int]:
    """Some patches of `data` and their labels, copied to `folder`, and their side in pixels."""
    folder.mkdir()
    if labelled_folder(data).is_dir():
        patches = Patches(labelled_folder(data), labelled=True)
        pairs = [(patches.image(i), patches.label(i)) for i in patches.index.patch[:LINKED]]
    else:
        print(f"{labelled_folder(data)} does not exist: patches of a picture of scikit-image are used")
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


def processor_seconds(pid: int | str = "self") -> float:
    """What a process has used of the processors, with all its threads; Linux only."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.is_file():
        return np.nan
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures."""

    stage: str
    recipe: str
    patches: int
    cache: bool
    workers: int


def prepare(device: str) -> Devices:
    """A new process as a script is: one thread, and the system's own way to start workers, not that of the pool."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    return set_up_alone(device)


def measure(folder: Path, case: Case, settings: Settings) -> dict[str, Any]:
    """One training process up to its first batch, then its speed; called in a new process."""
    devices = prepare(settings.device)
    before, start = memory()["resident"], time.perf_counter()
    patches = Patches(folder, labelled=case.stage == "finetune")
    if patches.labelled:
        patches.check_labels(len(patches.data_set.classes))  # as every process of a fine-tuning does
    training = PatchDataset([patches], "train", SPLIT_SEED, AUGMENTATIONS[case.stage](case.recipe))
    validation = PatchDataset([patches], "val", SPLIT_SEED)
    for dataset in (training, validation):
        dataset.fingerprint()
        dataset.contents()
    if case.cache:
        read_decoded(patches, case.workers)
    batches = EpochBatches(len(training), settings.batch_size, SPLIT_SEED, devices, shuffle=True)
    data_loader = loader(training, batches, case.workers, devices)
    opened = time.perf_counter()
    # epoch after epoch
    stream = (to_device(batch, devices, RANGE)["image"] for batch in chain.from_iterable(repeat(data_loader)))
    next(stream)[0, 0, 0, 0].item()  # the GPU has done it, if it is one
    first = time.perf_counter()
    speed = speed_of(stream, data_loader, settings.seconds)
    readers = [memory(worker.pid) for worker in data_loader._iterator._workers] if case.workers else []
    row = {"open s": opened - start, "first batch s": first - opened, "process MiB": memory()["resident"]}
    row["of which data set MiB"] = row["process MiB"] - before
    row |= {
        f"worker {name} MiB": np.mean([r[name] for r in readers]) if readers else None for name in ("resident", "own")
    }
    stop_workers(data_loader)
    return {**asdict(case), **row, **speed}


def speed_of(stream: Iterator[torch.Tensor], data_loader: Any, seconds: float) -> dict[str, float]:
    """Images a second, and milliseconds of processor time an image: of all processes, and of the main one."""
    for _ in islice(stream, 10 * max(1, data_loader.num_workers)):  # what was read ahead is not counted
        pass
    pids = ["self", *(worker.pid for worker in getattr(data_loader._iterator, "_workers", []))]
    used = [processor_seconds(pid) for pid in pids]
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        count += len(batch := next(stream))
    batch[0, 0, 0, 0].item()
    rate = count / (time.perf_counter() - begin)
    used = [1000 * (processor_seconds(pid) - u) / count for pid, u in zip(pids, used, strict=True)]
    return {"patches/s": rate, "ms": sum(used), "main ms": used[0]}


def milliseconds(work: Callable[[int], Any], seconds: float) -> float:
    """Processor time of `work(i)`, i = 0, 1, ...: the least mean of five rounds, which others disturb least."""
    rounds, i = [], 0
    for _ in range(5):
        begin, wall, first = time.process_time(), time.perf_counter(), i
        while time.perf_counter() - wall < seconds / 5:
            work(i)
            i += 1
        rounds.append(1000 * (time.process_time() - begin) / (i - first))
    return min(rounds)


class Same(Dataset):
    """One item, again and again: what is left is to bring it to the training step."""

    def __init__(self, item: dict[str, Any], length: int):
        self.item, self.length = item, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, _key: tuple[int, int]) -> dict[str, Any]:
        return self.item


def hand_over(item: dict[str, Any], settings: Settings, devices: Devices) -> dict[str, float]:
    """What it costs to collate items, in a worker and to take them from there; milliseconds an image."""
    size, found = settings.batch_size, {}
    found["collation"] = milliseconds(lambda _: default_collate([item] * size), settings.seconds) / size
    batches = EpochBatches(1000 * size, size, SPLIT_SEED, devices, shuffle=False)
    data_loader = loader(Same(item, 1000 * size), batches, 1, devices)
    stream = chain.from_iterable(repeat(data_loader))
    start = time.perf_counter()
    next(stream)
    started = time.perf_counter() - start
    speed = speed_of((batch["image"] for batch in stream), data_loader, settings.seconds)
    stop_workers(data_loader)
    found["collation in a worker, and from there to the main process"] = speed["ms"]
    found["the part of the main process in that"] = speed["main ms"]
    found["the start of a worker, once"] = 1000 * started
    return found


def parts(folder: Path, settings: Settings) -> dict[str, float]:
    """What each part costs, in milliseconds of one core an image; called in a new process."""
    devices = prepare("cpu")
    patches, decoded = Patches(folder, labelled=True), Patches(folder, labelled=True)
    read_decoded(decoded, 0)
    numbers = patches.index.patch.to_numpy()

    def cost(work: Callable[[int], Any]) -> float:
        return milliseconds(lambda i: work(int(numbers[i % len(numbers)])), settings.seconds)

    found = {}
    for source, where in ((patches, "from its PNG file"), (decoded, "from the decoded copy")):
        found[f"image {where}"] = cost(lambda patch, source=source: source.image(patch).copy())
        found[f"label {where}"] = cost(source.label)
    found["a seed, and the random state that is put back"] = milliseconds(seeded, settings.seconds)
    item = PatchDataset([decoded], "train", SPLIT_SEED)[0, 0]
    image, label = tv_tensors.Image(item["image"].movedim(-1, 0)), tv_tensors.Mask(item["label"])
    for recipe in settings.recipes:
        for stage in AUGMENTATIONS:
            change, inputs = AUGMENTATIONS[stage](recipe), (image, label) if stage == "finetune" else (image,)
            found[f"augmentation of {stage}, {recipe}"] = cost(lambda _, do=change, inputs=inputs: do(*inputs))
    found |= hand_over(item, settings, devices)
    together = torch.stack([item["image"]] * settings.batch_size)
    found["to the network's input, on a CPU"] = cost(lambda _: to_input(together, RANGE)) / settings.batch_size
    return found


def seeded(i: int) -> None:
    """As an item does it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(SPLIT_SEED, 0, i))


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` where nothing was done before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(settings: Settings) -> None:
    """Measure everything; tables."""
    at_least(settings, batch_size=1, seconds=0.1, images_per_second=0, decode_up_to=0)
    rows, costs = [], {}
    with replace_folder(settings.output, "loading.csv", settings.overwrite) as output:
        for count in settings.counts:
            caches = (False, True) if count <= settings.decode_up_to else (False,)
            cases = [
                Case(stage=stage, recipe=recipe, patches=count, cache=cache, workers=workers)
                for recipe, stage, cache, workers in product(settings.recipes, AUGMENTATIONS, caches, settings.workers)
            ]
            with tempfile.TemporaryDirectory(dir=output) as temporary:
                folder = make_data_set(Path(temporary) / "data", count, settings.data)
                if len(caches) > 1:  # before the cases, which then find the decoded copy
                    costs = in_new_process(parts, folder, settings)
                rows += [
                    in_new_process(measure, folder, case, settings)
                    for case in tqdm(cases, f"{count} patches", disable=None)
                ]
        table = pd.DataFrame(rows)
        table["workers needed"] = settings.images_per_second * table.workers.clip(1) / table["patches/s"]
        table.to_csv(output / "loading.csv", index=False)
        about = f"{machine('cpu')}; workers needed: for {settings.images_per_second:.0f} images a second"
        text = f"{about}\n\n{markdown(table, 3)}"
        if costs:
            part_table = pd.DataFrame(list(costs.items()), columns=["part", "ms"])
            part_table.to_csv(output / "parts.csv", index=False)
            text += f"\n{markdown(part_table, 3)}"
        (output / "loading.md").write_text(text)
        print(text)
    print(f"what was measured is in {settings.output}: {', '.join(sorted(f.name for f in settings.output.iterdir()))}")


if __name__ == "__main__":
    run_script(main, Settings)
