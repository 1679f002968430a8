"""test_script.py, baselines.py and overview.py, run for real on tiny data."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from GenSelfDiff import checkpoint
from GenSelfDiff.test import baselines, overview, test_script
from GenSelfDiff.unet import DiffusionNet, SegNet
from utils_general import InputError, read_index_map, read_rgb

CONTENT = {
    "epoch": 3, "loss": 0.5, "stage": "finetune", "classes": ["background", "nucleus"], "patch_size": 16,
    "settings": {"input_range": [0.0, 1.0]},
}  # fmt: skip


@pytest.fixture
def settings(tiny_data_set, tmp_path):
    """A test of an untrained network."""
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "run" / "best.pth", {**CONTENT, "model_state_dict": SegNet(8, 2).state_dict()})
    return test_script.Settings(
        data=tiny_data_set, run=str(tmp_path / "run"), output=tmp_path / "results", device="cpu", batch_size=3
    )


def test_everything_is_written(settings, capsys):
    test_script.main(settings)
    folder = settings.output
    names = {"table.csv", "patches.csv", "images.csv", "summary.json", "confusion_matrix.png", "pictures", "label_maps"}
    assert {f.name for f in folder.iterdir()} == names
    kinds = ("image", "truth", "prediction", "overlay", "panel")
    assert {f.name for f in (folder / "pictures").iterdir()} == {f"t{i}_{k}.png" for i in (1, 2) for k in kinds}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["epoch"] == 3 and summary["instances"] == "watershed"
    assert "left out" in summary["absent classes"] and any("as published" in k for k in summary["figures"])
    printed = capsys.readouterr().out
    assert "mean over patches" in printed and "pooled over the pixels" in printed
    assert str(folder) in printed.splitlines()[-1]


def test_label_maps_and_tables_agree(settings):
    test_script.main(settings)
    prediction = read_index_map(settings.output / "label_maps" / "t1_classes.png")
    truth = (read_rgb(settings.output / "pictures" / "t1_truth.png") == [255, 69, 0]).all(-1)
    images = pd.read_csv(settings.output / "images.csv", index_col="source")
    both = 2 * (truth & (prediction == 1)).sum() / (truth.sum() + (prediction == 1).sum())
    assert prediction.shape == (32, 32) and images.Dice["t1"] == pytest.approx(both)
    table = pd.read_csv(settings.output / "table.csv", index_col=[0, 1])
    assert table.loc[("standard: mean over images, classes without background", "Dice"), "test"] == pytest.approx(
        images.Dice.mean()
    )
    assert len(pd.read_csv(settings.output / "patches.csv")) == 8


def test_the_batch_size_changes_nothing(settings, tmp_path):
    test_script.main(settings)
    test_script.main(replace(settings, batch_size=1, output=tmp_path / "other"))
    one, other = (pd.read_csv(f / "images.csv").drop(columns=["source", "split"]) for f in
                  (settings.output, tmp_path / "other"))  # fmt: skip
    assert np.allclose(one, other, atol=0.02, equal_nan=True)


def test_a_published_checkpoint(settings, tmp_path):
    content = {"epoch": 9, "loss": np.float64(0.1), "model_state_dict": SegNet(8, 2).state_dict()}
    torch.save(content, tmp_path / "published.pth")
    test_script.main(replace(settings, run=str(tmp_path / "published.pth")))
    assert json.loads((settings.output / "summary.json").read_text())["classes"] == ["background", "class 1"]


def test_results_are_not_overwritten_unasked(settings):
    test_script.main(settings)
    with pytest.raises(InputError, match="--overwrite replaces them"):
        test_script.main(settings)
    test_script.main(replace(settings, overwrite=True, pictures=1))
    assert len(list((settings.output / "pictures").glob("*_panel.png"))) == 1


def save_run(path, model, **more):
    checkpoint.save(path, {**CONTENT, "model_state_dict": model.state_dict(), **more})
    return str(path)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda p: "nobody", "no run 'nobody'"),
        (lambda p: save_run(p / "a.pth", DiffusionNet(8), stage="pretrain"), "is of pre-training; a fine-tuned one"),
        (lambda p: save_run(p / "b.pth", SegNet(8, 4), classes=list("abcd")), "has the classes .*; the network a, b"),
        (lambda p: save_run(p / "c.pth", SegNet(8, 2), model_state_dict={"net.final_conv.1.weight": torch.zeros(2, 8)}),
         "does not fit the network"),
    ],
)  # fmt: skip
def test_wrong_checkpoints(settings, tmp_path, run, message):
    with pytest.raises(InputError, match=message):
        test_script.main(replace(settings, run=run(tmp_path)))
    assert not settings.output.exists()


def test_wrong_data(settings, tmp_path):
    with pytest.raises(InputError, match="has no folder test"):
        test_script.main(replace(settings, data=tmp_path / "nowhere"))
    with pytest.raises(InputError, match="--batch-size is 0: 1 or more is needed"):
        test_script.main(replace(settings, batch_size=0))
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(settings.data / "test" / "labels" / "label_5.png")
    with pytest.raises(InputError, match="label of patch 5 .* holds class 7"):
        test_script.main(settings)


def test_a_truncated_image_leaves_no_half_results(settings):
    file = settings.data / "test" / "images" / "image_6.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read image .*image_6.png"):
        test_script.main(settings)
    assert not settings.output.exists() and not list(settings.output.parent.glob("*unfinished"))


def test_baselines(settings, tmp_path):
    for method in ("otsu", "background"):
        baselines.main(baselines.Settings(data=settings.data, method=method, output=tmp_path / method))
    otsu, background = (pd.read_csv(tmp_path / m / "images.csv") for m in ("otsu", "background"))
    assert (otsu.Dice > 0.8).all() and (background.Dice == 0).all()  # dark discs on a pale ground


def test_overview(settings, tmp_path, capsys):
    test_script.main(settings)
    baselines.main(baselines.Settings(data=settings.data, output=tmp_path / "otsu"))
    both = overview.Settings(results=(settings.output, tmp_path / "otsu"), output=tmp_path / "overview")
    overview.main(both)
    table = pd.read_csv(tmp_path / "overview" / "overview.csv", index_col=0)
    assert table.index.tolist() == ["results", "otsu"] and table.Dice["otsu"] > table.Dice["results"]
    assert read_rgb(tmp_path / "overview" / "overview.png").shape[1] > 500
    assert "overview.png" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(InputError, match="--overwrite replaces them"):
        overview.main(both)
    summary = json.loads((tmp_path / "otsu" / "summary.json").read_text())
    (tmp_path / "otsu" / "summary.json").write_text(json.dumps({**summary, "images": ["t1", "t9"]}))
    with pytest.raises(InputError, match="were tested on different images .* e.g. t2"):
        overview.main(replace(both, overwrite=True))
    with pytest.raises(InputError, match=r"summary.json is missing"):
        overview.main(replace(both, results=(tmp_path / "nowhere", settings.output)))


def test_the_script_runs_by_its_path(settings, run_script_file):
    done = run_script_file(
        "GenSelfDiff/test/test_script.py", "--data", settings.data, "--run", settings.run, "--output", settings.output
    )
    assert done.stdout.splitlines()[-1] == f"tables, pictures and label maps are in {settings.output}"
