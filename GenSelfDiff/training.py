"""The training loop that both stages share: epochs, precision, validation, history, stopping and going on."""

import copy
import dataclasses
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from GenSelfDiff import checkpoint
from GenSelfDiff.data import EpochBatches, PatchDataset, dead_workers_explained, loader, stop_workers, to_input
from GenSelfDiff.decoded import read_decoded
from GenSelfDiff.devices import Devices, InPrecision, check_precision, keep_freed_memory
from GenSelfDiff.history import Figures, Means, TensorBoard, draw_curves
from GenSelfDiff.settings import TrainingSettings
from utils_general import SNAPSHOTS, InputError, replace_file, write_json

# What may differ when a run is continued; every other setting is part of what the run computes.
# The batch size may with the number of processes: their product, the joint batch, may not.
MAY_CHANGE = {
    "epochs", "batch_size", "workers", "cache", "device", "save_minutes", "fresh", "sample_every", "data", "recipe",
    "checkpoint_activations", "compile", "tensorboard", "run_name", "mpp", "instances",
}  # fmt: skip


class Stage(Protocol):
    """What differs between pre-training and fine-tuning."""

    name: str

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Figures]:
        """The scalar to minimise, and the figures for the history, "loss" among them."""

    def validation_figures(self, model: nn.Module, batch: dict[str, Any]) -> Figures:
        """The figures of a batch that is not trained on; "loss" picks the best epoch."""

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Pictures of the progress, if any; called in the main process."""


class StopRequest:
    """Notes Ctrl-C, SIGTERM and SLURM's SIGUSR1, so that the step in progress can be finished and saved."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopRequest":
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        return self

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class RunningMean:
    """An exponential moving average of a network's weights, as a network: smoother than the last of them.

    After n steps the mean is taken with min(decay, (1 + n) / (10 + n)), so that it forgets the initial weights soon.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay
        self.ours, self.theirs = list(self.model.parameters()), list(model.parameters())

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after so many steps."""
        torch._foreach_lerp_(self.ours, self.theirs, 1 - min(self.decay, (1 + steps) / (10 + steps)))


class Trainer:
    """Trains a network and keeps everything in `snapshots/<run>`.

    last.pth (to go on), best.pth (lowest validation loss), settings.json, history.csv, curves.png. A run of the same
    name goes on where it stopped, exactly, also in mid-epoch. The loss is the mean over the batch.
    """

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        settings: TrainingSettings,
        training: PatchDataset,
        validation: PatchDataset,
        devices: Devices,
        about: dict[str, Any],
    ):
        if not len(training):
            raise InputError(f"no patch to train on in {', '.join(str(f.folder) for f in training.folders)}")
        self.stage, self.model, self.settings, self.devices, self.about = stage, model, settings, devices, about
        self.folder = run_folder(settings.run_name)
        self.training, self.validation = training, validation
        per_process = settings.batch_size * devices.replicas
        self.batches = EpochBatches(len(training), per_process, settings.seed, devices, shuffle=True)
        held_out = EpochBatches(len(validation), per_process, settings.seed, devices, shuffle=False)
        self.training_loader = loader(training, self.batches, settings.workers, devices)
        self.validation_loader = loader(validation, held_out, settings.workers, devices)
        model.to(devices.device).net.checkpoint_activations = settings.checkpoint_activations
        if settings.checkpoint_activations and devices.device.type == "cpu":
            keep_freed_memory(large=False)
        self.wrapped = devices.wrap(self._network(model))
        self.mean = RunningMean(model, settings.ema) if settings.ema else None
        self.result = self.mean.model if self.mean else model  # what is validated and handed on
        # Processes hold out different numbers of batches: DistributedDataParallel, which makes them meet, is left out.
        evaluated = self._network(self.result)
        self.evaluated = evaluated if devices.world_size > 1 else devices.wrap(evaluated)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, betas=settings.betas, fused=True
        )
        self.epoch, self.step = 0, 0  # whole epochs done, and steps done in the next one
        self.best_loss = math.inf
        self.history: list[dict[str, float]] = []
        self.means = Means()
        self.seconds = 0.0  # spent in this epoch before it was interrupted
        self.unchecked: list[tuple[Tensor, list[str]]] = []
        self.started = self.saved = time.monotonic()

    def _network(self, model: nn.Module) -> nn.Module:
        network = InPrecision(model, self.settings.precision)
        return torch.compile(network) if self.settings.compile else network

    def run(self) -> None:
        """Train until the last epoch is done; or until a signal: then save, say how to go on, and exit."""
        going_on = (self.folder / "last.pth").is_file() and not self.settings.fresh
        if going_on:
            self._resume()
        if len(set(self.devices.gather((self.epoch, self.step)))) > 1:
            raise InputError(
                f"the processes do not see the same {self.folder}: a folder that all machines share is needed"
            )
        if self.epoch >= self.settings.epochs:
            run = self.settings.run_name
            more = "--epochs N goes on" if self.settings.decay == "none" else "its learning rate has decayed"
            print(f"run {run} is finished after {self.epoch} epochs; {more}, --fresh starts over")
            print(f"everything is in {self.folder}")
            return
        self._introduce()
        if self.settings.cache:
            for patches in (*self.training.folders, *self.validation.folders):
                read_decoded(patches, self.settings.workers)
        try:
            with StopRequest() as self.stop, dead_workers_explained():
                self._check_validation()
                if not going_on:
                    self._begin()
                self._write_settings()
                if self.settings.tensorboard and self.devices.main:
                    self.board = TensorBoard(self.folder, self.epoch)
                while self.epoch < self.settings.epochs:
                    self._train_epoch()
        finally:
            stop_workers(self.training_loader)
            stop_workers(self.validation_loader)
        held_out = "validation" if len(self.validation) else "training"
        print(f"done: best {held_out} loss {self.best_loss:.5f}; everything is in {self.folder}")

    def _introduce(self) -> None:
        """Print what is about to happen."""
        joint = self.batches.batch_size
        print(
            f"{self.stage.name}: {len(self.training)} patches to train on, {len(self.validation)} held out; "
            f"{self.devices}, {self.settings.precision}, joint batch {joint}, {len(self.batches)} steps an epoch, "
            f"recipe {self.settings.recipe}, learning rate {self.settings.learning_rate:g}; in {self.folder}"
        )
        if not len(self.validation):
            print("nothing is held out (a single source image): best.pth will be the last epoch")

    def _write_settings(self) -> None:
        """settings.json: what every default came to, and what the run computes on."""
        resolved = {**plain(self.settings), **self.about, "device": str(self.devices), "torch": torch.__version__}
        if self.devices.main:
            write_json(self.folder / "settings.json", resolved)

    def _begin(self) -> None:
        """The first last.pth, so that the run can always be continued; only now what `fresh` replaces is removed."""
        self._save_last()
        if self.devices.main:
            for pattern in ("best.pth", "history.csv", "curves.png", "sample_epoch_*.png", TensorBoard.FILES):
                for file in self.folder.glob(pattern):
                    file.unlink()

    def _check_validation(self) -> None:
        """One batch of validation before anything is trained: what would fail after an epoch fails now."""
        if self.epoch == self.step == 0 and len(self.validation):
            self._validate(batches=1)

    def _train_epoch(self) -> None:
        self.started = time.monotonic() - self.seconds
        self.saved = time.monotonic()
        self.batches.epoch, self.batches.first = self.epoch, self.step
        # On a GPU looking at the loss means waiting for it: that is done now and then only.
        look_every = 1 if self.devices.device.type == "cpu" else 20
        bar = tqdm(
            self.training_loader,
            f"epoch {self.epoch + 1}/{self.settings.epochs}",
            total=len(self.batches),
            initial=self.step,
            leave=False,
            disable=None if self.devices.main else True,
        )
        self.wrapped.train()
        for batch in bar:
            loss = self._train_step(batch)
            if self.step % look_every == 0 or self.step == len(self.batches):
                self._check_finite()
                bar.set_postfix(loss=f"{float(loss.detach()):.4f}")
                self._save_or_leave()
        self._finish_epoch()

    def _save_or_leave(self) -> None:
        """Save if it is time, save and exit if a signal came. All processes do the same."""
        due = time.monotonic() - self.saved > 60 * self.settings.save_minutes
        due, number = self.devices.largest(due, self.stop.signal)
        if due or number:
            self.seconds = time.monotonic() - self.started
            self._save_last()
            self.saved = time.monotonic()
        if number:
            self._leave(number)

    def _train_step(self, batch: dict[str, Any]) -> Tensor:
        batch = to_device(batch, self.devices, self.settings.input_range)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss, figures = self.stage.training_loss(self.wrapped, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        if self.mean:
            self.mean.update(self._steps_done())
        self.means.add(figures)
        self.unchecked.append((loss.detach(), batch["file"]))
        self.step += 1
        return loss

    def _steps_done(self) -> int:
        return self.epoch * len(self.batches) + self.step

    def _learning_rate(self) -> float:
        """Of the next step: warm-up is linear, the decay half a cosine over all epochs."""
        rate = self.settings.learning_rate
        if self.settings.warm_up:
            rate *= min(1, (self._steps_done() + 1) / self.settings.warm_up)
        if self.settings.decay == "cosine":
            rate *= (1 + math.cos(math.pi * self._steps_done() / (self.settings.epochs * len(self.batches)))) / 2
        return rate

    def _check_finite(self) -> None:
        """Stop the run if a loss since the last look was not finite; no checkpoint is written after it."""
        first_step = self.step - len(self.unchecked) + 1
        for step, (loss, files) in enumerate(self.unchecked, first_step):
            if not math.isfinite(loss):
                self._not_finite(f"the loss is {float(loss)} at step {step}", f" (batch: {', '.join(files)})")
        self.unchecked.clear()

    def _check_finite_weights(self) -> None:
        """The same for the network itself, which the last step may have spoilt; looked at before anything is saved."""
        if not torch.stack([p.detach().isfinite().all() for p in self.model.parameters()]).all():
            self._not_finite(f"a weight is not finite after step {self.step}")

    def _not_finite(self, what: str, where: str = "") -> None:
        raise InputError(
            f"{what} of epoch {self.epoch + 1}{where}; the last good checkpoint is {self.folder / 'last.pth'}; "
            "try a lower learning rate or float32"
        )

    def _finish_epoch(self) -> None:
        seconds = time.monotonic() - self.started
        self._check_finite_weights()
        row = {"epoch": self.epoch + 1, "steps": len(self.batches)}
        row |= {f"train_{name}": value for name, value in self.means.result(self.devices).items()}
        row |= {f"val_{name}": value for name, value in self._validate().items()}
        row |= {"learning_rate": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 3)}
        loss = row.get("val_loss", row["train_loss"])
        best = "val_loss" not in row or loss < self.best_loss
        self.epoch, self.step, self.seconds, self.means = self.epoch + 1, 0, 0.0, Means()
        self.history.append(row)
        self.best_loss = loss if best else self.best_loss
        # last.pth comes after best.pth and the history: killed in between, the epoch is done again, with both.
        if self.devices.main:
            if best:
                checkpoint.save(self.folder / "best.pth", self._content(self.result, loss))
            self._write_history()
        self._save_last()
        if self.devices.main:
            figures = ", ".join(f"{n.replace('_', ' ')} {row[n]:.5f}" for n in ("train_loss", "val_loss") if n in row)
            mark = " (best)" if best else ""
            print(f"epoch {self.epoch}/{self.settings.epochs}: {figures}{mark}, {seconds:.1f} s", flush=True)
            self.stage.after_epoch(self.result.eval(), self.epoch, self.folder)
            if self.settings.tensorboard:
                self.board.add(row, self.folder / f"sample_epoch_{self.epoch}.png")
        if self.epoch < self.settings.epochs and (number := self.devices.largest(self.stop.signal)[0]):
            self._leave(number)

    @torch.no_grad()
    def _validate(self, batches: int | None = None) -> dict[str, float]:
        """Means over all held-out patches, or over the first `batches`. They do not depend on the batch size."""
        self.result.eval()
        means = Means()
        for i, batch in enumerate(self.validation_loader):
            if i == batches:
                break
            if self.devices.world_size == 1 and self.stop.signal:
                self._save_or_leave()
            batch = to_device(batch, self.devices, self.settings.input_range)
            means.add(self.stage.validation_figures(self.evaluated, batch))
        return means.result(self.devices)

    def _content(self, model: nn.Module, loss: float) -> dict[str, Any]:
        """What every checkpoint holds."""
        return {
            "epoch": self.epoch,
            "loss": loss,
            "model_state_dict": {k: v.detach().cpu() for k, v in model.state_dict().items()},
            "stage": self.stage.name,
            "settings": plain(self.settings),
            **self.about,
        }

    def _save_last(self) -> None:
        """Write last.pth. Every random number comes from seed, epoch and patch: this is the whole state of a run."""
        self._check_finite_weights()
        means = self.means.over_processes(self.devices)
        if not self.devices.main:
            return
        loss = self.history[-1].get("val_loss", math.nan) if self.history else math.nan
        state = {
            "optimizer_state_dict": self.optimizer.state_dict(),
            "step": self.step,
            "joint_batch": self.batches.batch_size,
            "means": means,
            "seconds": self.seconds,
            "best_loss": self.best_loss,
            "history": self.history,
            "patches": [self.training.fingerprint(), self.validation.fingerprint()],
        }
        if self.mean:
            state["ema_state_dict"] = self.mean.model.state_dict()
        checkpoint.save(self.folder / "last.pth", {**self._content(self.model, loss), **state})

    def _leave(self, number: int) -> None:
        """Exit as the signal wants, with the conventional code 128 + its number; everything is saved."""
        if self.devices.main:
            print(
                f"stopped by {signal.Signals(number).name} after epoch {self.epoch}, step {self.step} of the next; "
                f"saved in {self.folder}: the same command goes on from there",
                flush=True,
            )
        self.devices.barrier()
        sys.exit(128 + number)

    def _resume(self) -> None:
        path = self.folder / "last.pth"
        last = checkpoint.load(path)
        if last.get("stage") != self.stage.name:
            raise InputError(f"{path} is of another stage; choose another --run-name, or start over with --fresh")
        patches = [self.training.fingerprint(), self.validation.fingerprint()]
        ours = {**plain(self.settings), **self.about, "patches": patches, "joint_batch": self.batches.batch_size}
        # A setting that the run's version did not know has its default there.
        theirs = {**plain(type(self.settings)()), **last["settings"], **last}
        fixed = {"epochs"} if self.settings.decay != "none" else set()  # the length is part of what is computed
        changed = [k for k in ours if k not in MAY_CHANGE - fixed and ours[k] != theirs.get(k)]
        if "patches" in changed:
            raise InputError(
                f"run {self.settings.run_name} was started on other patches (their index.csv differs): choose another "
                "--run-name, or start over with --fresh"
            )
        if changed == ["joint_batch"]:
            processes = self.devices.world_size * self.devices.replicas
            raise InputError(
                f"run {self.settings.run_name} was started with a joint batch of {theirs['joint_batch']} patches, now "
                f"it would be {ours['joint_batch']}: with {processes} processes or GPUs, "
                f"--batch-size {theirs['joint_batch'] / processes:g} goes on"
            )
        if changed:
            name = changed[0]
            raise InputError(
                f"run {self.settings.run_name} was started with other settings: {', '.join(changed)} "
                f"({name} was {theirs.get(name)}, now {ours[name]}); use those, another --run-name, or --fresh"
            )
        self.model.load_state_dict(last["model_state_dict"])
        self.optimizer.load_state_dict(last["optimizer_state_dict"])
        if self.mean:
            self.mean.model.load_state_dict(last["ema_state_dict"])
        self.epoch, self.best_loss, self.history = last["epoch"], last["best_loss"], last["history"]
        self.step, self.seconds = last["step"], last["seconds"]
        if self.devices.main:  # the sums are those of all processes: one of them carries them on
            self.means = Means(last["means"])
            print(f"going on with run {self.settings.run_name} after epoch {self.epoch}, step {self.step} of the next")

    def _write_history(self) -> None:
        table = pd.DataFrame(self.history)
        with replace_file(self.folder / "history.csv") as temporary:
            table.to_csv(temporary, index=False)
        if self.epoch == self.settings.epochs or self.epoch % max(1, self.settings.epochs // 50) == 0:
            draw_curves(table, self.stage.name, self.folder / "curves.png")


def run_folder(run: str) -> Path:
    """The folder of a training run: a name is one under snapshots, an absolute path is itself."""
    return SNAPSHOTS / run


def prepare_run(settings: TrainingSettings, devices: Devices) -> None:
    """Check that the run's folder can be written and holds nothing of others; remove what a killed run left half."""
    check_precision(settings.precision, devices.device)
    folder = run_folder(settings.run_name)
    if devices.main:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / ".writable") as temporary:
            temporary.touch()
        (folder / ".writable").unlink()
        for unfinished in folder.glob(".*.unfinished"):
            unfinished.unlink()
        if not settings.fresh and (folder / "best.pth").exists() and not (folder / "last.pth").exists():
            raise InputError(f"{folder} holds a best.pth that no run left there: choose another --run-name, or --fresh")
    devices.barrier()


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as a dict of numbers, strings and lists: safe to store in a checkpoint."""

    def simple(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [simple(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return {f.name: simple(getattr(settings, f.name)) for f in dataclasses.fields(settings)}


def to_device(batch: dict[str, Any], devices: Devices, input_range: tuple[float, float]) -> dict[str, Any]:
    """A batch on the device, as the network wants it: images float32 (B, 3, H, W) in `input_range`, int64 labels.

    They are copied as uint8, out of pinned memory, so that nothing waits; file names and seeds stay.
    """
    moved = {k: v.to(devices.device, non_blocking=True) for k, v in batch.items() if k in ("image", "label")}
    moved["image"] = to_input(moved["image"], input_range)
    if "label" in moved:
        moved["label"] = moved["label"].long()
    return batch | moved
