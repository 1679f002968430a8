"""The one attention U-Net of both stages: `DiffusionNet` predicts noise, `SegNet` segments.

Parameter names and shapes are those of the published checkpoints, so that these load unchanged. Widths for dim 64:
first convolution 42, then 64, 128, 256, 512 at full, 1/2, 1/4 and 1/8 resolution; 31,267,083 parameters.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DIM_MULTS = (1, 2, 4, 8)  # width of each resolution in units of dim
LARGE = 2**22  # numbers in a tensor, from which on memory counts for more than time
InitialWeights = Literal["published", "pytorch"]


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, of which the backward pass keeps the inputs only and computes the rest again."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class SinusoidalPositionEmbeddings(nn.Module):
    """Time steps (B,) to features (B, dim): sines, then cosines, of geometrically spaced frequencies.

    Vaswani et al., 2017, section 3.5, with the step t of the diffusion in place of the position.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        """`t` (B,), steps 0..T-1."""
        half = self.dim // 2
        exponents = torch.arange(half, device=t.device) * (-math.log(10_000) / (half - 1))
        angles = t[:, None] * exponents.exp()[None, :]
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class Block(nn.Module):
    """3x3 convolution, GroupNorm over 8 groups, SiLU; between the last two, where given, a modulation."""

    def __init__(self, dim: int, dim_out: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, dim_out)

    def forward(self, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
        """(B, dim, H, W) -> (B, dim_out, H, W), as are `gamma` and `beta`: the norm times (1 + gamma), plus beta."""
        x = self.norm(self.proj(x))
        return F.silu(x if gamma is None else x * (1 + gamma) + beta)


class ResnetBlock(nn.Module):
    """Two `Block`s with a residual connection; the time embedding, where used, is added between them."""

    def __init__(self, dim: int, dim_out: int, time_dim: int | None = None):
        super().__init__()
        self.mlp = None if time_dim is None else nn.Sequential(nn.SiLU(), nn.Linear(time_dim, dim_out))
        self.block1 = Block(dim, dim_out)
        self.block2 = Block(dim_out, dim_out)
        self.res_conv = nn.Conv2d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def forward(self, x: Tensor, time_embedding: Tensor | None = None, *modulation: Tensor) -> Tensor:
        """`x` (B, dim, H, W), `time_embedding` (B, time_dim) -> (B, dim_out, H, W).

        `modulation`: gamma and beta of the first `Block`, and of the second; or none.
        """
        h = self.block1(x, *modulation[:2])
        if self.mlp is not None:
            h = h + self.mlp(time_embedding)[:, :, None, None]
        return self.block2(h, *modulation[2:]) + self.res_conv(x)


class Attention(nn.Module):
    """Full softmax attention between all pixels, 4 heads of 32 (Vaswani et al., 2017); used at 1/8 resolution."""

    def __init__(self, dim: int, heads: int = 4, head_dim: int = 32):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        height, width = x.shape[2:]
        qkv = self.to_qkv(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, 3 heads head_dim)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, HW, head_dim)
        return self.to_out(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)).permute(0, 3, 1, 2))


class LinearAttention(nn.Module):
    """Attention at a cost linear in the pixels, 4 heads of 32 (Shen et al., 2021, arXiv 1812.01243).

    q is normalised over its channels, k over the pixels, so that k v^T is a small matrix of each head that every pixel
    shares: it is multiplied with the head's part of `to_out`'s weight before it meets the pixels. All large tensors are
    (B, HW, channels), which is how a channels_last image lies in memory, so none is copied.
    """

    def __init__(self, dim: int, heads: int = 4, head_dim: int = 32):
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.to_qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * head_dim, dim, 1), nn.GroupNorm(1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        height, width = x.shape[2:]
        weights = self.to_qkv.weight.chunk(3)
        q, k, v = (F.conv2d(x, w).permute(0, 2, 3, 1).flatten(1, 2) for w in weights)  # (B, HW, heads head_dim)
        # The dtype keeps autocast from going to float32 here and back: softmax adds up in float32 in any case.
        q = q.unflatten(-1, (self.heads, -1)).softmax(dim=-1, dtype=q.dtype).flatten(2)
        # A softmax over the pixels, divided by its sum when it is a small matrix: PyTorch's own, along a dimension that
        # is not the last one, goes through the pixels one by one on a GPU. `exp_` is none of autocast's operations.
        k = (k - k.detach().amax(dim=1, keepdim=True)).exp_()
        sums = k.sum(dim=1, keepdim=True, dtype=torch.float32)
        projection, norm = self.to_out
        of_each_head = (part.chunk(self.heads, dim=-1) for part in (projection.weight.flatten(1), v, k, sums))
        # (B, dim, head_dim) each
        context = [w @ (v.mT @ k / sums).to(w.dtype) for w, v, k, sums in zip(*of_each_head, strict=True)]
        out = q @ torch.cat(context, dim=-1).mul(self.scale).mT + projection.bias.to(q.dtype)  # (B, HW, dim)
        return norm(out.unflatten(1, (height, width)).permute(0, 3, 1, 2))


class PreNorm(nn.Module):
    """GroupNorm over all channels in front of `fn`, an attention.

    An attention's queries, keys and values are larger than anything else here. For a large image they are not kept for
    the backward pass but computed again in it.
    """

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.fn = fn
        self.norm = nn.GroupNorm(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return _recomputed(self._attention, x) if x.numel() >= LARGE else self._attention(x)

    def _attention(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    """`x + fn(x)`."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return x + self.fn(x)


NARROWEST = 16  # width of a network that predicts noise: a multiple of 8 that holds the 12 numbers of 2x2 pixels
BlockName = Literal["down0", "down1", "down2", "down3", "mid", "up0", "up1", "up2", "last"]
BLOCKS: tuple[BlockName, ...] = get_args(BlockName)
"""Whose activations can be asked for, from input to output; "last" is `final_conv`'s, at full resolution"""
Modulations = dict[str, tuple[Tensor, ...]]
"""What a condition says, by the names of the U-Net's `ResnetBlock`s behind its encoder; see there"""


class Encoder(nn.Module):
    """The U-Net without its decoder: images (B, 3, H, W) and steps (B,) to (B, 8 dim, H / 8, W / 8).

    What a method that learns no images trains alone. H and W are multiples of 8. Computes in channels_last.

    `checkpoint_activations`: keep only what goes in and out of each block for the backward pass, and compute the rest
    again in it; less memory, more time, the same results.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim % 8 or dim < 8:
            raise ValueError(f"dim is {dim}: a multiple of 8 is needed, for GroupNorm's 8 groups")
        time_dim = 4 * dim
        first = dim // 3 * 2
        dims = [first, *(dim * mult for mult in DIM_MULTS)]
        self.in_out = list(zip(dims[:-1], dims[1:], strict=True))
        """channels in and out of each level"""

        self.init_conv = nn.Conv2d(3, first, 7, padding=3)
        self.time_mlp = nn.Sequential(
            SinusoidalPositionEmbeddings(dim), nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        self.downs = nn.ModuleList()
        for level, (dim_in, dim_out) in enumerate(self.in_out):
            last = level == len(self.in_out) - 1
            down = nn.Identity() if last else nn.Conv2d(dim_out, dim_out, 4, stride=2, padding=1)
            self.downs.append(self._level(dim_in, dim_out, time_dim, down))
        self.mid_block1 = ResnetBlock(dims[-1], dims[-1], time_dim)
        self.mid_attn = Residual(PreNorm(dims[-1], Attention(dims[-1])))
        self.mid_block2 = ResnetBlock(dims[-1], dims[-1], time_dim)
        self.checkpoint_activations = False
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def _level(dim_in: int, dim_out: int, time_dim: int, resize: nn.Module) -> nn.ModuleList:
        attention = Residual(PreNorm(dim_out, LinearAttention(dim_out)))
        blocks = ResnetBlock(dim_in, dim_out, time_dim), ResnetBlock(dim_out, dim_out, time_dim)
        return nn.ModuleList([*blocks, attention, resize])

    def encode(
        self, x: Tensor, t: Tensor, kept: dict[str, Tensor] | None = None, modulations: Modulations | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """`x` (B, 3, H, W), `t` (B,) to what the decoder is made of.

        That is: the lowest activations (B, 8 dim, H / 8, W / 8), the embedding of the steps (B, 4 dim), and the
        skips, one a level, from full to 1/8 resolution. `kept` and `modulations` as in `Unet.forward`.
        """
        modulations = modulations or {}
        x = self.init_conv(x.contiguous(memory_format=torch.channels_last))
        embedding = self.time_mlp(t)
        skips = []
        for level, (block1, block2, attention, downsample) in enumerate(self.downs):
            x = self._run(attention, self._run(block2, self._run(block1, x, embedding), embedding))
            skips.append(x)
            _keep(kept, f"down{level}", x)
            x = downsample(x)
        x = self._run(self.mid_block1, x, embedding, *modulations.get("mid_block1", ()))
        x = self._run(self.mid_attn, x)
        x = self._run(self.mid_block2, x, embedding, *modulations.get("mid_block2", ()))
        _keep(kept, "mid", x)
        return x, embedding, skips

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        return _recomputed(module, *inputs) if self.checkpoint_activations else module(*inputs)


def _keep(kept: dict[str, Tensor] | None, name: str, activations: Tensor) -> None:
    if kept is not None:
        kept[name] = activations


class Unet(Encoder):
    """The attention U-Net: images (B, 3, H, W) and steps (B,) to (B, out_channels, H, W).

    Four resolutions on the way down and three on the way up: the skip of the first resolution is not used, and every
    level up ends in a transposed convolution.
    """

    def __init__(self, dim: int, out_channels: int):
        super().__init__(dim)
        self.ups = nn.ModuleList()
        for dim_in, dim_out in reversed(self.in_out[1:]):
            up = nn.ConvTranspose2d(dim_in, dim_in, 4, stride=2, padding=1)
            self.ups.append(self._level(2 * dim_out, dim_in, 4 * dim, up))
        self.final_conv = nn.Sequential(ResnetBlock(dim, dim), nn.Conv2d(dim, out_channels, 1))
        self.to(memory_format=torch.channels_last)

    def forward(
        self, x: Tensor, t: Tensor, kept: dict[str, Tensor] | None = None, modulations: Modulations | None = None
    ) -> Tensor:
        """`x` (B, 3, H, W), `t` (B,) -> (B, out_channels, H, W).

        Into `kept`, if given, come the activations of `BLOCKS` by name, each (B, channels, H / s, W / s).
        `modulations`: what a condition says to some of the `ResnetBlock`s of the middle and the decoder.
        """
        return self.decode(*self.encode(x, t, kept, modulations), kept, modulations)

    def decode(
        self,
        x: Tensor,
        embedding: Tensor,
        skips: list[Tensor],
        kept: dict[str, Tensor] | None = None,
        modulations: Modulations | None = None,
    ) -> Tensor:
        """What `encode` gives, or what took its place, to (B, out_channels, H, W)."""
        modulations = modulations or {}
        for level, (block1, block2, attention, upsample) in enumerate(self.ups):
            x = torch.cat((x, skips[-1 - level]), dim=1)
            x = self._run(block1, x, embedding, *modulations.get(f"ups.{level}.0", ()))
            x = self._run(block2, x, embedding, *modulations.get(f"ups.{level}.1", ()))
            x = self._run(attention, x)
            _keep(kept, f"up{level}", x)
            x = upsample(x)
        block, convolution = self.final_conv
        x = self._run(block, x, None, *modulations.get("final_conv.0", ()))
        _keep(kept, "last", x)
        return convolution(x)


class DiffusionNet(nn.Module):
    """Noise prediction: eps_theta(x_t, t) of DDPM (Ho et al., 2020)."""

    def __init__(self, dim: int = 64):
        super().__init__()
        self.net = Unet(dim, out_channels=3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noisy images `x` (B, 3, H, W), steps `t` (B,) in 0..T-1 -> the predicted noise (B, 3, H, W)."""
        return self.net(x, t)


class SegNet(nn.Module):
    """Segmentation with the same U-Net at one step t, as published 0: one forward pass; only the head's size differs.

    Returns logits: the published network's softmax over the classes is left to the losses, which need its logarithm.
    Where it learns more than the class map (`targets`), the maps of that come behind the classes.
    """

    def __init__(self, dim: int = 64, outputs: int = 2, timestep: int = 0):
        super().__init__()
        self.timestep = timestep
        self.net = Unet(dim, out_channels=outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images `x` (B, 3, H, W) -> logits (B, outputs, H, W)."""
        return self.net(x, torch.full((x.shape[0],), self.timestep, device=x.device))


def initialise(model: nn.Module, initial_weights: InitialWeights) -> None:
    """Set the initial weights in place.

    "published": normal(0, 0.01) for the weight of every convolution and of every GroupNorm, as released. "pytorch":
    PyTorch's own, which a small network needs: with the published ones its output hardly depends on its input at first.
    """
    if initial_weights == "pytorch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 0.0, 0.01)


def warn_if_narrow(dim: int) -> None:
    """Say so where a network of this width cannot copy the noise it is shown: no skip goes round its first stride."""
    if dim < NARROWEST:
        print(
            f"warning: --dim {dim} can draw nothing but noise: the network's first stride takes 2x2 pixels, 12 numbers "
            f"of noise, to {dim}; {NARROWEST} at least"
        )
