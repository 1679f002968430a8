"""A clock over several calls, and scripts that are told to stop."""

import re
import time
from types import SimpleNamespace

import pytest

from experiments import timed
from experiments.timed import Record, run_for
from tests.GenSelfDiff.runs import place
from utils_general import InputError


def test_seconds_and_notes_go_on_in_the_next_call(tmp_path):
    first = Record(tmp_path / "record.json")
    time.sleep(0.2)
    assert first.note("a", epochs=3) == {"epochs": 3}
    assert first.note("a", done=True) == {"epochs": 3, "done": True}
    second = Record(tmp_path / "record.json")
    assert second.notes == {"a": {"epochs": 3, "done": True}}
    assert 0.2 <= second.seconds < 5


def test_a_script_is_told_to_save_and_stop(tiny_data_set, tmp_path, monkeypatch, forked, capfd):
    """By a clock on which its time is over as soon as it has done a step."""
    run = tmp_path / "run"
    clock = SimpleNamespace(sleep=time.sleep, monotonic=lambda: 13.0 if place(run) > (0, 0) else 0.0)
    monkeypatch.setattr(timed, "time", clock)
    words = ["--data", tiny_data_set, "--run-name", run, "--dim", 8, "--epochs", 100_000, "--device", "cpu"]
    words += ["--sample-every", 0, "--workers", 0]
    record = Record(tmp_path / "record.json")
    assert run_for(record, "GenSelfDiff/pretrain/SS_diff.py", *words, seconds=12) is False
    epoch, step = place(run)
    assert re.search(
        rf"stopped by SIGINT after epoch {epoch}, step {step} of the next; saved in {run}", capfd.readouterr().out
    )
    assert Record(record.path).seconds >= 13


def test_a_script_that_fails_is_named(tmp_path):
    with pytest.raises(InputError, match=r"image_generation.py ended with 1"):
        run_for(Record(tmp_path / "record.json"), "image_generation.py", "--pretrained", tmp_path / "nothing")
