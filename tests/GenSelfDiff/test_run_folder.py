"""Whose a run's folder is: one training's at a time, and never that of other files."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from GenSelfDiff.pretrain import SS_diff
from output_folder import LOCK
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
    wait_until,
)
from utils_general import InputError


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": b"mine"},
        {"last.pth": b"mine", "best.pth": b"mine", "history.csv": b"mine"},
        {"best.pth": b"mine", "settings.json": b"[1]"},
        {".hidden.unfinished": b"mine"},
        {"sample_epoch_1.png": b"mine", "settings.json": b"{}"},
    ],
)
def test_a_folder_of_others_is_left_as_it_is(files, fresh, pretraining):
    folder = Path(pretraining.run_name)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"is no run's folder|no run left there|is not a whole checkpoint"):
        SS_diff.main(replace(pretraining, fresh=fresh))
    assert contents(folder) == files


def test_notes_in_a_runs_folder_disturb_nothing(pretraining):
    SS_diff.main(replace(pretraining, epochs=1))
    (Path(pretraining.run_name) / "notes.txt").write_text("mine")
    SS_diff.main(replace(pretraining, epochs=2))
    SS_diff.main(replace(pretraining, epochs=1, fresh=True))
    assert (Path(pretraining.run_name) / "notes.txt").read_text() == "mine"
    assert not (Path(pretraining.run_name) / LOCK).exists()


def test_fresh_starts_over_where_the_checkpoint_is_damaged(pretraining):
    SS_diff.main(replace(pretraining, epochs=1))
    (Path(pretraining.run_name) / "last.pth").write_bytes(b"")
    SS_diff.main(replace(pretraining, epochs=1, fresh=True))
    assert place(pretraining.run_name) == (1, 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_training_into_the_folder_is_refused(processes, pretraining):
    """Also of a job of several processes, whose main process holds the folder for all; all of the second end."""
    settings = replace(pretraining, epochs=10_000, batch_size=4 // processes)
    running = fork_together(settings) if processes == 2 else [fork(settings)]
    try:
        while place(settings.run_name) < (0, 0):
            assert all(p.is_alive() for p in running)
            time.sleep(0.05)
        before = (Path(settings.run_name) / "settings.json").stat()
        for fresh in (False, True):
            with pytest.raises(InputError, match=f"is in use: process {running[0].pid} on .*another --run-name"):
                SS_diff.main(replace(settings, fresh=fresh))
        codes = finish(fork_together(replace(settings, batch_size=2)))
        assert codes == [1, 1] and all(p.is_alive() for p in running)
        assert (Path(settings.run_name) / "settings.json").stat().st_mtime_ns >= before.st_mtime_ns
    finally:
        for process in running:
            process.kill()
        finish(running)


def test_the_folder_of_a_killed_training_is_free_at_once(pretraining, tmp_path):
    """Though its workers live on for a while: they do not hold the lock."""
    settings = replace(pretraining, epochs=10_000, workers=1)
    process = start(command(settings))
    wait_until(lambda: place(settings.run_name) >= (1, 0), process)
    workers = descendants(process.pid)
    try:
        send(signal.SIGSTOP, workers)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(20) == KILLED and (Path(settings.run_name) / LOCK).exists()
        epochs = place(settings.run_name)[0] + 1
        SS_diff.main(replace(settings, epochs=epochs, workers=0))
    finally:
        send(signal.SIGKILL, workers)
    whole = replace(settings, epochs=epochs, workers=0, run_name=str(tmp_path / "whole"))
    SS_diff.main(whole)
    assert_same_run(whole.run_name, settings.run_name)
