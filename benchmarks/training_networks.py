"""What benchmarks/training.py trains: our network and the peers', each with its loss; and what a step is at least."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import GenSelfDiff.transforms  # noqa: F401  # lets torchvision be imported, which the peers do
from benchmarks.plain import make_plain
from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.unet import DIM_MULTS, DiffusionNet

# Images (B, 3, size, size) in [-1, 1], steps (B,) and noise like the images to the scalar to minimise
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
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

    def loss(x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return diffusion.p2_loss(noise, model(diffusion.q_sample(x_0, t, noise), t), t).mean()

    return nn.ModuleList([model, diffusion]), loss


def lucidrains(job: Job) -> tuple[nn.Module, Loss]:
    """`denoising-diffusion-pytorch`: its U-Net and its loss."""
    from denoising_diffusion_pytorch import GaussianDiffusion as Diffusion
    from denoising_diffusion_pytorch import Unet

    diffusion = Diffusion(Unet(job.dim, dim_mults=DIM_MULTS), image_size=job.size, timesteps=TIMESTEPS)
    return diffusion, diffusion.p_losses


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

    def loss(x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return F.mse_loss(model(scheduler.add_noise(x_0, noise, t), t).sample, noise)

    return model, loss


NETWORKS = {"GenSelfDiff": ours, "denoising-diffusion-pytorch": lucidrains, "diffusers": hugging_face}


class ConvolutionTraffic(TorchDispatchMode):
    """Counts the numbers that convolutions read and write, forward and backward: each operand and result once."""

    CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and count."""
        result = function(*args, **(kwargs or {}))
        if function in self.CONVOLUTIONS:
            results = result if isinstance(result, tuple) else (result,)
            self.numbers += sum(x.numel() for x in (*args, *results) if isinstance(x, Tensor))
        return result


def work(job: Job) -> dict[str, float]:
    """What the formulas ask for, whatever the settings.

    gflop: 10^9 operations of forward and backward an image, 2 for each multiply-add. parameters: millions. numbers: an
    image, at least read from and written to memory by the forward and backward pass: what the convolutions alone do, as
    if all that lies between two of them cost nothing.
    """
    if job.network == "convolution":
        return {"gflop": 2e-9 * 9 * job.dim**2 * job.size**2, "parameters": 9e-6 * job.dim**2}
    if job.network == "copy":
        return {"numbers": 2 * job.dim * job.size**2}
    module, loss = NETWORKS[job.network](replace(job, switches=()))
    module.to("meta")  # where nothing is computed
    images = torch.empty(job.batch, 3, job.size, job.size, device="meta")
    with FlopCounterMode(display=False) as counter, ConvolutionTraffic() as traffic:
        loss(images, torch.empty(job.batch, dtype=torch.long, device="meta"), images).backward()
    parameters = sum(p.numel() for p in module.parameters()) / 1e6
    return {
        "gflop": counter.get_total_flops() / 1e9 / job.batch,
        "parameters": parameters,
        "numbers": traffic.numbers / job.batch,
    }
