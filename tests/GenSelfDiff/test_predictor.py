"""Checkpoints as predictors: what they say of images, however they are asked; and what is known of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from GenSelfDiff import checkpoint, predictor
from GenSelfDiff.devices import Devices
from GenSelfDiff.networks import load_segmentation
from GenSelfDiff.predictor import PredictorSettings, averaged
from GenSelfDiff.unet import DiffusionNet, SegNet
from utils_general import InputError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = {
    "epoch": 3, "loss": 0.5, "stage": "finetune", "classes": ["background", "gland"], "patch_size": 16, "mpp": 0.5,
    "settings": {"input_range": [-1.0, 1.0], "batch_size": 4},
}  # fmt: skip


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def settings(tmp_path):
    """Of an untrained network, whose answers differ from pixel to pixel."""
    torch.manual_seed(0)
    state = SegNet(8, 2).state_dict()
    checkpoint.save(tmp_path / "run" / "best.pth", {**CONTENT, "model_state_dict": state})
    torch.save({"epoch": 9, "loss": np.float64("nan"), "model_state_dict": state}, tmp_path / "published.pth")
    return PredictorSettings(run=str(tmp_path / "run"), device="cpu", batch_size=2)


def network(settings):
    """The network itself, from images in its input range to probabilities."""
    model, _ = load_segmentation(checkpoint.find(settings.run), torch.device("cpu"))

    def say(x):
        with torch.inference_mode():
            return model(x).softmax(1)

    return say


def scaled(images, low, high):
    return torch.from_numpy(images / np.float32(255)).movedim(-1, 1) * (high - low) + low


def test_it_says_what_the_network_says(settings, images, tmp_path):
    """In the input range that the run was trained on, or the published one."""
    found = predictor.load(settings).predict(images)
    assert found.dtype == np.float32 and found.shape == (5, 2, 16, 16) and np.allclose(found.sum(1), 1, atol=1e-6)
    say = network(settings)
    assert np.allclose(found, say(scaled(images, -1, 1)), atol=1e-5)
    published = predictor.load(replace(settings, run=str(tmp_path / "published.pth"))).predict(images)
    assert np.allclose(published, say(scaled(images, 0, 1)), atol=1e-5) and np.abs(published - found).max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_batch_size_changes_nothing(settings, images, batch_size):
    one, other = (predictor.load(s).predict(images) for s in (settings, replace(settings, batch_size=batch_size)))
    assert np.allclose(one, other, atol=1e-5)


def test_flips_are_averaged_as_by_hand(settings, images):
    """The mean of four answers, each turned back."""
    say, x = network(settings), scaled(images, -1, 1)
    answers = [say(x), say(x.flip(3)).flip(3), say(x.flip(2)).flip(2), say(x.flip(2, 3)).flip(2, 3)]
    found = predictor.load(replace(settings, tta="flips")).predict(images)
    assert np.allclose(found, torch.stack(answers).mean(0), atol=1e-5)
    assert np.abs(found - answers[0].numpy()).max() > 1e-3


def test_averaged_over_all_ways_it_does_not_matter_how_an_image_lies(settings, images):
    for tta, agree in (("none", False), ("flips", False), ("all", True)):
        predict = predictor.load(replace(settings, tta=tta)).predict
        turned = np.rot90(predict(np.rot90(images, 1, axes=(1, 2))), -1, axes=(2, 3))
        assert np.allclose(turned, predict(images), atol=1e-5) == agree


def test_averaging_turns_back_what_it_turned(images):

    def same(x):
        return x.transpose(0, 3, 1, 2) / np.float32(255)

    for averaging in ("none", "flips", "all"):
        assert np.allclose(averaged(same, averaging)(images), same(images), atol=1e-6)


def test_averaging_is_the_mean_over_all_ways_to_see():
    """A predictor that marks the upper left corner: all 8 ways mark each corner twice."""
    mark = np.zeros((1, 1, 6, 6), np.float32)
    mark[..., 0, 0] = 1
    image = np.zeros((1, 6, 6, 3), np.uint8)
    corners = {name: averaged(lambda _: mark, name)(image)[0, 0] for name in ("flips", "all")}
    for marked in corners.values():
        assert marked[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0.25] * 4 and marked.sum() == 1
    mark[..., 0, 1] = 1  # beside it: now turns are told from flips
    assert averaged(lambda _: mark, "flips")(image)[0, 0, 1, 0] == 0
    assert averaged(lambda _: mark, "all")(image)[0, 0, 1, 0] == 1 / 8


def test_bfloat16_is_close_and_not_the_same(settings, images):
    one, other = (predictor.load(s).predict(images) for s in (settings, replace(settings, precision="bfloat16")))
    assert other.dtype == np.float32 and 0 < np.abs(one - other).max() < 0.05


def test_what_is_known_of_a_run(settings, tmp_path):
    found = predictor.load(settings)
    assert (found.name, found.path) == ("run", tmp_path / "run" / "best.pth")
    assert (found.classes, found.patch_size, found.mpp, found.batch_size) == (["background", "gland"], 16, 0.5, 2)
    assert (found.instances, found.epoch, found.loss) == ("components", 3, 0.5)
    assert found.training == CONTENT["settings"]
    assert found.about == {
        "checkpoint": str(found.path), "epoch": 3, "validation loss": 0.5, "computed on": "CPU",
        "parameters": sum(p.numel() for p in SegNet(8, 2).parameters()),
    }  # fmt: skip


def test_it_computes_on_one_of_several_gpus(settings, monkeypatch):
    monkeypatch.setattr(predictor, "set_up_alone", lambda _: Devices(torch.device("cpu"), replicas=4))
    assert predictor.load(settings).about["computed on"] == "CPU"


def test_what_is_known_of_a_published_file(settings, tmp_path):
    found = predictor.load(replace(settings, run=str(tmp_path / "published.pth")))
    assert (found.name, found.classes) == ("published", ["background", "class 1"])
    assert found.patch_size is None and found.mpp is None and found.training == {}
    assert found.about["validation loss"] is None  # JSON knows no NaN


@pytest.mark.parametrize(
    ("classes", "said", "method"),
    [
        (["background", "nuclei"], None, "watershed"),
        (["background", "gland"], None, "components"),
        (["background", "gland"], "watershed", "watershed"),
    ],
)
def test_objects_are_told_apart_as_the_run_says_or_as_its_classes_usually_are(
    settings, tmp_path, classes, said, method
):
    about = {**CONTENT, "classes": classes, **({"instances": said} if said else {})}
    checkpoint.save(tmp_path / "run" / "best.pth", {**about, "model_state_dict": SegNet(8, 2).state_dict()})
    assert predictor.load(settings).instances == method


def test_mistakes_are_named(settings, tmp_path):
    checkpoint.save(
        tmp_path / "p.pth", {**CONTENT, "stage": "pretrain", "model_state_dict": DiffusionNet(8).state_dict()}
    )
    for change, message in (
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"run": "nobody"}, "no run 'nobody'"),
        ({"run": str(tmp_path / "p.pth")}, "is of pre-training; a fine-tuned one is needed"),
        ({"precision": "tf32"}, "tf32 is one of GPUs"),
        ({"device": "quantum"}, "there is no device 'quantum'"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.load(replace(settings, **change))


@pytest.mark.parametrize(
    "modules",
    [
        ["GenSelfDiff.predictor"],
        [f"GenSelfDiff.whole_image.{path.stem}" for path in sorted((ROOT / "GenSelfDiff/whole_image").glob("*.py"))],
        ["GenSelfDiff.test.segment"],
    ],
    ids=["predictor", "whole_image", "segment.py"],
)
def test_predicting_needs_neither_metrics_nor_matplotlib(modules):
    program = f"import sys, {', '.join(modules)}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    imported = done.stdout.split()
    assert set(modules) <= set(imported)
    rooms = (
        "matplotlib",
        "torchvision",
        "GenSelfDiff.evaluation",
        "GenSelfDiff.report",
        "GenSelfDiff.comparison",
        "GenSelfDiff.training",
    )
    assert [name for name in imported if name.startswith(rooms)] == []
