"""Every setting of the scripts that are no training changes something: one base run a script, a short run a setting.

A setting that is new needs a row in the table of its script, or the test of completeness fails. What the training
scripts ask for is in GenSelfDiff/test_every_training_setting.py.
"""

import hashlib
import json
from dataclasses import fields, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import image_generation
import image_generation_general
import sample_images
import sample_images_general
from GenSelfDiff import checkpoint, predictor
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.devices import InPrecision
from GenSelfDiff.methods.attention import pseudo_labels
from GenSelfDiff.methods.nudiff import choose_labels, synthesize
from GenSelfDiff.methods.nudiff.conditioned import ConditionedNet
from GenSelfDiff.methods.nudiff.with_labels import labelled_patches, learnt_from
from GenSelfDiff.report import results
from GenSelfDiff.test import baselines, test_script
from GenSelfDiff.unet import DiffusionNet, SegNet
from pre_process.demo import make_demo_data
from pre_process.GlaS import preprocess as glas
from pre_process.HN import preprocess as hn
from pre_process.MoNuSeg import preprocess as monuseg
from pre_process.own_data import preprocess as own_data
from tests.conftest import write_tiny_data_set
from utils_general import InputError, read_json, write_json

# Another value ("{there}": a folder of other input), and a pattern that one of the files that differ has; or "refused"
# (the script names the setting), "folder" (where the output is), "batches" (how many images the network sees at once).
GENERATION = {
    "pretrained": ("{there}/pre.pth", "image_0.png"),
    "data": (("{there}/tiny",), "distance.csv"),
    "output": ("elsewhere/output", "folder"),
    "count": (4, "image_3.png"),
    "batch_size": (1, "batches"),
    "sampler": ("dpm-solver++", "image_0.png"),
    "steps": (5, "image_0.png"),
    "eta": (1.0, "image_0.png"),
    "clamp": (False, "image_0.png"),
    "precision": ("bfloat16", "image_0.png"),
    "device": ("tpu", "refused"),
    "seed": (1, "image_0.png"),
}
SAMPLING = {
    "data": (("{there}/tiny",), "image_0.png"),
    "output": ("elsewhere/output", "folder"),
    "count": (4, "image_3.png"),
    "seed": (1, "image_0.png"),
}
REPORT = {
    "data": ("{there}/dark", "images.csv"),
    "output": ("elsewhere/output", "folder"),
    "instances": ("components", "label_maps/*_instances.png"),
    "minimum_area": (1, "label_maps/*_instances.png"),
    "peak_distance": (25, "label_maps/*_instances.png"),
    "largest_hole": (10, "label_maps/*_instances.png"),
    "smoothing": (8.0, "label_maps/*_instances.png"),
    "pictures": (1, "pictures/*_panel.png"),
    "report": (False, "report.html"),
    "split": ("val", "images.csv"),
}
TEST = REPORT | {
    "run": ("{there}/run", "summary.json"),
    "tta": ("flips", "label_maps/*_classes.png"),
    "window": (8, "summary.json"),
    "overlap": (0.75, "summary.json"),
    "batch_size": (1, "batches"),
    "precision": ("bfloat16", "summary.json"),
    "device": ("tpu", "refused"),
}
BASELINES = REPORT | {"method": ("background", "images.csv"), "blur": (6.0, "label_maps/*_classes.png")}
PATCHES = {
    "output": ("elsewhere/output", "folder"),
    "patch_size": (16, "dataset.json"),
    "stride": (4, "*/index.csv"),
    "test_stride": (4, "test/index.csv"),
    "border_windows": (True, "*/index.csv"),
    "mpp": (0.7, "dataset.json"),
    "downscale": (2.0, "test/images/image_0.png"),
    "working_mpp": (0.5, "test/images/image_0.png"),
    "validation_images": (2, "labelled/index.csv"),
}
MONUSEG = PATCHES | {"raw": ("{there}/monuseg", "test/images/*"), "protocol": ("official", "labelled/index.csv")}
GLAS = PATCHES | {"raw": ("{there}/glas", "test/images/*"), "protocol": ("official", "labelled/index.csv")}
HN = PATCHES | {"raw": ("{there}/hn", "test/images/*"), "class_names": ({"bed": "malignant"}, "labelled/labels/*")}
OWN = PATCHES | {
    "images": ("{there}/own/images", "labelled/images/*"),
    "labels": ("{there}/own/labels", "labelled/labels/*"),
    "label_kind": ("instances", "labelled/instances/*"),
    "class_names": (("background", "tumour"), "dataset.json"),
    "instances": ("watershed", "dataset.json"),
    "test_fraction": (0.5, "test/index.csv"),
}
SAID = "labelled/labels/*"
PSEUDO = PATCHES | {
    "test_stride": (4, "refused"),
    "downscale": (2.0, "labelled/images/image_0.png"),
    "working_mpp": (0.5, "labelled/images/image_0.png"),
    "images": ("{there}/own/images", "labelled/images/*"),
    "method": ("otsu", SAID),
    "run": ("{there}/run", SAID),
    "tta": ("flips", SAID),
    "window": (8, SAID),
    "overlap": (0.0, SAID),
    "batch_size": (1, "batches"),
    "precision": ("bfloat16", SAID),
    "device": ("tpu", "refused"),
    "instances": ("components", "labelled/instances/*"),
    "minimum_area": (100, SAID),
    "peak_distance": (25, "labelled/instances/*"),
    "largest_hole": (0, SAID),
    "smoothing": (8.0, "labelled/instances/*"),
}
DEMO = {
    "output": ("elsewhere/output", "folder"),
    "training_images": (2, "MoNuSeg 2018 Training Data/Tissue Images/demo-training-02.tif"),
    "test_images": (3, "MoNuSegTestData/demo-test-03.tif"),
    "size": (72, "MoNuSegTestData/*.tif"),
    "seed": (1, "MoNuSegTestData/*.tif"),
}
CHOICE = {
    "data": ("{there}/tiny", "labelled/images/*"),
    "output": ("elsewhere/output", "folder"),
    "fraction": (1.0, "chosen.csv"),
    "by": ("images", "chosen.csv"),
    "pretrained": ("{there}/pre.pth", "chosen.csv"),
    "clusters": (4, "chosen.csv"),
    "batch_size": (1, "batches"),
    "device": ("tpu", "refused"),
    "seed": (1, "chosen.csv"),
}
PAIRS = {
    "data": ("{there}/alike", "labelled/images/image_0.png"),
    "structures": ("{there}/structures_pre.pth", "labelled/instances/instance_12.png"),
    "images": ("{there}/images_pre.pth", "labelled/images/image_12.png"),
    "output": ("elsewhere/output", "folder"),
    "count": (4, "labelled/images/image_15.png"),
    "guidance": (0.0, "labelled/images/image_12.png"),
    "sampler": ("ddim", "labelled/images/image_12.png"),
    "steps": (3, "labelled/images/image_12.png"),
    "real_structures": (True, "labelled/instances/instance_12.png"),
    "batch_size": (1, "batches"),
    "precision": ("bfloat16", "labelled/images/image_12.png"),
    "device": ("tpu", "refused"),
    "seed": (1, "labelled/instances/instance_12.png"),
}
TABLES = {
    pseudo_labels: PSEUDO,
    image_generation: GENERATION, sample_images: SAMPLING, test_script: TEST, baselines: BASELINES, monuseg: MONUSEG,
    glas: GLAS, hn: HN, own_data: OWN, make_demo_data: DEMO, choose_labels: CHOICE, synthesize: PAIRS,
}  # fmt: skip
APART = {"overwrite"}  # it needs results that are there: see below
CASES = [(script, name) for script, table in TABLES.items() for name in table]
KEEPING = [script for script in TABLES if "overwrite" in {f.name for f in fields(script.Settings)}]
RECORDS = ("settings.json", "demo.json", "sources.json")  # hold the settings themselves: that proves nothing


def name_of(value):
    return getattr(value, "__name__", str(value)).replace(".preprocess", "").rpartition(".")[2]


# --- input: small, and other in `there` ---


def blobs(dark):
    """A 64-pixel image (two discs that touch, a ring, a speck) and its labels; `dark`: the disc of the other input."""
    y, x = np.mgrid[:64, :64]
    away = lambda row, column: np.hypot(y - row, x - column)  # noqa: E731
    mask = (away(18, 18) < 9.5) | (away(18, 35) < 9.5) | ((away(46, 30) < 12) & (away(46, 30) > 5))
    mask |= (y > 59) & (y < 63) & (x > 58) & (x < 62)
    if dark:
        mask |= away(46, 52) < 8
    return np.where(mask[..., None], [90, 60, 150], [230, 190, 220]).astype(np.uint8), mask.astype(np.uint8)


def write_test_set(root, dark):
    """A test folder of one image of two patches, and such an image that is held out."""
    for folder, split in (("test", "test"), ("labelled", "val")):
        for kind in ("images", "labels"):
            (root / folder / kind).mkdir(parents=True)
        rows = ["patch,source,x,y,split"]
        for i in range(2):
            image, mask = blobs(dark)
            Image.fromarray(np.roll(image, i, 0)).save(root / folder / "images" / f"image_{i}.png")
            Image.fromarray(np.roll(mask, i, 0)).save(root / folder / "labels" / f"label_{i}.png")
            rows.append(f"{i},{folder},{64 * i},0,{split}")
        (root / folder / "index.csv").write_text("\n".join(rows) + "\n")
    about = {"name": "blobs", "protocol": "paper", "classes": ["background", "nucleus"], "instances": "watershed"}
    write_json(root / "dataset.json", about | {"patch_size": 64, "stride": 64, "seed": 2023})


def picture(path, seed):
    """A random image of 20 pixels, which windows of 8 do not fill, and a label of two squares; made and returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.stem.encode()]).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    label = np.zeros((20, 20), np.uint8)
    label[1 + seed : 6, 1:6], label[8:12, 8:12] = 1, 1
    return label


def write_raw(root, seed):
    """What the preprocessing of each data set reads."""
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((1, 1), (6, 1), (6, 6), (1, 6)))
    xml = f"<Annotations><Annotation><Region>{vertices}</Region></Annotation></Annotations>"
    for i in range(5):
        training = root / "monuseg" / monuseg.TRAINING_FOLDER
        for file, notes in (
            (training / "Tissue Images" / f"a{i}.tif", training / "Annotations"),
            (root / "monuseg" / monuseg.TEST_FOLDER / f"b{i}.tif", root / "monuseg" / monuseg.TEST_FOLDER),
        ):
            picture(file, seed)
            notes.mkdir(exist_ok=True)
            (notes / f"{file.stem}.xml").write_text(xml)
        for part in ("train", "testA"):
            Image.fromarray(picture(root / "glas" / f"{part}_{i}.bmp", seed)).save(
                root / "glas" / f"{part}_{i}_anno.bmp"
            )
        picture(root / "hn" / "labelled_images" / f"c{i}.png", seed)
        label = picture(root / "own" / "images" / f"d{i}.png", seed)
        (root / "own" / "labels").mkdir(exist_ok=True)
        Image.fromarray(label).save(root / "own" / "labels" / f"d{i}.png")
    box = [{"x": x, "y": y} for x, y in ((1, 1), (6, 1), (6, 6), (1, 6))]
    outlines = {"non-malignant stroma": [{"geometry": box}], "malignant": [{"geometry": box[:2]}]}
    records = [{"External ID": f"c{i}.png", "Label": outlines} for i in range(5)]
    write_json(root / "hn" / "export.json", records)


def write_input(root, seed):
    """Input of all scripts at `root`, and two untrained networks."""
    write_tiny_data_set(root / "tiny", seed=seed)
    alike = write_tiny_data_set(root / "alike")  # of any seed the same labels, and so what networks learnt from
    Image.fromarray(np.full((16, 16, 3), 80 * seed, np.uint8)).save(alike / "labelled" / "images" / "image_0.png")
    write_test_set(root / "dark", dark=bool(seed))
    write_raw(root, seed)
    torch.manual_seed(seed)
    run = {"epoch": 1 + seed, "loss": 1.0, "stage": "pretrain", "settings": {"timesteps": 20}, "patch_size": 16}
    checkpoint.save(root / "pre.pth", {**run, "model_state_dict": DiffusionNet(8).state_dict()})
    network = ConditionedNet(8)
    for spade in network.spades.modules():  # as after a training
        if isinstance(spade, nn.Conv2d):
            nn.init.normal_(spade.weight, 0, 0.3)
    noise = {"timesteps": 20, "schedule": "linear", "input_range": [-1.0, 1.0], "drop": 0.2}
    for stage, drawing in (("structures", DiffusionNet(8)), ("images", network)):
        about = {**run, "stage": stage, "settings": noise, "typical_area": 40.0}
        about["labels"] = learnt_from(PatchDataset([labelled_patches(alike)], "train", 0))
        checkpoint.save(root / f"{stage}_pre.pth", {**about, "model_state_dict": drawing.state_dict()})
    run |= {"stage": "finetune", "classes": ["background", "nucleus"], "settings": {"input_range": [0.0, 1.0]}}
    checkpoint.save(root / "run" / "best.pth", {**run, "model_state_dict": SegNet(8, 2).state_dict()})
    return root


class Dark(nn.Module):
    """Dark is class 1, one pixel beside the place, so that flips tell; less sure in the other run's epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 3, 1, 1), -7.3 / epoch))

    def forward(self, x):
        dark = torch.conv2d(x, self.weight).roll((1, 2), (2, 3)) + 1.5 * 7.3
        return torch.cat((-dark, dark), dim=1)


# --- a run, and what is seen of it ---


def base_settings(script, here, output):
    """A base run of each script."""
    if script is image_generation:
        return script.Settings(
            pretrained=str(here / "pre.pth"), data=(here / "tiny",), output=output, count=3, batch_size=2,
            sampler="ddim", steps=4, device="cpu",
        )  # fmt: skip
    if script is sample_images:
        return script.Settings(data=(here / "tiny",), output=output, count=3)
    if script is test_script:
        return script.Settings(run=str(here / "run"), data=here / "dark", output=output, device="cpu", pictures=0)
    if script is baselines:
        return script.Settings(data=here / "dark", output=output, pictures=0)
    if script is choose_labels:
        return script.Settings(
            data=here / "tiny", output=output, pretrained=str(here / "pre.pth"), by="clusters", clusters=2,
            fraction=0.5, batch_size=4, device="cpu",
        )  # fmt: skip
    if script is synthesize:
        runs = {name: str(here / f"{name}_pre.pth") for name in ("structures", "images")}
        return script.Settings(
            data=here / "tiny",
            output=output,
            count=3,
            batch_size=2,
            sampler="dpm-solver++",
            steps=4,
            device="cpu",
            **runs,
        )
    if script is make_demo_data:
        return script.Settings(output=output, training_images=1, test_images=2, size=64)
    cut = {"output": output, "patch_size": 8, "stride": 8, "mpp": 0.25}
    if script is own_data:
        return script.Settings(images=here / "own" / "images", labels=here / "own" / "labels", **cut)
    if script is pseudo_labels:
        return script.Settings(images=here / "own" / "images", run=str(here / "run"), device="cpu", **cut)
    raw = {monuseg: "monuseg", glas: "glas", hn: "hn"}[script]
    return script.Settings(raw=here / raw, **cut)


def content(file):
    """Of a file, but for what says only which settings there were, and how long it took."""
    if file.name != "summary.json":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return json.dumps({k: v for k, v in read_json(file).items() if k not in ("settings", "seconds")})


def observe(script, settings):
    """What a run does and leaves: its files by name, and the rest under the names that the tables use."""
    batches = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw_report", lambda folder, _: (folder / "report.html").touch())  # drawn, a second
        load = predictor.load_segmentation
        patch.setattr(predictor, "load_segmentation", lambda *a: (Dark((found := load(*a)[1])["epoch"]), found))
        forward = InPrecision.forward
        patch.setattr(InPrecision, "forward", lambda n, x, *more: batches.append(len(x)) or forward(n, x, *more))
        try:
            script.main(settings)
        except InputError as error:
            return {"refused": str(error)}
    files = [f for f in settings.output.rglob("*") if f.is_file() and f.name not in RECORDS]
    seen = {str(file.relative_to(settings.output)): content(file) for file in files}
    return seen | {"folder": settings.output, "batches": max(batches, default=None), "refused": None}


def filled_in(value, there):
    """A value of the tables with the folder of the other input in it, of the type that its setting has."""
    if isinstance(value, tuple):
        return tuple(filled_in(v, there) for v in value)
    if not isinstance(value, str) or "{there}" not in value:
        return value
    text = value.replace("{there}", str(there))
    return text if text.endswith(("run", "pre.pth")) else Path(text)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A function of the script: its base settings, what they lead to, made once, and the folder of other input."""
    root, done = tmp_path_factory.mktemp("base"), {}
    here, there = (write_input(root / name, seed) for seed, name in enumerate(("here", "there")))

    def make(script):
        if script not in done:
            settings = base_settings(script, here, root / script.__name__ / "output")
            done[script] = settings, observe(script, settings), there
        return done[script]

    return make


@pytest.mark.parametrize("script", TABLES, ids=name_of)
def test_every_setting_is_in_the_table(script):
    names = {f.name for f in fields(script.Settings)}
    assert names == {*TABLES[script], *(APART & names)}


@pytest.mark.parametrize(("general", "single"), [(image_generation_general, image_generation),
                                                 (sample_images_general, sample_images)], ids=name_of)  # fmt: skip
def test_the_general_scripts_have_the_settings_of_the_others(general, single):
    assert [f.name for f in fields(general.Settings)] == [f.name for f in fields(single.Settings)]
    assert getattr(general, single.__name__) is single


@pytest.mark.parametrize(("script", "name"), CASES, ids=name_of)
def test_a_setting_changes_what_it_should(script, name, base, tmp_path):
    settings, before, there = base(script)
    assert before["refused"] is None
    value, pattern = TABLES[script][name]
    changes = {"output": tmp_path / "output", name: filled_in(value, there)}
    if name == "output":
        changes = {"output": tmp_path / value}
    if script is own_data and name in ("images", "labels"):
        changes |= {kind: there / "own" / kind for kind in ("images", "labels")}
    if script is hn and name == "class_names":
        changes["raw"] = renamed_class(settings.raw, tmp_path / "raw")
    after = observe(script, replace(settings, **changes))
    differ = {what for what in {*before, *after} - {"folder"} if before.get(what) != after.get(what)}
    if name == "output":
        assert after["folder"] == tmp_path / value and not differ
    else:
        assert any(fnmatch(what, pattern) for what in differ), sorted(differ)[:20]
    if pattern == "batches":
        assert differ == {"batches"} or all(fnmatch(what, "*image*.png") or what == "batches" for what in differ)
    if pattern == "refused":
        assert f"{value!r}" in after["refused"]


def renamed_class(raw, target):
    """The Labelbox export with a class of the user's own name."""
    target.mkdir()
    (target / "labelled_images").symlink_to(raw / "labelled_images")
    text = (raw / "export.json").read_text()
    (target / "export.json").write_text(text.replace("non-malignant stroma", "bed"))
    return target


@pytest.mark.parametrize("script", KEEPING, ids=name_of)
def test_only_overwrite_replaces_what_is_there(script, base):
    settings, before, _ = base(script)
    assert "--overwrite replaces" in observe(script, settings)["refused"]
    again = observe(script, replace(settings, overwrite=True))
    assert {k: v for k, v in again.items() if k != "batches"} == {k: v for k, v in before.items() if k != "batches"}
