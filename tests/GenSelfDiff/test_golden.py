"""Parity with the paper's released code: the numbers it produced are in golden/released_code.npz."""

import numpy as np
import pytest
import torch

from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.downstream_train.losses import LOSSES
from GenSelfDiff.unet import DiffusionNet, SegNet


def assert_equal(ours, golden, tolerance=1e-5):
    """Equal to `tolerance` of the largest golden value: float32 rounding grows with the scale of a tensor."""
    golden = torch.as_tensor(golden)
    assert ours.shape == golden.shape
    assert (ours.detach() - golden).abs().max() <= tolerance * golden.abs().max()


def with_golden_weights(model, seed):
    """The weights are made, not stored: normal(0, 0.1), in the order of the sorted parameter names."""
    generator = torch.Generator().manual_seed(int(seed))
    state = model.state_dict()
    model.load_state_dict({k: torch.randn(state[k].shape, generator=generator) * 0.1 for k in sorted(state)})
    return model.eval()


@pytest.fixture(scope="module")
def noise_net(golden):
    return with_golden_weights(DiffusionNet(int(golden["dim"])), golden["seed"])


@pytest.mark.parametrize("stage", ["unet", "seg"])
def test_parameter_names_and_shapes_are_the_published_ones(golden, stage):
    dim = int(golden["dim"])
    model = DiffusionNet(dim) if stage == "unet" else SegNet(dim, int(golden["classes"]))
    published = dict(zip(golden[f"{stage}_keys"], golden[f"{stage}_shapes"], strict=True))
    assert {k: str(tuple(v.shape)) for k, v in model.state_dict().items()} == published


def test_number_of_parameters_at_paper_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in DiffusionNet(64).parameters()) == 31_267_083


def test_noise_network_output(golden, noise_net):
    with torch.no_grad():
        out = noise_net(torch.as_tensor(golden["unet_in"]), torch.as_tensor(golden["unet_t"]))
    assert_equal(out, golden["unet_out"])


def test_segmentation_network_output(golden):
    model = with_golden_weights(SegNet(int(golden["dim"]), int(golden["classes"])), golden["seed"] + 1)
    with torch.no_grad():
        assert_equal(model(torch.as_tensor(golden["unet_in"])).softmax(1), golden["seg_out"])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "quadratic", "sigmoid"])
def test_schedules(golden, schedule):
    diffusion = GaussianDiffusion(schedule)
    # The released cosine betas are differences of float32 ratios near 1, off by up to 8e-5; ours come from float64.
    tolerance = 1e-4 if schedule == "cosine" else 1e-5
    assert_equal(diffusion.betas, golden[f"betas_{schedule}"], tolerance)
    for name in ("sqrt_recip_alphas", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_variance"):
        assert_equal(getattr(diffusion, name), golden[f"{schedule}_{name}"], tolerance)
    signal = torch.tensor(diffusion.signal_rates)  # [-1] is of x_0 itself, which comes before the first step
    assert_equal(signal[:-1].square(), golden[f"{schedule}_alphas_cumprod"], tolerance)
    assert_equal(signal[:-2].square(), golden[f"{schedule}_alphas_cumprod_prev"][1:], tolerance)


def test_forward_process_and_p2_loss(golden):
    diffusion = GaussianDiffusion("quadratic")
    t = torch.as_tensor(golden["unet_t"])
    x_t = diffusion.q_sample(torch.as_tensor(golden["unet_in"]), t, torch.as_tensor(golden["q_noise"]))
    assert_equal(x_t, golden["q_x"])
    noise, predicted = torch.as_tensor(golden["noise"]), torch.as_tensor(golden["noise_pred"])
    loss = diffusion.p2_loss(noise, predicted, torch.as_tensor(golden["p2_t"])).sum()
    assert loss.item() == pytest.approx(float(golden["p2_loss"]), rel=1e-5)


@pytest.mark.parametrize("t", [0, 1, 400, 999])
def test_ancestral_step(golden, noise_net, t):
    x, z = torch.as_tensor(golden["unet_in"][:1]), torch.as_tensor(golden["step_z"])
    with torch.no_grad():
        predicted = noise_net(x, torch.tensor([t]))
        assert_equal(GaussianDiffusion("quadratic").p_sample(predicted, x, t, z), golden[f"step_{t}"])


@pytest.mark.parametrize("name", ["focal", "ce", "ss", "tversky", "cosine", "focal_log", "log_max", "poly_log"])
def test_losses_and_their_gradients(golden, name):
    logits = torch.as_tensor(golden["logits"]).requires_grad_()
    loss = LOSSES[name](logits, torch.as_tensor(golden["labels"]))
    assert loss.item() == pytest.approx(float(golden[f"loss_{name}"]), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    # The golden gradient is with respect to the probabilities: take it through the softmax.
    p, by_p = logits.detach().double().softmax(1), torch.as_tensor(golden[f"grad_{name}"]).double()
    assert_equal(gradient, (p * (by_p - (p * by_p).sum(1, keepdim=True))).float())


def test_golden_file_is_whole(golden):
    assert np.isfinite(golden["unet_out"]).all() and len(golden["unet_keys"]) == 256
