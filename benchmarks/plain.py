"""The network's formulas, written plainly: what the kernels of `GenSelfDiff/unet.py` are measured and tested against.

There is no second U-Net: the functions here take the place of `forward` in the modules of a `DiffusionNet`, and its
parameters stay where they are. Outputs and gradients are the same up to rounding.
"""

from collections.abc import Callable
from types import MethodType

import torch
from torch import Tensor, nn

from GenSelfDiff.unet import Attention, DiffusionNet, LinearAttention, PreNorm

KERNELS = ("channels_last", "attention")  # what can be plain or fast, each on its own


def _heads(self: Attention | LinearAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """q, k, v, each (B, heads, head_dim, HW), and the scale of q."""
    q, k, v = (part.flatten(2).unflatten(1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, dim=1))
    return q, k, v, q.shape[2] ** -0.5


def attention(self: Attention, x: Tensor) -> Tensor:
    """`Attention`: the whole matrix of weights (B, heads, HW, HW) is in memory. (B, dim, H, W) -> the same."""
    q, k, v, scale = _heads(self, x)
    weights = torch.einsum("bhdi,bhdj->bhij", q * scale, k).softmax(dim=-1)
    out = torch.einsum("bhij,bhdj->bhdi", weights, v)
    return self.to_out(out.flatten(1, 2).unflatten(2, x.shape[2:]))


def linear_attention(self: LinearAttention, x: Tensor) -> Tensor:
    """`LinearAttention`: head by head, then the projection as a convolution. (B, dim, H, W) -> the same."""
    q, k, v, scale = _heads(self, x)
    context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v)
    out = torch.einsum("bhde,bhdn->bhen", context, q.softmax(dim=-2) * scale)
    return self.to_out(out.flatten(1, 2).unflatten(2, x.shape[2:]))


def normalised(self: PreNorm, x: Tensor) -> Tensor:
    """`PreNorm`: the attention's intermediate results are kept for the backward pass, too."""
    return self.fn(self.norm(x))


def make_plain(model: DiffusionNet, fast: tuple[str, ...] = ()) -> None:
    """Make the network compute plainly, in place, but for the `KERNELS` named in `fast`."""
    forwards: dict[type[nn.Module], Callable[..., Tensor]] = {}
    if "attention" not in fast:
        forwards = {Attention: attention, LinearAttention: linear_attention, PreNorm: normalised}
    for module in model.modules():
        if type(module) in forwards:
            module.forward = MethodType(forwards[type(module)], module)
    if "channels_last" not in fast:
        model.to(memory_format=torch.contiguous_format)
        # Layout follows from the first convolution: its input and its weight decide for all that comes after it.
        model.net.init_conv.register_forward_pre_hook(lambda _module, inputs: (inputs[0].contiguous(),))
