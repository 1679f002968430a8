"""The scripts that an experiment starts, without the seconds each takes to import what it needs."""

from types import SimpleNamespace

import pytest

from experiments import grid, timed
from tests.GenSelfDiff.runs import ForkedScript


@pytest.fixture
def forked(monkeypatch):
    """They run as they are, by their paths and words, in processes forked from one that has imported everything."""
    started = SimpleNamespace(run=ForkedScript.run, Popen=ForkedScript)
    for module in (grid, timed):
        monkeypatch.setattr(module, "subprocess", started)
