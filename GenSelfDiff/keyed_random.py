"""Random numbers that depend on a key alone: the steps and the noise of a whole batch at once, on any device.

Every image has a key. What is drawn for it is the same whoever shares its batch, on a CPU and on a GPU (up to the
rounding of log, sine and cosine), and there is no generator whose state would have to be kept or waited for.
"""

import math

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators", figure 17)
GOLDEN, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
STEPS, NOISE, PLACES = 1, 2, 3  # what is drawn for one key: a sequence of its own each


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's output function, in place: int64 of any shape; products wrap around, shifts fill with zeros."""
    for shift, factor in ((30, FIRST), (27, SECOND), (31, None)):
        z ^= (z >> shift).bitwise_and_(2 ** (64 - shift) - 1)
        if factor is not None:
            z *= factor
    return z


def _bits(keys: Tensor, sequence: int, count: int) -> Tensor:
    """The first `count` random 64-bit numbers of a sequence of every key: `keys` (B,), 0 .. 2^32 - 1, to (B, count)."""
    states = _mix(keys.long() + sequence * 2**32)
    counters = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    return _mix(states[:, None] + counters)


def _below(bits: Tensor, end: int) -> Tensor:
    """Random 64-bit numbers to 0 .. end - 1."""
    return (bits >> 1).bitwise_and_(2**63 - 1) % end


def keyed_steps(keys: Tensor, timesteps: int) -> Tensor:
    """A step of 0 .. timesteps - 1, all equally likely, for each of the `keys` (B,): int64 (B,)."""
    return _below(_bits(keys, STEPS, 1)[:, 0], timesteps)


def keyed_places(keys: Tensor, count: int, end: int) -> Tensor:
    """`count` places of 0 .. end - 1, all equally likely, for each of the `keys` (B,): int64 (B, count)."""
    return _below(_bits(keys, PLACES, count), end)


def keyed_choice(keys: Tensor, count: int, end: int) -> Tensor:
    """`count` of `end` things, all choices equally likely, for each of the `keys` (B,): bool (B, end)."""
    order = _bits(keys, PLACES, end).argsort(dim=1)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)


def keyed_normal(keys: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers for each of the `keys` (B,): float32 (B, *shape).

    Two of each 64 random bits (Box and Muller, 1958). They lie within 6.8.
    """
    size = math.prod(shape)
    bits = _bits(keys, NOISE, (size + 1) // 2)
    radius = ((bits >> 32).bitwise_and_(2**32 - 1).float() + 0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = bits.bitwise_and_(2**32 - 1).float().mul_(2 * math.pi * 2.0**-32)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)[:, :size].unflatten(1, shape)
