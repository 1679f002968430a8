"""SS_attention.py and pseudo_labels.py for real on tiny data: trained, continued, tested, used, and refused."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from file_contents import DataSet
from GenSelfDiff import checkpoint, networks, predictor, training
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.methods.attention import SS_attention, pseudo_labels
from GenSelfDiff.methods.attention.segmenting import FittingAttention, SegmentingAttention
from GenSelfDiff.test import baselines, compare, segment, test_script
from GenSelfDiff.whole_image.windows import Windows, predict_image
from tests.conftest import HOSTILE, read_or_refuse
from tests.GenSelfDiff.methods.attention.levels import write_levels
from tests.GenSelfDiff.runs import assert_same_run, finish, fork_together, history
from utils_general import InputError, read_rgb


@pytest.fixture
def settings(tmp_path):
    return SS_attention.Settings.of(
        "improved", data=write_levels(tmp_path / "data"), run_name=str(tmp_path / "run"), dim=8, dilations=(1, 2),
        tile=16, scale_jitter=0.0, batch_size=6, steps=12, validate_every=4, warm_up=0, workers=0, device="cpu",
        sample_every=2, learning_rate=5e-3,
    )  # fmt: skip


class Stopped(Exception):  # noqa: N818
    pass


def stopped_after(settings, steps, monkeypatch):
    """Start a run, and let it die in the middle of a step; every step before is saved."""
    real, done = training.Trainer._train_step, []

    def step(trainer, batch):
        if len(done) == steps:
            raise Stopped
        real(trainer, batch)
        done.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_train_step", step)
        with pytest.raises(Stopped):
            SS_attention.main(replace(settings, save_minutes=0.0))


def test_it_is_trained_and_continued_exactly(settings, tmp_path, monkeypatch, capsys):
    """In mid-epoch, too: weights, their running mean, statistics, threshold and history are those of one go."""
    SS_attention.main(settings)
    told, said = history(settings.run_name), capsys.readouterr().out
    assert "done: last validation loss" in said and "(best)" not in said
    assert told["epoch"].tolist() == [1, 2, 3] and told.notna().all(axis=None)
    assert {
        "train_accuracy",
        "val_accuracy",
        "val_accuracy_of_mask",
        "val_magnification",
        "val_area",
        "val_dye",
    } <= set(told)
    last = checkpoint.load(Path(settings.run_name) / "last.pth")
    assert last["model_state_dict"]["threshold.updates"].tolist() == [12] * 3
    assert torch.equal(last["ema_state_dict"]["threshold.running"], last["model_state_dict"]["threshold.running"])
    best = checkpoint.load(Path(settings.run_name) / "best.pth")
    assert best["epoch"] == 3 and best["loss"] == told["val_loss"].iloc[-1]  # the last, whatever its loss
    assert all(torch.equal(value, best["model_state_dict"][name]) for name, value in last["ema_state_dict"].items())
    assert 0.15 < best["share of nuclei"] < 0.25 and best["mpp"] == 0.25 and best["classes"][1] == "nucleus"
    with Image.open(Path(settings.run_name) / "sample_epoch_2.png") as picture:
        assert picture.size == (6 * 18 - 2, 2 * 18 - 2)  # six tiles, each beside its attention
    again = replace(settings, run_name=str(tmp_path / "again"))
    stopped_after(again, 6, monkeypatch)
    SS_attention.main(again)
    assert_same_run(settings.run_name, again.run_name)


def test_two_processes_and_then_one(settings):
    """BatchNorm is of each process, so the weights are not one process's; all that is counted is."""
    both = replace(settings, batch_size=3, ema=0.0)
    assert finish(fork_together(replace(both, steps=None, epochs=2, decay="none"))) == [0, 0]
    SS_attention.main(replace(settings, ema=0.0, steps=None, epochs=3, decay="none"))
    last = checkpoint.load(Path(settings.run_name) / "last.pth")
    assert last["epoch"] == 3 and last["model_state_dict"]["threshold.updates"].tolist() == [12] * 3
    assert history(settings.run_name)["train_accuracy"].between(0, 1).all()


def test_the_published_recipe(settings, tmp_path):
    """But for ResNet-34, which would take long: one threshold, colours of one image, rates that drop."""
    published = SS_attention.Settings(
        data=settings.data, run_name=str(tmp_path / "paper"), tile=16, dim=8, dilations=(1,), classifier="small",
        batch_size=4, steps=3, validate_every=2, rate_drops=(1, 2), workers=0, device="cpu",
    )  # fmt: skip
    SS_attention.main(published)
    best = checkpoint.load(tmp_path / "paper" / "best.pth")
    assert best["settings"]["share"] == 0.07 and len(best["model_state_dict"]["threshold.running"]) == 1
    assert pd.read_csv(tmp_path / "paper" / "history.csv")["learning_rate"].tolist() == pytest.approx([2e-5, 2e-6])
    network, _ = networks.load_segmentation(tmp_path / "paper" / "best.pth", torch.device("cpu"))
    assert type(network) is SegmentingAttention and (network.stain[0] != 0).all()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        said = network(images).softmax(1)
        brighter = network(0.7 * images).softmax(1)  # the same image under less light
    assert said.shape == (2, 2, 16, 16) and torch.allclose(said, brighter, atol=0.05)
    defaults = SS_attention.Settings()
    assert (defaults.dim, defaults.tile, defaults.share, defaults.classifier) == (64, 160, 0.07, "imagenet")


def test_it_is_tested_segmented_and_compared(settings, tmp_path):
    SS_attention.main(settings)
    data = settings.data[0]
    common = {"data": data, "minimum_area": 1, "pictures": 0}
    tested = test_script.Settings(run=settings.run_name, output=tmp_path / "tested", tta="all", device="cpu", **common)
    test_script.main(tested)
    page = (tmp_path / "tested" / "report.html").read_text()
    assert "Learnt without labels (epoch 3), tested" in page and "ine-tuning" not in page
    baselines.main(baselines.Settings(method="background", output=tmp_path / "nothing", **common))
    compare.main(compare.Settings(results=(tmp_path / "nothing", tmp_path / "tested"), output=tmp_path / "compared"))
    assert len(pd.read_csv(tmp_path / "compared" / "compare.csv"))
    images = data / "test" / "images"
    done = segment.Settings(run=settings.run_name, images=images, output=tmp_path / "segmented", minimum_area=1)
    segment.main(replace(done, tta="all", device="cpu"))
    assert pd.read_csv(tmp_path / "segmented" / "summary.csv").error.isna().all()
    network = predictor.load(predictor.PredictorSettings(run=settings.run_name, tta="all", device="cpu"))
    pixels = read_rgb(images / "image_0.png")
    said = predict_image(network, pixels, Windows(16, 0.5))  # as both scripts do it
    with Image.open(tmp_path / "segmented" / "image_0_classes.png") as whole:
        assert (np.asarray(whole) == said.argmax(0)).all()


def test_each_image_has_a_threshold_of_its_own(settings):
    """It is the same for patches of one image and for its windows, and does not depend on the batches it is seen in."""
    SS_attention.main(replace(settings, steps=4))
    load = predictor.PredictorSettings(run=settings.run_name, device="cpu")
    network = predictor.load(load)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    said = network.predict(images)
    assert np.allclose(said, network.for_image(images)(images), atol=1e-6) and said.shape == (5, 2, 16, 16)
    assert np.allclose(said, predictor.load(replace(load, batch_size=2)).predict(images), atol=1e-5)
    assert not np.allclose(said[:1], network.predict(images[:1]), atol=1e-3)  # another image, another threshold
    share = (said.argmax(1) > 0).mean()
    assert 0.02 < share < 0.98
    plain, _ = networks.load_segmentation(Path(settings.run_name) / "best.pth", torch.device("cpu"))
    assert type(plain) is FittingAttention
    SS_attention.main(replace(settings, steps=4, threshold="running", run_name=settings.run_name + "_running"))
    running = predictor.load(replace(load, run=settings.run_name + "_running"))
    assert running.for_image is None


def test_controls_and_a_warm_start(settings, tmp_path, capsys):
    dye = replace(settings, task="haematoxylin", run_name=str(tmp_path / "dye"), steps=24, learning_rate=1e-2)
    SS_attention.main(dye)
    told = history(dye.run_name)
    assert told["train_loss"].iloc[-1] < 0.8 * told["train_loss"].iloc[0] and "val_accuracy" not in told
    warm = replace(settings, start=dye.run_name, steps=4, learning_rate=0.0, ema=0.0)
    SS_attention.main(warm)
    assert "is begun with" in capsys.readouterr().out
    begun, ended = (checkpoint.load(Path(r) / "best.pth")["model_state_dict"] for r in (dye.run_name, warm.run_name))
    assert torch.equal(begun["net.score.weight"], ended["net.score.weight"])
    assert torch.equal(begun["classifier.0.weight"], ended["classifier.0.weight"])  # of one seed, and never learnt
    with pytest.raises(InputError, match="does not fit: --dim and --dilations have to be those of its run"):
        SS_attention.main(replace(warm, dilations=(1, 2, 3), run_name=str(tmp_path / "other")))
    shuffled = replace(settings, shuffle_levels=True, run_name=str(tmp_path / "shuffled"))
    SS_attention.main(shuffled)
    assert len(history(shuffled.run_name)) == 3
    shutil.rmtree(dye.run_name)  # a run that was begun goes on without it
    SS_attention.main(warm)
    assert "is finished after 1 epochs" in capsys.readouterr().out


def seg_run(tmp_path, root):
    run = str(tmp_path / "seg")
    small = {"epochs": 1, "batch_size": 4, "dim": 8, "workers": 0, "device": "cpu", "initial_weights": "pytorch"}
    Diff_Seg.main(Diff_Seg.Settings(data=root, run_name=run, pretrained="scratch", **small))
    return run


def write_images(folder, number=3):
    """Images of 48 pixels with four dark discs each, and where these are."""
    folder.mkdir()
    y, x = np.mgrid[:48, :48]
    mask = np.zeros((48, 48), bool)
    for row, column in ((12, 12), (12, 36), (36, 12), (36, 36)):
        mask |= np.hypot(y - row, x - column) < 7
    for i in range(number):
        random = np.random.default_rng(i)
        pixels = np.where(mask[..., None], [90, 60, 150], [230, 190, 220]) + random.integers(-5, 5, (48, 48, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"case_{i}.png")
    return mask


def test_labels_that_nobody_drew(settings, tmp_path, capsys, monkeypatch):
    """By Otsu's threshold they are the discs, four objects; by a run what it says. Both train a network."""
    mask = write_images(tmp_path / "images")
    cut = {"images": tmp_path / "images", "patch_size": 16, "stride": 16, "device": "cpu"}
    otsu = pseudo_labels.Settings(method="otsu", output=tmp_path / "otsu", validation_images=1, mpp=0.25, **cut)
    pseudo_labels.main(otsu)
    about = DataSet.read(tmp_path / "otsu")
    assert (about.classes, about.protocol, about.instances) == (
        ["background", "nucleus"],
        "labels by otsu",
        "watershed",
    )
    index = pd.read_csv(tmp_path / "otsu" / "labelled" / "index.csv")
    assert len(index) == 27 and index.groupby("source").split.first().value_counts().to_dict() == {"train": 2, "val": 1}
    assert not (tmp_path / "otsu" / "test").exists()
    for row in index[index.source == "case_1"].itertuples():
        with Image.open(tmp_path / "otsu" / "labelled" / "labels" / f"label_{row.patch}.png") as label:
            assert (np.asarray(label) == mask[row.y : row.y + 16, row.x : row.x + 16]).mean() > 0.95
    assert re.search(r"3 images, of which 2[56]\.\d% are nucleus", capsys.readouterr().out)
    seg_run(tmp_path, tmp_path / "otsu")
    SS_attention.main(settings)
    said = replace(otsu, method="run", run=settings.run_name, output=tmp_path / "said", downscale=2.0, patch_size=8)
    seen, real = [], pseudo_labels.predict_image
    monkeypatch.setattr(pseudo_labels, "predict_image", lambda *words: seen.append(1) or real(*words))
    for changes, message in (
        ({"output": otsu.output}, "holds"),
        ({"validation_images": 3}, "--validation-images 3: there are 3"),
        ({"patch_size": 56}, "smaller than a patch"),
        ({"mpp": 0.5}, r"was trained at 0\.25 micrometres a pixel, not 0\.5: take a run"),
    ):
        with pytest.raises(InputError, match=message):
            pseudo_labels.main(replace(said, **changes))
    assert not seen  # before the first image was segmented
    pseudo_labels.main(said)
    assert len(seen) == 3  # once each
    assert "best.pth, of the stage attention: epoch 3, " in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "said" / "labelled" / "index.csv")) == 12
    assert (tmp_path / "said" / "labelled" / "native" / "case_0_classes.png").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.0}, "--share is 1: a part between 0 and 1"),
        ({"tile": 24}, "--tile is 24, with --scale-jitter 0 up to 24 pixels of a patch; those of .* have 16"),
        ({"tile": 20}, "--tile is 20: a multiple of 8"),
        ({"scale_jitter": 0.15}, "--scale-jitter 0.15 up to 19 pixels"),
        ({"scale_jitter": 1.0}, "--scale-jitter is 1"),
        ({"dilations": ()}, r"the command line holds dilations = \[\]; wanted: 1 to 64 whole numbers"),
        ({"dilations": (1, 0)}, "holds dilations"),
        ({"steepness": 0.0}, "holds steepness"),
        ({"rate_drops": (0,)}, "--rate-drops are"),
        ({"equivariance": -1.0}, "--equivariance is -1"),
        ({"weight_decay": -1.0}, "--weight-decay is -1"),
        ({"start": "nothere"}, "no run 'nothere'"),
        ({"checkpoint_activations": True}, "SelfAttention cannot do without its activations"),
    ],
)
def test_what_cannot_work_is_said(settings, changes, message):
    with pytest.raises(InputError, match=message):
        SS_attention.main(replace(settings, **changes))


def test_weights_that_cannot_be_fetched_are_named(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(InputError, match=r"weights of ResNet-34 cannot be had from https://.* \(no route\): put that"):
        SS_attention.main(replace(settings, classifier="imagenet"))


def test_a_damaged_checkpoint_is_refused_in_one_line(settings, tmp_path):
    SS_attention.main(replace(settings, steps=1, validate_every=1))
    whole = checkpoint.load(Path(settings.run_name) / "best.pth")
    other = {**whole, "stage": "finetune"}
    path = tmp_path / "best.pth"
    checkpoint.save(path, other)
    with pytest.raises(InputError, match=r"is no run of SS_attention\.py: --start wants one"):
        SS_attention.main(replace(settings, start=str(path), run_name=str(tmp_path / "other")))
    for name in ("dim", "dilations", "steepness", "threshold"):
        for value in HOSTILE[::2]:
            checkpoint.save(path, {**whole, "settings": {**whole["settings"], name: value}})
            read_or_refuse(lambda: networks.load_segmentation(path, torch.device("cpu")))
    for changed, message in (
        ({"settings": {"input_range": [0.0, 1.0]}}, "does not say the dilations|dim"),
        ({"classes": ["a", "b", "c"]}, "names 3 classes; attention tells two apart"),
        ({"model_state_dict": {"a": torch.zeros(1)}}, r"has no threshold\.running"),
    ):
        checkpoint.save(path, {**whole, **changed})
        with pytest.raises(InputError, match=message):
            networks.load_segmentation(path, torch.device("cpu"))
    with pytest.raises(InputError, match="is of a segmentation network; one of pre-training is needed"):
        networks.load_start(Path(settings.run_name) / "best.pth")
