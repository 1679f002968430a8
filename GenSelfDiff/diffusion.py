"""The diffusion process (Ho et al., 2020): noise schedules, forward process, P2 loss, samplers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from utils_general import InputError

ScheduleName = Literal["quadratic", "linear", "cosine", "sigmoid"]
SamplerName = Literal["ancestral", "ddim", "dpm-solver++"]
BETA_START, BETA_END = 1e-4, 0.02
STEPS = {"ddim": 50, "dpm-solver++": 20}  # of the samplers that can leave steps out
LEAST_LOG_SNR = -5.1  # where fast sampling starts at the earliest: below, x_0 = (x - sigma eps) / alpha explodes


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


def beta_schedule(name: ScheduleName, timesteps: int) -> Tensor:
    """The variances beta_t of the forward steps, float64 (timesteps,).

    "quadratic" is the paper's; "linear" is of Ho et al., 2020; "cosine" of Nichol and Dhariwal, 2021 (equation 17).
    """
    if name == "linear":
        return torch.linspace(BETA_START, BETA_END, timesteps, dtype=torch.float64)
    if name == "quadratic":
        return torch.linspace(BETA_START**0.5, BETA_END**0.5, timesteps, dtype=torch.float64) ** 2
    if name == "sigmoid":
        ramp = torch.sigmoid(torch.linspace(-6, 6, timesteps, dtype=torch.float64))
        return ramp * (BETA_END - BETA_START) + BETA_START
    if name == "cosine":
        offset = 0.008
        steps = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        alphas_cumprod = torch.cos((steps + offset) / (1 + offset) * math.pi / 2) ** 2
        return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clip(1e-4, 0.9999)
    raise ValueError(f"no schedule is called {name!r}")


Prediction = Callable[[Tensor, int], Tensor]  # the noise in x_t (B, C, H, W) at step t, float32


class GaussianDiffusion(nn.Module):
    """Everything that depends on the schedule only; each coefficient is a buffer (T,) that moves with the module.

    The coefficients are worked out in float64 and kept in float32.
    """

    def __init__(self, schedule: ScheduleName = "quadratic", timesteps: int = 1000, k: float = 1.0, gamma: float = 1.0):
        super().__init__()
        self.timesteps = timesteps
        betas = beta_schedule(schedule, timesteps)
        alphas = 1 - betas
        alphas_cumprod = torch.cumprod(alphas, dim=0)
        # The samplers' coefficients are numbers on the CPU: no step waits for a device, nothing is rounded early.
        self._alpha = [*alphas_cumprod.sqrt().tolist(), 1.0]  # of x_t = alpha x_0 + sigma noise; [-1] is x_0 itself
        self._sigma = [*(1 - alphas_cumprod).sqrt().tolist(), 0.0]
        alphas_cumprod_prev = torch.cat((torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]))
        coefficients = {
            "betas": betas,
            "alphas": alphas,
            "alphas_cumprod": alphas_cumprod,
            "alphas_cumprod_prev": alphas_cumprod_prev,
            "sqrt_recip_alphas": (1 / alphas).sqrt(),
            "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
            "posterior_variance": betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod),
            "p2_weight": p2_weight(alphas_cumprod, k, gamma),
        }
        for name, values in coefficients.items():
            self.register_buffer(name, values.float(), persistent=False)

    def _at(self, name: str, t: Tensor) -> Tensor:
        """Coefficient `name` at the steps `t` (B,), shaped (B, 1, 1, 1) to go with images."""
        return getattr(self, name)[t][:, None, None, None]

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The forward process at once: x_t ~ q(x_t | x_0), Ho et al., equation 4. Images (B, C, H, W), `t` (B,)."""
        return self._at("sqrt_alphas_cumprod", t) * x_0 + self._at("sqrt_one_minus_alphas_cumprod", t) * noise

    def p2_loss(self, noise: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """P2-weighted squared error of the noise, an image (B,): mean over channels and pixels times the weight of t.

        The published figure is the sum of these over a batch of 8.
        """
        error = (noise - predicted.float()).square().mean(dim=(1, 2, 3))
        return self.p2_weight[t] * error

    def p_sample(self, predicted: Tensor, x: Tensor, t: int, noise: Tensor) -> Tensor:
        """One ancestral step, x_{t-1} from x_t: Ho et al., algorithm 2, with the posterior variance (equation 7).

        `predicted` is the network's noise for `x`; all images (B, C, H, W). At t = 0 no noise is added.
        """
        scale = self.betas[t] / self.sqrt_one_minus_alphas_cumprod[t]
        mean = self.sqrt_recip_alphas[t] * (x - scale * predicted.float())
        return mean if t == 0 else mean + self.posterior_variance[t].sqrt() * noise

    def log_snr(self, t: int) -> float:
        """lambda_t = log(alpha_t / sigma_t), half the logarithm of the signal-to-noise ratio (Lu et al.)."""
        return math.log(self._alpha[t] / self._sigma[t])

    def time_steps(self, number: int) -> list[int]:
        """The steps t, falling to 0, that samplers visit when they leave some out: even in log SNR, each once.

        That is the choice of Lu et al. (arXiv 2206.00927, section 3.4). After t = 0 comes x_0 itself. Steps even in t,
        the other usual choice, hardly ever come near t = 0, and lose the fine texture of tissue.
        """
        log_snr = torch.tensor([self.log_snr(t) for t in range(self.timesteps)], dtype=torch.float64)
        wanted = torch.linspace(log_snr[-1].clamp(min=LEAST_LOG_SNR), log_snr[0], number, dtype=torch.float64)
        nearest = (log_snr[:, None] - wanted.flip(0)).abs().argmin(dim=0)
        place = torch.arange(number)
        distinct = (nearest - place).cummax(dim=0).values + place  # near t = 0 several are nearest to the same
        return distinct.minimum(self.timesteps - number + place).flip(0).tolist()

    @torch.inference_mode()
    def sample(
        self, model: nn.Module, size: int, seeds: list[int], sampler: Sampler = Sampler()
    ) -> Iterator[tuple[int, Tensor]]:
        """Draw one image a seed: yields (t, x) after every step, x (B, 3, size, size) in [-1, 1].

        Every image draws from a generator of its own, so it does not depend on the others in its batch. The last x
        can leave [-1, 1] a little: clamp it before it becomes a picture.
        """
        device = self.betas.device
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

        def draw() -> Tensor:
            return torch.stack([torch.randn(3, size, size, device=device, generator=g) for g in generators])

        def predict(x: Tensor, t: int) -> Tensor:
            return model(x, torch.full((len(x),), t, device=device)).float()

        sampler, x = sampler.resolved(self.timesteps), draw()
        if sampler.name == "ancestral":
            for t in reversed(range(self.timesteps)):
                x = self.p_sample(predict(x, t), x, t, draw())
                yield t, x
        elif sampler.name == "ddim":
            yield from self.ddim(predict, x, self.time_steps(sampler.steps), sampler.eta, draw)
        else:
            yield from self.dpm_solver(predict, x, self.time_steps(sampler.steps))

    def _x_0(self, predicted: Tensor, x: Tensor, t: int) -> Tensor:
        """The image that noise `predicted` in `x` leaves (Song et al., equation 9)."""
        return (x - self._sigma[t] * predicted) / self._alpha[t]

    def ddim(
        self, predict: Prediction, x: Tensor, time_steps: list[int], eta: float, draw: Callable[[], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Song et al., 2021, equations 12 and 16, along falling `time_steps`; `draw` gives the noise where eta > 0."""
        for t, following in pairwise([*time_steps, -1]):
            alpha, sigma = self._alpha[following], self._sigma[following]
            added = eta * sigma / self._sigma[t] * math.sqrt(1 - (self._alpha[t] / alpha) ** 2)
            predicted = predict(x, t)
            x = alpha * self._x_0(predicted, x, t) + math.sqrt(sigma**2 - added**2) * predicted
            if eta > 0:
                x = x + added * draw()
            yield t, x

    def dpm_solver(self, predict: Prediction, x: Tensor, time_steps: list[int]) -> Iterator[tuple[int, Tensor]]:
        """DPM-Solver++(2M), Lu et al., 2022, algorithm 2, along falling `time_steps`.

        A step of DDIM with x_0 extrapolated along log SNR to the middle of the step; the first step, which knows no
        earlier x_0, and the last, to infinite SNR, are plain.
        """
        earlier = step_before = None
        for t, following in pairwise([*time_steps, -1]):
            x_0 = extrapolated = self._x_0(predict(x, t), x, t)
            if following >= 0:
                step = self.log_snr(following) - self.log_snr(t)
                if earlier is not None:
                    extrapolated = x_0 + (x_0 - earlier) * (step / (2 * step_before))
                earlier, step_before = x_0, step
            kept = self._sigma[following] / self._sigma[t]
            x = kept * x + (self._alpha[following] - kept * self._alpha[t]) * extrapolated
            yield t, x


def p2_weight(alphas_cumprod: Tensor, k: float, gamma: float) -> Tensor:
    """Perception-prioritised weight of each step, relative to the plain squared error of the noise, not normalised.

    1 / (k + SNR_t)^gamma with SNR_t = alpha_bar_t / (1 - alpha_bar_t): Choi et al., 2022, equation 8. With k = gamma
    = 1 it equals 1 - alpha_bar_t; with gamma = 0 it is 1: the loss of Ho et al.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return (k + snr) ** -gamma
