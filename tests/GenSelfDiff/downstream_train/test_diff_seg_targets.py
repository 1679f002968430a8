"""Diff_Seg.py --targets, from training to whole images, on tiny data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from GenSelfDiff import checkpoint, predictor
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.downstream_train.labelled import LabelledData
from GenSelfDiff.downstream_train.losses import distance_map_loss, segmentation_loss
from GenSelfDiff.instances import InstanceMethod
from GenSelfDiff.patches import Patches
from GenSelfDiff.predictor import PredictorSettings
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.report.page import HEADLINES
from GenSelfDiff.targets import target_maps
from GenSelfDiff.test import compare, segment, test_script
from GenSelfDiff.whole_image.object_files import OBJECT_TYPES
from GenSelfDiff.whole_image.objects import MARGINS
from tests.GenSelfDiff.runs import assert_same_run, history
from utils_general import InputError, read_index_map, read_rgb

MAPS = {"border": 1, "hv": 2}
both = pytest.mark.parametrize("targets", MAPS)


@pytest.fixture
def settings(finetuning):
    return replace(finetuning, learning_rate=1e-2)


@both
def test_from_training_to_whole_images(settings, targets, tmp_path, no_report):
    """The run is tested, compared and segmented with like any other; both scripts find the same objects."""
    settings = replace(settings, targets=targets, epochs=6)
    Diff_Seg.main(settings)
    run, rows = Path(settings.run_name), history(settings.run_name)
    assert rows[f"train_{targets}"].iloc[-1] < rows[f"train_{targets}"].iloc[0]
    assert np.allclose(rows.val_loss, rows.val_classes + rows[f"val_{targets}"])
    assert json.loads((run / "settings.json").read_text())["targets"] == targets
    found = predictor.load(PredictorSettings(run=str(run), device="cpu"))
    assert (found.targets, found.channels, found.classes) == (targets, 2 + MAPS[targets], ["background", "nucleus"])
    common = {"run": str(run), "device": "cpu", "minimum_area": 1, "tta": "flips"}
    test_script.main(test_script.Settings(data=settings.data, output=tmp_path / "tested", pictures=0, **common))
    summary = json.loads((tmp_path / "tested" / "summary.json").read_text())
    assert summary["instances"] == targets and summary["figures"]
    (tmp_path / "images").mkdir()
    for source in ("t1", "t2"):
        index = pd.read_csv(settings.data / "test" / "index.csv").query("source == @source")
        whole = np.zeros((32, 32, 3), np.uint8)
        for row in index.itertuples():
            file = settings.data / "test" / "images" / f"image_{row.patch}.png"
            whole[row.y : row.y + 16, row.x : row.x + 16] = read_rgb(file)
        Image.fromarray(whole).save(tmp_path / "images" / f"{source}.png")
    for name, size in (("whole", 500), ("blocks", 16)):
        out = tmp_path / name
        segment.main(segment.Settings(images=tmp_path / "images", output=out, block_size=size, **common))
        for source in ("t1", "t2"):
            for kind in ("classes", "instances"):
                tested = read_index_map(tmp_path / "tested" / "label_maps" / f"{source}_{kind}.png")
                assert tested.any()
                if name == "whole":
                    assert (read_index_map(out / f"{source}_{kind}.png") == tested).all(), (source, kind)
    components = replace(
        test_script.Settings(data=settings.data, output=tmp_path / "others", pictures=0, **common),
        instances="components",
    )
    test_script.main(components)
    assert json.loads((tmp_path / "others" / "summary.json").read_text())["instances"] == "components"
    compare.main(compare.Settings(results=(tmp_path / "others", tmp_path / "tested"), output=tmp_path / "compared"))
    assert len(pd.read_csv(tmp_path / "compared" / "compare.csv"))


def test_what_depends_on_how_objects_are_made_knows_all_ways():
    methods = set(get_args(InstanceMethod))
    assert set(HEADLINES) == set(OBJECT_TYPES) == set(MARGINS) == methods == {"components", "watershed", *MAPS}


@both
def test_going_on_is_exact(settings, targets, tmp_path):
    settings = replace(settings, targets=targets, epochs=2)
    Diff_Seg.main(settings)
    other = replace(settings, run_name=str(tmp_path / "other"))
    Diff_Seg.main(replace(other, epochs=1))
    Diff_Seg.main(other)
    assert_same_run(settings.run_name, other.run_name)
    for wrong in {"classes", "border", "hv"} - {targets}:
        with pytest.raises(InputError, match=rf"other settings: targets \(targets was {targets}, now {wrong}\)"):
            Diff_Seg.main(replace(other, targets=wrong, epochs=3))


@both
def test_maps_are_made_of_augmented_instances(settings, targets):
    """Flipped and turned, they fit the flipped and turned label: the tiny patches hold one disc each."""
    data = LabelledData.read(replace(settings, quarter_turns=True), targets)
    seen = set()
    for epoch in range(4):
        for i in range(len(data.training)):
            item = data.training[epoch, i]
            assert "instances" not in item and item["maps"].shape == (MAPS[targets], 16, 16)
            assert np.array_equal(item["maps"].numpy(), target_maps(targets, item["label"].numpy()))
            seen.add(item["label"].numpy().tobytes())
    assert len(seen) > len(data.training)


def test_the_class_map_alone_is_trained_as_before(settings):
    """No map is read, and images and labels are augmented in the same way with and without."""
    patches = [Patches(settings.data / "labelled", labelled=True)]
    augmentation = LabelledData.read(settings).training.augmentation
    plain, more = (PatchDataset(patches, "train", 1, augmentation, targets) for targets in ("classes", "hv"))
    assert set(plain[0, 0]) == {"image", "label", "file", "seed"}
    for i in range(len(plain)):
        one, other = plain[1, i], more[1, i]
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["label"], other["label"])


def test_losses_are_added_up():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 5, 8, 8, generator=generator)
    labels = torch.randint(3, (3, 8, 8), generator=generator)
    hv, border = torch.rand(3, 2, 8, 8, generator=generator), torch.randint(2, (3, 1, 8, 8), generator=generator)
    of_classes = segmentation_loss(("focal",), outputs[:, :3], labels)

    def loss(targets, said, maps):
        stage = Diff_Seg.Segmentation(("focal",), targets)
        return stage.training_loss(lambda _: said, {"image": None, "label": labels, "maps": maps})[0]

    torch.testing.assert_close(loss("hv", outputs, hv), of_classes + distance_map_loss(outputs[:, 3:], hv, labels > 0))
    p = outputs[:, 3].sigmoid()
    p = torch.where(border[:, 0] > 0, p, 1 - p)
    torch.testing.assert_close(loss("border", outputs[:, :4], border), of_classes - ((1 - p) ** 2 * p.log()).mean())


@both
def test_without_instances_it_ends_in_one_line(settings, targets):
    shutil.rmtree(settings.data / "labelled" / "instances")
    with pytest.raises(InputError, match=f"--targets {targets} is made of instances, and .* holds none"):
        Diff_Seg.main(replace(settings, targets=targets))
    assert not Path(settings.run_name).exists()


def test_an_instance_map_of_another_size_is_named(settings):
    file = settings.data / "labelled" / "instances" / "instance_3.png"
    Image.fromarray(np.zeros((16, 8), np.uint16)).save(file)
    with pytest.raises(InputError, match=r"instance_3.png in .* is 8x16 pixels, not 16x16"):
        Diff_Seg.main(replace(settings, targets="hv"))


@both
def test_pre_trained_weights_are_handed_over(settings, pretraining, targets, capsys):
    SS_diff.main(replace(pretraining, epochs=1))
    Diff_Seg.main(replace(settings, pretrained=pretraining.run_name, dim=None, targets=targets, epochs=1, steps=1))
    assert "left new, the head of segmentation" in capsys.readouterr().out


def test_a_checkpoint_that_says_other_targets_than_it_has_is_refused(settings):
    Diff_Seg.main(replace(settings, targets="hv", epochs=1))
    best = Path(settings.run_name) / "best.pth"
    content = checkpoint.load(best)
    for targets, message in (("classes", "names 2 classes; its network tells 4 apart"), ("x", "wanted: one of")):
        checkpoint.save(best, {**content, "settings": {**content["settings"], "targets": targets}})
        with pytest.raises(InputError, match=message):
            predictor.load(PredictorSettings(run=settings.run_name, device="cpu"))
