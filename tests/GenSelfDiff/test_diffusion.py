import pytest
import torch

from GenSelfDiff.diffusion import GaussianDiffusion, beta_schedule, p2_weight


def test_quadratic_schedule_by_hand():
    # sqrt(beta) runs evenly from 0.01 to sqrt(0.02): with 3 steps the middle one is their mean.
    middle = ((0.01 + 0.02**0.5) / 2) ** 2
    assert beta_schedule("quadratic", 3).tolist() == pytest.approx([1e-4, middle, 0.02])


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="'cubic'"):
        beta_schedule("cubic", 10)


def test_p2_weight_by_hand():
    alphas_cumprod = torch.tensor([0.9, 0.5, 0.1])
    assert torch.allclose(p2_weight(alphas_cumprod, 1, 1), 1 - alphas_cumprod)  # k = gamma = 1
    assert torch.allclose(p2_weight(alphas_cumprod, 1, 0), torch.ones(3))  # gamma = 0: plain squared error
    assert p2_weight(alphas_cumprod, 2, 3)[1].item() == pytest.approx(3**-3)  # SNR 1 where alpha_bar is a half


def test_forward_process_keeps_the_variance():
    diffusion = GaussianDiffusion()
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, 3, 64, 64, generator=generator) for _ in range(2))
    x_t = diffusion.q_sample(x, torch.tensor([0, 500, 999]), noise)
    assert x_t.std(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=0.02)
    assert torch.allclose(x_t[0], x[0], atol=0.1) and not torch.allclose(x_t[2], x[2], atol=1)


def test_a_prediction_in_bfloat16_is_used_in_float32():
    diffusion, generator = GaussianDiffusion(), torch.Generator().manual_seed(0)
    predicted, x, noise = (torch.randn(1, 3, 8, 8, generator=generator) for _ in range(3))
    predicted = predicted.bfloat16()
    ours = diffusion.p_sample(predicted, x, 500, noise)
    assert ours.dtype == torch.float32 and torch.equal(ours, diffusion.p_sample(predicted.float(), x, 500, noise))


def test_p2_loss_is_one_number_an_image():
    diffusion = GaussianDiffusion()
    t = torch.tensor([10, 900])
    noise = torch.zeros(2, 3, 4, 4)
    predicted = torch.stack([torch.full((3, 4, 4), 2.0), torch.full((3, 4, 4), 0.5)])
    expected = diffusion.p2_weight[t] * torch.tensor([4.0, 0.25])
    assert torch.allclose(diffusion.p2_loss(noise, predicted, t), expected)
