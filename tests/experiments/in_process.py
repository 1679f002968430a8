"""Scripts that experiments start, run in the process of the test."""

import contextlib
import runpy
import sys

import pytest

from GenSelfDiff import run_folder
from GenSelfDiff.report import results
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


def one_after_the_other(monkeypatch, *modules):
    """The runs of experiments are made here, none beside another: signals are for the main thread alone.

    What takes longer than the runs, pictures of each, is left out.
    """
    for module in modules:
        for name, here in (("run", run_here), ("run_all", lambda tasks, _jobs: [task() for task in tasks])):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, here)
    for module, name in ((results, "draw_report"), (results, "draw_images"), (run_folder, "draw_curves")):
        monkeypatch.setattr(module, name, lambda *_: None)
