"""One training step in a process of its own: benchmarks/training.py starts this for every case in every round.

    python3 benchmarks/training_step.py '{"network": "GenSelfDiff", "dim": 16, "size": 64, "batch": 8, "switches": []}'

The last line it prints is JSON. Allocator and peak memory belong to a process: hence one process a measurement.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import make_plain
from GenSelfDiff.devices import keep_freed_memory
from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.unet import DIM_MULTS, DiffusionNet

Loss = Callable[[Tensor], Tensor]  # images (B, 3, size, size) in [-1, 1] to the scalar to minimise
TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process measures."""

    network: str
    """a key of `NETWORKS`"""
    dim: int
    """width"""
    size: int
    """pixels"""
    batch: int
    """images"""
    switches: tuple[str, ...] = ()
    """settings that are on"""
    device: str = "cpu"
    steps: int = 1
    """timed steps between two looks at the clock"""
    seconds: float = 0.0
    """go on for so long at least"""
    count: bool = False
    """count operations and parameters, too"""


def ours(job: Job) -> tuple[nn.Module, Loss]:
    """This project's network and the P2 loss, with the kernels among `job.switches`."""
    model, diffusion = DiffusionNet(job.dim), GaussianDiffusion(timesteps=TIMESTEPS)
    make_plain(model, fast=job.switches)
    model.net.checkpoint_activations = "checkpointing" in job.switches
    if "compile" in job.switches:
        model.compile()

    def loss(x_0: Tensor) -> Tensor:
        t, noise = torch.randint(TIMESTEPS, (len(x_0),), device=x_0.device), torch.randn_like(x_0)
        return diffusion.p2_loss(noise, model(diffusion.q_sample(x_0, t, noise), t), t).mean()

    return nn.ModuleList([model, diffusion]), loss


def lucidrains(job: Job) -> tuple[nn.Module, Loss]:
    """`denoising-diffusion-pytorch`: its U-Net and its loss."""
    from denoising_diffusion_pytorch import GaussianDiffusion as Diffusion
    from denoising_diffusion_pytorch import Unet

    diffusion = Diffusion(Unet(job.dim, dim_mults=DIM_MULTS), image_size=job.size, timesteps=TIMESTEPS)
    return diffusion, lambda x_0: diffusion((x_0 + 1) / 2)  # it wants [0, 1]


def hugging_face(job: Job) -> tuple[nn.Module, Loss]:
    """`diffusers`: `UNet2DModel` with attention at the lowest resolution, squared error of the noise."""
    from diffusers import DDPMScheduler, UNet2DModel

    levels = len(DIM_MULTS)
    model = UNet2DModel(
        sample_size=job.size,
        block_out_channels=[job.dim * multiple for multiple in DIM_MULTS],
        down_block_types=["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1),
        norm_num_groups=min(32, job.dim),
    )
    scheduler = DDPMScheduler(TIMESTEPS)

    def loss(x_0: Tensor) -> Tensor:
        t, noise = torch.randint(TIMESTEPS, (len(x_0),), device=x_0.device), torch.randn_like(x_0)
        return F.mse_loss(model(scheduler.add_noise(x_0, noise, t), t).sample, noise)

    return model, loss


NETWORKS = {"GenSelfDiff": ours, "denoising-diffusion-pytorch": lucidrains, "diffusers": hugging_face}


def float32_means(job: Job) -> None:
    """On a GPU PyTorch rounds convolutions to TF32 by itself; here only where that is asked for."""
    rounding = "tf32" if "tf32" in job.switches else "ieee"
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = rounding


def training_step(job: Job) -> Callable[[], None]:
    """The step to be timed: draw noise and steps, forward, backward, Adam."""
    device = torch.device(job.device)
    float32_means(job)
    module, loss = NETWORKS[job.network](job)
    module.to(device)
    fused = "fused" in job.switches
    adam = {"fused": fused, "foreach": False} if job.network == "GenSelfDiff" else {}  # the peers': as PyTorch picks it
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, **adam)
    images = torch.rand(job.batch, 3, job.size, job.size, device=device) * 2 - 1

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled="bfloat16" in job.switches):
            value = loss(images)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def convolution(job: Job) -> Callable[[], None]:
    """The ceiling: a large 3x3 convolution, forward, nothing else."""
    float32_means(job)
    dtype = torch.bfloat16 if "bfloat16" in job.switches else torch.float32
    layer = nn.Conv2d(job.dim, job.dim, 3, padding=1, bias=False)
    layer.to(job.device, dtype, memory_format=torch.channels_last)
    x = torch.randn(job.batch, job.dim, job.size, job.size, dtype=dtype, device=job.device)
    x = x.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> None:
        layer(x)

    return step


def work(job: Job) -> dict[str, float]:
    """GFLOP (10^9, 2 for each multiply-add) of forward and backward an image, and million parameters."""
    if job.network == "convolution":
        return {"gflop": 2e-9 * 9 * job.dim**2 * job.size**2, "parameters": 9e-6 * job.dim**2}
    module, loss = NETWORKS[job.network](job)
    module.to("meta")  # where nothing is computed
    with FlopCounterMode(display=False) as counter:
        loss(torch.empty(1, 3, job.size, job.size, device="meta")).backward()
    return {"gflop": counter.get_total_flops() / 1e9, "parameters": sum(p.numel() for p in module.parameters()) / 1e6}


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
    synchronise = torch.cuda.synchronize if on_gpu else lambda: None
    step = convolution(job) if job.network == "convolution" else training_step(job)
    for _ in range(3 if on_gpu else 1):
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


def main(job: Job) -> None:
    """Measure; a peer that is not installed is a result, too."""
    try:
        print(json.dumps(measure(job)))
    except ModuleNotFoundError as error:
        print(json.dumps({"failure": f"no module {error.name}: pip install -r requirements-bench.txt"}))


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
