"""Several processes: the same weights as one, the same figures, another number of them, and what if one dies."""

import re
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from GenSelfDiff import checkpoint
from GenSelfDiff.pretrain import SS_diff
from tests.GenSelfDiff.runs import (
    descendants,
    finish,
    fork,
    fork_together,
    history,
    place,
    send,
    torchrun,
    wait_until,
    weights,
)
from utils_general import InputError


@pytest.fixture
def alone(pretraining, write_patches, tmp_path):
    """Settings of one process: 20 patches to train on, 5 steps an epoch, 20 in all.

    Wider than elsewhere: at dim 8 every channel is a group of its own, so that the gradients of the biases before
    GroupNorm are rounding noise, which Adam enlarges.
    """
    root = tmp_path / "more"
    write_patches(root / "unlabelled", ["a", "b", "c"], ["train", "train", "val"], per_source=10, labelled=False)
    (root / "dataset.json").write_text((pretraining.data[0] / "dataset.json").read_text())
    return replace(pretraining, data=(root,), dim=16, learning_rate=1e-4, epochs=4)


def assert_close_run(one, other):
    """All weights together within 1e-7, and the figures of every epoch.

    A few weights have gradients that are rounding noise, which Adam enlarges: any one is within a fifth of its step.
    """
    theirs = weights(other)
    difference = torch.cat([(v - theirs[k]).flatten() for k, v in weights(one).items()])
    assert difference.square().mean().sqrt() < 1e-7 and difference.abs().max() < 2e-5
    for figure in ("train_loss", "val_loss", "val_published"):
        assert history(one)[figure].tolist() == pytest.approx(history(other)[figure].tolist(), rel=1e-4)


def stop_in_mid_epoch(settings, processes):
    """Start a run, and stop it with SIGTERM in its second epoch; how far it came."""
    settings = replace(settings, save_minutes=0.0)
    running = fork_together(settings, processes) if processes > 1 else [fork(settings)]
    while place(settings.run_name) < (1, 1):
        assert all(p.is_alive() for p in running)
        time.sleep(0.05)
    for process in running:
        process.terminate()
    assert finish(running) == [128 + signal.SIGTERM] * processes
    return place(settings.run_name)


def test_two_processes_equal_one_with_the_joint_batch(alone, tmp_path):
    """20 steps; the held-out patches are divided among the processes, the figures are those of one."""
    together = replace(alone, batch_size=2, run_name=str(tmp_path / "together"))
    assert finish([fork(alone), *fork_together(together)]) == [0] * 3
    assert_close_run(alone.run_name, together.run_name)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_going_on_in_mid_epoch_with_another_number_of_processes(before, after, alone, tmp_path):
    SS_diff.main(alone)
    stopped = replace(alone, batch_size=4 // before, run_name=str(tmp_path / "stopped"))
    epoch, step = stop_in_mid_epoch(stopped, before)
    assert (epoch, step) < (4, 0) and step
    rest = replace(stopped, batch_size=4 // after)
    assert finish(fork_together(rest) if after > 1 else [fork(rest)]) == [0] * after
    assert_close_run(alone.run_name, stopped.run_name)


def test_another_joint_batch_is_refused(pretraining):
    SS_diff.main(replace(pretraining, epochs=1))
    with pytest.raises(InputError, match="joint batch of 4 patches, now it would be 2.* --batch-size 4 goes on"):
        SS_diff.main(replace(pretraining, batch_size=2))


def test_a_process_that_dies_ends_the_job_on_both_machines(alone):
    """Two agents of torchrun stand for two machines: where one process is killed, the other machine's ends, too."""
    settings = replace(alone, batch_size=2, epochs=10_000, save_minutes=0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    options = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=1", meeting)
    machines = [torchrun(settings, *options) for _ in range(2)]
    wait_until(lambda: place(settings.run_name) >= (1, 0), machines[0])
    send(signal.SIGKILL, descendants(machines[1].pid)[:1])
    ended = [machine.communicate(timeout=60)[0] for machine in machines]
    assert all(machine.returncode not in (0, None) for machine in machines)
    assert any(re.search(r"Signal 9 \(SIGKILL\)", output) for output in ended)
    assert checkpoint.load(Path(settings.run_name) / "last.pth")["epoch"] >= 1
    assert finish([fork(replace(settings, batch_size=4, epochs=place(settings.run_name)[0] + 1))]) == [0]
