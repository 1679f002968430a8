"""The diffusion process: noise schedules, forward process and reverse step (Ho et al., 2020), P2 loss.

`samplers.py` draws images with it.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

ScheduleName = Literal["quadratic", "linear", "cosine", "sigmoid"]
BETA_START, BETA_END = 1e-4, 0.02  # of all schedules but "cosine"
COSINE_OFFSET = 0.008  # s of Nichol and Dhariwal: beta is not too small near t = 0
COSINE_BETAS = 1e-4, 0.9999  # the betas of "cosine" are clipped to these
SIGMOID_END = 6.0  # "sigmoid" runs over the logistic function from -6 to 6


def beta_schedule(name: ScheduleName, timesteps: int) -> Tensor:
    """The variances beta_t of the forward steps, float64 (timesteps,).

    "quadratic" is the paper's; "linear" is of Ho et al., 2020; "cosine" of Nichol and Dhariwal, 2021 (equation 17).
    """
    if name == "linear":
        return torch.linspace(BETA_START, BETA_END, timesteps, dtype=torch.float64)
    if name == "quadratic":
        return torch.linspace(BETA_START**0.5, BETA_END**0.5, timesteps, dtype=torch.float64) ** 2
    if name == "sigmoid":
        ramp = torch.sigmoid(torch.linspace(-SIGMOID_END, SIGMOID_END, timesteps, dtype=torch.float64))
        return ramp * (BETA_END - BETA_START) + BETA_START
    if name == "cosine":
        steps = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        alphas_cumprod = torch.cos((steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clip(*COSINE_BETAS)
    raise ValueError(f"no schedule is called {name!r}")


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
        # x_t = signal rate * x_0 + noise rate * epsilon; [-1] is of x_0 itself. They are numbers on the CPU, for the
        # samplers: no step waits for a device, nothing is rounded early.
        self.signal_rates = [*alphas_cumprod.sqrt().tolist(), 1.0]
        self.noise_rates = [*(1 - alphas_cumprod).sqrt().tolist(), 0.0]
        alphas_cumprod_prev = torch.cat((torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]))
        coefficients = {
            "betas": betas,
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

        The published loss is the sum of these over a batch of 8.
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

    def predict_x_0(self, predicted: Tensor, x: Tensor, t: int) -> Tensor:
        """The x_0 that `x` at step t comes from if its noise is `predicted`; (B, C, H, W). Song et al., equation 9."""
        return (x - self.noise_rates[t] * predicted) / self.signal_rates[t]

    def log_snr(self, t: int) -> float:
        """lambda_t = log(alpha_t / sigma_t) of Lu et al., half the logarithm of the signal-to-noise ratio."""
        return math.log(self.signal_rates[t] / self.noise_rates[t])


def p2_weight(alphas_cumprod: Tensor, k: float, gamma: float) -> Tensor:
    """Perception-prioritised weight of each step, relative to the plain squared error of the noise, not normalised.

    1 / (k + SNR_t)^gamma with SNR_t = alpha_bar_t / (1 - alpha_bar_t): Choi et al., 2022, equation 8. With k = gamma
    = 1 it equals 1 - alpha_bar_t; with gamma = 0 it is 1: the loss of Ho et al.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return (k + snr) ** -gamma
