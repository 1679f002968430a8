"""The one place that decides where a script computes: CPU or GPUs, one process or several."""

import atexit
import contextlib
import ctypes
import os
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, nn

from utils_general import InputError

# How long a process waits for the others before it takes one for lost and ends with an error. A process that dies is
# noticed at once, by torchrun or by the closed connection: this is for a machine that is gone, or a process that hangs.
# The longest wait that is none of these is for the main process to draw its sampled image: a minute on a GPU, and on a
# CPU, at the paper's size, half an hour.
PATIENCE = {"nccl": timedelta(minutes=10), "gloo": timedelta(hours=1)}

Precision = Literal["float32", "tf32", "bfloat16"]

# Options of glibc's mallopt(3), by their numbers in malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
MIB = 2**20


@dataclass(frozen=True)
class Devices:
    """What a process computes on, and its place among the processes of the job."""

    device: torch.device
    replicas: int = 1
    """GPUs that this process uses (`DataParallel`)"""
    rank: int = 0
    world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training step calls it: parallel where there are several GPUs or processes."""
        if self.world_size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # For 1x1 convolutions channels_last is the same memory with other strides: not worth a warning.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            return nn.parallel.DistributedDataParallel(model, device_ids=ids)
        return nn.DataParallel(model) if self.replicas > 1 else model

    def gather(self, content: Any) -> list[Any]:
        """What every process gives, in the order of their ranks, in every process."""
        if self.world_size == 1:
            return [content]
        everything: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(everything, content)
        return everything

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over all processes: how they agree on what to do."""
        if self.world_size == 1:
            return list(numbers)
        values = torch.tensor(numbers, device=self.device)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return values.tolist()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{name} ({self.replicas * self.world_size} x)" if self.replicas * self.world_size > 1 else name


class InPrecision(nn.Module):
    """A network that computes in a precision; its output is float32.

    Autocast is entered here, inside each replica: `DataParallel` would hand it on to its threads without the dtype.
    """

    def __init__(self, model: nn.Module, precision: Precision):
        super().__init__()
        check_precision(precision, next(model.parameters()).device)
        self.model, self.precision = model, precision
        round_to_tf32(precision == "tf32")

    def forward(self, x: Tensor, *arguments: Tensor) -> Any:
        """As the network's."""
        with autocast(x.device, self.precision):
            return _as_float32(self.model(x, *arguments))


def round_to_tf32(rounded: bool) -> None:
    """Whether GPUs round float32 to TF32 in convolutions and matrix products, for the whole process.

    PyTorch rounds convolutions by itself. It has two sets of flags: `torch.compile` reads the older one, which raises
    where it does not fit the newer one. So both are set, the older first, as it writes to the newer.
    """
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    precision = "tf32" if rounded else "ieee"
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """In here a network computes in that precision; TF32 is of all, see `InPrecision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _as_float32(output: Any) -> Any:
    """A network's output, a tensor or a tuple, list or dict of them, in float32."""
    if isinstance(output, dict):
        return {name: _as_float32(value) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return type(output)(map(_as_float32, output))
    return output.float()


def check_precision(precision: Precision, device: torch.device) -> None:
    """`InputError` for a precision that the device does not have."""
    if precision == "tf32" and device.type != "cuda":
        raise InputError("--precision tf32 is one of GPUs, and this is a CPU: float32 or bfloat16 are meant")


def pick_device(name: str) -> torch.device:
    """ "auto": a GPU if there is one, else the CPU; or what the name says ("cpu", "cuda", "cuda:1")."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"there is no device {name!r}: auto, cpu, cuda or cuda:1 are meant")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} was asked for, but PyTorch sees {torch.cuda.device_count()} GPUs")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def set_up_alone(name: str) -> Devices:
    """The devices of a script that is no training and runs in one process."""
    if joins_others():
        raise InputError("this script runs in one process: start it with python3, not with torchrun")
    return set_up(name)


def joins_others() -> bool:
    """Whether `torchrun` started this process; `InputError` for a part of the variables by which it says so.

    Some containers and schedulers set RANK for purposes of their own.
    """
    if "RANK" not in os.environ:
        return False
    missing = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"the environment holds RANK, as torchrun sets it, but no {', '.join(missing)}: start with torchrun, or, "
            "for one process, without it: env -u RANK python3 ..."
        )
    numbers = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    for variable, value in numbers.items():
        if not value.isdecimal():
            raise InputError(f"{variable}={value} in the environment: torchrun sets a number there")
    if int(numbers["RANK"]) >= int(numbers["WORLD_SIZE"]):
        raise InputError(f"RANK={numbers['RANK']} in the environment: it is below WORLD_SIZE={numbers['WORLD_SIZE']}")
    return True


def set_up(name: str) -> Devices:
    """Decide on the devices of a script, and join the other processes where `torchrun` started it."""
    device = pick_device(name)
    if not joins_others():
        return Devices(device, replicas=torch.cuda.device_count() if device == torch.device("cuda") else 1)
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU, PyTorch sees {torch.cuda.device_count()}: "
                "lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=PATIENCE[backend])
    atexit.register(torch.distributed.destroy_process_group)
    devices = Devices(device, rank=torch.distributed.get_rank(), world_size=torch.distributed.get_world_size())
    if not devices.main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  one process speaks for all, until the end
    return devices


def keep_freed_memory(large: bool = True) -> None:
    """Let glibc keep the memory that tensors free, instead of giving it back and faulting it in again every step.

    On a CPU this is worth more than any other setting; results are bit-identical. Without `large`, blocks of 32 MiB and
    more are given back all the same: kept, they leave gaps that a step with few activations alive would have to pay.
    Elsewhere than on glibc: no effect.
    """
    if not sys.platform.startswith("linux"):
        return
    options = {M_TRIM_THRESHOLD: -1, M_TOP_PAD: (256 if large else 64) * MIB}  # never give the heap's end back
    options |= {M_MMAP_MAX: 0} if large else {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * MIB}
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)
