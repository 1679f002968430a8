"""Scripts that experiments start, run in the process of the test."""

import contextlib
import runpy
import sys

import pytest

from utils_general import ROOT, InputError


def run_here(script, *words, log):
    """As `grid.run`, in this process: most of the time of a small run is that of starting Python."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, log.open("a") as file, contextlib.redirect_stdout(file):
        patch.setattr(sys, "argv", [script, *map(str, words)])
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise InputError(str(end.code)) from None
