"""test_script.py and baselines.py, run for real on tiny data."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from PIL import Image

from GenSelfDiff import checkpoint, networks
from GenSelfDiff.test import baselines, segment, test_script
from GenSelfDiff.unet import DiffusionNet, SegNet
from utils_general import InputError, read_index_map, read_rgb, write_json

CONTENT = {
    "epoch": 3, "loss": 0.5, "stage": "finetune", "classes": ["background", "nucleus"], "patch_size": 16,
    "settings": {"input_range": [0.0, 1.0]},
}  # fmt: skip


@pytest.fixture
def settings(tiny_data_set, tmp_path, no_report):
    """A test of an untrained network, without pictures: they take time."""
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "run" / "best.pth", {**CONTENT, "model_state_dict": SegNet(8, 2).state_dict()})
    return test_script.Settings(
        data=tiny_data_set, run=str(tmp_path / "run"), output=tmp_path / "results", device="cpu", batch_size=3,
        pictures=0,
    )  # fmt: skip


def read_summary(folder):
    """The summary, which must be JSON that any program reads: without NaN."""
    return json.loads((folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_everything_is_written(settings, capsys):
    test_script.main(replace(settings, pictures=20))
    folder = settings.output
    tables = {"table.csv", "table.md", "table.tex", "patches.csv", "images.csv", "summary.json"}
    assert {f.name for f in folder.glob("[!.]*")} == tables | {"pictures", "label_maps"}
    kinds = ("image", "truth", "prediction", "overlay", "panel")
    assert {f.name for f in (folder / "pictures").iterdir()} == {f"t{i}_{k}.png" for i in (1, 2) for k in kinds}
    summary = read_summary(folder)
    assert summary["settings"]["epoch"] == 3 and summary["instances"] == "watershed"
    undefined = pd.read_csv(folder / "images.csv").isna().sum()
    assert summary["images left out of a mean"] == undefined[undefined > 0].to_dict()
    assert "left out" in summary["absent classes"] and summary["true instances"] == "the annotation"
    averagings = list(summary["figures"])
    assert len(averagings) == 5 and all("mean over" in name or "pooled over" in name for name in averagings)
    assert set(summary["figures"][averagings[0]]["test"]) == {
        "AJI", "Jaccard_score", "F1_score", "Hausdorff_distance", "accuracy", "sensitivity", "precision", "specificity",
        "dice",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "best.pth: epoch 3, validation loss 0.50000; on 8 patches" in printed
    assert "mean over patches" in printed and "pooled over the pixels" in printed
    assert str(folder) in printed.splitlines()[-1]


def test_label_maps_and_tables_agree(settings):
    test_script.main(replace(settings, pictures=1))
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


def stitched(folder, source):
    """The rectangle of an image that its patches cover."""
    index = pd.read_csv(folder / "index.csv").query("source == @source")
    image = np.zeros((index.y.max() + 16, index.x.max() + 16, 3), np.uint8)
    for row in index.itertuples():
        image[row.y : row.y + 16, row.x : row.x + 16] = read_rgb(folder / "images" / f"image_{row.patch}.png")
    return image


@pytest.mark.parametrize(
    "how", [{}, {"tta": "flips"}, {"window": 24, "overlap": 0.25}, {"instances": "components", "minimum_area": 5}]
)
def test_the_label_maps_are_those_of_segment(settings, tmp_path, how):
    """Both scripts on the same images, to the last pixel and number; so also on one that is not covered to its end."""
    index = pd.read_csv(settings.data / "test" / "index.csv")
    index.loc[index.source == "t2", ["x", "y"]] //= 2  # its patches overlap, and cover 24 of its 32 pixels
    index.to_csv(settings.data / "test" / "index.csv", index=False)
    settings = replace(settings, **how)
    shutil.rmtree(settings.data / "test" / "instances")  # where patches overlap they must agree
    test_script.main(settings)
    images = {source: stitched(settings.data / "test", source) for source in ("t1", "t2")}
    assert images["t2"].shape == (24, 24, 3)
    (tmp_path / "images").mkdir()
    for source, image in images.items():
        Image.fromarray(image).save(tmp_path / "images" / f"{source}.png")
    used = {"images": tmp_path / "images", "run": settings.run, "output": tmp_path / "segmented", "device": "cpu"}
    segment.main(segment.Settings(**used, batch_size=settings.batch_size, **how))
    for source in images:
        for kind in ("classes", "instances"):
            tested, segmented = (
                read_index_map(folder / f"{source}_{kind}.png")
                for folder in (settings.output / "label_maps", tmp_path / "segmented")
            )
            assert (tested == segmented).all() and tested.any(), (source, kind)


def test_the_published_metrics_are_of_each_patch_alone(settings):
    test_script.main(settings)
    model, _ = networks.load_segmentation(checkpoint.find(settings.run), torch.device("cpu"))
    accuracy = pd.read_csv(settings.output / "patches.csv").accuracy
    for patch, told in enumerate(accuracy):
        image, label = (settings.data / "test" / f"{kind}s" / f"{kind}_{patch}.png" for kind in ("image", "label"))
        with torch.inference_mode():
            logits = model(torch.from_numpy(read_rgb(image) / np.float32(255)).permute(2, 0, 1)[None])
        assert told == pytest.approx((logits[0].argmax(0).numpy() == read_index_map(label)).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("sizes", "share", "words"),
    [
        ([(32, 32), (32, 32)], 1, "The patches cover all of the test images"),
        ([(32, 32), (40, 40)], 2 / (1 + 1.25**2), "warning: the patches cover 78.0 % of the test images"),
        ([(32, 32), (32, 32.5)], None, "sources.csv wants a row an image"),
        ([(32, 32), (32, 10**9)], None, "sources.csv wants a row an image"),
        ([(32, 32), (31, 32)], None, "sources.csv says that t2 has 992 pixels; its patches cover 1024"),
        (None, None, "warning: what share of the test images the patches cover is not known"),
    ],
)
def test_what_the_patches_cover_is_told(settings, capsys, sizes, share, words):
    file = settings.data / "test" / "sources.csv"
    file.unlink()
    if sizes:
        rows = [(source, *size) for source, size in zip(("t1", "t2"), sizes, strict=True)]
        pd.DataFrame(rows, columns=["source", "width", "height"]).to_csv(file, index=False)
    if words.startswith("sources.csv"):
        with pytest.raises(InputError, match=words):
            test_script.main(settings)
        return
    test_script.main(settings)
    assert words in capsys.readouterr().out
    assert read_summary(settings.output)["covered share"] == (share and pytest.approx(share))
    told = pd.read_csv(settings.output / "images.csv")["covered share"]
    expected = [math.nan] * 2 if sizes is None else [32 * 32 / (width * height) for width, height in sizes]
    assert told.tolist() == pytest.approx(expected, nan_ok=True)


def test_where_the_network_and_the_data_disagree_on_objects(settings, tmp_path, capsys):
    run = save_run(tmp_path / "other.pth", SegNet(8, 2), instances="components")
    test_script.main(replace(settings, run=run))
    told = "note: objects by watershed, as the data says; segment.py takes components for this network"
    assert told in capsys.readouterr().out


def test_the_batch_size_changes_nothing(settings, tmp_path):
    test_script.main(settings)
    test_script.main(replace(settings, batch_size=1, output=tmp_path / "other"))
    one, other = (pd.read_csv(f / "images.csv").drop(columns=["source", "split"]) for f in
                  (settings.output, tmp_path / "other"))  # fmt: skip
    assert np.allclose(one, other, atol=0.02, equal_nan=True)


def test_a_published_checkpoint(settings, tmp_path, capsys):
    content = {"epoch": 9, "loss": np.float64(0.1), "model_state_dict": SegNet(8, 2).state_dict()}
    torch.save(content, tmp_path / "published.pth")
    test_script.main(replace(settings, run=str(tmp_path / "published.pth")))
    assert read_summary(settings.output)["classes"] == ["background", "nucleus"]
    assert "the network calls the classes background, class 1; the data's names are used" in capsys.readouterr().out


def test_a_test_folder_as_released(settings, tmp_path):
    """Its labels show two of the network's four classes: that is no mistake."""
    folder = tmp_path / "released" / "test"
    folder.mkdir(parents=True)
    labels = np.zeros((3, 16, 16), np.uint8)
    labels[:, 4:12, 4:12] = 1
    for i, label in enumerate(labels):
        Image.fromarray((220 - 160 * label)[..., None].repeat(3, -1)).save(folder / f"image_{i}.jpg")
    scipy.io.savemat(folder / "label_patches.mat", {"data": labels})
    run = save_run(tmp_path / "four.pth", SegNet(8, 4), classes=["none", "a", "b", "c"])
    test_script.main(replace(settings, data=folder.parent, run=run))
    assert read_summary(settings.output)["classes"] == ["none", "a", "b", "c"]
    assert pd.read_csv(settings.output / "table.csv").columns[2:].tolist() == ["test"]
    baselines.main(baselines.Settings(data=folder.parent, output=tmp_path / "otsu", pictures=0))
    assert (pd.read_csv(tmp_path / "otsu" / "images.csv").Dice > 0.8).all()


def test_results_go_to_a_folder_of_the_runs_name(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(test_script, "RESULTS", tmp_path / "all")
    monkeypatch.setattr(baselines, "RESULTS", tmp_path / "all")
    run = tmp_path / "run"
    test_script.main(replace(settings, output=None))
    with pytest.raises(InputError, match="already holds files"):  # the same run under its other name
        test_script.main(replace(settings, output=None, run=str(run / "best.pth")))
    test_script.main(replace(settings, output=None, run=save_run(tmp_path / "given.pth", SegNet(8, 2))))
    baselines.main(baselines.Settings(data=settings.data, pictures=0))
    assert {f.name for f in (tmp_path / "all").iterdir()} == {"run", "given", "tiny_otsu"}
    assert not (tmp_path / "all" / "run" / "pictures").exists()


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
        (lambda p: save_run(p / "b.pth", SegNet(8, 4), classes=list("abcd")),
         r"has 2 classes \(background, nucleus\), the network 4 \(a, b, c, d\)"),
        (lambda p: save_run(p / "d.pth", SegNet(8, 2), classes=["background", "gland"]),
         r"has 2 classes \(background, nucleus\), the network 2 \(background, gland\): pass the data set"),
        (lambda p: save_run(p / "c.pth", SegNet(8, 2), model_state_dict={"net.final_conv.1.weight": torch.zeros(2, 8)}),
         "does not fit the network"),
    ],
)  # fmt: skip
def test_wrong_checkpoints(settings, tmp_path, run, message):
    with pytest.raises(InputError, match=message):
        test_script.main(replace(settings, run=run(tmp_path)))
    assert not settings.output.exists()


def test_wrong_data(settings, tmp_path):
    with pytest.raises(InputError, match=r"folder .*nowhere/test does not exist"):
        test_script.main(replace(settings, data=tmp_path / "nowhere"))
    with pytest.raises(InputError, match="--batch-size is 0: 1 or more is needed"):
        test_script.main(replace(settings, batch_size=0))
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(settings.data / "test" / "labels" / "label_5.png")
    with pytest.raises(InputError, match="label of patch 5 .* holds class 7"):
        test_script.main(settings)


def test_patches_that_the_network_cannot_halve(settings):
    content = json.loads((settings.data / "dataset.json").read_text())
    (settings.data / "dataset.json").write_text(json.dumps({**content, "patch_size": 20}))
    with pytest.raises(InputError, match="holds patch_size = 20; wanted: a multiple of 8"):
        test_script.main(settings)


def test_patches_of_another_size_than_in_training(settings, tmp_path, capsys):
    run = save_run(tmp_path / "other.pth", SegNet(8, 2), patch_size=64, loss=math.nan)
    test_script.main(replace(settings, run=run))
    assert read_summary(settings.output)["settings"]["validation loss"] is None
    assert "note: trained on patches of 64 pixels, tested on 16" in capsys.readouterr().out


def test_a_truncated_image_leaves_no_half_results(settings):
    file = settings.data / "test" / "images" / "image_6.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read image .*image_6.png"):
        test_script.main(settings)
    assert not settings.output.exists() and not list(settings.output.parent.glob("*unfinished"))


def test_a_grid_of_tests_spares_the_pictures(tiny_data_set, tmp_path, capsys):
    asked = baselines.Settings(data=tiny_data_set, output=tmp_path / "results", pictures=0, report=False)
    baselines.main(asked)
    drawn = {f.parent.name for f in asked.output.rglob("*.png")}
    assert drawn == {"label_maps"} and not list(asked.output.rglob("*.html"))
    assert capsys.readouterr().out.splitlines()[-1] == f"tables and label maps are in {asked.output}"


def test_baselines(settings, tmp_path):
    for method in ("otsu", "background"):
        baselines.main(baselines.Settings(data=settings.data, method=method, output=tmp_path / method, pictures=0))
    otsu, background = (pd.read_csv(tmp_path / m / "images.csv") for m in ("otsu", "background"))
    assert (otsu.Dice > 0.8).all() and (background.Dice == 0).all()  # dark discs on a pale ground
    assert read_summary(tmp_path / "otsu")["expected calibration error"] is None  # it does not say how sure it is


def test_baselines_need_a_class(settings):
    content = json.loads((settings.data / "dataset.json").read_text())
    (settings.data / "dataset.json").write_text(json.dumps({**content, "classes": ["background"]}))
    with pytest.raises(InputError, match="no class beside the background"):
        baselines.main(baselines.Settings(data=settings.data, output=settings.output))
    with pytest.raises(InputError, match="--blur is -1: 0 or more is needed"):
        baselines.main(baselines.Settings(data=settings.data, output=settings.output, blur=-1))


def test_the_script_runs_by_its_path(settings, run_script_file):
    done = run_script_file(
        "GenSelfDiff/test/test_script.py", "--data", settings.data, "--run", settings.run, "--output", settings.output
    )
    charts = {"confusion_matrix.png", "distribution.png", "reliability.png"}
    assert {"report.html", "examples", "pictures", "label_maps", *charts} <= {f.name for f in settings.output.iterdir()}
    assert done.stdout.splitlines()[-1] == f"report.html, tables, pictures and label maps are in {settings.output}"


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"downscale": 2.0}, "warning: trained on images made 2 times smaller, tested on images made 1 times smaller"),
        ({"mpp": 0.25}, "warning: trained at 0.25 micrometres a pixel, tested at 0.5 micrometres a pixel"),
        ({"mpp": 0.45, "downscale": 2.0}, None),  # the same resolution, however it came about
    ],
)
def test_a_network_of_another_resolution_is_warned_of(settings, tmp_path, capsys, known, words):
    if "mpp" in known:
        described = json.loads((settings.data / "dataset.json").read_text())
        write_json(settings.data / "dataset.json", described | {"mpp": 0.5})
    test_script.main(replace(settings, run=save_run(tmp_path / "other.pth", SegNet(8, 2), **known)))
    said = capsys.readouterr().out
    assert words in said if words else "warning: trained" not in said


def test_a_network_that_says_no_numbers_is_no_network(settings, tmp_path):
    """Its weights are finite, what comes out is not: argmax would make background of it without a word."""
    model = SegNet(8, 2)
    model.net.final_conv[1].weight.data.fill_(3e38)
    model.net.final_conv[1].bias.data.fill_(-3e38)
    with pytest.raises(InputError, match="the network says no numbers .NaN. of t1"):
        test_script.main(replace(settings, run=save_run(tmp_path / "nan.pth", model)))
