"""A function in a process of its own: what it returns and raises comes back, its death becomes one line."""

import ctypes
import math
import os
import signal
import sys

import numpy as np
import pytest

from GenSelfDiff.isolated import isolated
from utils_general import InputError, read_json


def test_what_a_function_returns_comes_back():
    assert isolated(math.hypot, 3, 4, what="a sum") == 5
    rows = isolated(np.arange, 1_000_000, what="an array")
    np.testing.assert_array_equal(rows, np.arange(1_000_000))
    assert isolated(os.getpid, what="a number") != os.getpid()


def test_what_a_function_prints_does_not_spoil_the_answer(capfd):
    assert isolated(os.write, 1, b"a library's own words", what="a file") == 21
    assert capfd.readouterr().out == ""


def test_what_a_function_raises_is_raised_here(tmp_path):
    with pytest.raises(ValueError, match="math domain error|nonnegative"):
        isolated(math.sqrt, -1, what="a root")
    with pytest.raises(InputError, match=r"none\.json is missing"):
        isolated(read_json, tmp_path / "none.json", what="a file")
    with pytest.raises(UnicodeDecodeError) as raised:  # an exception that wants more than a message
        isolated(bytes.decode, b"\xff", what="a text")
    assert "in a process of its own" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("death", "message"),
    [
        ((ctypes.string_at, 0), r"cannot read slide\.svs: its reader crashed \(SIGSEGV\): is the file damaged\?"),
        ((os.abort,), r"cannot read slide\.svs: its reader crashed \(SIGABRT\)"),
        ((os._exit, 3), r"cannot read slide\.svs: its reader stopped with code 3"),
        ((signal.raise_signal, signal.SIGKILL), r"was killed \(SIGKILL\): is there enough memory\?"),
    ],
)
def test_a_death_is_one_clear_line(death, message):
    with pytest.raises(InputError, match=message) as raised:
        isolated(*death, what="slide.svs")
    assert "\n" not in str(raised.value)


def test_it_starts_no_script_and_no_pytorch():
    modules = isolated(eval, "sorted(__import__('sys').modules)", what="modules")
    assert "torch" not in modules
    assert "torch" in sys.modules
