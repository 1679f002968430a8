"""Attention-based self-supervision by hand: threshold, losses, symmetries, colours; what training leaves alone."""

import math

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2hed, rgb2lab

from GenSelfDiff import predictor
from GenSelfDiff.averaged_weights import AveragedWeights
from GenSelfDiff.data import to_input
from GenSelfDiff.haematoxylin import haematoxylin, haematoxylin_threshold
from GenSelfDiff.methods.attention.colour import colours, recoloured, to_lab, to_rgb
from GenSelfDiff.methods.attention.losses import (
    INVERSE,
    SYMMETRIES,
    halved,
    of_scale,
    smoothness,
    squared_difference,
    turn,
    turned,
    turned_back,
)
from GenSelfDiff.methods.attention.network import (
    AttentionNet,
    SelfAttention,
    Threshold,
    resnet34,
    small_classifier,
    values_above,
)
from GenSelfDiff.methods.attention.pretext import Haematoxylin, Magnification
from GenSelfDiff.methods.attention.segmenting import FittingAttention, SegmentingAttention
from utils_general import InputError

PARTS = {"dim": 8, "dilations": (1, 2), "steepness": 20.0, "input_range": (0.0, 1.0), "stain": False}
COUNTING = torch.arange(10.0).view(1, 1, 2, 5)
FIRST = torch.zeros(1, dtype=torch.long)
WEIGHTS = {"smoothness": 1.0, "equivariance": 1.0, "scale": 1.0}


def small(buckets=1):
    torch.manual_seed(0)
    return SelfAttention(small_classifier(8, 3), 3, 0.25, buckets=buckets, **PARTS)


def batch(size=16, number=6):
    torch.manual_seed(1)
    level = torch.arange(number) % 3
    images = torch.rand(number, 3, size, size)
    return {"image": images, "level": level, "told": level, "seed": torch.arange(number) * 7919}


def test_the_networks_are_as_large_as_published():
    """14 convolutions, 445,825 parameters; a pixel sees 167, one of the small network 51."""
    published = AttentionNet(64, (1, 2, 3, 5, 10, 20))
    assert sum(p.numel() for p in published.parameters()) == 445_825
    assert sum(isinstance(m, torch.nn.Conv2d) for m in published.modules()) == 14
    for dilations, field in (((1, 2, 3, 5, 10, 20), 167), ((1, 1, 2, 3, 5), 51)):
        network = AttentionNet(8, dilations).eval()
        for parameter in network.parameters():
            parameter.data.abs_()  # so that nothing cancels, and no ReLU is closed
        x = torch.ones(1, 3, 1, 201, requires_grad=True)
        network(x)[0, 0, 0, 100].backward()
        assert (x.grad.abs().sum((0, 1, 2)) > 0).sum() == field
    assert resnet34(3, imagenet=False).fc.out_features == 3


def test_the_threshold_is_the_value_above_which_the_share_lies():
    assert values_above(COUNTING, 0.2).tolist() == [7]
    both = torch.cat((COUNTING, COUNTING + 10))
    threshold = Threshold(1)
    tau = threshold.update(both, torch.tensor([0, 2]), 0.2)
    assert tau.tolist() == [12] and (both > tau).sum((1, 2, 3)).tolist() == [0, 7]
    assert threshold.running.tolist() == [12]  # the first batch's
    before = threshold.running
    threshold.update(torch.full((1, 1, 2, 2), 2.0), FIRST, 0.2)
    assert threshold.running.tolist() == [pytest.approx(11.0)] and threshold.running is before
    assert values_above(torch.arange(100.0).view(1, 1, 10, 10), 0.29).tolist() == [70]
    for share in (1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="a share from 0 to below 1"):
            values_above(COUNTING, share)


def test_each_level_has_a_threshold_of_its_own_where_that_is_wanted():
    """What a batch has none of keeps the running one, and is not counted."""
    threshold = Threshold(3)
    taus = threshold.update(torch.cat((COUNTING, COUNTING + 10)), torch.tensor([0, 2]), 0.2)
    assert taus.tolist() == [7, 0, 17] == threshold.running.tolist() and threshold.updates.tolist() == [1, 0, 1]
    taus = threshold.update(COUNTING + 10, torch.tensor([1]), 0.2)
    assert taus.tolist() == [7, 17, 17] == threshold.running.tolist() and threshold.updates.tolist() == [1, 1, 1]


def test_the_threshold_is_that_of_the_joint_batch_of_all_processes(monkeypatch):
    """One has 7 and 17, the other 27: with what the other sends, both find 17."""
    sent = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sent.append(sums.clone()))
    Threshold(1).update(COUNTING + 20, FIRST, 0.2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(sent[0]))
    assert Threshold(1).update(torch.cat((COUNTING, COUNTING + 10)), torch.tensor([0, 2]), 0.2).tolist() == [17]


def test_attention_is_a_steep_sigmoid():
    network = small()
    logits = torch.tensor([1.1, 0.9]).view(1, 1, 1, 2)
    assert network.attention(logits, torch.ones(1)).flatten().tolist() == pytest.approx([0.881, 0.119], abs=5e-4)


def test_smoothness_by_hand():
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1
    for values, expected in (([[0, 1], [1, 0]], 2), ([[0, 0], [1, 1]], 1), (centre, 2 / 3), ([[4, 4], [4, 4]], 0)):
        assert smoothness(torch.as_tensor(values).float()[None, None]).tolist() == [pytest.approx(expected)]


def test_all_symmetries_invert():
    x = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert turn(x, "90").tolist() == [[2, 5], [1, 4], [0, 3]] and len(SYMMETRIES) == 6
    for symmetry in SYMMETRIES:
        changed = turn(x, symmetry)
        assert not torch.equal(changed, x) and torch.equal(turn(changed, INVERSE.get(symmetry, symmetry)), x)
    maps, which = torch.rand(6, 2, 4, 4), torch.arange(6)
    for i, symmetry in enumerate(SYMMETRIES):
        assert torch.equal(turned(maps, which)[i], turn(maps[i], symmetry))
    assert torch.equal(turned_back(turned(maps, which), which), maps)


def test_equivariance_by_hand():
    """Of F that looks at single pixels nothing is left; of one that says the column, flipped, all."""
    x, which = torch.rand(6, 3, 4, 4), torch.arange(6)
    pixelwise = torch.nn.Conv2d(3, 1, 1)
    assert torch.allclose(pixelwise(x), turned_back(pixelwise(turned(x, which)), which), atol=1e-6)
    column = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    flipped = turned_back(column, torch.tensor([SYMMETRIES.index("flip x")]))
    assert squared_difference(column, flipped).tolist() == [1]
    assert halved(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])).tolist() == [[[[0.5]]]]
    level = torch.tensor([0, 1, 2, 0, 1, 2])
    values = torch.tensor([1.0, 2.0, 9.0, 3.0, 6.0, 9.0])
    assert of_scale(values, level, 3).mean().item() == pytest.approx(((1 + 3) / 2 + (2 + 6) / 2) / 2)
    assert of_scale(values, torch.full((6,), 2), 3).tolist() == [0] * 6  # no NaN where no tile has a half


def test_the_loss_is_the_sum_and_equal_scores_cost_the_logarithm_of_three():
    said = {name: torch.full((6,), value) for name, value in (("smoothness", 1.0), ("equivariance", 2.0))}
    said |= {"scale": torch.full((6,), 3.0), "scores": torch.zeros(6, 3), "attention": torch.zeros(6, 1, 16, 16)}
    stage = Magnification(3, {"smoothness": 1.0, "equivariance": 10.0, "scale": 100.0}, **PICTURES)
    given = batch()
    loss, sums = stage.training_loss(lambda *_: said, given)
    assert loss.item() == pytest.approx(math.log(3) + 1 + 20 + 300)
    assert sums["magnification"][0].item() / 6 == pytest.approx(math.log(3))
    dye = torch.tensor([90, 60, 150]).view(3, 1, 1) / 255, torch.ones(3, 1, 1)
    halves = torch.cat([colour.expand(3, 4, 2) for colour in dye], dim=2).expand(6, 3, 4, 4)
    for left, right in ((1.0, 0.0), (0.0, 1.0)):  # where the dye is, and where the light is
        said["attention"] = torch.tensor([left, left, right, right]).expand(6, 1, 4, 4)
        more = stage.training_loss(lambda *_: said, given | {"image": halves})[1]["dye"][0].item() / 6
        assert more == pytest.approx((left - right) * haematoxylin(halves[:1], (0.0, 1.0)).mean().item())


PICTURES = {"input_range": (0.0, 1.0), "sample_every": 0}


def test_what_is_hidden_has_the_mean_colour():
    """G sees the normalised image times attention: 1 the image, 0 the mean colour of ImageNet, in any input range."""
    network, seen = small(), []
    network.classifier = torch.nn.Module()
    network.classifier.forward = lambda x: seen.append(x) or torch.zeros(len(x), 3)
    network.eval()
    given = batch()
    for tau in (-1e3, 1e3):
        network.threshold.running.fill_(tau)
        network(given["image"], given["level"], given["seed"])
    assert torch.equal(seen[0], network.normalised(given["image"])) and not seen[2].any()
    wide = SegmentingAttention(**PARTS | {"buckets": 1, "input_range": (-1.0, 1.0)})
    assert torch.allclose(wide.normalised(2 * given["image"] - 1), network.normalised(given["image"]), atol=1e-5)
    assert not network.normalised(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)).any()


def test_the_second_look_leaves_the_statistics_alone_and_has_no_gradient():
    network, given = small(buckets=3), batch()
    again, kept = network._again, []

    def watched(*inputs):
        before = {k: v.clone() for k, v in network.state_dict().items()}
        target = again(*inputs)
        after = network.state_dict()
        kept.append(all(torch.equal(v, after[k]) for k, v in before.items()) and not target.requires_grad)
        return target

    network._again = watched
    said = network(given["image"], given["level"], given["seed"])
    assert kept == [True, True] and said["equivariance"].requires_grad and said["scale"].requires_grad
    norm = network.net.stem[1]
    assert norm.num_batches_tracked == 1 and norm.track_running_stats
    assert network.threshold.updates.tolist() == [1, 1, 1]


def test_evaluation_depends_on_nobody_else_in_the_batch_and_changes_nothing():
    network, given = small(buckets=3), batch()
    network(given["image"], given["level"], given["seed"])
    network.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    stage = Magnification(3, WEIGHTS, **PICTURES)
    with torch.no_grad():
        together = stage.validation_metrics(network, given)
        alone = [stage.validation_metrics(network, {k: v[i : i + 1] for k, v in given.items()}) for i in range(6)]
    assert {"loss", "accuracy", "accuracy_of_mask", "area"} <= together.keys()
    for name, (total, count) in together.items():
        assert total.item() == pytest.approx(sum(m[name][0].item() for m in alone), abs=1e-4) and count == 6
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_half_precision_does_not_reach_the_threshold():
    network, given = small(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        said = network(given["image"], given["level"], given["seed"])
    assert said["logits"].dtype == said["attention"].dtype == torch.float32
    assert network.threshold.running.dtype == torch.float32
    assert len(said["logits"].unique()) > 0.9 * said["logits"].numel()  # rounded to 8 bits many would be equal


def test_the_averaged_network_has_the_latest_threshold():
    network, given = small(), batch()
    average = AveragedWeights(network, 0.9)
    network(given["image"], given["level"], given["seed"])
    average.update(1)
    assert average.model.threshold.running == network.threshold.running != 0
    assert average.model.net.stem[1].num_batches_tracked == 1


def test_as_a_segmentation_network_its_softmax_is_attention():
    network, given = small(buckets=3), batch()
    network(given["image"], given["level"], given["seed"])
    network.eval()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("classifier")}
    adapter = SegmentingAttention(**PARTS, buckets=3)
    adapter.load_state_dict(state)
    with torch.no_grad():
        finest = network(given["image"], torch.zeros(6, dtype=torch.long))["attention"]
        said = adapter.eval()(given["image"]).softmax(1)
        assert torch.allclose(said[:, 1:], finest, atol=1e-6)
        fitting = FittingAttention(**PARTS, buckets=3)
        fitting.load_state_dict(state)
        fitted = fitting.eval().for_image([given["image"][:2], given["image"][2:]])
        logits = fitting.logits(given["image"])
        tau = fitted.threshold.running[0]
        assert logits.min() < tau < logits.max() and fitting.threshold.running[0] == network.threshold.running[0] != tau
        assert torch.equal(fitted(given["image"]).argmax(1)[:, None] > 0, logits > tau)


def test_the_threshold_of_an_image_is_that_of_the_precision_in_use(monkeypatch):
    torch.manual_seed(0)
    network, taus = FittingAttention(**PARTS, buckets=1).eval(), []
    monkeypatch.setattr(predictor, "network_predictor", lambda fitted, *_: taus.append(fitted.threshold.running.item()))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    for precision in ("float32", "bfloat16"):
        asked = predictor.PredictorSettings(precision=precision)
        predictor.fitted_predictor(network, (0.0, 1.0), asked, "classes")(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network.for_image([to_input(images, (0.0, 1.0))]).threshold.running.item()
    assert taus[0] != taus[1] == rounded
    network.net.score.bias.data.fill_(math.nan)
    with pytest.raises(InputError, match=r"says no numbers \(NaN\) of an image: try --precision float32"):
        network.for_image([to_input(images, (0.0, 1.0))])


def test_colours_are_those_of_the_target():
    random = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    images = torch.from_numpy(random).movedim(-1, 1) / 255
    lab = to_lab(images)
    assert np.allclose(lab.movedim(1, -1), rgb2lab(random), atol=0.05)  # its white point has more digits
    assert torch.allclose(to_rgb(lab), images, atol=2e-3)
    paler = lab * torch.tensor([0.9, 0.5, 0.5])[:, None, None]  # colours that there are, too
    assert np.allclose(to_rgb(paler).movedim(1, -1), lab2rgb(paler.movedim(1, -1).numpy()), atol=2e-3)
    dull = 0.4 + 0.2 * images  # whose colours stay possible
    target = torch.tensor([[70.0, 10.0, -8.0], [6.0, 3.0, 3.0]])
    changed = to_lab(recoloured(dull, target)).flatten(2)
    assert torch.allclose(changed.mean(2), target[0].expand(3, -1), atol=0.6)
    assert torch.allclose(changed.std(2), target[1].expand(3, -1), atol=0.6)
    assert colours(dull).shape == (3, 2, 3) and torch.isfinite(recoloured(torch.full((1, 3, 8, 8), 0.5), target)).all()
    bright = colours(0.5 * images)[:, 0, 0], colours(images)[:, 0, 0]  # darkness of a whole image is made good
    assert torch.allclose(*bright, atol=5)


def test_haematoxylin_is_that_of_scikit_image():
    image = np.random.default_rng(0).integers(60, 256, (12, 12, 3), np.uint8)
    ours = haematoxylin(torch.from_numpy(image).movedim(-1, 0)[None] / 255, (0.0, 1.0))[0, 0].numpy()
    theirs = rgb2hed(image)[..., 0] * -math.log(1e-6)  # which divides densities by that
    assert np.allclose(ours.clip(0), theirs, atol=1e-5)
    shifted = haematoxylin(torch.from_numpy(image).movedim(-1, 0)[None] / 127.5 - 1, (-1.0, 1.0))
    assert np.allclose(shifted[0, 0], ours, atol=1e-4)
    discs = np.full((1, 20, 20, 3), 230, np.uint8)
    discs[0, 5:10, 5:10] = (90, 60, 150)
    assert haematoxylin_threshold(discs, 0.0)[0].sum() == 25


def test_haematoxylin_alone_is_learnt_without_the_classifier():
    network, given = small(), batch()
    network.classifier.requires_grad_(False)
    network.classifier.forward = None
    stage, optimizer, losses = Haematoxylin(**PICTURES), torch.optim.Adam(network.net.parameters(), 1e-2), []
    for _ in range(10):
        loss, _ = stage.training_loss(network, given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and network.threshold.updates.tolist() == [10]


def discs(number, size, seed):
    """Tiles of noise with discs that are twice as small at each level, and where the discs are."""
    random = np.random.default_rng(seed)
    level = np.arange(number) % 3
    y, x = np.mgrid[:size, :size]
    masks = np.zeros((number, size, size), bool)
    for mask, one in zip(masks, level, strict=True):
        radius = 6 / 2**one
        for _ in range(2 * 4**one):
            mask |= np.hypot(y - random.uniform(0, size), x - random.uniform(0, size)) < radius
    images = 0.75 - 0.35 * masks[:, None] + random.normal(0, 0.04, (number, 3, size, size))
    return torch.from_numpy(images).float().clamp(0, 1), torch.from_numpy(level), torch.from_numpy(masks)


def look(network):
    """Dice of where the network looks in unseen tiles, and how often G is right by the mask alone."""
    unseen, level, masks = discs(30, 32, 2)
    network.eval()
    with torch.no_grad():
        said = network(unseen, level, torch.arange(30))
    network.train()
    found = said["attention"][:, 0] > 0.5
    by_mask = (said["scores of the mask"].argmax(1) == level).float().mean()
    return 2 * (found & masks).sum() / (found.sum() + masks.sum()), by_mask


def test_discs_in_noise_are_found():
    """Only their size tells the level: the noise is the same everywhere. This F looks beside them at first."""
    torch.manual_seed(0)
    network = SelfAttention(small_classifier(8, 3), 3, 0.2, buckets=3, **PARTS)
    stage, optimizer = Magnification(3, WEIGHTS, **PICTURES), torch.optim.Adam(network.parameters(), 5e-3)
    assert look(network)[0] < 0.1
    images, level, _ = discs(90, 32, 1)
    for step in range(30):
        part = slice(30 * (step % 3), 30 * (step % 3) + 30)
        given = {"image": images[part], "level": level[part], "told": level[part], "seed": torch.arange(30) + 30 * step}
        loss, _ = stage.training_loss(network, given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    dice, by_mask = look(network)
    assert dice > 0.6 and by_mask < 0.5  # a third is chance
