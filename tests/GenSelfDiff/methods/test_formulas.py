"""What each pre-training of others minimises, worked out by hand."""

import math

import pytest
import torch

from GenSelfDiff.augmentation import TwoViews
from GenSelfDiff.keyed_random import keyed_choice, keyed_places
from GenSelfDiff.methods.context_restoration import swapped
from GenSelfDiff.methods.masked_images import hidden_error, hidden_pixels
from GenSelfDiff.methods.simclr import nt_xent
from GenSelfDiff.methods.stain_prediction import haematoxylin_alone
from GenSelfDiff.methods.variational_autoencoder import AutoEncoder, divergence
from GenSelfDiff.transforms import tv_tensors

SEEDS = torch.arange(50) * 7919


def test_two_squares_change_places_and_nothing_else_does():
    image = torch.arange(36.0).view(1, 1, 6, 6).repeat(1, 2, 1, 1)
    image[:, 1] += 100
    found = swapped(image, torch.tensor([[[[0, 0], [3, 4]]]]), 2)
    expected = image.clone()
    expected[..., :2, :2], expected[..., 3:5, 4:] = image[..., 3:5, 4:], image[..., :2, :2]
    assert torch.equal(found, expected)


def test_pairs_change_places_one_after_the_other_and_each_image_has_its_own():
    """The second pair moves what the first has moved; squares that overlap stay."""
    image = torch.arange(8.0).view(1, 1, 2, 4).repeat(3, 1, 1, 1)
    corners = torch.tensor([
        [[[0, 0], [0, 1]], [[0, 1], [0, 2]]],  # a b c d -> b a c d -> b c a d
        [[[1, 3], [1, 3]], [[1, 3], [1, 3]]],
        [[[0, 0], [1, 0]], [[0, 0], [1, 0]]],  # there and back
    ])  # fmt: skip
    found = swapped(image, corners, 1)
    assert found[0].flatten().tolist() == [1, 2, 0, 3, 4, 5, 6, 7] and torch.equal(found[1:], image[1:])
    assert torch.equal(swapped(image[:1], torch.tensor([[[[0, 0], [0, 1]]]]), 2), image[:1])  # these overlap


def test_only_hidden_pixels_count_and_each_alike():
    image = torch.zeros(2, 3, 2, 2)
    restored = torch.zeros(2, 3, 2, 2)
    restored[0, :, 0, 0], restored[0, 0, 1, 1], restored[1] = 9.0, 3.0, 2.0
    hidden = torch.tensor([[[[0, 1], [0, 1]]], [[[1, 1], [1, 1]]]], dtype=torch.bool)
    assert hidden_error(restored, image, hidden).tolist() == [pytest.approx(9 / 6), 4.0]


def test_as_many_whole_blocks_are_hidden_in_every_image_and_everywhere_as_often():
    hidden = hidden_pixels(SEEDS, 16, 4, 0.6)
    blocks = hidden.unflatten(2, (4, 4)).unflatten(4, (4, 4)).float().mean(dim=(3, 5))
    assert hidden.shape == (50, 1, 16, 16) and {*blocks.unique().tolist()} == {0.0, 1.0}
    assert (blocks.sum(dim=(1, 2, 3)) == 10).all()  # 0.6 of 16
    assert blocks.mean(0).min() > 0.3 and blocks.mean(0).max() < 0.9
    assert hidden_pixels(SEEDS, 20, 16, 0.01).float().sum(dim=(1, 2, 3)).unique().tolist() == [16.0, 64.0, 256.0]


def test_haematoxylin_is_left_alone():
    """As much as there is; nothing of eosin alone, of no dye, or of yellow, which unmixes to less than none."""
    haematoxylin, eosin = torch.tensor([0.65, 0.70, 0.29]), torch.tensor([0.07, 0.99, 0.11])
    amounts = torch.tensor([[1.2, 0.0], [0.5, 0.0], [0.5, 1.2], [0.0, 1.2], [0.0, 0.0]])
    pixels = torch.stack([(-h * haematoxylin - e * eosin).exp() for h, e in amounts])
    pixels = torch.cat((pixels, torch.tensor([[1.0, 1.0, 0.2]])))
    expected = torch.stack([(-h * haematoxylin).exp() for h in (1.2, 0.5, 0.5, 0.0, 0.0, 0.0)])
    images = 2 * pixels.T[None, :, None] - 1  # (1, 3, 1, 6), from -1 to 1
    alone = haematoxylin_alone(images, (-1.0, 1.0))
    assert torch.allclose(alone[0, :, 0].T, 2 * expected - 1, atol=1e-5)


def test_places_and_choices_are_those_of_each_key_alone():
    places, chosen = keyed_places(SEEDS, 40, 5), keyed_choice(SEEDS, 2, 5)
    assert {*places.unique().tolist()} == {0, 1, 2, 3, 4} and (chosen.sum(1) == 2).all() and chosen.any(0).all()
    assert torch.equal(keyed_places(SEEDS[3:5], 40, 5), places[3:5])
    assert torch.equal(keyed_choice(SEEDS[3:5], 2, 5), chosen[3:5])


def test_the_divergence_from_the_standard_normal():
    """Nothing for the normal itself; mean^2 / 2 for a shift; (v - 1 - log v) / 2 for a variance v."""
    mean, log_variance = torch.zeros(3, 2, 1, 1), torch.zeros(3, 2, 1, 1)
    mean[1, 0], log_variance[2, 1] = 3.0, math.log(4.0)
    assert divergence(mean, log_variance).tolist() == pytest.approx([0, 4.5, (4 - 1 - math.log(4)) / 2])
    sample = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    assert divergence(torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), 2 * math.log(0.5))) == sample


def test_nothing_gets_round_the_latent_map():
    """Where the latent map says nothing, all images become the same one; noise is that of each seed."""
    torch.manual_seed(0)
    network = AutoEncoder(8, latent=2, timestep=50)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        first, mean, log_variance = network(images, SEEDS[:2])
        again = network(images[1:], SEEDS[1:2])[0]
        assert mean.shape == log_variance.shape == (2, 2, 2, 2)
        assert not torch.allclose(first[0], first[1]) and torch.allclose(first[1], again[0], atol=1e-5)
        network.from_latent.weight.zero_()
        blind = network(images, SEEDS[:2])[0]
    assert torch.allclose(blind[0], blind[1], atol=1e-6)


def test_the_contrastive_loss_by_hand():
    """Two pairs on the axes, temperature 1: of each view the partner is at cosine 1, the two others at 0 and 0."""
    views = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    alone = -math.log(math.e / (math.e + 2))
    assert nt_xent(views, 3 * views, 1.0).tolist() == pytest.approx([alone] * 2)
    swapped_views = nt_xent(views, views.flip(0), 1.0)  # the partner is at 0, and another one at 1
    assert swapped_views.tolist() == pytest.approx([-math.log(1 / (math.e + 2))] * 2)
    sharper = nt_xent(views, views, 0.1)
    assert sharper.tolist() == pytest.approx([-math.log(math.exp(10) / (math.exp(10) + 2))] * 2, abs=1e-6)


def test_two_views_are_of_one_image_and_differ():
    image = tv_tensors.Image((torch.arange(3 * 64 * 64) % 251).view(3, 64, 64).to(torch.uint8))
    torch.manual_seed(0)
    views = TwoViews(64, 0.08, 1.0, True)({"image": image, "other": 1})
    assert views["image"].shape == (6, 64, 64) and views["image"].dtype == torch.uint8 and views["other"] == 1
    first, second = views["image"].chunk(2)
    assert not torch.equal(first, second)
    whole = TwoViews(16, 1.0, 0.0, False)
    plain = [whole({"image": tv_tensors.Image(torch.full((3, 16, 16), 90, dtype=torch.uint8))})["image"] for _ in "ab"]
    assert all((x.int() - 90).abs().max() <= 1 for x in plain)  # grey is rounded down
