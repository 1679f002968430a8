"""The samplers: against each other, against `diffusers`, and where the exact answer is known."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from GenSelfDiff.diffusion import GaussianDiffusion, beta_schedule
from GenSelfDiff.samplers import Sampler, clamped_noise, ddim, dpm_solver, sample, time_steps
from GenSelfDiff.unet import DiffusionNet
from utils_general import InputError

diffusers = pytest.importorskip("diffusers")  # of requirements-dev.txt
SCHEDULES = ["quadratic", "linear", "cosine", "sigmoid"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DiffusionNet(8).eval()


@pytest.fixture(scope="module")
def diffusion():
    return GaussianDiffusion()


def noise(number, seed=0):
    return torch.randn(number, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def last(steps):
    *_, (_, x) = steps
    return x


def gaussian(diffusion, s):
    """The exact noise prediction where every pixel of x_0 is normal(0, s)."""

    def predict(x, t):
        alphas_cumprod = torch.tensor(diffusion.signal_rates, dtype=torch.float64)[t].square().reshape(-1, 1, 1, 1)
        return x * (1 - alphas_cumprod).sqrt() / (alphas_cumprod * s**2 + 1 - alphas_cumprod)

    return predict


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("number", [1, 2, 10, 20, 50, 250, 999, 1000])
def test_time_steps_are_distinct_and_run_down_to_zero(schedule, number):
    steps = time_steps(GaussianDiffusion(schedule), number)
    assert len(steps) == number and all(a > b for a, b in pairwise(steps))
    assert steps[-1] == 0 or number == 1
    assert steps[0] == 999 if schedule != "cosine" else steps[0] >= 990  # cosine's last steps are noise alone
    if number == 1000:
        assert steps == list(range(999, -1, -1))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fast_sampling_starts_where_x_0_can_be_predicted(schedule):
    """At the last step of log SNR near -5.1, or the last at all: the limit is worked out with the paper's schedule."""
    diffusion = GaussianDiffusion(schedule)
    log_snr = [diffusion.log_snr(t) for t in range(1000)]
    wanted = max(log_snr[-1], -5.1)
    assert time_steps(diffusion, 20)[0] == min(range(1000), key=lambda t: abs(log_snr[t] - wanted))


def test_sampling_keeps_nothing_for_gradients(network):
    assert all(x.is_inference() for _, x in sample(GaussianDiffusion(timesteps=3), network, 8, [0]))


def test_time_steps_are_even_in_log_snr(diffusion):
    gaps = [diffusion.log_snr(b) - diffusion.log_snr(a) for a, b in pairwise(time_steps(diffusion, 10))]
    even = (diffusion.log_snr(0) - diffusion.log_snr(999)) / 9
    assert gaps[:-2] == pytest.approx([even] * 7, rel=0.1)  # near t = 0 neighbouring steps are far apart


def test_log_snr_by_hand():
    diffusion = GaussianDiffusion("linear", timesteps=2)  # betas 1e-4 and 0.02
    assert diffusion.log_snr(0) == pytest.approx(torch.tensor(0.9999 / 1e-4).log().item() / 2)
    assert diffusion.log_snr(1) == pytest.approx(torch.tensor(0.9999 * 0.98 / (1 - 0.9999 * 0.98)).log().item() / 2)


def test_ddim_with_eta_1_and_all_steps_is_ancestral_sampling(network):
    diffusion = GaussianDiffusion(timesteps=60)
    ancestral = sample(diffusion, network, 16, [3, 4])
    noisy = sample(diffusion, network, 16, [3, 4], Sampler("ddim", 60, eta=1))
    for (t, a), (t_ddim, b) in zip(ancestral, noisy, strict=True):
        assert t == t_ddim
        assert torch.allclose(a, b, atol=1e-4 * a.abs().max().item(), rtol=0)


def test_the_same_with_the_published_thousand_steps(diffusion):
    predict = gaussian(diffusion, 0.5)
    ancestral = last(sample(diffusion, predict, 4, [3, 4]))
    assert torch.allclose(last(sample(diffusion, predict, 4, [3, 4], Sampler("ddim", 1000, 1))), ancestral, atol=1e-4)
    assert not torch.allclose(last(sample(diffusion, predict, 4, [3, 4], Sampler("ddim", 1000))), ancestral, atol=0.1)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@torch.inference_mode()
def test_ddim_agrees_with_diffusers(network, diffusion, eta, spacing):
    theirs = diffusers.DDIMScheduler(
        trained_betas=beta_schedule("quadratic", 1000).numpy(), clip_sample=False, timestep_spacing=spacing
    )
    theirs.set_timesteps(10)
    start, *added = noise(11)
    x = start
    for t, z in zip(theirs.timesteps, added, strict=True):
        x = theirs.step(network(x, t.expand(2)), t, x, eta=eta, variance_noise=z).prev_sample
    draws = iter(added)
    predict = lambda x, t: network(x, torch.full((2,), t))  # noqa: E731
    ours = last(ddim(diffusion, predict, start, theirs.timesteps.tolist(), eta, lambda: next(draws)))
    assert (ours - x).abs().max() <= 1e-5 * x.abs().max()  # which is near 180


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@torch.inference_mode()
def test_dpm_solver_agrees_with_diffusers(network, diffusion, steps):
    theirs = diffusers.DPMSolverMultistepScheduler(
        trained_betas=beta_schedule("quadratic", 1000).numpy(), solver_order=2, algorithm_type="dpmsolver++",
        solver_type="midpoint", final_sigmas_type="zero",
    )  # fmt: skip
    theirs.set_timesteps(timesteps=time_steps(diffusion, steps))
    (x,) = noise(1)
    start = x
    for t in theirs.timesteps:
        x = theirs.step(network(x, t.expand(2)), t, x).prev_sample
    predict = lambda x, t: network(x, torch.full((2,), t))  # noqa: E731
    ours = last(dpm_solver(diffusion, predict, start, time_steps(diffusion, steps)))
    assert (ours - x).abs().max() <= 1e-5 * x.abs().max()  # which is near 180


def test_variance_that_an_exact_gaussian_keeps(diffusion):
    """Few steps of DDIM lose variance, the more the finer the texture (smaller s); DPM-Solver++ keeps nearly all."""
    (start,) = noise(1)

    def kept(name, steps, s):
        model = gaussian(diffusion, s)
        predict = lambda x, t: model(x, torch.tensor([t]))  # noqa: E731
        if name == "ddim":
            x = last(ddim(diffusion, predict, start, time_steps(diffusion, steps), 0.0, lambda: None))
        else:
            x = last(dpm_solver(diffusion, predict, start, time_steps(diffusion, steps)))
        return (x.var() / start.var()).item() / s**2

    for s in (0.05, 0.2, 0.5, 1.0):
        assert kept("dpm-solver++", 20, s) == pytest.approx(1, abs=0.03)
        assert 0.85 < kept("ddim", 50, s) < 0.99
        assert 0.7 < kept("ddim", 20, s) < kept("ddim", 50, s)


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler("ddim", 10), Sampler("ddim", 10, 0.5), Sampler("dpm-solver++", 10)]
)
def test_an_oracle_is_believed(sampler):
    """With an oracle that knows x_0, every sampler must end there: the last step goes to x_0."""
    diffusion = GaussianDiffusion(timesteps=50)
    x_0 = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def oracle(x, t):
        signal = diffusion.sqrt_alphas_cumprod[t][:, None, None, None] * x_0
        return (x - signal) / diffusion.sqrt_one_minus_alphas_cumprod[t][:, None, None, None]

    steps = list(sample(diffusion, oracle, 8, [0, 1], sampler))
    assert [t for t, _ in steps] == time_steps(diffusion, sampler.resolved(50).steps)
    assert torch.allclose(steps[-1][1], x_0.expand(2, -1, -1, -1), atol=1e-3)


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler("ddim", 5), Sampler("ddim", 5, 0.5), Sampler("dpm-solver++", 5)]
)
def test_an_image_does_not_depend_on_its_batch(sampler):
    diffusion = GaussianDiffusion(timesteps=20)
    model = lambda x, t: x.tanh()  # noqa: E731
    together = last(sample(diffusion, model, 8, [3, 4, 5], sampler))
    alone = last(sample(diffusion, model, 8, [4], sampler))
    assert torch.equal(together[1], alone[0]) and not torch.equal(together[0], together[1])


def test_a_network_in_bfloat16_leaves_the_state_in_float32(diffusion):
    model = lambda x, t: x.bfloat16()  # noqa: E731
    for sampler in (Sampler("ddim", 3, 0.5), Sampler("dpm-solver++", 3)):
        assert last(sample(diffusion, model, 8, [0], sampler)).dtype == torch.float32


def test_defaults_for_the_number_of_steps():
    assert [Sampler(n).resolved(1000).steps for n in ("ancestral", "ddim", "dpm-solver++")] == [1000, 50, 20]
    assert [Sampler(n).resolved(30).steps for n in ("ancestral", "ddim", "dpm-solver++")] == [30, 30, 20]
    assert Sampler("ancestral", 1000).resolved(1000).steps == 1000


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sampler("ancestral", 50), "--steps is 50: ancestral sampling takes all 1000 steps"),
        (Sampler("ddim", 1001), "--steps is 1001: 1 to 1000 are possible"),
        (Sampler("dpm-solver++", 0), "--steps is 0: 1 to 1000 are possible"),
        (Sampler("dpm-solver++", 20, 0.5), "--eta is 0.5: only --sampler ddim has it, not dpm-solver"),
        (Sampler("ancestral", None, 1.0), "--eta is 1.0: only --sampler ddim has it, not ancestral"),
        (Sampler("ddim", 50, 1.5), "--eta is 1.5: 0 .* to 1"),
        (Sampler("ddim", 50, float("nan")), "--eta is nan: 0 .* to 1"),
    ],
)
def test_settings_that_cannot_work_are_named(sampler, message):
    with pytest.raises(InputError, match=message):
        sampler.resolved(1000)


# --- clamped ---


def test_the_clamped_noise_by_hand():
    """One pixel: x_0 = (0.5 - s) / a for a predicted noise of 1; the noise of x at x_0 = 1 is (0.5 - a) / s."""
    diffusion = GaussianDiffusion(timesteps=1000)
    a, s = diffusion.signal_rates[900], diffusion.noise_rates[900]
    x = torch.full((1, 1, 1, 1), 0.5)
    assert (0.5 + s) / a > 1
    assert clamped_noise(diffusion, -torch.ones_like(x), x, 900, (-1, 1)).item() == pytest.approx((0.5 - a) / s)
    inside = torch.full_like(x, (0.5 - 0.3 * a) / s)  # of x_0 = 0.3
    assert clamped_noise(diffusion, inside, x, 900, (-1, 1)).item() == pytest.approx(inside.item(), abs=1e-5)


def test_ancestral_sampling_takes_the_posterior_mean_of_the_clamped_image(diffusion):
    """Ho et al., equation 7: mean = sqrt(ab') beta / (1 - ab) x_0 + sqrt(alpha) (1 - ab') / (1 - ab) x."""
    x, predicted = noise(2)
    for t in (999, 400, 3):
        ab, before = diffusion.signal_rates[t] ** 2, diffusion.signal_rates[t - 1] ** 2
        alpha, z = ab / before, x.double()
        x_0 = diffusion.predict_x_0(predicted.double(), z, t).clamp(-1, 1)
        mean = (before**0.5 * (1 - alpha) * x_0 + alpha**0.5 * (1 - before) * z) / (1 - ab)
        ours = diffusion.p_sample(clamped_noise(diffusion, predicted, x, t, (-1, 1)), x, t, torch.zeros_like(x))
        assert torch.allclose(ours.double(), mean, atol=1e-4)


@torch.inference_mode()
def test_clamped_ddim_agrees_with_diffusers(network, diffusion):
    theirs = diffusers.DDIMScheduler(
        trained_betas=beta_schedule("quadratic", 1000).numpy(), clip_sample=True, timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    x = start = noise(1)[0]
    for t in theirs.timesteps:
        x = theirs.step(network(x, t.expand(2)), t, x, use_clipped_model_output=True).prev_sample

    def predict(x, t):
        return clamped_noise(diffusion, network(x, torch.full((2,), t)), x, t, (-1, 1))

    ours = last(ddim(diffusion, predict, start, theirs.timesteps.tolist(), 0.0, lambda: None))
    assert torch.allclose(ours, x, atol=1e-4) and ours.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("sampler", [Sampler(), Sampler("ddim", 20), Sampler("dpm-solver++", 20)])
def test_an_untrained_network_diverges_only_if_nothing_is_clamped(network, sampler):
    diffusion = GaussianDiffusion(timesteps=300)
    sampler = replace(sampler, steps=None if sampler.name == "ancestral" else 20)
    wild = last(sample(diffusion, network, 16, [1], sampler))
    kept = last(sample(diffusion, network, 16, [1], replace(sampler, clamp=(-1.0, 1.0))))
    assert wild.abs().max() > 2 and kept.abs().max() <= 1 + 1e-5
