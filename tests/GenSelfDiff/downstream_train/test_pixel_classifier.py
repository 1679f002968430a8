"""Pixel classifiers on frozen features: what they are made of, by hand; and whole runs of them."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from GenSelfDiff import checkpoint, networks
from GenSelfDiff.downstream_train import pixel_classifier
from GenSelfDiff.feature_net import FeatureNet, agreed
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.test import segment, test_script
from GenSelfDiff.unet import BLOCKS, DiffusionNet
from tests.conftest import write_tiny_data_set
from tests.GenSelfDiff.runs import history
from utils_general import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The name of a tiny run of pre-training. Not to be changed."""
    root = tmp_path_factory.mktemp("pretrained")
    settings = SS_diff.Settings(
        data=(write_tiny_data_set(root / "tiny"),), run_name=str(root / "pre"), epochs=1, batch_size=4, dim=8,
        workers=0, initial_weights="pytorch", sample_every=0, device="cpu", learning_rate=1e-3,
    )  # fmt: skip
    SS_diff.main(settings)
    return settings.run_name


@pytest.fixture
def features(finetuning, pretrained):
    """Settings of a tiny run on the features of a pre-trained network."""
    shared = {n: getattr(finetuning, n) for n in ("data", "epochs", "batch_size", "workers", "device")}
    return pixel_classifier.Settings(
        **shared, pretrained=pretrained, run_name=f"{finetuning.run_name}_features",
        noise_levels=(5, 50), members=3, hidden=(8, 6), learning_rate=1e-2,
    )  # fmt: skip


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FeatureNet(DiffusionNet(8).net, 2, (5, 50), ("mid", "up2", "last"), 3, (8, 6)).eval()


def test_activations_of_every_block():
    net = FeatureNet(DiffusionNet(8).net, 2, (5,), BLOCKS, 1, (4, 4)).eval()
    kept = net.activations(torch.zeros(2, 3, 16, 24), 5)
    sizes = {name: tuple(value.shape[2:]) for name, value in kept.items()}
    assert list(kept) == [*BLOCKS] and sizes["down0"] == sizes["last"] == (16, 24) and sizes["mid"] == (2, 3)
    assert sizes["up0"] == (2, 3) and sizes["up2"] == (8, 12)
    assert not any(value.requires_grad for value in kept.values())


def test_the_first_layer_is_that_of_enlarged_activations(network):
    """Baranchuk et al. enlarge, then classify; here the first layer comes before: the same numbers."""
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    enlarged = [
        F.interpolate(network.activations(x, t)[block], (16, 16), mode="bilinear")
        for t in (5, 50)
        for block in ("mid", "up2", "last")
    ]
    weight = torch.cat([network.first[f"{block}_{t}"].weight for t in (5, 50) for block in ("mid", "up2", "last")], 1)
    plain = network.rest(F.conv2d(torch.cat(enlarged, 1), weight, network.bias)).unflatten(1, (3, 2))
    assert torch.allclose(network(x), plain, atol=1e-5)


def test_what_is_said_of_an_image_does_not_depend_on_who_shares_its_batch(network):
    x = torch.rand(3, 3, 16, 16)
    assert torch.allclose(network(x)[1:2], network(x[1:2]), atol=1e-5)
    assert torch.equal(network(x), network(x))


def test_the_mean_of_the_members_probabilities_by_hand():
    """Two members, two classes: probabilities 0.9 and 0.5 of the first make 0.7."""
    votes = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log().view(1, 2, 2, 1, 1)
    assert agreed(votes).exp().flatten().tolist() == pytest.approx([0.7, 0.3])
    assert agreed(votes).softmax(1).flatten().tolist() == pytest.approx([0.7, 0.3])


def test_members_do_not_touch_each_other(network):
    network(torch.rand(2, 3, 16, 16))[:, 1].square().sum().backward()
    gradient = network.rest[2].weight.grad.unflatten(0, (3, 6))
    assert (gradient[1] != 0).any() and not gradient[[0, 2]].any()
    first = network.first["mid_5"].weight.grad.unflatten(0, (3, 8))
    assert (first[1] != 0).any() and not first[[0, 2]].any()


def test_a_run_learns_is_tested_and_segments(features, tmp_path, capsys):
    pixel_classifier.main(replace(features, epochs=12))
    assert history(features.run_name).val_dice.max() > 0.6  # of eight patches; at first nothing is found
    frozen = checkpoint.load(Path(features.pretrained) / "best.pth")["model_state_dict"]
    after = checkpoint.load(Path(features.run_name) / "best.pth")["model_state_dict"]
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    results = tmp_path / "results"
    test_script.main(test_script.Settings(data=features.data, run=features.run_name, output=results, device="cpu"))
    assert pd.read_csv(results / "images.csv")["Dice"].mean() > 0.2
    page = (results / "report.html").read_text()
    assert "Classifiers on features of a frozen network, from" in page and "ine-tun" not in page
    images = features.data / "test" / "images"
    segment.main(segment.Settings(run=features.run_name, images=images, output=tmp_path / "maps", device="cpu"))
    assert len(list((tmp_path / "maps").glob("*_classes.png"))) == len(list(images.iterdir()))
    assert "frozen weights from" in capsys.readouterr().out


def test_a_run_goes_on_exactly(features):
    pixel_classifier.main(replace(features, epochs=2, ema=0.9, run_name=f"{features.run_name}_whole"))
    for epochs in (1, 2):
        pixel_classifier.main(replace(features, epochs=epochs, ema=0.9))
    whole, parts = (
        checkpoint.load(Path(run) / "last.pth") for run in (f"{features.run_name}_whole", features.run_name)
    )
    for state in ("model_state_dict", "ema_state_dict"):
        assert all(torch.equal(value, parts[state][name]) for name, value in whole[state].items())


def test_the_untrained_network_is_no_straw_man():
    """With the published initial weights (deviation 0.01) hardly anything of an image would be left in its features."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    settings = pixel_classifier.Settings.of("improved", pretrained="scratch", dim=8, members=1, hidden=(4, 4))
    kept = pixel_classifier.build_network(settings, 2).activations(x, 50)
    assert all((kept[name][0] - kept[name][1]).abs().mean() > 0.05 * kept[name].std() for name in settings.blocks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise_levels": (1000,)}, "--noise-levels 1000: the network was trained at the steps t from 0 to 999"),
        ({"noise_levels": (-1,)}, "noise_levels = .-1.; wanted: a list of steps t"),
        ({"hidden": (5000, 1)}, "wanted: two widths from 1 to 4096"),
        ({"members": 4097}, "a whole number from 1 to 4096"),
        ({"noise_levels": ()}, "wanted: a list of steps t"),
        ({"blocks": ("mid", "mid")}, "--blocks names one twice"),
        ({"members": 0}, "--members is 0"),
        ({"hidden": (0, 4)}, "wanted: two widths from 1"),
        ({"dim": 16}, "has dim 8, but --dim 16 was asked for"),
        ({"input_range": (0.0, 1.0)}, "was trained with images in .*--input-range -1 1"),
        ({"pretrained": "nothere"}, "no run 'nothere'"),
    ],
)
def test_what_cannot_work_is_named(features, changed, message):
    with pytest.raises(InputError, match=message):
        pixel_classifier.main(replace(features, **changed))
    assert not Path(features.run_name).exists()


def test_noise_that_the_network_never_saw_is_refused(features, pretraining):
    SS_diff.main(replace(pretraining, t_below=30, run_name=f"{pretraining.run_name}_low", epochs=1))
    with pytest.raises(InputError, match="--noise-levels 50: the network was trained at the steps t from 0 to 29"):
        pixel_classifier.main(replace(features, pretrained=f"{pretraining.run_name}_low"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "does not say which features"),
        ({"blocks": ["roof"]}, "holds blocks = .*wanted: a list of down0"),
        ({"blocks": [["up0"]]}, "holds blocks = .*wanted: a list of down0"),
        ({"members": 10**6}, "holds members = 1000000"),
        ({"noise_levels": [5, 5000]}, "beyond its 1000 steps"),
        ({"members": 2}, "does not fit the network"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_named(features, change, message):
    pixel_classifier.main(replace(features, epochs=1))
    path = Path(features.run_name) / "best.pth"
    loaded = checkpoint.load(path)
    described = loaded["features"]
    checkpoint.save(path, {**loaded, **(change if "features" in change else {"features": {**described, **change}})})
    with pytest.raises(InputError, match=message):
        networks.load_segmentation(path, CPU)
