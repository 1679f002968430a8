"""Fixed changes of images by hand, and experiments/robustness.py for real on tiny data."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import robustness
from experiments.changes import CHANGES, DYES, UNCHANGED, blurred, jpeg, reinhard, stained
from GenSelfDiff.downstream_train import Diff_Seg
from tests.experiments.in_process import one_after_the_other
from utils_general import InputError


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(1, 256, (24, 32, 3), np.uint8)


def test_once_the_stain_is_the_image_itself(image):
    assert (stained(image) == image).all() and (CHANGES[UNCHANGED](image, image) == image).all()


def test_a_pixel_of_haematoxylin_alone_gets_twice_its_density():
    """Light through twice the dye is the square of the light through it; eosin is not there, and changes nothing."""
    pixel = 255 * np.exp(-0.4 * DYES[0])
    image = np.rint(pixel).astype(np.uint8)[None, None]
    twice = stained(image, haematoxylin=2)[0, 0]
    assert np.abs(twice - 255 * (pixel / 255) ** 2).max() <= 2
    assert np.abs(stained(image, eosin=2)[0, 0].astype(int) - image[0, 0]).max() <= 2


def test_colours_of_another_image(image):
    other = (image // 4 + 100).astype(np.uint8)
    changed = reinhard(image, other)
    assert np.abs(changed.mean((0, 1)) - other.mean((0, 1))).max() < 4
    assert np.abs(changed.std((0, 1)) - other.std((0, 1))).max() < 4
    flat = np.full_like(image, 90)
    assert np.isfinite(reinhard(flat, other)).all()


def test_blur_and_compression(image):
    assert blurred(image, 2).std() < 0.5 * image.std() and (blurred(np.full_like(image, 70), 2) == 70).all()
    assert jpeg(image, 50).shape == image.shape and (jpeg(image, 50) != image).any()


def test_every_change_changes_something_and_keeps_the_size(image):
    other = np.random.default_rng(1).integers(60, 120, (16, 16, 3), np.uint8)
    for name, change in CHANGES.items():
        changed = change(image, other)
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert (changed == image).all() == (name == UNCHANGED)


@pytest.fixture
def settings(tiny_data_set, tmp_path):
    run = str(tmp_path / "seg")
    options = {"initial_weights": "pytorch", "batch_size": 4, "workers": 0, "device": "cpu", "dim": 8, "epochs": 1}
    Diff_Seg.main(Diff_Seg.Settings(data=tiny_data_set, run_name=run, pretrained="scratch", **options))
    return robustness.Settings(data=tiny_data_set, runs=(run,), output=tmp_path / "out", jobs=1)


def test_runs_and_trivial_methods_under_every_change(settings, monkeypatch):
    three = {name: CHANGES[name] for name in (UNCHANGED, "haematoxylin x 0.7", "blur, 2 pixels")}
    monkeypatch.setattr(robustness, "CHANGES", three)
    one_after_the_other(monkeypatch, robustness)
    robustness.main(settings)
    table = pd.read_csv(settings.output / "robustness.csv")
    assert table.groupby("tested", sort=False).change.apply(list).tolist() == [list(three)] * 2
    assert [*table.tested.unique()] == ["seg", "otsu"]  # a run is called by its name, wherever it lies
    assert (table.images == 2).all() and table.Dice.notna().all()
    changed = table[table.change != UNCHANGED]
    assert (changed.low <= changed["difference in Dice"]).all() and (
        changed["difference in Dice"] <= changed.high
    ).all()
    unchanged = table[table.change == UNCHANGED].set_index("tested").Dice
    by_hand = changed.Dice.to_numpy() - unchanged[changed.tested].to_numpy()
    assert np.allclose(changed["difference in Dice"], by_hand)
    names = [f"image_{i}.png" for i in (0, 1)]
    copies = settings.output / "data" / "blur-2-pixels" / "test" / "images"
    originals = settings.data / "test" / "images"
    for name in names:
        before, after = (np.asarray(Image.open(folder / name)).astype(float) for folder in (originals, copies))
        assert before.shape == after.shape and after.std() < before.std()
    assert len([*settings.output.glob("*.txt")]) == 6  # each test has a log of its own
    for picture in ("robustness.png", "examples.png"):
        assert (settings.output / picture).is_file()
    times = [file.stat().st_mtime_ns for file in sorted(settings.output.glob("*/summary.json"))]
    robustness.main(settings)  # nothing is done again
    assert [file.stat().st_mtime_ns for file in sorted(settings.output.glob("*/summary.json"))] == times
    with pytest.raises(InputError, match="holds another run: split was test, now it is val"):
        robustness.main(replace(settings, split="val"))


def test_runs_of_the_same_name_are_told_apart():
    runs = ("a/run/best.pth", "b/run/last.pth", "c/other.pth")
    shown = robustness.names_to_show(robustness.Settings(runs=runs, methods=("otsu",)))
    assert shown == {**{run: run for run in runs[:2]}, "c/other.pth": "other", "otsu": "otsu"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"runs": ("nothere",)}, "no run 'nothere'"),
        ({"runs": (), "methods": ()}, "name nothing to test"),
        ({"methods": ("otsu", "otsu")}, "or one twice"),
        ({"jobs": 0}, "--jobs is 0"),
    ],
)
def test_what_cannot_work_is_named(settings, changed, message):
    with pytest.raises(InputError, match=message):
        robustness.main(replace(settings, **changed))
    assert not settings.output.exists()
