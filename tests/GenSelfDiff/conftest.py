from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from file_contents import DataSet
from GenSelfDiff import run_folder
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.patches import Patches
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.report import results as report
from GenSelfDiff.report.results import Method, ReportSettings, run_test
from GenSelfDiff.report.training_record import StageRecord
from tests.conftest import _write_patches
from utils_general import write_json

NASTY = '<b>&"$x_1$|\\'  # a class that breaks what is not escaped: HTML, Markdown, LaTeX, mathematics


@dataclass
class Tested:
    """A results folder, and what was tested."""

    folder: Path
    patches: Patches
    method: Method


def history(epochs):
    """A history as fine-tuning writes it; the losses span two powers of ten."""
    steps = np.arange(1, epochs + 1)
    return pd.DataFrame({
        "epoch": steps, "train_loss": 2.0 / steps**2, "train_dice": 1 - 0.5 / steps, "val_loss": 2.5 / steps**2,
        "val_dice": 1 - 0.6 / steps, "seconds": 60.0 + steps,
    })  # fmt: skip


def threshold(images):
    """Dark is class 1, the nearer to the threshold, the less sure; one to three pixels beside the place."""
    dark = 1 / (1 + np.exp((images.mean(-1) - 160) / 12))
    dark = np.roll(dark, 1 + int(images.sum(dtype=int)) % 3, axis=2)
    return np.stack([1 - dark, dark], axis=1).astype(np.float32)


@pytest.fixture
def no_report(monkeypatch):
    """Tests in this process draw no report, which takes a second each: test_report.py looks at it."""
    monkeypatch.setattr(report, "draw_report", lambda *_: None)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Runs in this process draw no curves, which takes as long as a tiny run; test_training.py looks at them."""
    monkeypatch.setattr(run_folder, "draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def make_results():
    """The function that writes a data set of three splits and tests a threshold on it; `absent` classes are nowhere."""

    def make(root, sources=5, splits=("testA", "testB", "testC"), pictures=0, stages=(), name=NASTY, absent=()):
        def predict(images):
            seen = threshold(images)
            return np.concatenate([seen, *[0 * seen[:, :1]] * len(absent)], axis=1)

        files = [f"{name[:5]}{i}" for i in range(sources)]
        of_split = [splits[i * len(splits) // sources] for i in range(sources)]
        _write_patches(root / "data" / "test", files, of_split, seed=3)
        data_set = DataSet(name, "paper", ["background", name, *absent], "watershed", 16, 16, 2023)
        write_json(root / "data" / "dataset.json", data_set.__dict__)
        patches = Patches(root / "data" / "test", labelled=True)
        about = {"epoch": 3, "parameters": 1_234_567, "computed on": "CPU", "batch_size": 8}
        method = Method(name=name, predict=predict, classes=data_set.classes, about=about, stages=list(stages))
        settings = ReportSettings(data=root / "data", pictures=pictures, minimum_area=1)
        run_test(settings, root / "results", patches, method)
        return Tested(root / "results", patches, method)

    return make


@pytest.fixture(scope="session")
def tested(make_results, tmp_path_factory):
    """Results of three splits with curves of both stages, and names that want escaping. Not to be changed."""
    settings = {"device": "CPU", "batch_size": 8, "precision": "float32", "pretrained": "<i>pre</i>"}
    stages = [
        StageRecord("pre-training", "<i>pre</i>", settings, history(4)),
        StageRecord("fine-tuning", NASTY, settings, history(40)),
    ]
    return make_results(tmp_path_factory.mktemp("tested"), stages=stages)


@pytest.fixture
def pretraining(tiny_data_set, tmp_path):
    """Settings of a tiny pre-training run: 8 patches, 2 steps an epoch."""
    return SS_diff.Settings(
        data=(tiny_data_set,), run_name=str(tmp_path / "pre"), epochs=3, batch_size=4, dim=8, workers=0,
        initial_weights="pytorch", sample_every=0, device="cpu", learning_rate=1e-3,
    )  # fmt: skip


@pytest.fixture
def finetuning(tiny_data_set, tmp_path):
    """Settings of a tiny fine-tuning run from scratch."""
    return Diff_Seg.Settings(
        data=tiny_data_set, run_name=str(tmp_path / "seg"), pretrained="scratch", epochs=2, batch_size=4, dim=8,
        workers=0, initial_weights="pytorch", device="cpu",
    )  # fmt: skip
