"""The training loop that all methods share: epochs, precision, validation, history, stopping and going on."""

import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from GenSelfDiff import checkpoint
from GenSelfDiff.averaged_weights import AveragedWeights
from GenSelfDiff.course import Course, RateGroup, Rates
from GenSelfDiff.data import (
    STOPPING,
    PatchDataset,
    loader,
    stop_workers,
    to_input,
    worker_errors_explained,
)
from GenSelfDiff.decoded import read_decoded
from GenSelfDiff.devices import Devices, InPrecision, check_precision, keep_freed_memory
from GenSelfDiff.history import MetricMeans, MetricSums, TensorBoard
from GenSelfDiff.run_folder import RunFolder
from GenSelfDiff.settings import TrainingSettings
from utils_general import InputError, plain

LOOK_EVERY = {"cpu": 1, "cuda": 20}  # steps; on a GPU looking at the loss means waiting for it
SLOW_SAVING = 1.0  # seconds; what takes longer to write is not written after each of many short epochs ...
SAVING_SHARE = 0.1  # ... but may take this part of the time
DRAW_EVERY = 30.0  # seconds between two drawings of the curves


class Stage(Protocol):
    """What a method adds to the loop: how a batch becomes a loss, and metrics.

    A batch holds image, float32 (B, 3, H, W) in the input range, label, int64 (B, H, W) where the patches have
    labels, seed int64 (B,), all on the device, and file, a list of B names. The model is called with tensors in their
    order. What is random comes from the seeds alone (`GenSelfDiff.keyed_random`): a generator's state, say that of a
    Dropout, is not kept, and a run that goes on would differ. Metrics are sums and counts that stay on the device:
    nothing may ask for their values.
    """

    name: str
    """under which `GenSelfDiff.networks` knows how to build the network of a checkpoint again"""

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The scalar to minimise, and the metrics for the history, "loss" among them."""

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The metrics of a batch that is not trained on; "loss" picks the best epoch."""

    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Pictures of the progress, if any; called in the main process."""


class StopRequest:
    """Notes Ctrl-C, SIGTERM, SLURM's SIGUSR1 and a closed terminal's SIGHUP, so that the step in progress can be
    finished and saved. Started by nohup, which ignores SIGHUP, a run goes on."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopRequest":
        hung_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        wanted = [s for s in STOPPING if s != signal.SIGHUP or hung_up]
        self.before = {s: signal.signal(s, self._note) for s in wanted}
        return self

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Trainer:
    """Trains a network and keeps everything in its `RunFolder`.

    A run of the same name goes on where it stopped, exactly, also in mid-epoch. The loss is the mean over the batch.
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
        rates: Sequence[RateGroup] | None = None,
        last_is_best: bool = False,
    ):
        """`rates`: what is trained, and how fast, if not all parameters at one rate. `last_is_best`: best.pth is the
        last epoch's, of a method whose validation loss does not tell what is good."""
        if not len(training):
            raise InputError(f"no patch to train on in {', '.join(str(f.folder) for f in training.folders)}")
        self.stage, self.model, self.settings, self.devices, self.about = stage, model, settings, devices, about
        self.folder, self.last_is_best = RunFolder(settings.run_name), last_is_best
        self.training, self.validation = training, validation
        per_process = settings.batch_size * devices.replicas
        self.batches = training.batches(per_process, settings.seed, devices, shuffle=True)
        held_out = validation.batches(per_process, settings.seed, devices, shuffle=False)
        self.training_loader = loader(training, self.batches, settings.workers, devices)
        self.validation_loader = loader(validation, held_out, settings.workers, devices)
        self._prepare_network()
        self.course = Course.of(settings, len(self.batches))
        self.rates = Rates(rates or [RateGroup([*model.parameters()])], settings.learning_rate, settings.betas)
        self.optimizer = self.rates.optimizer
        self.epoch, self.step = 0, 0  # whole epochs done, and steps done in the next one
        self.best_loss = math.inf
        self.history: list[dict[str, float]] = []
        self.metrics = MetricMeans()  # of this epoch
        self.seconds = 0.0  # spent in this epoch before it was interrupted
        self.unchecked: list[tuple[Tensor, list[str]]] = []  # losses that were not looked at yet, and their files
        self.started = self.saved = time.monotonic()
        self.saving = 0.0  # seconds that last.pth took to write
        self.drawn = -math.inf
        self.stop = StopRequest()
        self.board: TensorBoard | None = None

    def _prepare_network(self) -> None:
        """The network where it computes, as the training step calls it, and the one that is validated and handed on."""
        settings, device = self.settings, self.devices.device
        save_memory(self.model, settings.checkpoint_activations)
        if settings.checkpoint_activations and device.type == "cpu":
            keep_freed_memory(large=False)
        self.wrapped = self.devices.wrap(self._in_precision(self.model.to(device)))
        self.average = AveragedWeights(self.model, settings.ema) if settings.ema else None
        self.handed_on = self.average.model if self.average else self.model
        # Processes hold out different numbers of batches: DistributedDataParallel, which makes them meet, is left out.
        validated = self._in_precision(self.handed_on)
        self.validated = validated if self.devices.world_size > 1 else self.devices.wrap(validated)

    def _in_precision(self, model: nn.Module) -> nn.Module:
        network = InPrecision(model, self.settings.precision)
        return torch.compile(network) if self.settings.compile else network

    def run(self) -> None:
        """Train until the last epoch is done; or until a signal: then save, say how to go on, and exit."""
        try:
            self._run()
        finally:
            self.folder.release()

    def _run(self) -> None:
        going_on = self.folder.goes_on(self.settings.fresh)
        if going_on:
            self._resume()
        if len(set(self.devices.gather((self.epoch, self.step)))) > 1:
            raise InputError(
                f"the processes do not see the same {self.folder}: a folder that all machines share is needed"
            )
        if self.epoch >= self.course.epochs:
            self._say_finished()
            return
        self._introduce()
        if self.settings.cache:
            for patches in (*self.training.folders, *self.validation.folders):
                read_decoded(patches, self.settings.workers)
        try:
            with self.stop, worker_errors_explained():
                self._begin(going_on)
                while self.epoch < self.course.epochs:
                    self._train_one_epoch()
                    self._finish_epoch()
        finally:
            stop_workers(self.training_loader, self.validation_loader)
        held_out = "validation" if len(self.validation) else "training"
        which = "last" if self.last_is_best else "best"
        print(f"done: {which} {held_out} loss {self.best_loss:.5f}; everything is in {self.folder}")

    def _say_finished(self) -> None:
        more = (
            f"--{'steps' if self.settings.steps else 'epochs'} N goes on"
            if self.settings.decay == "none"
            else "its learning rate has decayed"
        )
        print(f"run {self.settings.run_name} is finished after {self.epoch} epochs; {more}, --fresh starts over")
        print(f"everything is in {self.folder}")

    def _introduce(self) -> None:
        """Print what is about to happen."""
        joint, steps = self.batches.batch_size, self.course.epoch_steps
        print(
            f"{self.stage.name}: {len(self.training)} patches to train on, {len(self.validation)} held out; "
            f"{self.devices}, {self.settings.precision}, joint batch {joint}, {steps} steps an epoch, "
            f"recipe {self.settings.recipe}, learning rate {self.settings.learning_rate:g}; in {self.folder}"
        )
        if not len(self.validation):
            print("nothing is held out (a single source image): best.pth will be the last epoch")

    def _begin(self, going_on: bool) -> None:
        """A first look at the data, a first last.pth, the settings; only now what `fresh` replaces is removed."""
        if self.epoch == self.step == 0 and len(self.validation):
            self._validate(batches=1)  # what would fail after an epoch fails now
        if not going_on:
            self._save_last()
        if self.devices.main:
            if not going_on:
                self.folder.clear()
            about = {**self.about, "device": str(self.devices), "torch": torch.__version__}
            self.folder.write_settings({**plain(self.settings), **about})
            if self.settings.tensorboard:
                self.board = TensorBoard(self.folder.path, self.epoch)

    def _train_one_epoch(self) -> None:
        """The rest of the epoch, from `self.step` on."""
        self.started = time.monotonic() - self.seconds
        start, end = self.course.span(self.epoch)
        self.batches.first, self.batches.end = start + self.step, end
        look_every = LOOK_EVERY[self.devices.device.type]
        bar = tqdm(
            self.training_loader,
            f"epoch {self.epoch + 1}/{self.course.epochs}",
            total=end - start,
            initial=self.step,
            leave=False,
            disable=None if self.devices.main else True,
        )
        self.wrapped.train()
        for batch in bar:
            self._train_step(to_device(batch, self.devices, self.settings.input_range))
            if self.step % look_every == 0 or start + self.step == end:
                bar.set_postfix(loss=f"{self._check_finite():.4f}")
                self._save_or_leave()

    def _train_step(self, batch: dict[str, Any]) -> None:
        """One step of Adam. Nothing here may wait for the device (tests/GenSelfDiff/test_no_waiting.py)."""
        loss, metrics = self.stage.training_loss(self.wrapped, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        done = self._steps_done()
        self.rates.prepare(done, self.course.rate_factor(done))
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        if self.average:
            self.average.update(done)
        self.metrics.add(metrics)
        self.unchecked.append((loss.detach(), batch["file"]))
        self.step += 1

    def _steps_done(self) -> int:
        return self.course.span(self.epoch)[0] + self.step

    def _check_finite(self) -> float:
        """Stop the run if a loss since the last look was not finite; no checkpoint is written after it.

        Returns the last loss. All losses come from the device at once: each transfer waits for it.
        """
        losses = torch.stack([loss for loss, _ in self.unchecked]).tolist()
        first_step = self.step - len(losses) + 1
        for step, (loss, (_, files)) in enumerate(zip(losses, self.unchecked, strict=True), first_step):
            if not math.isfinite(loss):
                self._not_finite(f"the loss is {loss} at step {step}", f" (batch: {', '.join(files)})")
        self.unchecked.clear()
        return losses[-1]

    def _check_finite_weights(self) -> None:
        """The same for the network itself, which the last step may have spoilt; looked at before anything is saved."""
        if not torch.stack([p.detach().isfinite().all() for p in self.model.parameters()]).all():
            self._not_finite(f"a weight is not finite after step {self.step}")

    def _not_finite(self, what: str, where: str = "") -> None:
        raise InputError(
            f"{what} of epoch {self.epoch + 1}{where}; the last good checkpoint is {self.folder.last}; "
            "start another run, with a lower learning rate or in float32"
        )

    def _finish_epoch(self) -> None:
        """Validate, write history and checkpoints, say how it went."""
        seconds = time.monotonic() - self.started
        self._check_finite_weights()
        row = {"epoch": self.epoch + 1, "steps": self.step}
        row |= {f"train_{name}": value for name, value in self.metrics.means(self.devices).items()}
        row |= {f"val_{name}": value for name, value in self._validate().items()}
        row |= {"learning_rate": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 3)}
        loss = row.get("val_loss", row["train_loss"])
        if not math.isfinite(loss):
            self._not_finite(f"the validation loss is {loss} after step {self.step}")
        best = self.last_is_best or "val_loss" not in row or loss < self.best_loss
        self.epoch, self.step, self.seconds, self.metrics = self.epoch + 1, 0, 0.0, MetricMeans()
        self.history.append(row)
        self.best_loss = loss if best else self.best_loss
        # last.pth comes after best.pth and the history: killed in between, the epoch is done again, with both.
        if self.devices.main:
            if best:
                checkpoint.save(self.folder.best, self._content(self.handed_on, loss))
            self._write_history()
        if self._worth_saving():
            self._save_last()
        if self.devices.main:
            self._tell(row, best)
        if self.epoch < self.course.epochs and (number := self.devices.largest(self.stop.signal)[0]):
            self._save_last()
            self._leave(number)

    def _tell(self, row: dict[str, float], best: bool) -> None:
        """A line, the stage's pictures and TensorBoard's, after an epoch."""
        losses = ", ".join(f"{n.replace('_', ' ')} {row[n]:.5f}" for n in ("train_loss", "val_loss") if n in row)
        mark = " (best)" if best and not self.last_is_best else ""
        print(f"epoch {self.epoch}/{self.course.epochs}: {losses}{mark}, {row['seconds']:.1f} s", flush=True)
        self.stage.after_epoch(self.handed_on.eval(), self.epoch, self.folder.path)
        if self.settings.tensorboard:
            self.board.add(row, self.folder.path / f"sample_epoch_{self.epoch}.png")

    def _worth_saving(self) -> bool:
        """Whether last.pth is written after this epoch: large ones of short epochs would take most of the time."""
        since = time.monotonic() - self.saved
        quick = self.saving < SLOW_SAVING or self.saving < SAVING_SHARE * since
        due = quick or since > 60 * self.settings.save_minutes or self.epoch == self.course.epochs
        return bool(self.devices.largest(due)[0])

    def _write_history(self) -> None:
        """Curves are drawn now and then, and at the end: drawing takes longer than a short epoch."""
        draw = self.epoch == self.course.epochs or time.monotonic() - self.drawn > DRAW_EVERY
        self.folder.write_history(self.history, self.stage.name, draw)
        self.drawn = time.monotonic() if draw else self.drawn

    @torch.no_grad()
    def _validate(self, batches: int | None = None) -> dict[str, float]:
        """Means over all held-out patches, or over the first `batches`. They do not depend on the batch size."""
        self.handed_on.eval()
        metrics = MetricMeans()
        for i, batch in enumerate(self.validation_loader):
            if i == batches:
                break
            if self.devices.world_size == 1 and self.stop.signal:
                self._save_or_leave()
            batch = to_device(batch, self.devices, self.settings.input_range)
            metrics.add(self.stage.validation_metrics(self.validated, batch))
        return metrics.means(self.devices)

    def _save_or_leave(self) -> None:
        """Save if it is time, save and exit if a signal came. All processes do the same."""
        due = time.monotonic() - self.saved > 60 * self.settings.save_minutes
        due, number = self.devices.largest(due, self.stop.signal)
        if due or number:
            self.seconds = time.monotonic() - self.started
            self._save_last()
        if number:
            self._leave(number)

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
        self.saved = time.monotonic()
        sums = self.metrics.over_processes(self.devices)
        if not self.devices.main:
            return
        loss = self.history[-1].get("val_loss", math.nan) if self.history else math.nan
        state = {
            "optimizer_state_dict": self.optimizer.state_dict(),
            "step": self.step,
            "joint_batch": self.batches.batch_size,
            "means": sums,
            "seconds": self.seconds,
            "best_loss": self.best_loss,
            "history": self.history,
            **self._data(),
        }
        if self.average:
            state["ema_state_dict"] = self.average.model.state_dict()
        checkpoint.save(self.folder.last, {**self._content(self.model, loss), **state})
        self.saving = time.monotonic() - self.saved

    def _data(self) -> dict[str, list[str]]:
        """What a run must find the same to go on: which patches there are, and what they show."""
        both = self.training, self.validation
        return {"patches": [part.fingerprint() for part in both], "contents": [part.contents() for part in both]}

    def _resume(self) -> None:
        """Take up everything from last.pth, if the run may go on with these settings."""
        ours = {**plain(self.settings), **self.about, **self._data()}
        ours["joint_batch"] = self.batches.batch_size
        processes = self.devices.world_size * self.devices.replicas
        last = self.folder.read_last(self.stage.name, ours, plain(type(self.settings)()), processes)
        try:
            self.model.load_state_dict(last["model_state_dict"])
            self.optimizer.load_state_dict(last["optimizer_state_dict"])
            if self.average:
                self.average.model.load_state_dict(last["ema_state_dict"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise InputError(f"{self.folder.last} does not fit: {reason}; start over with --fresh") from None
        self.epoch, self.best_loss, self.history = last["epoch"], last["best_loss"], last["history"]
        self.step, self.seconds = last["step"], last["seconds"]
        start, end = self.course.span(self.epoch)
        if self.epoch < self.course.epochs and start + self.step > end:
            raise InputError(
                f"{self.folder.last} says that {self.step} steps of epoch {self.epoch + 1} are done, which has "
                f"{end - start}: it is damaged; start over with --fresh"
            )
        done = int(sum(row.get("steps", self.course.epoch_steps) for row in self.history))
        if done < self.course.steps and done != self.course.span(self.epoch)[0]:
            raise InputError(
                f"run {self.settings.run_name} ended after {done} steps, in the middle of an epoch of "
                f"{self.course.epoch_steps}: it cannot go on as if it had not; choose another --run-name, or --fresh"
            )
        if self.devices.main:  # the sums are those of all processes: one of them carries them on
            self.metrics = MetricMeans(last["means"])
            print(f"going on with run {self.settings.run_name} after epoch {self.epoch}, step {self.step} of the next")


def prepare_run(settings: TrainingSettings, devices: Devices) -> None:
    """Check, before anything is loaded, that the precision is possible and the run's folder can be used."""
    check_precision(settings.precision, devices.device)
    RunFolder(settings.run_name).prepare_for_all(settings.fresh, devices)


def save_memory(model: nn.Module, wanted: bool) -> None:
    """Tell every module that can do so whether to compute activations again instead of keeping them.

    Raises `InputError` where that is wanted and no module has the switch `checkpoint_activations`.
    """
    able = [module for module in model.modules() if hasattr(module, "checkpoint_activations")]
    if wanted and not able:
        raise InputError(f"--checkpoint-activations: {type(model).__name__} cannot do without its activations")
    for module in able:
        module.checkpoint_activations = wanted


def to_device(batch: dict[str, Any], devices: Devices, input_range: tuple[float, float]) -> dict[str, Any]:
    """A batch on the device, as the network wants it: images float32 (B, 3, H, W) in `input_range`, int64 labels.

    They are copied as uint8, out of pinned memory, so that nothing waits; file names stay.
    """
    moved = {k: v.to(devices.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    moved["image"] = to_input(moved["image"], input_range)
    if "label" in moved:
        moved["label"] = moved["label"].long()
    return moved
