"""The methods of others for real on tiny data: they learn, and what they hand on is fine-tuned and tested."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from GenSelfDiff import checkpoint, networks
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.methods import masked_images, monai_networks, simclr
from GenSelfDiff.test import test_script
from GenSelfDiff.unet import SegNet
from tests.GenSelfDiff.methods.pretrainings import PRETRAININGS
from utils_general import InputError


def settings_of(method, root, folder, **changes):
    """A run of some steps on the 8 patches of the tiny data set."""
    pretraining = PRETRAININGS[method]
    own = pretraining.small | ({"sample_every": 4} if pretraining.restores else {})
    shared = {"dim": 8, "batch_size": 4, "epochs": 4, "workers": 0, "device": "cpu", "learning_rate": 3e-3}
    shared |= {"initial_weights": "pytorch", "timestep": 50, "run_name": str(folder / method), "data": (root,)}
    return pretraining.script.Settings(**shared | own | changes)


def test_every_pre_training_is_in_the_table():
    """Of tests/GenSelfDiff/methods/pretrainings.py."""
    assert {stage for stage, method in networks.METHODS.items() if method.starts} == {"pretrain", *PRETRAININGS}


@pytest.mark.parametrize("method", PRETRAININGS)
def test_it_learns_and_is_fine_tuned_from(method, tiny_data_set, finetuning, tmp_path, capsys):
    settings = settings_of(method, tiny_data_set, tmp_path)
    PRETRAININGS[method].script.main(settings)
    if method != "simclr":  # for which such small patches are all alike: see below
        history = pd.read_csv(Path(settings.run_name) / "history.csv")
        assert history["train_loss"].iloc[-1] < 0.8 * history["train_loss"].iloc[0]
        assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
        picture = Image.open(Path(settings.run_name) / "sample_epoch_4.png")
        assert picture.size == (3 * 18 - 2, 4 * 18 - 2)  # the four held-out patches, three of each
    capsys.readouterr()
    Diff_Seg.main(replace(finetuning, pretrained=settings.run_name, dim=None, learning_rate=0.0, epochs=1))
    trained = checkpoint.load(Path(settings.run_name) / "best.pth")["model_state_dict"]
    tuned = checkpoint.load(Path(finetuning.run_name) / "best.pth")["model_state_dict"]
    same = {name for name, value in tuned.items() if name in trained and torch.equal(trained[name], value)}
    encoder = {name for name in tuned if name.startswith(("net.init", "net.time", "net.downs", "net.mid"))}
    decoder = {name for name in tuned if name.startswith("net.ups")}
    with_decoder = PRETRAININGS[method].decoder
    assert encoder <= same and (decoder <= same) == with_decoder
    head = {name for name in tuned if name.startswith("net.final_conv")}
    assert {"net.final_conv.0.block1.proj.weight", "net.final_conv.1.bias"} & same == set() and head
    assert f"{len(encoder | (decoder if with_decoder else set()))} tensors loaded" in capsys.readouterr().out
    with pytest.raises(InputError, match=rf"is of pre-training \({method}\); a fine-tuned one is needed"):
        networks.load_segmentation(Path(settings.run_name) / "best.pth", torch.device("cpu"))


def test_the_contrast_is_learnt():
    """Of patches that differ in their colours, where views keep them, the partner is found after some steps."""
    torch.manual_seed(0)
    settings = simclr.Settings(temperature=0.2)
    stage, model = simclr.Contrast(settings), simclr.ProjectedEncoder(8, 8, 0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    views = torch.rand(4, 6, 1, 1).expand(-1, -1, 16, 16).clone()
    views[:, 3:] = views[:, :3] + 0.05 * torch.randn(4, 3, 16, 16)
    losses = []
    for _ in range(12):
        loss, _ = stage.training_loss(model, {"image": views})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_last_block_is_kept_where_it_was_trained(tiny_data_set, finetuning, tmp_path, capsys):
    kept = replace(finetuning, dim=None, epochs=1, keep_last_block=True)
    for method, new in (("masked", "2 tensors (net.final_conv.1.*)"), ("simclr", "(net.ups.*, net.final_conv.*)")):
        settings = settings_of(method, tiny_data_set, tmp_path, epochs=1)
        PRETRAININGS[method].script.main(settings)
        Diff_Seg.main(replace(kept, pretrained=settings.run_name, run_name=str(tmp_path / f"from {method}")))
        assert new in capsys.readouterr().out


@pytest.mark.parametrize("network", ["unet", "attention"])
def test_a_network_of_monai_is_trained_and_tested(network, tiny_data_set, tmp_path):
    settings = monai_networks.Settings(
        network=network, data=tiny_data_set, run_name=str(tmp_path / network), dim=8, batch_size=4, epochs=40,
        learning_rate=3e-3, workers=0, device="cpu", losses=("ce",),
    )  # fmt: skip
    monai_networks.main(settings)
    results = tmp_path / "results"
    test_script.main(
        test_script.Settings(
            run=settings.run_name, data=tiny_data_set, output=results, minimum_area=1, pictures=0, device="cpu"
        )
    )
    assert (pd.read_csv(results / "images.csv").Dice > 0.8).all()
    page = (results / "report.html").read_text()
    assert "Trained from scratch (epoch" in page and "ine-tun" not in page
    assert type(checkpoint.load(tmp_path / network / "best.pth")["settings"]["dim"]) is int
    with pytest.raises(InputError, match="is of a segmentation network; one of pre-training is needed"):
        networks.load_start(tmp_path / network / "best.pth")


def test_a_network_of_monai_takes_images_of_any_size():
    """What is added below and to the right is taken away again."""
    for network in ("unet", "attention"):
        model = monai_networks.MonaiNet(network, 8, 3).eval()
        with torch.no_grad():
            assert model(torch.rand(1, 3, 40, 24)).shape == (1, 3, 40, 24)
    sizes = [sum(p.numel() for p in monai_networks.MonaiNet(n, 64, 2).parameters()) for n in ("unet", "attention")]
    assert np.round(np.array(sizes) / 1e6, 1).tolist() == [31.1, 31.7]  # as the module says


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("context", {"part": 9}, "--part is 9: two parts must find room side by side in 16 pixels"),
        ("context", {"swaps": 0}, "--swaps is 0"),
        ("masked", {"block": 16}, "--block is 16: less than the 16 pixels of a patch is needed"),
        ("masked", {"masked": 1.0}, "--masked is 1: a share between 0 and 1"),
        ("vae", {"sigma": 0.0}, "--sigma is 0: a deviation above 0"),
        ("simclr", {"temperature": 0.0}, "--temperature must be above 0"),
        ("simclr", {"colour": 2.0}, "--colour is 2: at most 1.25"),
        ("vae", {"timestep": -1}, "--timestep is -1"),
        ("masked", {"data": ()}, "--data names no data set"),
    ],
)
def test_what_cannot_work_is_said(method, changes, message, tiny_data_set, tmp_path):
    with pytest.raises(InputError, match=message):
        PRETRAININGS[method].script.main(settings_of(method, tiny_data_set, tmp_path, **changes))


def test_what_could_not_be_fine_tuned_from_is_not_trained(tiny_data_set, tmp_path, monkeypatch):
    settings = settings_of("masked", tiny_data_set, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(masked_images, "SegNet", lambda *given: torch.nn.ModuleDict({"unet": SegNet(*given).net}))
        with pytest.raises(InputError, match=r"of the stage 'masked' does not fit .* first net\.\S+ found nothing"):
            masked_images.main(settings)
    monkeypatch.delitem(networks.METHODS, "masked")
    with pytest.raises(InputError, match="of the stage 'masked': enter it, with `starts`, in METHODS of"):
        masked_images.main(settings)
    assert not [*tmp_path.rglob("*.pth")]


def test_a_checkpoint_that_is_not_whole_is_named(tmp_path):
    content = {
        "epoch": 1,
        "loss": 0.0,
        "stage": "monai",
        "classes": ["background", "a"],
        "model_state_dict": {"a": torch.zeros(1)},
    }
    for settings, message in (({"network": "other", "dim": 8}, "network = 'other'"), ({}, "its network and its dim")):
        checkpoint.save(tmp_path / "best.pth", {**content, "settings": {"input_range": [0.0, 1.0], **settings}})
        with pytest.raises(InputError, match=message):
            networks.load_segmentation(tmp_path / "best.pth", torch.device("cpu"))
