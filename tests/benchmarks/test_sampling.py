"""The benchmark of the samplers, run for real on tiny data."""

from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from benchmarks import sampling
from GenSelfDiff import checkpoint
from GenSelfDiff.unet import DiffusionNet
from utils_general import InputError


@pytest.fixture
def settings(tiny_data_set, tmp_path):
    """Two images from an untrained network of 20 diffusion steps."""
    run = {"epoch": 1, "loss": 1.0, "stage": "pretrain", "settings": {"timesteps": 20}, "patch_size": 16}
    checkpoint.save(tmp_path / "pre.pth", {**run, "model_state_dict": DiffusionNet(8).state_dict()})
    return sampling.Settings(
        pretrained=str(tmp_path / "pre.pth"), data=(tiny_data_set,), output=tmp_path / "out", count=2, batch_size=2,
        samplers=("ddim:5:0.5", "ancestral"), device="cpu",
    )  # fmt: skip


def test_table_and_picture(settings, run_script_file):
    options = ["--samplers", *settings.samplers, "--count", 2, "--batch-size", 2, "--device", "cpu"]
    done = run_script_file(
        "benchmarks/sampling.py", "--pretrained", settings.pretrained, "--data", *settings.data,
        "--output", settings.output, *options,
    )  # fmt: skip
    table = pd.read_csv(settings.output / "sampling.csv")
    assert table.images.tolist() == [
        "other real patches", "noise", *["ddim, eta 0.5"] * 2, *["ancestral"] * 2,
    ]  # fmt: skip
    assert table.steps[2:].tolist() == [5, 5, 20, 20]
    assert table.precision[2:].tolist() == ["float32", "bfloat16"] * 2
    assert (table["seconds an image"][2:] > 0).all() and table["seconds an image"][:2].isna().all()
    assert table["16 px"][0] < table["16 px"][1] and table["mean"].gt(0).all()
    text = (settings.output / "sampling.md").read_text()
    assert "| ancestral | 20 | float32 |" in text and "| noise |  |  |  |" in text and "nan" not in text
    with Image.open(settings.output / "sampling.png") as picture:
        assert picture.height > 400  # seven rows
    assert text.splitlines()[-1] in done.stdout
    assert str(settings.output) in done.stdout.splitlines()[-1]


def test_ancestral_and_ddim_with_eta_1_and_all_steps_draw_the_same(settings):
    sampling.main(replace(settings, samplers=("ancestral", "ddim:20:1"), precisions=("float32",)))
    table = pd.read_csv(settings.output / "sampling.csv")
    assert table["mean"][2] == pytest.approx(table["mean"][3], rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samplers": ("euler:5",)}, "'euler:5' is no sampler:steps"),
        ({"samplers": ("ddim:many",)}, "'ddim:many' is no sampler:steps"),
        ({"samplers": ("ddim:5:0:1",)}, "'ddim:5:0:1' is no sampler:steps"),
        ({"samplers": ("ddim:21",)}, "--steps is 21: 1 to 20 are possible"),
        ({"samplers": ("ancestral:5",)}, "ancestral sampling takes all 20 steps"),
        ({"count": 7}, "has 12 patches: 7 images are compared with twice as many"),
        ({"precisions": ("float32", "tf32")}, "tf32 is one of GPUs"),
        ({"count": 0}, "--count is 0"),
    ],
)
def test_mistakes_are_named_before_any_work(settings, change, message):
    with pytest.raises(InputError, match=message):
        sampling.main(replace(settings, **change))
    assert not settings.output.exists()


def test_an_earlier_table_is_left_alone(settings):
    settings.output.mkdir()
    with pytest.raises(InputError, match="is there already: choose another --output"):
        sampling.main(settings)
