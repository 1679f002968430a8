"""Nudiff's scripts for real on tiny data: from a choice of labels to a fine-tuning on real and synthetic pairs."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import default_collate

from GenSelfDiff import checkpoint, networks
from GenSelfDiff.devices import set_up
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.methods.nudiff import choose_labels, synthesize, train_images, train_structures, with_labels
from GenSelfDiff.methods.nudiff.structure import encode
from GenSelfDiff.methods.nudiff.with_labels import (
    SomeUnlabelled,
    WithStructures,
    labelled_patches,
    left_out,
    unlabelled_patches,
)
from GenSelfDiff.patches import Patches
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.training import to_device
from GenSelfDiff.unet_checkpoint import load_diffusion
from tests.conftest import write_tiny_data_set
from tests.GenSelfDiff.runs import assert_same_run
from tests.GenSelfDiff.touching import crowd
from utils_general import InputError, read_json, read_rgb, write_json

RUN = {"batch_size": 4, "dim": 8, "workers": 0, "initial_weights": "pytorch", "device": "cpu", "timesteps": 20}


def structures_of(root, folder, **changes):
    options = {"epochs": 1, "sample_every": 0, "run_name": str(folder / "structures"), "data": root}
    return train_structures.Settings(**RUN | options | changes)


def images_of(root, folder, **changes):
    options = {"epochs": 1, "sample_every": 0, "run_name": str(folder / "images"), "data": root}
    return train_images.Settings(**RUN | options | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set, a run of each stage on it, and one of pre-training."""
    root = tmp_path_factory.mktemp("nudiff")
    data = write_tiny_data_set(root / "tiny")
    train_structures.main(structures_of(data, root, sample_every=1))
    options = {"p2_gamma": 0.0, "schedule": "linear", "epochs": 1, "sample_every": 0}
    SS_diff.main(SS_diff.Settings(data=(data,), run_name=str(root / "pre"), **RUN | options))
    images = images_of(data, root, sample_every=1, pretrained=str(root / "pre"), dim=None, epochs=2)
    train_images.main(images)
    return root


@pytest.fixture
def synthesis(trained, tmp_path):
    return synthesize.Settings(
        data=trained / "tiny", structures=str(trained / "structures"), images=str(trained / "images"), count=3,
        output=tmp_path / "augmented", sampler="dpm-solver++", steps=3, batch_size=2, device="cpu",
    )  # fmt: skip


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def test_runs_say_what_they_are_and_show_pictures(trained):
    sheets = {"structures": (6 * 18 - 2, 2 * 18 - 2), "images": (6 * 18 - 2, 2 * 18 - 2)}
    assert Image.open(trained / "structures" / "sample_epoch_1.png").size == sheets["structures"]
    assert Image.open(trained / "images" / "sample_epoch_2.png").size == (6 * 18 - 2, 2 * 18 - 2)  # 3 rows of 4
    about = checkpoint.load(trained / "structures" / "best.pth")
    areas = [np.count_nonzero(labelled_patches(trained / "tiny").label(i)) for i in range(8)]
    assert about["typical_area"] == np.median(areas) and about["patch_size"] == 16
    history = pd.read_csv(trained / "images" / "history.csv")
    assert {"val_loss", "val_unconditional", "train_quarter_1"} <= set(history)
    for stage in ("structures", "images"):
        path = trained / stage / "best.pth"
        with pytest.raises(InputError, match=f"is of the stage {stage}, which segments nothing"):
            networks.load_segmentation(path, torch.device("cpu"))
        with pytest.raises(InputError, match=f"is of the stage {stage}; one of pre-training is needed"):
            networks.load_start(path)
        with pytest.raises(InputError, match="one of pre-training is needed"):
            load_diffusion(path, torch.device("cpu"))


def test_images_begin_with_the_pre_training(trained, tmp_path, capsys):
    """All its weights; what the structure says begins with nothing. So it is with another run of the same stage."""
    begun = images_of(trained / "tiny", tmp_path, pretrained=str(trained / "pre"), dim=None, learning_rate=0.0)
    train_images.main(begun)
    assert "--dim 8 can draw nothing but noise" in capsys.readouterr().out
    ours, theirs = (
        checkpoint.load(Path(run) / "best.pth")["model_state_dict"] for run in (begun.run_name, trained / "pre")
    )
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    said = [value for name, value in ours.items() if ".say." in name]
    assert len(said) == 2 * 18 and not any(value.any() for value in said)
    again = replace(begun, pretrained=str(trained / "images"), run_name=str(tmp_path / "again"))
    train_images.main(again)
    ours, theirs = (
        checkpoint.load(Path(run) / "best.pth")["model_state_dict"] for run in (again.run_name, trained / "images")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize(("script", "settings_of"), [(train_structures, structures_of), (train_images, images_of)])
def test_a_run_goes_on_as_if_it_had_not_stopped(script, settings_of, trained, tmp_path):
    whole = settings_of(trained / "tiny", tmp_path / "whole", epochs=3, ema=0.5, quarter_turns=True)
    parts = replace(whole, run_name=str(tmp_path / "parts"))
    script.main(whole)
    script.main(replace(parts, epochs=1))
    script.main(parts)
    assert_same_run(whole.run_name, parts.run_name)


class LooksAtBoth(nn.Module):
    """The smallest network that can tell noise from tissue by a structure: one weight a channel of each."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Conv2d(6, 3, 1)

    def forward(self, x, _t, structure):
        return self.weights(torch.cat((x, structure), dim=1))


def test_the_true_structure_helps(trained, monkeypatch):
    """The noise is better told with the structure of the image than with another's, and than with none.

    The images were flipped and turned, and so were the instances that the structures are made of.
    """
    monkeypatch.setattr(SS_diff, "keyed_steps", lambda keys, _: torch.full_like(keys, 400))
    data, cpu = WithStructures.read(trained / "tiny", 0, quarter_turns=True), set_up("cpu")
    stage = train_images.ImagePrediction(train_images.Settings(), 16, cpu.device, {})
    torch.manual_seed(0)
    model = LooksAtBoth()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for epoch in range(80):
        batch = to_device(default_collate([data.training[epoch, i] for i in range(8)]), cpu, (-1, 1))
        loss, _ = stage.training_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = data.examples(cpu, (-1, 1))
    assert len(held_out["file"]) == 4
    metrics = stage.validation_metrics(model, held_out)
    others = stage.validation_metrics(model, held_out | {n: held_out[n].roll(1, 0) for n in ("label", "maps")})
    true, other, none = metrics["loss"][0], others["loss"][0], metrics["unconditional"][0]
    assert true < 0.7 * other and true < 0.7 * none


def test_unlabelled_patches_are_shown_where_structures_are_left_out(trained):
    data, share = WithStructures.read(trained / "tiny", 0, quarter_turns=False), 0.4
    mixed = SomeUnlabelled(data.training, unlabelled_patches(trained / "tiny"), share)
    shown = {}
    for epoch in range(12):
        for i in range(8):
            item, before = mixed[epoch, i], data.training[epoch, i]
            is_left_out = bool(left_out(torch.tensor([item["seed"]]), share))
            shown.setdefault(is_left_out, set()).add(item["file"])
            assert item["seed"] == before["seed"] and torch.equal(item["maps"], before["maps"])
            assert is_left_out != torch.equal(item["image"], before["image"])
    assert all("unlabelled" in file for file in shown[True]) and len(shown[True]) == 8  # none that is held out
    assert all("unlabelled" not in Path(file).parts[-3] for file in shown[False])
    assert mixed.fingerprint() == data.training.fingerprint() and mixed.contents() != data.training.contents()


def test_pictures_show_structures_of_their_own_images(trained, tmp_path, monkeypatch):
    """With --unlabelled, and nothing held out, too."""
    shutil.copytree(trained / "tiny", tmp_path / "tiny")
    index = tmp_path / "tiny" / "labelled" / "index.csv"
    index.write_text(index.read_text().replace(",val", ",train"))
    shown = []
    monkeypatch.setattr(train_images, "ImagePrediction", lambda *words: shown.append(words[-1]))
    monkeypatch.setattr(with_labels, "Trainer", lambda *_: SimpleNamespace(run=lambda: None))
    train_images.main(images_of(tmp_path / "tiny", tmp_path, unlabelled=True, drop=0.9))
    assert len(shown[0]["file"]) == 6 and all(Path(file).parts[-3] == "labelled" for file in shown[0]["file"])


def test_real_and_synthetic_pairs_are_a_data_set(synthesis, finetuning, capsys):
    """Which Diff_Seg.py reads as it is; labels, instances and images of a pair go together, and it is known as one."""
    synthesize.main(synthesis)
    said = capsys.readouterr().out
    assert str(synthesis.output) in said.splitlines()[-1] and "nearest.csv" in said
    patches = Patches(synthesis.output / "labelled", labelled=True)
    index = patches.index.astype({"source": str})
    assert index.source.tolist()[-3:] == ["synthetic_0", "synthetic_1", "synthetic_2"]
    assert index.patch.tolist() == list(range(15)) and index.split.tolist()[-3:] == ["train"] * 3
    assert (index.split == "val").sum() == 4
    real = Patches(synthesis.data / "labelled", labelled=True)
    assert all(np.array_equal(patches.image(i), real.image(i)) for i in range(12))
    for i in (12, 13, 14):
        assert np.array_equal(patches.label(i) > 0, patches.instances(i) > 0)
    sources = pd.read_csv(synthesis.output / "labelled" / "sources.csv")
    assert sources.source.tolist() == ["l1", "l2", "l3", "synthetic_0", "synthetic_1", "synthetic_2"]
    assert read_json(synthesis.output / "dataset.json")["name"] == "augmented"
    assert Patches(synthesis.output / "test", labelled=True).index.equals(Patches(synthesis.data / "test").index)
    assert Image.open(synthesis.output / "contact_sheet.png").size == (8 * 18 - 2, 3 * 18 - 2)
    assert Image.open(synthesis.output / "nearest.png").size == (3 * 18 - 2, 4 * 18 - 2)
    overlaps = pd.read_csv(synthesis.output / "nearest.csv")
    assert overlaps.structures.value_counts().to_dict() == {"real, held out": 4, "synthetic": 3}
    assert pd.read_csv(synthesis.output / "nuclei.csv", index_col=0).loc["real", "nuclei a patch"] == 1
    Diff_Seg.main(replace(finetuning, data=synthesis.output, targets="hv", epochs=1))
    assert "11 patches to train on, 4 held out" in capsys.readouterr().out


@pytest.mark.parametrize("known", [True, False])
def test_completed_twice_it_names_each_source_once(known, trained, synthesis, tmp_path):
    """Whether the sizes of the real images are known or not."""
    shutil.copytree(trained / "tiny", tmp_path / "tiny")
    if not known:
        (tmp_path / "tiny" / "labelled" / "sources.csv").unlink()
    work = synthesize.Synthesis(replace(synthesis, data=tmp_path / "tiny"))
    for _ in range(2):
        work.complete()
    named = pd.read_csv(synthesis.output / "labelled" / "sources.csv").source.tolist()
    assert named == ["l1", "l2", "l3"] * known + ["synthetic_0", "synthetic_1", "synthetic_2"]


def test_it_goes_on_with_the_pairs_that_are_missing(synthesis, capsys):
    """After a kill, which leaves a part of a pair, and no index, so that the part is not taken for the whole."""
    synthesize.main(replace(synthesis, count=2))
    labelled = synthesis.output / "labelled"
    kept = (labelled / "images" / "image_12.png").stat().st_mtime_ns
    before = files_of(labelled)
    (labelled / "images" / "image_13.png").unlink()
    (labelled / "images" / ".image_13.png.1-abcdefgh.unfinished").touch()
    synthesize.main(synthesis)
    assert "1 of 3 pairs are there already" in capsys.readouterr().out
    after = files_of(labelled)
    assert (labelled / "images" / "image_12.png").stat().st_mtime_ns == kept
    assert {name for name in after if name not in before} == {
        Path("images/image_14.png"), Path("labels/label_14.png"), Path("instances/instance_14.png"),
    }  # fmt: skip
    assert after[Path("instances/instance_13.png")] == before[Path("instances/instance_13.png")]
    assert len(Patches(labelled, labelled=True)) == 15 and not list(labelled.rglob("*.unfinished"))
    for change, message in [
        ({"count": 2}, "holds more than --count 2 pairs"),
        ({"guidance": 1.0}, r"drawn with another guidance \(2.0, now 1.0\)"),
        ({"steps": 4}, r"drawn with another steps of structures \(3, now 4\)"),
        ({"real_structures": True}, "drawn with another real_structures"),
    ]:
        with pytest.raises(InputError, match=message):
            synthesize.main(replace(synthesis, **change))
    record = synthesis.output / "settings.json"
    write_json(record, read_json(record) | {"kind of device": "cuda"})
    with pytest.raises(InputError, match=r"drawn with another kind of device \(cuda, now cpu\)"):
        synthesize.main(synthesis)


def test_images_of_real_structures(synthesis):
    """Of all in turn, in whatever orientation."""
    settings = replace(synthesis, real_structures=True, structures="none", count=8)
    synthesize.main(settings)
    patches = Patches(settings.output / "labelled", labelled=True)
    areas = [np.count_nonzero(patches.label(i)) for i in range(20)]
    assert sorted(areas[:8]) == sorted(areas[12:])
    overlaps = pd.read_csv(settings.output / "nearest.csv").query("structures == 'synthetic'")
    assert (overlaps.overlap == 1).all() and sorted(overlaps["nearest training patch"]) == list(range(8))


def test_labels_are_chosen_and_counted(trained, tmp_path, capsys):
    data = trained / "tiny"
    settings = choose_labels.Settings(data=data, output=tmp_path / "half", fraction=0.5, device="cpu")
    choose_labels.main(settings)
    index = Patches(settings.output / "labelled", labelled=True).index
    assert len(index) == 4 and index.source.nunique() == 1  # half of two images, and none of one that is held out
    table = pd.read_csv(settings.output / "labels.csv").set_index("split")
    assert table.loc["train", ["images, chosen", "images, all", "objects, chosen"]].tolist() == [1, 2, 4]
    assert table.loc["val", "objects, chosen"] == 0
    whole = replace(settings, output=tmp_path / "whole", fraction=1.0)
    choose_labels.main(whole)
    assert len(Patches(whole.output / "labelled", labelled=True)) == 12
    assert (tmp_path / "half" / "unlabelled").resolve() == (data / "unlabelled").resolve()
    clusters = replace(
        settings,
        output=tmp_path / "clusters",
        by="clusters",
        clusters=2,
        pretrained=str(trained / "pre"),
        fraction=0.25,
    )
    choose_labels.main(clusters)
    chosen = pd.read_csv(clusters.output / "chosen.csv")
    assert chosen.split.value_counts().to_dict() == {"train": 2, "val": 1}  # one object a patch
    more = replace(clusters, output=tmp_path / "more", fraction=0.75, batch_size=1)
    choose_labels.main(more)
    assert set(chosen.patch) < set(pd.read_csv(more.output / "chosen.csv").patch)
    assert choose_labels.Settings(data=Path("data/MoNuSeg")).target == Path("data/MoNuSeg_10")


@pytest.mark.parametrize(
    ("script", "changes", "message"),
    [
        (choose_labels, {"fraction": 0.0}, "--fraction is 0: a share from above 0 to 1"),
        (
            choose_labels,
            {"by": "clusters", "clusters": 13, "pretrained": "pre"},
            "--clusters is 13: there are 12 patches",
        ),
        (train_structures, {"data": "flat"}, "structures are made of instances, and .*flat/labelled holds none"),
        (train_structures, {"data": "three"}, "has the classes background, a, b: structures know"),
        (train_structures, {"data": "torn"}, "label and instances of patch 0 in .* do not cover the same pixels"),
        (train_structures, {"sample_every": -1}, "--sample-every is -1"),
        (train_images, {"drop": 1.0}, "--drop is 1: a share from 0 to below 1"),
        (train_images, {"drop": 0.0, "unlabelled": True}, "--unlabelled takes the place of patches that --drop leaves"),
        (train_images, {"data": "lonely", "unlabelled": True}, "lonely holds no folder unlabelled: leave"),
        (train_images, {"pretrained": "pre", "dim": 16}, "has dim 8, but --dim 16"),
        (
            train_images,
            {"pretrained": "pre", "schedule": "cosine"},
            "trained with schedule linear, --schedule is cosine",
        ),
        (train_images, {"pretrained": "structures"}, "one of pre-training is needed"),
        (synthesize, {"images": "structures"}, "is not of the stage images: a run of train_images.py is needed"),
        (synthesize, {"structures": "pre"}, "is not of the stage structures: a run of train_structures.py"),
        (synthesize, {"images": "undropped"}, "was trained with --drop 0 and does not know images of no structure"),
        (synthesize, {"data": "relabelled"}, "structures/best.pth did not learn from the labels in .*relabelled: name"),
        (synthesize, {"output": "tiny"}, "--output .*tiny holds the real labels"),
        (synthesize, {"output": "pre"}, "holds files of something else"),
        (synthesize, {"count": 0}, "--count is 0"),
        (synthesize, {"guidance": -1.0}, "--guidance is -1.0"),
        (synthesize, {"seed": 2**32 - 2}, "with 3 pairs at most"),
        (synthesize, {"sampler": "ancestral"}, "--steps is 3: ancestral sampling takes all 20"),
    ],
)
def test_what_cannot_work_is_said(script, changes, message, trained, synthesis, tmp_path):
    torn = {"flat", "three", "torn", "lonely", "relabelled"} & {*map(str, changes.values())}
    for name in torn:
        shutil.copytree(trained / "tiny", tmp_path / name)
    if "flat" in torn:
        shutil.rmtree(tmp_path / "flat" / "labelled" / "instances")
    if "lonely" in torn:
        shutil.rmtree(tmp_path / "lonely" / "unlabelled")
    if "relabelled" in torn:  # another nucleus number: the same pixels
        number = np.array(Image.open(tmp_path / "relabelled/labelled/instances/instance_0.png"))
        Image.fromarray(number * 2).save(tmp_path / "relabelled/labelled/instances/instance_0.png")
    if "three" in torn:
        about = read_json(tmp_path / "three" / "dataset.json")
        write_json(tmp_path / "three" / "dataset.json", about | {"classes": ["background", "a", "b"]})
    if "torn" in torn:
        Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "torn" / "labelled/instances/instance_0.png")
    if "undropped" in changes.values():
        train_images.main(images_of(trained / "tiny", tmp_path, drop=0.0, run_name=str(tmp_path / "undropped")))
    places = {name: str((tmp_path if (tmp_path / str(name)).exists() else trained) / str(name)) for name in
              ("flat", "three", "torn", "lonely", "relabelled", "undropped", "pre", "structures", "tiny")}  # fmt: skip
    changes = {key: places.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    for key in ("data", "output"):
        if key in changes:
            changes[key] = Path(changes[key])
    settings = {
        choose_labels: lambda: choose_labels.Settings(data=trained / "tiny", output=tmp_path / "out", device="cpu"),
        train_structures: lambda: structures_of(trained / "tiny", tmp_path / "runs"),
        train_images: lambda: images_of(trained / "tiny", tmp_path / "runs"),
        synthesize: lambda: synthesis,
    }[script]()
    with pytest.raises(InputError, match=message):
        script.main(replace(settings, **changes))
    assert not (tmp_path / "out").exists() and not (tmp_path / "augmented").exists()


def test_synthetic_pairs_are_no_real_labels(synthesis, tmp_path):
    synthesize.main(synthesis)
    with pytest.raises(InputError, match="holds synthetic pairs already"):
        synthesize.main(replace(synthesis, data=synthesis.output, output=tmp_path / "again"))


def test_the_image_is_drawn_of_its_own_label(synthesis, monkeypatch):
    """What the second network is given is the structure of the instances that are written, of which there are some."""
    given, draw = [], synthesize.ImagePainter.draw
    monkeypatch.setattr(
        synthesize.StructureGenerator, "draw", lambda _, seeds, *a, **k: [crowd(16, 3, n, (2, 4)) for n in seeds]
    )
    monkeypatch.setattr(
        synthesize.ImagePainter,
        "draw",
        lambda p, structures, *a, **k: given.extend(structures) or draw(p, structures, *a, **k),
    )
    synthesize.main(synthesis)
    patches = Patches(synthesis.output / "labelled", labelled=True)
    assert len(given) == 3 and all(patches.instances(12 + i).any() for i in range(3))
    assert all(np.array_equal(encode(patches.instances(12 + i)), one) for i, one in enumerate(given))
    assert len({read_rgb(patches.file(12 + i)).tobytes() for i in range(3)}) == 3
