"""A new method is its own file and one entry in `networks.METHODS`: all else takes it as it takes the product's."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from GenSelfDiff import checkpoint, networks
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.networks import TrainedMethod
from GenSelfDiff.test import baselines, compare, segment, test_script
from GenSelfDiff.unet import DiffusionNet
from tests.GenSelfDiff import toy
from tests.GenSelfDiff.runs import ROOT, assert_same_run, place, start, wait_until, weights
from utils_general import InputError, plain


@pytest.fixture
def settings(tiny_data_set, tmp_path):
    return toy.Settings(
        data=tiny_data_set, run_name=str(tmp_path / "toy"), ema=0.5, workers=0, device="cpu", save_minutes=0.0
    )


@pytest.fixture
def one_entry(monkeypatch):
    """By which the project knows whose run it is."""
    monkeypatch.setitem(networks.METHODS, "toy", TrainedMethod(segments="tests.GenSelfDiff.toy:build"))


def command(settings):
    words = ["tests.GenSelfDiff.toy"]
    for name, value in plain(settings).items():
        if value is not None and not isinstance(value, bool):
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


def test_the_file_is_short():
    assert sum(map(bool, Path(toy.__file__).read_text().splitlines())) < 60


def test_killed_and_continued_gives_the_same(settings, tmp_path):
    """The statistics of BatchNorm and the averaged weights included."""
    toy.main(settings)
    killed = replace(settings, run_name=str(tmp_path / "killed"))
    process = start(command(killed), "-m", cwd=ROOT)
    wait_until(lambda: place(killed.run_name) >= (2, 1), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (2, 1) <= place(killed.run_name) < (40, 0)
    toy.main(killed)
    assert_same_run(settings.run_name, killed.run_name)
    assert "mean body.1.running_var" in weights(killed.run_name)


def test_the_averaged_network_has_the_latest_statistics(settings):
    """What is validated and handed on must not keep the BatchNorm of the first step."""
    toy.main(replace(settings, epochs=3))
    last = checkpoint.load(Path(settings.run_name) / "last.pth")
    for name in ("body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"):
        assert torch.equal(last["ema_state_dict"][name], last["model_state_dict"][name])
    assert last["ema_state_dict"]["body.1.num_batches_tracked"] == 6


def test_it_is_tested_segmented_and_compared(settings, one_entry, tmp_path):
    toy.main(settings)
    common = {"data": settings.data, "minimum_area": 1}
    test_script.main(
        test_script.Settings(run=settings.run_name, output=tmp_path / "tested", tta="flips", device="cpu", **common)
    )
    baselines.main(baselines.Settings(method="background", output=tmp_path / "nothing", **common))
    compare.main(compare.Settings(results=(tmp_path / "nothing", tmp_path / "tested"), output=tmp_path / "compared"))
    means = pd.read_csv(tmp_path / "compared" / "compare.csv")
    dice = pd.read_csv(tmp_path / "tested" / "images.csv").Dice
    assert (dice > 0.8).all() and len(means)
    assert (tmp_path / "tested" / "report.html").is_file()
    images = settings.data / "test" / "images"
    segment.main(
        segment.Settings(run=settings.run_name, images=images, output=tmp_path / "segmented", minimum_area=1, mpp=None)
    )
    found = pd.read_csv(tmp_path / "segmented" / "summary.csv")
    assert len(found) == 8 and (found.objects == 1).all()


def encoder_start(loaded, _path):
    """What a method that trains the encoder alone hands over; the rest of the U-Net stays new."""
    return loaded["model_state_dict"], ("net.mid", "net.ups", "net.final_conv")


def test_another_pre_training_is_fine_tuned_from(finetuning, monkeypatch, tmp_path, capsys):
    """A checkpoint of a stage of its own, which holds the encoder only."""
    start = TrainedMethod(starts="tests.GenSelfDiff.test_another_method:encoder_start")
    monkeypatch.setitem(networks.METHODS, "contrast", start)
    torch.manual_seed(1)
    encoder = {k: v for k, v in DiffusionNet(8).state_dict().items() if k.startswith(("net.init", "net.time", "net.d"))}
    path = tmp_path / "contrast" / "best.pth"
    content = {"stage": "contrast", "epoch": 1, "loss": 0.0, "settings": {}, "model_state_dict": encoder}
    checkpoint.save(path, content)
    Diff_Seg.main(replace(finetuning, pretrained=str(path.parent), dim=None, learning_rate=0.0, epochs=1))
    assert f"{len(encoder)} tensors loaded" in capsys.readouterr().out
    tuned = checkpoint.load(Path(finetuning.run_name) / "best.pth")["model_state_dict"]
    assert all(torch.equal(tuned[k], v) for k, v in encoder.items())
    with pytest.raises(InputError, match=r"is of pre-training \(contrast\); a fine-tuned one is needed"):
        networks.load_segmentation(path, torch.device("cpu"))
    with pytest.raises(InputError, match="is of a segmentation network"):
        networks.load_start(Path(finetuning.run_name) / "best.pth")
    checkpoint.save(path, {**content, "model_state_dict": {k: v for k, v in encoder.items() if "downs.3" not in k}})
    with pytest.raises(InputError, match=r"beside the head differ, first net\.downs\.3"):
        Diff_Seg.main(replace(finetuning, pretrained=str(path.parent), dim=None, run_name=str(tmp_path / "b")))


def test_without_its_entry_it_is_named(settings):
    toy.main(replace(settings, epochs=1))
    with pytest.raises(InputError, match="is of a stage 'toy'; known are pretrain, finetune"):
        networks.load_segmentation(Path(settings.run_name) / "best.pth", torch.device("cpu"))


def test_what_it_cannot_do_is_said(settings):
    with pytest.raises(InputError, match="--checkpoint-activations: Net cannot do without its activations"):
        toy.main(replace(settings, checkpoint_activations=True))
