import hashlib
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from PIL import Image

from GenSelfDiff.augmentation import finetuning_augmentation
from GenSelfDiff.data import (
    EpochBatches,
    PatchDataset,
    _end_worker,
    labelled_folder,
    loader,
    pretraining_folder,
    stop_workers,
    to_image,
    to_input,
    worker_errors_explained,
)
from GenSelfDiff.devices import Devices
from GenSelfDiff.patches import Patches
from GenSelfDiff.training import to_device
from utils_general import InputError

CPU = Devices(torch.device("cpu"))


def batches(*arguments, rank=0, world_size=1, first=0, epoch=0, shuffle=True):
    sampler = EpochBatches(*arguments, Devices(torch.device("cpu"), rank=rank, world_size=world_size), shuffle)
    start = epoch * len(sampler)
    sampler.first, sampler.end = start + first, start + len(sampler)
    return list(sampler)


def test_input_range_and_back_is_exact_for_all_values():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for input_range in ((-1.0, 1.0), (0.0, 1.0)):
        x = to_input(image, input_range)
        assert (x.min().item(), x.max().item()) == input_range and x.shape == (3, 16, 16)
        assert (to_image(x, input_range) == image).all()


def test_a_batch_becomes_input_as_its_images_do():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3), np.uint8)
    batch = to_input(torch.from_numpy(images), (-1.0, 1.0))
    assert batch.is_contiguous() and torch.equal(batch, torch.stack([to_input(image, (-1.0, 1.0)) for image in images]))
    by_hand = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    assert (batch.numpy() == by_hand).all()


def test_images_out_of_range_are_clamped_not_wrapped():
    assert to_image(torch.tensor([-1.2, 1.2, 0.0]).reshape(3, 1, 1), (-1.0, 1.0)).flatten().tolist() == [0, 255, 128]


def test_an_epoch_holds_every_patch_once_in_a_new_order():
    first, second = batches(12, 4, 7), batches(12, 4, 7, epoch=1)
    assert sorted(i for b in first for _, i in b) == list(range(12))
    assert [[i for _, i in b] for b in first] != [[i for _, i in b] for b in second]
    assert {e for b in second for e, _ in b} == {1}
    assert batches(12, 4, 7) == first


def test_the_seed_decides_the_order():
    assert batches(12, 4, 7) != batches(12, 4, 8)
    order = np.random.default_rng(np.random.SeedSequence((7, 3)).generate_state(1)[0]).permutation(12)
    assert [i for b in batches(12, 4, 7, epoch=3) for _, i in b] == order.tolist()  # runs of earlier versions go on


def test_going_on_in_mid_epoch():
    assert batches(20, 4, 7, first=3) == batches(20, 4, 7)[3:]


def test_last_incomplete_batch_is_left_out_of_training_only():
    assert [len(b) for b in batches(10, 4, 0)] == [4, 4]
    assert [len(b) for b in batches(10, 4, 0, shuffle=False)] == [4, 4, 2]
    assert [len(b) for b in batches(3, 8, 0)] == [3]


def test_processes_share_each_joint_batch():
    shares = [batches(16, 2, 7, rank=r, world_size=2) for r in range(2)]
    joint = batches(16, 4, 7)
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(b) for b in joint]
    held_out = [batches(5, 2, 7, rank=r, world_size=2, shuffle=False) for r in range(2)]
    assert sorted(i for share in held_out for b in share for _, i in b) == list(range(5))


def test_a_data_set_smaller_than_a_joint_batch_is_divided_evenly():
    shares = [batches(5, 8, 0, rank=r, world_size=2) for r in range(2)]
    assert [len(b) for share in shares for b in share] == [2, 2]
    with pytest.raises(InputError, match="1 training patches are too few for 2 processes"):
        batches(1, 8, 0, world_size=2)


def test_the_seed_decides_the_augmentation_and_what_is_drawn_later(tiny_data_set):
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    one, other = ([PatchDataset([patches], "train", s, finetuning_augmentation())[0, i] for i in range(8)]
                  for s in (5, 6))  # fmt: skip
    assert not {item["seed"] for item in one} & {item["seed"] for item in other}
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))


def test_augmentation_leaves_the_random_numbers_of_others_alone(tiny_data_set):
    dataset = PatchDataset([Patches(tiny_data_set / "labelled")], "train", 5, finetuning_augmentation())
    state = torch.random.get_rng_state()
    dataset[0, 0]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_items_depend_on_epoch_and_seed_only(tiny_data_set):
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    one, two = (PatchDataset([patches], "train", 5, finetuning_augmentation()) for _ in range(2))
    state = torch.random.get_rng_state()
    items = [one[3, i] for i in range(8)]
    torch.manual_seed(99)
    again = [two[3, i] for i in reversed(range(8))][::-1]
    assert all(
        torch.equal(a["image"], b["image"]) and a["seed"] == b["seed"] for a, b in zip(items, again, strict=True)
    )
    other = [one[4, i] for i in range(8)]
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(items, other, strict=True))
    torch.random.set_rng_state(state)


def test_items_are_small_until_they_are_where_the_network_is(tiny_data_set):
    """A byte a value; images as on disk, and the label too."""
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    item = PatchDataset([patches], "train", 0)[0, 5]
    assert item["image"].dtype == item["label"].dtype == torch.uint8
    assert (item["image"].numpy() == patches.image(5)).all() and (item["label"].numpy() == patches.label(5)).all()
    batch = {"image": item["image"][None], "label": item["label"][None], "file": [item["file"]]}
    moved = to_device(batch, CPU, (-1.0, 1.0))
    assert torch.equal(moved["image"][0], to_input(patches.image(5).copy(), (-1.0, 1.0)))
    assert moved["label"].dtype == torch.int64 and moved["file"] == batch["file"]
    assert set(to_device({"image": batch["image"]}, CPU, (0.0, 1.0))) == {"image"}


@pytest.mark.parametrize("classes", [256, 257, 300])
def test_many_classes_take_more_than_a_byte(tiny_data_set, classes):
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    label = np.full((16, 16), classes - 1, np.uint16)
    Image.fromarray(label).save(tiny_data_set / "labelled" / "labels" / "label_0.png")
    patches.data_set.classes[:] = [f"class {c}" for c in range(classes)]
    item = PatchDataset([patches], "train", 0)[0, 0]
    assert item["label"].max() == classes - 1 and (item["label"].dtype == torch.uint8) == (classes == 256)


def test_several_data_sets_are_one(tiny_data_set, tmp_path, write_patches):
    write_patches(tmp_path / "b" / "labelled", ["x"], ["train"], seed=9)
    (tmp_path / "b" / "dataset.json").write_text((tiny_data_set / "dataset.json").read_text())
    folders = [Patches(pretraining_folder(root)) for root in (tiny_data_set, tmp_path / "b")]
    both = PatchDataset(folders, "train", 0)
    assert len(both) == 8 + 4
    names = [f"{tiny_data_set}/unlabelled/images/image_{i}.png" for i in range(8)]
    names += [f"{tmp_path}/b/labelled/images/image_{i}.png" for i in range(4)]  # it has no unlabelled ones
    assert [both[0, i]["file"] for i in range(12)] == names


def test_patches_of_two_sizes_do_not_mix(tiny_data_set, tmp_path, write_patches):
    write_patches(tmp_path / "b" / "labelled", ["x"], ["train"], size=24)
    text = (tiny_data_set / "dataset.json").read_text().replace('"patch_size": 16', '"patch_size": 24')
    (tmp_path / "b" / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"\[16, 24\] pixels: one size is needed"):
        PatchDataset([Patches(tiny_data_set / "unlabelled"), Patches(tmp_path / "b" / "labelled")], "train", 0)


def test_few_labels(tiny_data_set):
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    first = np.random.RandomState(2023).permutation(2)[0]
    patches.keep_sources(1)
    assert len(patches.select("train")) == 4 and len(patches.select("val")) == 4
    assert set(patches.index.source[patches.index.split == "train"]) == {("l1", "l2")[first]}
    with pytest.raises(InputError, match="5 labelled images were asked for"):
        patches.keep_sources(5)


def test_workers_live_as_long_as_their_loader(tiny_data_set):
    """Started anew they would import everything at each epoch."""
    dataset = PatchDataset([Patches(tiny_data_set / "labelled")], "train", 0)
    for workers in (0, 2):
        made = loader(dataset, EpochBatches(8, 4, 0, CPU, shuffle=True), workers, CPU)
        assert (made.num_workers, made.persistent_workers) == (workers, workers > 0)


def test_labels_are_not_looked_for_where_none_are_wanted(tiny_data_set):
    """Pre-training may use the images of labelled patches: whatever is beside them is left alone."""
    (tiny_data_set / "labelled" / "instances" / "instance_0.png").unlink()
    patches = Patches(tiny_data_set / "labelled")
    assert not patches.has_instances and patches.instances(1) is None


def test_a_folder_that_does_not_say_its_splits_is_named(tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"image_{i}.png")
    PatchDataset([Patches(tmp_path)], "train", 0)
    assert f"{tmp_path} has no index.csv: split 90/10 by patch" in capsys.readouterr().out


def test_a_label_of_another_size_is_named(tiny_data_set):
    Image.new("L", (16, 24)).save(tiny_data_set / "labelled" / "labels" / "label_3.png")
    with pytest.raises(InputError, match=r"label of patch 3 in .* is 16x24 pixels; its image is 16x16"):
        Patches(tiny_data_set / "labelled", labelled=True).check_labels(2)


def test_a_negative_class_is_named(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "image_0.png")
    scipy.io.savemat(tmp_path / "label_patches.mat", {"data": np.full((1, 16, 16), -1, np.int16)})
    with pytest.raises(InputError, match="holds class -1; 0 to 255 are allowed"):
        Patches(tmp_path, labelled=True).check_labels(2)


@pytest.fixture
def released(tmp_path):
    """A folder as the released preprocessing wrote it, image_<i>.jpg and label_patches.mat: 10 patches, 3 classes."""
    folder = tmp_path / "train"
    (folder / "images").mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(folder / "images" / f"image_{i}.jpg")
    labels = np.zeros((10, 16, 16), np.uint8)
    labels[7, 2:5] = 2
    scipy.io.savemat(folder / "label_patches.mat", {"data": labels, "label": "train_labels"})
    return folder


def test_released_layout(released):
    patches = Patches(labelled_folder(released.parent), labelled=True)
    label = np.zeros((16, 16))
    label[2:5] = 2
    assert (patches.label(7) == label).all() and patches.image(9)[0, 0, 0] == pytest.approx(180, abs=3)
    assert not patches.label(6).any() and patches.label(7).dtype == np.int32
    assert patches.data_set.classes == ["background", "class 1", "class 2"]
    validation = set(np.random.RandomState(2023).permutation(10)[9:])
    assert set(patches.select("val")) == validation and len(patches.select("train")) == 9
    with pytest.raises(InputError, match="neither index.csv nor label_patches.mat"):
        (released / "label_patches.mat").unlink()
        Patches(released, labelled=True)


def test_a_matrix_that_kills_its_reader_is_one_line(released):
    """At byte 184 the file names the type of the numbers: with 255 there, SciPy 1.17 dies of a segmentation fault."""
    file = released / "label_patches.mat"
    content = bytearray(file.read_bytes())
    content[184] = 255
    file.write_bytes(content)
    said = r"label_patches\.mat(: its reader crashed \(SIGSEGV\)| cannot be read)"
    with pytest.raises(InputError, match=said) as raised:
        Patches(released, labelled=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"labels": np.zeros((10, 16, 16))}, "cannot be read as a MATLAB file with an array 'data'"),
        ({"data": "text"}, "holds no array of class indices in 'data'"),
        ({"data": {"a": 1}}, "holds no array of class indices in 'data'"),
        ({"data": np.full((10, 16, 16), 299)}, "holds class 299; 0 to 255 are allowed"),
        ({"data": np.full((10, 16, 16), -1)}, "holds class -1"),
        ({"data": np.full((10, 16, 16), np.nan)}, "holds class nan"),
        ({"data": np.full((10, 16, 16), 0.5)}, "holds 0.5: whole numbers are wanted"),
        ({"data": np.zeros((9, 16, 16))}, r"labels \(9, 16, 16\), the folder 10 patches of \(16, 16\)"),
        ({"data": np.zeros((0, 0))}, r"labels \(0, 0\), the folder 10 patches"),
    ],
)
def test_a_matrix_that_holds_no_labels_is_refused(released, data, message):
    scipy.io.savemat(released / "label_patches.mat", data)
    with pytest.raises(InputError, match=f"label_patches.mat.* {message}"):
        Patches(released, labelled=True)


def test_a_number_of_any_length_in_a_name(released):
    (released / "images" / "image_0.jpg").rename(released / "images" / f"image_{'9' * 30}.jpg")
    with pytest.raises(InputError, match="9999.jpg is not named image_<number>"):
        Patches(released)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "images" / "image_3.png").unlink(), "1 of 12 files are missing in .*images: image_3.png"),
        (lambda f: (f / "labels" / "label_3.png").unlink(), "missing in .*labels: label_3.png"),
        (lambda f: (f / "instances" / "instance_0.png").unlink(), "missing in .*instances"),
        (lambda f: Image.new("L", (16, 16)).save(f / "labels" / "label_99.png"), "index.csv does not know: label_99"),
        (lambda f: (f / "images" / "image_03.png").touch(), "index.csv does not know: image_03.png"),
        (lambda f: (f / "index.csv").write_text("patch,source,x,y,split\na,b,0,0,val\n"), "something else than whole"),
        (lambda f: (f / "index.csv").write_text("patch,source,x,y,split\n"), "index.csv wants a row a patch"),
        (lambda f: (f / "index.csv").write_text("patch,x\n1,2\n"), "index.csv wants .* patch, source, x, y, split"),
        (lambda f: (f / "index.csv").write_text("patch,source,x,y,split\n0,a,0,0,val\n0,a,0,0,val\n"), "patch 0 twice"),
        (lambda f: (f.parent / "dataset.json").write_text('{"colour": 1}'), "dataset.json is not what preprocess.py"),
        (lambda f: (f.parent / "dataset.json").write_text("{"), "dataset.json is not valid JSON"),
        (lambda f: (f.parent / "dataset.json").unlink(), "holds no dataset.json"),
    ],
)
def test_incomplete_folders_are_refused(tiny_data_set, damage, message):
    damage(tiny_data_set / "labelled")
    with pytest.raises(InputError, match=message):
        Patches(tiny_data_set / "labelled", labelled=True)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Patches(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no image in"):
        Patches(tmp_path)


def test_a_class_too_many_is_named(tiny_data_set):
    Image.fromarray(np.full((16, 16), 5, np.uint8)).save(tiny_data_set / "labelled" / "labels" / "label_2.png")
    with pytest.raises(InputError, match="label of patch 2 .* holds class 5; with 2 classes, 0 to 1 are allowed"):
        Patches(tiny_data_set / "labelled", labelled=True).check_labels(2)


def test_a_truncated_image_is_named(tiny_data_set):
    file = tiny_data_set / "labelled" / "images" / "image_0.png"
    file.write_bytes(file.read_bytes()[:200])
    dataset = PatchDataset([Patches(tiny_data_set / "labelled")], "train", 0)
    with pytest.raises(InputError, match="cannot read image .*image_0.png"):
        dataset[0, 0]


def test_nothing_is_kept_of_each_patch_but_numbers(tiny_data_set):
    """A path or a string a patch would make each process and worker grow with the data set."""
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    assert patches.index.dtypes.astype(str).tolist() == ["int64", "category", "int64", "int64", "category"]
    assert patches.file(3) == tiny_data_set / "labelled" / "images" / "image_3.png"
    assert list(patches.files) == list(range(12)) and patches.files[3] == patches.file(3)
    many = pd.concat([patches.index] * 100, ignore_index=True).assign(patch=range(1200))
    patches.index = many.astype(patches.index.dtypes)
    assert len(pickle.dumps(PatchDataset([patches], "train", 0))) < 1200 * 45  # its number twice, x, y, 2 codes


def test_the_fingerprint_is_that_of_earlier_versions(tiny_data_set, tmp_path, write_patches):
    """The hash of the rows as text, so that runs go on; in pieces, in the order of the folders."""
    write_patches(tmp_path / "b" / "unlabelled", ["x", "y"], ["train", "val"], labelled=False)
    (tmp_path / "b" / "dataset.json").write_text((tiny_data_set / "dataset.json").read_text())
    roots = (tiny_data_set / "unlabelled", tmp_path / "b" / "unlabelled")
    for split in ("train", "val", "test"):
        tables = [pd.read_csv(root / "index.csv", dtype={"source": str}) for root in roots]
        text = "".join(table[table.split == split].to_csv(index=False) for table in tables)
        dataset = PatchDataset([Patches(root) for root in roots], split, 0)
        assert dataset.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_sources_that_look_like_numbers_stay_names(tiny_data_set):
    index = tiny_data_set / "labelled" / "index.csv"
    index.write_text(index.read_text().replace("l1", "007").replace("l2", "1e3").replace("l3", "8"))
    assert set(Patches(tiny_data_set / "labelled").index.source) == {"007", "1e3", "8"}


def test_released_names_may_be_padded_but_not_double(tmp_path):
    for i in (2, 10, 1):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / f"image_{i:03d}.jpg")
    patches = Patches(tmp_path)
    assert [f.name for f in patches.files.values()] == ["image_001.jpg", "image_002.jpg", "image_010.jpg"]
    assert patches.index.source.tolist() == ["image_001", "image_002", "image_010"]
    assert patches.image(10)[0, 0, 0] == pytest.approx(200, abs=3)
    Image.new("RGB", (16, 16)).save(tmp_path / "image_2.png")
    with pytest.raises(InputError, match=r"holds image_.* and image_.*: one image of each number is wanted"):
        Patches(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "overview.png")
    with pytest.raises(InputError, match="overview.png is not named image_<number>"):
        Patches(tmp_path)


CHANGES = {
    "deleted": (lambda file: file.unlink(), "label_2.png is missing"),
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:60]), "cannot read label image .*label_2.png"),
    "smaller": (lambda file: Image.new("L", (8, 8)).save(file), "label of patch 2 .* is 8x8 pixels now, not 16x16"),
    "of another class": (lambda file: Image.new("L", (16, 16), 2).save(file), "label of patch 2 .* holds class 2 now"),
    "as another class in a byte": (
        lambda file: Image.fromarray(np.full((16, 16), 257, np.uint16)).save(file),
        "label of patch 2 .* holds class 257 now",
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("change", CHANGES)
def test_labels_that_change_while_training_end_it_in_one_line(change, workers, tiny_data_set):
    """The message is the reader's, without the traceback that a worker puts in front."""
    patches = Patches(tiny_data_set / "labelled", labelled=True)
    dataset = PatchDataset([patches], "train", 0)
    alter, message = CHANGES[change]
    alter(patches.layout.label_file(2))
    reader = loader(dataset, EpochBatches(len(dataset), 4, 0, CPU, shuffle=False), workers, CPU)
    try:
        with pytest.raises(InputError, match=f"^[^\n]*{message}[^\n]*$"), worker_errors_explained():
            list(reader)
    finally:
        stop_workers(reader)


class OfPaths:
    """A data set whose items fail as the system does where a worker reads them."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, key):
        raise self.error


FAILURES = [
    (PermissionError(13, "Permission denied", "/data/a.png"), "cannot go on: .*Permission denied: '/data/a.png'"),
    (OSError(24, "Too many open files", "/data/a.png"), "too many files are open; allow more, ulimit -n"),
    (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left"), "/dev/shm, has no room"),
]


@pytest.mark.parametrize(("error", "message"), FAILURES)
def test_what_fails_in_a_worker_is_one_line(error, message):
    reader = loader(OfPaths(error), EpochBatches(8, 2, 0, CPU, shuffle=False), 1, CPU)
    try:
        with pytest.raises(InputError, match=message) as explained, worker_errors_explained():
            list(reader)
    finally:
        stop_workers(reader)
    assert "\n" not in str(explained.value)


def test_other_errors_of_workers_keep_their_traceback():
    with pytest.raises(RuntimeError, match="ours"), worker_errors_explained():
        raise RuntimeError("ours")


def run_limited(limits, body):
    """Read 400 items with 4 workers in a new process with limits on its open files, soft and hard."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
import torch
from GenSelfDiff import data
from GenSelfDiff.data import *
from dataclasses import dataclass
from utils_general import run_script
class Items(Dataset):
    def __getitem__(self, key):
        return {{name: torch.zeros(64) for name in "abcd"}}
class Unsendable:
    def __reduce__(self):
        raise OSError(24, "Too many open files")
class Unsent(Items):
    def __getitem__(self, key):
        return Unsendable()
@dataclass
class Settings:
    pass
def read(items, collate=None):
    cpu = Devices(torch.device("cpu"))
    reader = loader(items, EpochBatches(400, 4, 0, cpu, shuffle=False), 4, cpu)
    reader.collate_fn = collate or reader.collate_fn
    try:
        with worker_errors_explained():
            print(sum(1 for _ in reader))
    finally:
        stop_workers(reader)
def main(settings):
    {body}
run_script(main, Settings)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    )  # fmt: skip


def test_too_few_open_files_are_noticed_at_the_start():
    done = run_limited((40, 40), "read(Items())")
    assert done.returncode == 1 and "error: 128 open files are needed for so many --workers, 40 are" in done.stderr
    done = run_limited((40, 400), "read(Items())")  # what is allowed is taken
    assert (done.returncode, done.stdout) == (0, "100\n")


def test_too_few_open_files_in_spite_of_that_end_the_run():
    """It hung at its end, for a loader that failed while it started its workers did not know them."""
    done = run_limited((40, 40), "data.FILES = data.FILES_A_WORKER = 1; read(Items())")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: too many files are open")


def test_a_batch_that_a_worker_cannot_send_ends_the_run():
    """It hung: the thread that sends drops what it cannot send."""
    done = run_limited((400, 400), "read(Unsent(), collate=lambda items: items[0])")
    assert done.returncode == 1 and "a batch could not be handed on" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: a process that reads patches died")


def test_a_workers_last_words_are_one_piece(monkeypatch):
    """Its other thread may end it between two writes: the main process's error would not begin a line."""
    written = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    monkeypatch.setattr("os._exit", written.append)
    _end_worker(OSError("no room"), None)
    assert written == ["a batch could not be handed on: no room\n", 1]
