import math

import pytest
import torch

from GenSelfDiff.downstream_train.losses import (
    LOSSES,
    distance_map_loss,
    focal,
    segmentation_loss,
    structural_similarity,
    tversky,
)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0, 1, 1e3, 1e8])
def test_finite_for_any_logits(name, scale):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 3, 8, 8, generator=generator) * scale).requires_grad_()
    loss = LOSSES[name](logits, torch.randint(3, (2, 8, 8), generator=generator))
    loss.backward()
    assert math.isfinite(loss.item()) and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("right", [True, False])
def test_finite_for_constant_confident_maps(name, right):
    """One class everywhere, predicted with certainty: the deviation of truth and prediction is zero."""
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0 if right else 1] = 1e4
    logits.requires_grad_()
    loss = LOSSES[name](logits, torch.zeros(1, 8, 8, dtype=torch.long))
    loss.backward()
    assert math.isfinite(loss.item()) and logits.grad.isfinite().all()
    assert (loss.item() < 1e-6) == (right or name.startswith("ss"))  # of constant maps the structure is the same


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_beats_a_wrong_one(name):
    labels = torch.randint(2, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = 6.0 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1)
    perfect, undecided, wrong = (LOSSES[name](factor * logits, labels).item() for factor in (1, 0, -1))
    assert perfect < wrong
    if name == "poly_log":  # as published, it is zero where a pixel is undecided between two classes
        assert undecided == 0
    else:
        assert perfect < undecided < wrong


def test_focal_by_hand():
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1)  # probabilities 1/4 and 3/4
    expected = -(0.75**2) * math.log(0.25)
    assert focal(logits, torch.zeros(1, 1, 1, dtype=torch.long)).item() == pytest.approx(expected)


def test_tversky_is_one_minus_the_share_that_is_right():
    """Over all classes together each pixel's false positive is another's false negative: any beta gives this."""
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(2, 4, 5, 6, generator=generator), torch.randint(4, (2, 5, 6), generator=generator)
    p = logits.softmax(1).double()
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    right = (p * one_hot).sum((1, 2, 3))
    false_positive, false_negative = (((1 - a) * b).sum((1, 2, 3)) for a, b in ((one_hot, p), (p, one_hot)))
    for beta in (0, 0.25, 0.75, 1):
        index = (right + 1) / (right + 1 + beta * false_positive + (1 - beta) * false_negative)
        assert tversky(logits, labels).item() == pytest.approx((1 - index).mean().item(), rel=1e-5)


def structural_similarity_in_words(p, labels, per_pixel):
    """Pixel by pixel, class by class, from the paper's text."""
    batch, classes, height, width = p.shape
    pixels = [(b, y, x) for b in range(batch) for y in range(height) for x in range(width)]
    entropy = {k: -math.log(p[k[0], labels[k], k[1], k[2]]) for k in pixels}
    mean_entropy = sum(entropy.values()) / len(entropy)
    total, kept = 0.0, 0
    for b in range(batch):
        for c in range(classes):
            truth = (labels[b] == c).double().flatten()
            guess = p[b, c].double().flatten()
            normal = [(v - v.mean() + 0.01) / (v.std() + 0.01) for v in (truth, guess)]
            error = (normal[0] - normal[1]).abs()
            for i, e in enumerate(error.tolist()):
                if e > 0.1 * error.max():
                    total += e * (entropy[(b, i // width, i % width)] if per_pixel else mean_entropy)
                    kept += 1
    return total / kept


@pytest.mark.parametrize("per_pixel", [False, True])
def test_structural_similarity_in_both_forms(per_pixel):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (2, 6, 5), generator=generator)
    expected = structural_similarity_in_words(logits.softmax(1), labels, per_pixel)
    assert structural_similarity(logits, labels, per_pixel).item() == pytest.approx(expected, rel=1e-9)


def test_losses_add_up_in_float32():
    logits, labels = torch.randn(1, 2, 4, 4).bfloat16(), torch.randint(2, (1, 4, 4))
    together = segmentation_loss(("ss", "focal"), logits, labels)
    apart = sum(LOSSES[n](logits.float(), labels) for n in ("ss", "focal"))
    assert together.dtype == torch.float32 and torch.allclose(together, apart)


def test_the_loss_of_distance_maps_by_hand():
    """One pixel of the horizontal map is wrong by 1: Sobel's derivative of that is 2 beside it, 1 at four corners."""
    truth = torch.zeros(1, 2, 5, 6)
    maps = truth.clone()
    maps[0, 0, 2, 3] = 1.0
    everywhere, error = torch.ones(1, 5, 6, dtype=torch.bool), 1 / (2 * 5 * 6)
    assert distance_map_loss(maps, truth, everywhere).item() == pytest.approx(error + (4 + 4 + 4 * 1) / 2 / 30)
    beside = torch.zeros(1, 5, 6, dtype=torch.bool)
    beside[0, 2, 2:4] = True  # to the left, where the derivative is 2, and the pixel itself, where it is 0
    assert distance_map_loss(maps, truth, beside).item() == pytest.approx(error + (4 + 0) / 2 / 2)
    assert distance_map_loss(maps, truth, ~everywhere).item() == pytest.approx(error)
    turned = distance_map_loss(maps.flip(1).mT, truth.mT, everywhere.mT)  # the same in the vertical map, downwards
    assert turned.item() == pytest.approx(error + 12 / 2 / 30)
    assert distance_map_loss(truth, truth, everywhere) == 0


def test_the_loss_of_distance_maps_has_gradients_wherever_it_is():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2, 8, 8, generator=generator).requires_grad_()
    distance_map_loss(maps, torch.zeros(2, 2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)).backward()
    assert maps.grad.isfinite().all() and (maps.grad != 0).all()
