"""A clock over several calls, and scripts that are told to stop."""

import time

import pytest

from experiments.timed import Record, run_for
from GenSelfDiff import checkpoint
from utils_general import InputError


def test_seconds_and_notes_go_on_in_the_next_call(tmp_path):
    first = Record(tmp_path / "record.json")
    time.sleep(0.2)
    assert first.note("a", epochs=3) == {"epochs": 3}
    assert first.note("a", done=True) == {"epochs": 3, "done": True}
    second = Record(tmp_path / "record.json")
    assert second.notes == {"a": {"epochs": 3, "done": True}}
    assert 0.2 <= second.seconds < 5


def test_a_script_is_told_to_save_and_stop(tiny_data_set, tmp_path):
    words = [
        "--data",
        tiny_data_set,
        "--run-name",
        tmp_path / "run",
        "--dim",
        8,
        "--epochs",
        100_000,
        "--device",
        "cpu",
    ]
    words += ["--sample-every", 0, "--workers", 0]
    record = Record(tmp_path / "record.json")
    assert run_for(record, "GenSelfDiff/pretrain/SS_diff.py", *words, seconds=12) is False
    last = checkpoint.load(tmp_path / "run" / "last.pth")
    assert last["epoch"] + last["step"] > 0
    assert Record(record.path).seconds > 12


def test_a_script_that_fails_is_named(tmp_path):
    with pytest.raises(InputError, match=r"image_generation.py ended with 1"):
        run_for(Record(tmp_path / "record.json"), "image_generation.py", "--pretrained", tmp_path / "nothing")
