"""The folder of a training run: what is kept there, and whether a run may go on with what it finds."""

from typing import Any

import pandas as pd

from GenSelfDiff import checkpoint
from GenSelfDiff.history import TensorBoard, draw_curves
from utils_general import SNAPSHOTS, InputError, replace_file, write_json

# What may differ when a run is continued; every other setting is part of what the run computes.
# The batch size may with the number of processes: their product, the joint batch, may not.
MAY_CHANGE = {
    "epochs", "batch_size", "workers", "cache", "device", "save_minutes", "fresh", "sample_every", "data", "recipe",
    "checkpoint_activations", "compile", "tensorboard", "run_name", "mpp", "instances",
}  # fmt: skip


class RunFolder:
    """`snapshots/<run>`: last.pth (to go on), best.pth (to hand on), settings.json, history.csv, curves.png."""

    def __init__(self, run: str):
        """`run`: a name is a folder under snapshots, an absolute path is itself."""
        self.run, self.path = run, SNAPSHOTS / run
        self.last, self.best = self.path / "last.pth", self.path / "best.pth"

    def __str__(self) -> str:
        return str(self.path)

    def prepare(self, fresh: bool) -> None:
        """Check that it can be written and holds nothing of others; remove what a killed run left half."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replace_file(self.path / ".writable") as temporary:
            temporary.touch()
        (self.path / ".writable").unlink()
        for unfinished in self.path.glob(".*.unfinished"):
            unfinished.unlink()
        if not fresh and self.best.exists() and not self.last.exists():
            raise InputError(
                f"{self.path} holds a best.pth that no run left there: choose another --run-name, or --fresh"
            )

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
        fixed = {"epochs"} if ours["decay"] != "none" else set()
        changed = [k for k in ours if k not in MAY_CHANGE - fixed and ours[k] != theirs.get(k)]
        if "patches" in changed:
            raise InputError(
                f"run {self.run} was started on other patches (their index.csv differs): choose another "
                "--run-name, or start over with --fresh"
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
