"""The folder of a training run: what is kept there, and whether a run may go on with what it finds."""

from pathlib import Path
from typing import Any

import pandas as pd

from GenSelfDiff import checkpoint
from GenSelfDiff.devices import Devices
from GenSelfDiff.history import TensorBoard, draw_curves
from output_folder import LOCK, UNFINISHED_FILES, FolderLock
from utils_general import SNAPSHOTS, InputError, read_json, replace_file, write_json

# What may differ when a run is continued; every other setting is part of what the run computes.
# The batch size may with the number of processes: their product, the joint batch, may not.
MAY_CHANGE = {
    "epochs", "steps", "batch_size", "workers", "cache", "device", "save_minutes", "fresh", "sample_every", "data",
    "recipe", "checkpoint_activations", "compile", "tensorboard", "run_name", "mpp", "downscale", "instances",
    "features", "threshold",
}  # fmt: skip

_held: dict[Path, FolderLock] = {}  # the run that this process trains


class RunFolder:
    """`snapshots/<run>`: last.pth (to go on), best.pth (to hand on), settings.json, history.csv, curves.png."""

    def __init__(self, run: str):
        """`run`: a name is a folder under snapshots, an absolute path is itself."""
        self.run, self.path = run, SNAPSHOTS / run
        self.last, self.best = self.path / "last.pth", self.path / "best.pth"

    def __str__(self) -> str:
        return str(self.path)

    def prepare_for_all(self, fresh: bool, devices: Devices) -> None:
        """`prepare` by the main process of a job, for all; where it cannot, all end with its error."""
        failure = None
        if devices.main:
            try:
                self.prepare(fresh)
            except (InputError, OSError) as error:
                failure = error
        if failure := devices.gather(failure)[0]:
            raise failure

    def prepare(self, fresh: bool) -> None:
        """Take hold of it until `release`, or the end of this process; remove what a killed run left half.

        `InputError` where another training has it, where it holds files of others, and where it cannot be written.
        """
        self._check_owner(fresh)
        self.path.mkdir(parents=True, exist_ok=True)
        if self.path not in _held:  # closing any of a process's descriptors of a file would give up its lock
            _held[self.path] = FolderLock(self.path, "wait until it has ended, or choose another --run-name")
        self._check_owner(fresh)  # as it is now that nobody else changes it
        for unfinished in self.path.glob(UNFINISHED_FILES):
            unfinished.unlink()
        with replace_file(self.path / ".writable") as temporary:
            temporary.touch()
        (self.path / ".writable").unlink()

    def release(self) -> None:
        """Let another training have it."""
        if lock := _held.pop(self.path, None):
            lock.release()

    def _check_owner(self, fresh: bool) -> None:
        """`InputError` for a folder that is not empty and not a run's."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; a run needs a folder: choose another --run-name")
        if not fresh and self.best.exists() and not self.last.exists():
            raise InputError(
                f"{self.path} holds a best.pth that no run left there: choose another --run-name, or --fresh"
            )
        strangers = [] if self._is_a_run(fresh) else self._entries()
        if strangers:
            raise InputError(
                f"{self.path} is no run's folder, it holds {strangers[0]}: choose another --run-name, a run's folder "
                "is new or empty"
            )

    def _entries(self) -> list[str]:
        """What lies in it that was not left by a run that was killed before its first checkpoint."""
        if not self.path.is_dir():
            return []
        ours = {LOCK, ".writable", *(f.name for f in self.path.glob(UNFINISHED_FILES))}
        return sorted(f.name for f in self.path.iterdir() if f.name not in ours)

    def _is_a_run(self, fresh: bool) -> bool:
        """Whether a run's checkpoint is in it; before it is replaced by a `fresh` one, it must say that it is one."""
        found = [file for file in (self.last, self.best) if file.exists()]
        if not found or not fresh:  # `read_last` looks at what is to be continued
            return self.last in found
        try:
            settings = read_json(self.path / "settings.json")
        except InputError:
            settings = None
        if isinstance(settings, dict) and "run_name" in settings:
            return True
        try:
            return "stage" in checkpoint.load(found[0])
        except InputError:
            return False

    def goes_on(self, fresh: bool) -> bool:
        """Whether there is a run that was begun and is to be continued."""
        return self.last.is_file() and not fresh

    def clear(self) -> None:
        """Remove what is left of a run that is started over; last.pth is already the new one's."""
        for pattern in ("best.pth", "history.csv", "curves.png", "sample_epoch_*.png", TensorBoard.FILES):
            for file in self.path.glob(pattern):
                file.unlink()

    def write_settings(self, resolved: dict[str, Any]) -> None:
        """settings.json: what every default came to, and what the run computes on."""
        write_json(self.path / "settings.json", resolved)

    def write_history(self, rows: list[dict[str, float]], title: str, draw: bool) -> None:
        """history.csv, a row an epoch, and if wanted curves.png."""
        table = pd.DataFrame(rows)
        with replace_file(self.path / "history.csv") as temporary:
            table.to_csv(temporary, index=False)
        if draw:
            draw_curves(table, title, self.path / "curves.png")

    def read_last(self, stage: str, ours: dict[str, Any], defaults: dict[str, Any], processes: int) -> dict[str, Any]:
        """last.pth; `InputError` names what differs between the run and `ours`: settings, patches and joint batch.

        A setting that the run's version did not know has its default there. `processes`: how many there are now.
        """
        last = checkpoint.load_to_go_on(self.last)
        if last["stage"] != stage:
            raise InputError(f"{self.last} is of another stage; choose another --run-name, or start over with --fresh")
        theirs = {**defaults, **last["settings"], **last}
        # Where the learning rate decays, the length of the run is part of what it computes.
        fixed = {"epochs", "steps"} if ours["decay"] != "none" else set()
        unknown = {"contents", "labels"} - last.keys()  # earlier versions did not look at them
        changed = [k for k in ours if k not in (MAY_CHANGE - fixed) | unknown and ours[k] != theirs.get(k)]
        if len(changed) > 1 and "contents" in changed:
            changed.remove("contents")  # what is read of patches depends on the settings
        if other := {"patches", "contents", "labels"} & set(changed):
            how = (
                "their index.csv differs" if "patches" in other else "of the same names: their images or labels differ"
            )
            raise InputError(
                f"run {self.run} was started on other patches ({how}): choose another --run-name, or start over with "
                "--fresh"
            )
        if changed == ["joint_batch"]:
            raise InputError(
                f"run {self.run} was started with a joint batch of {theirs['joint_batch']} patches, now it would be "
                f"{ours['joint_batch']}: with {processes} processes or GPUs, "
                f"--batch-size {theirs['joint_batch'] / processes:g} goes on"
            )
        if changed:
            name = changed[0]
            raise InputError(
                f"run {self.run} was started with other settings: {', '.join(changed)} "
                f"({name} was {theirs.get(name)}, now {ours[name]}); use those, another --run-name, or --fresh"
            )
        return last
