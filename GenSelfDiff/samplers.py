"""Drawing images from a trained network: ancestral sampling, and DDIM and DPM-Solver++(2M), which leave steps out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from GenSelfDiff.diffusion import GaussianDiffusion
from utils_general import InputError

SamplerName = Literal["ancestral", "ddim", "dpm-solver++"]
STEPS = {"ddim": 50, "dpm-solver++": 20}  # of the samplers that can leave steps out
LEAST_LOG_SNR = -5.1  # where fast sampling starts at the earliest: below, x_0 = (x - sigma eps) / alpha explodes
CHANNELS = 3  # of an image

Predict = Callable[[Tensor, int], Tensor]
"""x_t (B, C, H, W) and the step t to the noise in it (B, C, H, W), float32"""
Draw = Callable[[], Tensor]
"""New normal noise (B, C, H, W)"""
Steps = Iterator[tuple[int, Tensor]]
"""After every step: t, and the images (B, C, H, W) as they are then"""


@dataclass(frozen=True)
class Sampler:
    """How images are drawn from a trained network.

    "ancestral": all T steps, as released (Ho et al., 2020, algorithm 2). "ddim": Song et al., 2021. "dpm-solver++":
    DPM-Solver++(2M) of Lu et al., 2022, arXiv 2211.01095, algorithm 2.
    """

    name: SamplerName = "ancestral"
    steps: int | None = None
    """evaluations of the network; None: all T, 50 for ddim, 20 for dpm-solver++"""
    eta: float = 0.0
    """noise of ddim, its equation 16: 0 none, 1 as much as ancestral sampling"""
    clamp: tuple[float, float] | None = None
    """range that the x_0 of each step is kept in, that of the images; None, as released: none"""

    def resolved(self, timesteps: int) -> "Sampler":
        """The same with its number of steps, for a process of T `timesteps`; `InputError` where that cannot be."""
        steps = self.steps if self.steps is not None else min(STEPS.get(self.name, timesteps), timesteps)
        if self.name == "ancestral" and steps != timesteps:
            raise InputError(
                f"--steps is {steps}: ancestral sampling takes all {timesteps} steps of the network; "
                "for fewer, choose --sampler ddim or dpm-solver++"
            )
        if not 1 <= steps <= timesteps:
            raise InputError(f"--steps is {steps}: 1 to {timesteps} are possible, the steps the network was trained on")
        if self.eta and self.name != "ddim":
            raise InputError(f"--eta is {self.eta}: only --sampler ddim has it, not {self.name}")
        if not 0 <= self.eta <= 1:
            raise InputError(f"--eta is {self.eta}: 0 (no noise) to 1 (that of ancestral sampling) is possible")
        return replace(self, steps=steps)


@torch.inference_mode()
def sample(
    diffusion: GaussianDiffusion, model: nn.Module, size: int, seeds: list[int], sampler: Sampler = Sampler()
) -> Steps:
    """Draw one image a seed: yields (t, x) after every step, x (B, 3, size, size) in the model's input range.

    `model` says the noise in x_t (B, 3, size, size) at the steps t (B,). Every image draws from a generator of its own,
    so it does not depend on the others in its batch. The last x can leave that range a little: clamp it before it
    becomes a picture.
    """
    device = diffusion.betas.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw() -> Tensor:
        return torch.stack([torch.randn(CHANNELS, size, size, device=device, generator=g) for g in generators])

    def predict(x: Tensor, t: int) -> Tensor:
        noise = model(x, torch.full((len(x),), t, device=device)).float()
        return noise if sampler.clamp is None else clamped_noise(diffusion, noise, x, t, sampler.clamp)

    sampler, x = sampler.resolved(diffusion.timesteps), draw()
    if sampler.name == "ancestral":
        yield from ancestral(diffusion, predict, x, draw)
    elif sampler.name == "ddim":
        yield from ddim(diffusion, predict, x, time_steps(diffusion, sampler.steps), sampler.eta, draw)
    else:
        yield from dpm_solver(diffusion, predict, x, time_steps(diffusion, sampler.steps))


def clamped_noise(
    diffusion: GaussianDiffusion, predicted: Tensor, x: Tensor, t: int, values: tuple[float, float]
) -> Tensor:
    """The noise in `x` at step t if the x_0 that `predicted` means is clamped to `values`; all (B, C, H, W).

    A weak network's x_0 lies far outside at strong noise, where it is divided by a small signal rate, and each step
    builds on it: the images diverge. With this noise, ancestral sampling takes the posterior mean of the clamped x_0
    (Ho et al., 2020, equation 7), DDIM steps along the line to it, and DPM-Solver++ goes on from it.
    """
    x_0 = diffusion.predict_x_0(predicted, x, t).clamp(*values)
    return (x - diffusion.signal_rates[t] * x_0) / diffusion.noise_rates[t]


def time_steps(diffusion: GaussianDiffusion, number: int) -> list[int]:
    """The steps t, falling to 0, that samplers visit when they leave some out: even in log SNR, each once.

    That is the choice of Lu et al. (arXiv 2206.00927, section 3.4). After t = 0 comes x_0 itself. Steps even in t,
    the other usual choice, hardly ever come near t = 0, and lose the fine texture of tissue.
    """
    log_snr = torch.tensor([diffusion.log_snr(t) for t in range(diffusion.timesteps)], dtype=torch.float64)
    wanted = torch.linspace(log_snr[-1].clamp(min=LEAST_LOG_SNR), log_snr[0], number, dtype=torch.float64)
    nearest = (log_snr[:, None] - wanted.flip(0)).abs().argmin(dim=0)
    place = torch.arange(number)
    distinct = (nearest - place).cummax(dim=0).values + place  # near t = 0 several are nearest to the same
    return distinct.minimum(diffusion.timesteps - number + place).flip(0).tolist()


def ancestral(diffusion: GaussianDiffusion, predict: Predict, x: Tensor, draw: Draw) -> Steps:
    """Ho et al., 2020, algorithm 2: every step t from T - 1 to 0, from x = x_T (B, C, H, W)."""
    for t in reversed(range(diffusion.timesteps)):
        x = diffusion.p_sample(predict(x, t), x, t, draw())
        yield t, x


def ddim(
    diffusion: GaussianDiffusion, predict: Predict, x: Tensor, visited: list[int], eta: float, draw: Draw
) -> Steps:
    """Song et al., 2021, equations 12 and 16, along the falling steps `visited`; `draw` gives noise where eta > 0."""
    for t, following in pairwise([*visited, -1]):
        alpha, sigma = diffusion.signal_rates[following], diffusion.noise_rates[following]
        added = eta * sigma / diffusion.noise_rates[t] * math.sqrt(1 - (diffusion.signal_rates[t] / alpha) ** 2)
        predicted = predict(x, t)
        x = alpha * diffusion.predict_x_0(predicted, x, t) + math.sqrt(sigma**2 - added**2) * predicted
        if eta > 0:
            x = x + added * draw()
        yield t, x


def dpm_solver(diffusion: GaussianDiffusion, predict: Predict, x: Tensor, visited: list[int]) -> Steps:
    """DPM-Solver++(2M), Lu et al., 2022, algorithm 2, along the falling steps `visited`.

    A step of DDIM with x_0 extrapolated along log SNR to the middle of the step; the first step, which knows no
    earlier x_0, and the last, to infinite SNR, are plain.
    """
    earlier = step_before = None
    for t, following in pairwise([*visited, -1]):
        x_0 = extrapolated = diffusion.predict_x_0(predict(x, t), x, t)
        if following >= 0:
            step = diffusion.log_snr(following) - diffusion.log_snr(t)
            if earlier is not None:
                extrapolated = x_0 + (x_0 - earlier) * (step / (2 * step_before))
            earlier, step_before = x_0, step
        kept = diffusion.noise_rates[following] / diffusion.noise_rates[t]
        x = kept * x + (diffusion.signal_rates[following] - kept * diffusion.signal_rates[t]) * extrapolated
        yield t, x
