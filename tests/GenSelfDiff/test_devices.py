"""Which processes belong together, as the environment says it."""

import pytest
import torch

from GenSelfDiff.devices import round_to_tf32, set_up, set_up_alone
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


def test_both_sets_of_precision_flags_agree_and_can_be_read():
    """`torch.compile` reads the older three; PyTorch raises where they contradict the newer two."""
    for rounded in (True, False):  # float32 last: what all other tests want
        round_to_tf32(rounded)
        older = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        newer = (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
        assert older == (rounded, rounded) and newer == (("tf32" if rounded else "ieee"),) * 2
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
