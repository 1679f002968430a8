"""One training step in a process of its own: benchmarks/training.py starts this for every case in every round.

    python3 benchmarks/training_step.py '{"network": "GenSelfDiff", "dim": 16, "size": 64, "batch": 8, "switches": []}'

The last line it prints is JSON. Allocator and peak memory belong to a process: hence one process a measurement.
"""

import json
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks.training_cases import GRAPH
from benchmarks.training_networks import NETWORKS, TIMESTEPS, Job, work
from GenSelfDiff.devices import keep_freed_memory, round_to_tf32

Inputs = tuple[Tensor, ...]  # images, steps, noise

WARM_UP = 3  # steps on a GPU that are not timed: kernels are chosen, or compiled, in them


def training_step(job: Job) -> Callable[[], None]:
    """The step to be timed: draw noise and steps, forward, backward, Adam."""
    device = torch.device(job.device)
    round_to_tf32("tf32" in job.switches)
    module, loss = NETWORKS[job.network](job)
    module.to(device)
    graph = GRAPH in job.switches
    adam = {"fused": "fused" in job.switches, "capturable": graph}
    # The peers': as PyTorch picks it
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, **adam if job.network == "GenSelfDiff" else {})
    images = torch.rand(job.batch, 3, job.size, job.size, device=device) * 2 - 1

    def draw() -> Inputs:
        return images, torch.randint(TIMESTEPS, (job.batch,), device=device), torch.randn_like(images)

    def compute(*inputs: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled="bfloat16" in job.switches):
            value = loss(*inputs)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return captured(compute, draw) if graph else lambda: compute(*draw())


def captured(compute: Callable[..., None], draw: Callable[[], Inputs]) -> Callable[[], None]:
    """`compute(*draw())` as one CUDA graph: launched as a whole, on inputs that are copied to where it expects them.

    As in PyTorch's notes on CUDA, "Whole-network capture". The warm-up, whose steps count, is on the first inputs.
    """
    inputs = tuple(tensor.clone() for tensor in draw())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            compute(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # notes what would be done, and does nothing
        compute(*inputs)

    def step() -> None:
        for there, drawn in zip(inputs, draw(), strict=True):
            there.copy_(drawn)
        graph.replay()

    return step


def convolution(job: Job) -> Callable[[], None]:
    """The ceiling: a large 3x3 convolution, forward, nothing else."""
    round_to_tf32("tf32" in job.switches)
    dtype = torch.bfloat16 if "bfloat16" in job.switches else torch.float32
    layer = nn.Conv2d(job.dim, job.dim, 3, padding=1, bias=False)
    layer.to(job.device, dtype, memory_format=torch.channels_last)
    x = torch.randn(job.batch, job.dim, job.size, job.size, dtype=dtype, device=job.device)
    x = x.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> None:
        layer(x)

    return step


def copy(job: Job) -> Callable[[], None]:
    """The other ceiling: what a large tensor takes to be read and written."""
    source = torch.ones(job.batch, job.dim, job.size, job.size, device=job.device)
    target = torch.zeros_like(source)

    def step() -> None:
        target.copy_(source)

    return step


STEPS = {**dict.fromkeys(NETWORKS, training_step), "convolution": convolution, "copy": copy}


def peak_memory(job: Job) -> int:
    """Bytes: of the whole process on a CPU, of its tensors on a GPU."""
    if job.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(job.device)
    status = Path("/proc/self/status")
    if status.is_file():  # the other figure below can be the starting process's
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(job: Job) -> dict[str, Any]:
    """Seconds an image, peak memory (bytes) and, if wanted, the `work`."""
    if "allocator" in job.switches:
        keep_freed_memory(large="checkpointing" not in job.switches)
    torch.manual_seed(0)
    on_gpu = job.device.startswith("cuda")
    if on_gpu and torch.device(job.device).index is not None:
        torch.cuda.set_device(job.device)
    synchronise = torch.cuda.synchronize if on_gpu else lambda: None
    step = STEPS[job.network](job)
    for _ in range(WARM_UP if on_gpu else 1):
        step()
    synchronise()
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < job.seconds:
        for _ in range(job.steps):
            step()
        synchronise()
        done += job.steps
    seconds = (time.perf_counter() - start) / done / job.batch
    measured = {"seconds": seconds, "peak": peak_memory(job)}
    return measured | (work(job) if job.count else {})


def failure(error: Exception) -> str:
    """Why a case could not be measured, in one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"no module {error.name}: pip install -r requirements-bench.txt"
    said = " ".join(str(error).split("\n")[:2])  # the compiler's own message is on its second line
    return f"{type(error).__name__}: {said}".strip(": ")[:150]


def main(job: Job) -> None:
    """Measure; what cannot be (a peer is not installed, memory is short, nothing compiles) is a result, too."""
    try:
        print(json.dumps(measure(job)))
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"failure": failure(error)}))


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
