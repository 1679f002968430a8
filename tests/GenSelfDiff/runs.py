"""Training runs as tests drive them: as commands, or as processes forked from one that has imported everything."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from multiprocessing.reduction import DupFd
from pathlib import Path

import pandas as pd
import torch

from GenSelfDiff import checkpoint
from GenSelfDiff.downstream_train import Diff_Seg, pixel_classifier
from GenSelfDiff.methods import monai_networks
from GenSelfDiff.methods.attention import SS_attention
from GenSelfDiff.pretrain import SS_diff
from utils_general import plain

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    SS_diff.Settings: "GenSelfDiff/pretrain/SS_diff.py",
    Diff_Seg.Settings: "GenSelfDiff/downstream_train/Diff_Seg.py",
}
MAINS = {script.Settings: script.main for script in (SS_diff, Diff_Seg, SS_attention, pixel_classifier, monai_networks)}
KILLED = -signal.SIGKILL


def command(settings):
    """The command line that means these settings."""
    words = [str(ROOT / SCRIPTS[type(settings)])]
    for name, value in plain(settings).items():
        values = value if isinstance(value, list) else [value]
        option = f"--{name.replace('_', '-')}"
        words += [option] * (value is True) if isinstance(value, bool) else [option, *map(str, values)]
    return words


def start(words, *prefix, **options):
    """Start a command in a process group of its own; stdout and stderr come as one text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *prefix, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )


def torchrun(settings, *options):
    """Start a run under torchrun."""
    return start(command(settings), "-m", "torch.distributed.run", *options)


def descendants(pid):
    """The processes that a process started, and they, by their id."""
    ids = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                ids += [int(child), *descendants(int(child))]
    return ids


def fork_server():
    """What makes processes that are forked from one that has imported everything."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "GenSelfDiff.test.test_script", "matplotlib.pyplot"])
    return context


def fork(settings, rank=0, processes=1, port=0):
    """Start a run in a process that has imported everything; with `processes`, as one of them, as torchrun does."""
    context = fork_server()
    job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = context.Process(target=_run, args=(settings, job if processes > 1 else {}))
    process.start()
    return process


def _run(settings, job):
    os.environ |= {name: str(value) for name, value in job.items()}
    MAINS[type(settings)](settings)


class ForkedScript:
    """A script and its words as `subprocess.Popen` starts them, in a process that has imported everything."""

    def __init__(self, command, stdout=None, stderr=None, **_):
        _, script, *words = command
        streams = [DupFd(stream.fileno() if stream else number) for number, stream in ((1, stdout), (2, stderr))]
        self.process = fork_server().Process(target=_run_script, args=(script, words, streams))
        self.process.start()
        self.send_signal = partial(os.kill, self.process.pid)

    @property
    def returncode(self):
        """None while it runs."""
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self):
        self.process.join()
        return self.returncode

    @classmethod
    def run(cls, command, **options):
        """As `subprocess.run`."""
        script = cls(command, **options)
        script.wait()
        return script


def _run_script(script, words, streams):
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.detach(), number)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def fork_together(settings, processes=2):
    """Start a run in several processes that talk to each other over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork(settings, rank, processes, port) for rank in range(processes)]


def finish(processes):
    """Wait for all of them; their exit codes."""
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def wait_until(condition, process, seconds=100):
    """Wait until `condition()` holds while `process` (of subprocess) is running."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this took too long"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def place(run):
    """How far last.pth is: epochs done, and steps of the next; (-1, 0) before there is one."""
    last = Path(run) / "last.pth"
    if not last.exists():
        return -1, 0
    content = checkpoint.load(last)
    return content["epoch"], content["step"]


def weights(run):
    """Everything of last.pth that is computed: the weights, and their running mean where there is one."""
    last = checkpoint.load(Path(run) / "last.pth")
    return {**last["model_state_dict"], **{f"mean {k}": v for k, v in last.get("ema_state_dict", {}).items()}}


def history(run):
    """The table of the epochs without the seconds they took."""
    return pd.read_csv(Path(run) / "history.csv").drop(columns="seconds")


def assert_same_run(one, other):
    """Bit by bit, and the same epoch was handed on."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())
    best, theirs = (checkpoint.load(Path(run) / "best.pth") for run in (one, other))
    assert (best["epoch"], best["loss"]) == (theirs["epoch"], theirs["loss"])
    assert all(torch.equal(v, theirs["model_state_dict"][k]) for k, v in best["model_state_dict"].items())
    pd.testing.assert_frame_equal(history(one), history(other), check_exact=True)


def send(number, ids):
    """A signal to processes, of which some may have ended."""
    for pid in ids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
