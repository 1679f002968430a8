"""The conditioned network: SPADE by hand, nothing at first; guidance; how often a structure is left out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from GenSelfDiff.diffusion import GaussianDiffusion
from GenSelfDiff.methods.nudiff import train_images
from GenSelfDiff.methods.nudiff.conditioned import ConditionedNet, Guided, Spade
from GenSelfDiff.methods.nudiff.structure import NOTHING_KNOWN
from GenSelfDiff.samplers import Sampler, sample
from GenSelfDiff.unet import Block, DiffusionNet

SEEDS = torch.arange(2000) * 7919


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 16), torch.tensor([3, 70]), torch.randn(2, 3, 16, 16)


def test_at_first_it_is_the_network_without_a_structure(batch):
    x, t, structure = batch
    torch.manual_seed(1)
    plain, conditioned = DiffusionNet(8), ConditionedNet(8)
    conditioned.net.load_state_dict(plain.net.state_dict())
    assert torch.equal(conditioned(x, t, structure), plain(x, t))
    for spade in conditioned.modules():
        if isinstance(spade, Spade):
            nn.init.normal_(spade.say.weight, 0, 0.1)
    told, other = conditioned(x, t, structure), conditioned(x, t, structure.flip(0))
    assert not torch.allclose(told, plain(x, t)) and not torch.allclose(told, other)


def test_a_block_is_modulated_by_hand():
    block, spade = Block(4, 8), Spade(16, 8)
    x, structure = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)
    nn.init.normal_(spade.say.weight)
    nn.init.normal_(spade.say.bias)
    seen = F.conv2d(structure, spade.look.weight, spade.look.bias, padding=1).clamp(min=0)
    said = F.conv2d(seen, spade.say.weight, spade.say.bias, padding=1)
    normed = F.group_norm(F.conv2d(x, block.proj.weight, block.proj.bias, padding=1), 8)
    expected = normed * (1 + said[:, :8]) + said[:, 8:]
    assert torch.allclose(block(x, *spade(structure)), expected * expected.sigmoid(), atol=1e-5)


def test_every_block_behind_the_encoder_is_told_at_its_own_resolution(batch):
    x, t, structure = batch
    model = ConditionedNet(8)
    told = model.modulations(structure)
    shapes = {name: tuple(tensors[0].shape[1:]) for name, tensors in told.items()}
    assert shapes == {
        "mid_block1": (64, 2, 2), "mid_block2": (64, 2, 2), "ups.0.0": (32, 2, 2), "ups.0.1": (32, 2, 2),
        "ups.1.0": (16, 4, 4), "ups.1.1": (16, 4, 4), "ups.2.0": (8, 8, 8), "ups.2.1": (8, 8, 8),
        "final_conv.0": (8, 16, 16),
    }  # fmt: skip
    assert all(len(tensors) == 4 for tensors in told.values())
    mean = structure.unflatten(2, (2, 8)).unflatten(4, (2, 8)).mean((3, 5))
    first, second = model.spades[0]
    assert all(map(torch.allclose, told["mid_block1"], (*first(mean), *second(mean))))
    before = model.net(x, t)
    for name in told:  # each of them is used
        changed = {**told, name: tuple(tensor + 1 for tensor in told[name])}
        assert not torch.allclose(model.net(x, t, modulations=changed), before)


def test_every_parameter_learns_and_memory_can_be_saved(batch):
    x, t, structure = batch
    model = ConditionedNet(8)
    for spade in model.modules():
        if isinstance(spade, Spade):
            nn.init.normal_(spade.say.weight, 0, 0.1)
    gradients = []
    for saved in (False, True):
        model.net.checkpoint_activations = saved
        model.zero_grad()
        model(x, t, structure).square().mean().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)


class Told(nn.Module):
    """A network that says 3 where a structure is known, and 1 where not; and that counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.net = self.say

    def modulations(self, structure):
        return {"known": (structure != NOTHING_KNOWN).float().amax((1, 2, 3), keepdim=True)}

    def say(self, x, _t, modulations):
        self.asked += 1
        return torch.ones_like(x) + 2 * modulations["known"]


@pytest.mark.parametrize(("weight", "said", "asked"), [(2.0, 7.0, 2), (1.0, 5.0, 2), (0.0, 3.0, 1)])
def test_guidance(weight, said, asked):
    """(w + 1) e(y) - w e(0), of e(y) = 3 and e(0) = 1; of empty tissue, which is a structure, too."""
    model, empty = Told(), torch.zeros(2, 3, 8, 8)
    empty[:, 0] = -1
    guided = Guided(model, empty, weight)
    assert (guided(torch.zeros(2, 3, 8, 8), torch.tensor([4, 4])) == said).all() and model.asked == asked


def test_guided_sampling_keeps_its_range():
    """What guidance foresees lies far outside: each step is clamped."""
    torch.manual_seed(0)
    model = ConditionedNet(8).eval()
    for spade in model.modules():
        if isinstance(spade, Spade):
            nn.init.normal_(spade.say.weight, 0, 0.3)
    with torch.no_grad():
        guided = Guided(model, torch.randn(1, 3, 16, 16), 2.0)
        for name in ("ancestral", "dpm-solver++"):
            sampler = Sampler(name, clamp=(-1.0, 1.0))
            *_, (_, x) = sample(GaussianDiffusion("linear", 10), guided, 16, [1], sampler)
            assert x.abs().max() < 1.05


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.9])
def test_so_many_structures_are_left_out_whole(drop):
    structure = torch.ones(len(SEEDS), 3, 2, 2)
    seen = train_images.shown(structure, SEEDS, drop)
    left_out = (seen == NOTHING_KNOWN).all((1, 2, 3))
    assert torch.equal(left_out, (seen == NOTHING_KNOWN).any((1, 2, 3)))
    assert left_out.float().mean().item() == pytest.approx(drop, abs=0.03)
    assert torch.equal(seen[:7], train_images.shown(structure[:7], SEEDS[:7], drop))  # whoever shares the batch
