"""Stopped, killed or short of disk at any moment: nothing is lost, and the run becomes what it would have been."""

import os
import random
import resource
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from GenSelfDiff import checkpoint, training
from GenSelfDiff.pretrain import SS_diff
from tests.GenSelfDiff.runs import (
    KILLED,
    assert_same_run,
    command,
    descendants,
    finish,
    fork,
    fork_together,
    place,
    send,
    start,
    torchrun,
    wait_until,
)

KILLS = 12


def of_recipe(recipe, settings, **changes):
    """The settings of a recipe, with what in `settings` is not default, and some changed."""
    chosen = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    return type(settings).of(recipe, **{**chosen, **changes})


@pytest.mark.parametrize(("stage", "recipe"), [("pretraining", "improved"), ("finetuning", "paper")])
def test_killed_at_random_moments_and_continued_gives_the_same(stage, recipe, request, tmp_path):
    """SIGKILL from the first moment to the last, with a checkpoint after every step; all files are whole, always."""
    settings = of_recipe(recipe, request.getfixturevalue(stage), epochs=3, batch_size=1, save_minutes=0.0)
    assert finish([fork(settings)]) == [0]
    moments, kills, places, runs, code = random.Random(2023), 0, set(), 0, KILLED
    while kills < KILLS or code == KILLED:
        killed = replace(settings, run_name=str(tmp_path / f"killed_{runs}"))
        last = Path(killed.run_name) / "last.pth"
        before = last.stat() if last.exists() else None
        process = fork(killed)
        if moments.random() < 0.7:  # else while it is starting
            while process.is_alive() and (not last.exists() or last.stat() == before):
                time.sleep(0.01)
        process.join(moments.uniform(0, 0.5) if kills < KILLS else None)
        process.kill()
        (code,) = finish([process])
        assert code in (0, KILLED)
        for file in Path(killed.run_name).glob("*.pth"):
            checkpoint.load(file)
        kills += code == KILLED
        places.add(place(killed.run_name))
        if code == 0:
            assert_same_run(settings.run_name, killed.run_name)
            runs += 1
    assert len(places) > 5 and any(step for _, step in places)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_in_mid_epoch_and_continued_gives_the_same(pretraining, tmp_path, monkeypatch, request, number):
    """The signal comes during the second epoch's first step; the step is finished, saved, the exit code 128 + it."""
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may be run by nohup
    request.addfinalizer(lambda: signal.signal(number, before))
    SS_diff.main(pretraining)
    stopped = replace(pretraining, run_name=str(tmp_path / "stopped"))
    real_step, steps = training.Trainer._train_step, []

    def step_with_signal(trainer, batch):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), number)
        return real_step(trainer, batch)

    monkeypatch.setattr(training.Trainer, "_train_step", step_with_signal)
    with pytest.raises(SystemExit) as leaving:
        SS_diff.main(stopped)
    assert leaving.value.code == 128 + number
    assert place(stopped.run_name) == (1, 1)
    SS_diff.main(stopped)
    assert len(steps) == 6  # none was lost, none done twice
    assert_same_run(pretraining.run_name, stopped.run_name)


def test_a_signal_during_validation_is_not_waited_for(pretraining, tmp_path, monkeypatch):
    SS_diff.main(pretraining)
    stopped = replace(pretraining, run_name=str(tmp_path / "stopped"))
    real_validate, calls = training.Trainer._validate, []

    def validate(trainer, batches=None):
        calls.append(1)
        if len(calls) == 3:  # the check at the start, the first epoch, now the second
            os.kill(os.getpid(), signal.SIGTERM)
        return real_validate(trainer, batches)

    monkeypatch.setattr(training.Trainer, "_validate", validate)
    with pytest.raises(SystemExit):
        SS_diff.main(stopped)
    assert place(stopped.run_name) == (1, 2)
    SS_diff.main(stopped)
    assert_same_run(pretraining.run_name, stopped.run_name)


def test_ctrl_c_reaches_the_workers_too_and_still_saves(finetuning):
    """A terminal sends SIGINT to every process of the group: the workers must live until the step is saved."""
    settings = replace(finetuning, epochs=10_000, workers=1)
    process = start(command(settings))
    wait_until((Path(settings.run_name) / "history.csv").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in output
    assert "stopped by SIGINT after epoch" in output and "the same command goes on from there" in output
    assert place(settings.run_name) >= (1, 0)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_under_torchrun(number, pretraining, tmp_path):
    """SLURM sends its warning to every process of the step; SIGTERM comes to torchrun, which hands it on."""
    whole = replace(pretraining, batch_size=1, epochs=400, save_minutes=0.0)
    process = torchrun(whole, "--standalone", "--nproc-per-node=2", "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1")
    wait_until(lambda: place(whole.run_name) >= (1, 2), process)
    send(number, [process.pid, *(descendants(process.pid) if number == signal.SIGUSR1 else [])])
    output, _ = process.communicate(timeout=60)
    assert process.returncode and f"stopped by {number.name} after epoch" in output
    epoch, step = place(whole.run_name)
    assert f"after epoch {epoch}, step {step} of the next; saved in {whole.run_name}" in output
    stopped, whole = (
        replace(whole, epochs=epoch + 1),
        replace(whole, epochs=epoch + 1, run_name=str(tmp_path / "whole")),
    )
    assert finish([*fork_together(stopped), *fork_together(whole)]) == [0] * 4
    assert_same_run(whole.run_name, stopped.run_name)


def test_killed_before_the_first_epoch_is_saved_the_run_goes_on(pretraining, tmp_path, monkeypatch):
    SS_diff.main(pretraining)
    killed = replace(pretraining, run_name=str(tmp_path / "killed"))

    def kill(_trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Trainer, "_write_history", kill)  # best.pth is there, last.pth is of the start
        SS_diff.main(killed)
    SS_diff.main(killed)
    assert_same_run(pretraining.run_name, killed.run_name)


def test_a_full_disk_leaves_the_last_good_checkpoint(pretraining):
    """A limit on the size of files stands for the full disk: no checkpoint of this network fits below 1 MB."""
    SS_diff.main(replace(pretraining, epochs=1))
    good = (Path(pretraining.run_name) / "last.pth").read_bytes()
    process = start(command(pretraining), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)))
    output, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith(f"error: cannot write or read {pretraining.run_name}")
    assert (Path(pretraining.run_name) / "last.pth").read_bytes() == good
    assert not list(Path(pretraining.run_name).glob(".*"))


@pytest.mark.parametrize("name", ["best.pth", "last.pth", "history.csv"])
def test_whichever_file_meets_the_full_disk_the_run_goes_on(name, pretraining, tmp_path, monkeypatch):
    """Both checkpoints stay as they were after the first epoch; with room again, the run is what it would have been."""
    SS_diff.main(pretraining)
    short = replace(pretraining, run_name=str(tmp_path / "short"))
    SS_diff.main(replace(short, epochs=1))
    files = [Path(short.run_name) / f for f in ("best.pth", "last.pth", "history.csv")]
    good = {f.name: f.read_bytes() for f in files}
    replace_by = Path.replace

    def full(file, target):
        if target.name == name:
            raise OSError(28, "No space left on device")
        return replace_by(file, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "replace", full)
        SS_diff.main(short)
    assert (Path(short.run_name) / name).read_bytes() == good[name]
    assert all(checkpoint.load(f) for f in files[:2]) and not list(Path(short.run_name).glob(".*"))
    assert (Path(short.run_name) / "last.pth").read_bytes() == good["last.pth"]
    SS_diff.main(short)
    assert_same_run(pretraining.run_name, short.run_name)


def test_a_worker_that_is_killed_ends_the_run_in_one_line(pretraining):
    """What the system does to it where memory is short."""
    settings = replace(pretraining, epochs=10_000, workers=1)
    process = start(command(settings))
    wait_until(lambda: place(settings.run_name) >= (1, 0), process)
    send(signal.SIGKILL, descendants(process.pid)[:1])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("error: a process that reads patches died (DataLoader worker")
    assert place(settings.run_name) >= (1, 0)


def test_nohup_lets_a_run_go_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with training.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.signal and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
