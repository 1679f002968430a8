"""The metrics of a run: their means while it goes on, and their curves."""

import gc
import math
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from file_contents import read_table
from GenSelfDiff.devices import Devices
from utils_general import InputError, read_rgb, save_figure

MetricSums = dict[str, tuple[Tensor, Tensor | int]]
"""Named sums and the counts to divide them by; both can be added up over batches and processes."""

MOST = {"epoch": 2**53, "steps": 2**53, "seconds": 2**40}  # columns of a history.csv that are no metrics


class MetricMeans:
    """Running means of named metrics, kept on the device so that adding to them never waits for it."""

    def __init__(self, pairs: dict[str, list[float]] | None = None) -> None:
        self.pairs = {name: torch.tensor(pair, dtype=torch.float64) for name, pair in (pairs or {}).items()}

    def add(self, sums: MetricSums) -> None:
        """Add those of a batch."""
        for name, (total, count) in sums.items():
            total = total.detach().double()
            pair = torch.stack([total, count.double() if isinstance(count, Tensor) else torch.full_like(total, count)])
            self.pairs[name] = self.pairs[name].to(pair.device) + pair if name in self.pairs else pair

    def over_processes(self, devices: Devices) -> dict[str, list[float]]:
        """Sum and count of each metric over all processes."""
        together: dict[str, list[float]] = {}
        for pairs in devices.gather({name: pair.tolist() for name, pair in self.pairs.items()}):
            for name, (total, count) in pairs.items():
                before = together.get(name, [0.0, 0.0])
                together[name] = [before[0] + total, before[1] + count]
        return together

    def means(self, devices: Devices) -> dict[str, float]:
        """The means over all processes; NaN where nothing was counted."""
        pairs = self.over_processes(devices)
        return {name: total / count if count else math.nan for name, (total, count) in pairs.items()}


class TensorBoard:
    """The rows of the history, and the sampled pictures, as a file for TensorBoard in the run's folder."""

    FILES = "events.out.tfevents.*"

    def __init__(self, folder: Path, epoch: int):
        """`epoch`: how many are done; what an interrupted run wrote after them is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def add(self, row: dict[str, float], picture: Path) -> None:
        """One epoch; `picture` where there is one."""
        for name, value in row.items():
            part, _, metric = name.partition("_")
            tag = f"{metric}/{part}" if part in ("train", "val") else name
            self.writer.add_scalar(tag, value, row["epoch"])
        if picture.is_file():
            self.writer.add_image("sample", read_rgb(picture), row["epoch"], dataformats="HWC")
        self.writer.flush()


def read_history(path: Path, *more: str) -> pd.DataFrame:
    """The history.csv of a run, a row an epoch: numbers, `epoch`, `train_loss` and `seconds` at least.

    `InputError` where it is missing or something else, or has none of the columns `more`.
    """
    history, wanted = read_table(path), ("epoch", "train_loss", "seconds", *more)
    if not len(history) or not set(history) >= set(wanted):
        raise InputError(f"{path} wants a row an epoch and the columns {', '.join(wanted)}")
    for name, values in history.items():
        most = MOST.get(name, math.inf)
        whole = name not in ("epoch", "steps") or pd.api.types.is_integer_dtype(values)
        if not whole or not pd.api.types.is_numeric_dtype(values) or name in MOST and not values.between(0, most).all():
            raise InputError(f"{path} holds something else than the numbers of epochs in its column {name!r:.60}")
    return history


def draw_curves(history: pd.DataFrame, title: str, path: Path) -> None:
    """Training and validation loss over the epochs, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from GenSelfDiff.curves import draw_curve

    figure, axes = plt.subplots(figsize=(7, 4))
    draw_curve(axes, history, "loss", f"{title}: loss an image")
    save_figure(figure, path)
    del figure, axes
    gc.collect()  # a figure is made of cycles: left among the memory of the next steps, it costs up to 45 MB an epoch
