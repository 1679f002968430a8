"""Which processes belong together, as the environment says it."""

import pytest

from GenSelfDiff.devices import set_up, set_up_alone
from utils_general import InputError

JOB = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("start", [set_up, set_up_alone])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({name: None for name in JOB if name != "RANK"}, "RANK, .*but no WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_"),
        ({"MASTER_PORT": None}, "but no MASTER_PORT: start with torchrun"),
        ({"RANK": "first"}, "RANK=first in the environment"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE=-1 in the environment"),
        ({"RANK": "1"}, "RANK=1 in the environment: it is below WORLD_SIZE=1"),
    ],
)
def test_a_lone_rank_is_explained(changes, message, start, monkeypatch):
    for name, value in {**JOB, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        start("cpu")


def test_a_script_for_one_process_says_so_under_torchrun(monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="this script runs in one process"):
        set_up_alone("cpu")
