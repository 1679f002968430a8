import pytest
import torch

from GenSelfDiff import unet
from GenSelfDiff.unet import DiffusionNet, SegNet, initialise


@pytest.mark.parametrize(("dim", "height", "width"), [(8, 8, 8), (8, 16, 40), (24, 32, 16)])
def test_shapes(dim, height, width):
    x = torch.randn(2, 3, height, width)
    assert DiffusionNet(dim)(x, torch.tensor([0, 999])).shape == x.shape
    assert SegNet(dim, 4)(x).shape == (2, 4, height, width)


def test_dim_must_suit_the_groups():
    with pytest.raises(ValueError, match="multiple of 8"):
        DiffusionNet(12)


def test_published_weights_deviate_by_a_hundredth_groupnorm_included():
    torch.manual_seed(0)
    model = DiffusionNet(16)
    biases = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("bias")}
    linear = model.net.time_mlp[1].weight.clone()
    initialise(model, "published")
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    gains = torch.cat([m.weight for m in model.modules() if isinstance(m, torch.nn.GroupNorm)])
    assert torch.cat([w.flatten() for w in weights]).std().item() == pytest.approx(0.01, rel=0.02)
    assert gains.std().item() == pytest.approx(0.01, rel=0.1) and abs(gains.mean().item()) < 0.002
    assert all(torch.equal(model.state_dict()[k], v) for k, v in biases.items())
    assert torch.equal(model.net.time_mlp[1].weight, linear)


def test_pytorch_weights_are_left_alone():
    model = DiffusionNet(8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    initialise(model, "pytorch")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_step_changes_the_output():
    torch.manual_seed(0)
    model, x = DiffusionNet(8), torch.randn(1, 3, 16, 16)
    assert not torch.allclose(model(x, torch.tensor([0])), model(x, torch.tensor([500])))


def test_every_parameter_learns():
    model = DiffusionNet(8)
    model(torch.randn(1, 3, 16, 16), torch.tensor([3])).square().mean().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize(("large", "checkpointing", "recomputed"), [(2**22, False, 0), (1, False, 8), (1, True, 33)])
def test_what_is_computed_again_in_the_backward_pass(monkeypatch, large, checkpointing, recomputed):
    """Nothing; for large images the 8 attentions; if wanted each of the 25 parts too."""
    calls, real = [], unet.checkpoint
    monkeypatch.setattr(unet, "LARGE", large)
    monkeypatch.setattr(unet, "checkpoint", lambda *given, **named: calls.append(1) or real(*given, **named))
    model, x, t = DiffusionNet(8), torch.randn(1, 3, 8, 8), torch.tensor([3])
    model.net.checkpoint_activations |= checkpointing
    with torch.no_grad():
        model(x, t)
    assert not calls
    model(x, t)
    assert len(calls) == recomputed


def test_weights_lie_channels_last():
    """Else each convolution would have them rearranged at every step."""
    kernels = [p for p in DiffusionNet(8).parameters() if p.ndim == 4 and p.shape[2:].numel() > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_network_can_be_captured_whole(checkpointing):
    """What torch.compile needs: one graph, no breaks, and the same outputs."""
    model, x, t = DiffusionNet(8), torch.randn(1, 3, 16, 16), torch.tensor([3])
    model.net.checkpoint_activations = checkpointing
    captured = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(captured(x, t), model(x, t), atol=1e-5)
