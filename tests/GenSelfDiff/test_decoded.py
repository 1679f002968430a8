"""The decoded copy of patches (`--cache`): same bits, same order; made once, and anew when patches change."""

import multiprocessing
import os
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from GenSelfDiff import data, decoded
from GenSelfDiff.augmentation import finetuning_augmentation
from GenSelfDiff.data import EpochBatches, PatchDataset, loader, stop_workers
from GenSelfDiff.decoded import read_decoded
from GenSelfDiff.devices import Devices
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.patches import IndexedLayout, Patches
from GenSelfDiff.pretrain import SS_diff
from tests.GenSelfDiff.runs import assert_same_run, command, start
from utils_general import InputError

CPU = Devices(torch.device("cpu"))


@pytest.fixture
def folder(tiny_data_set):
    """A folder of 12 labelled patches."""
    return tiny_data_set / "labelled"


def read(folder, cache, workers=0):
    """All training batches of an epoch, augmented."""
    patches = Patches(folder, labelled=True)
    if cache:
        read_decoded(patches, workers)
    dataset = PatchDataset([patches], "train", 5, finetuning_augmentation(True, 0.05))
    reader = loader(dataset, EpochBatches(len(dataset), 4, 5, CPU, shuffle=True), workers, CPU)
    batches = list(reader)
    stop_workers(reader)
    return batches


def copies(folder):
    """The files of the copy, without the lock."""
    return sorted(f for f in (folder / ".cache").iterdir() if f.name != "lock")


def slowly(monkeypatch, seconds):
    """Let every image take its time, as on a data set of 300,000."""
    image = IndexedLayout.image
    monkeypatch.setattr(IndexedLayout, "image", lambda layout, patch: time.sleep(seconds) or image(layout, patch))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_bits_in_the_same_order(folder, workers):
    for one, other in zip(read(folder, False), read(folder, True, workers), strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["label"], other["label"])
        assert one["file"] == other["file"] and torch.equal(one["seed"], other["seed"])


def test_files_are_decoded_once(folder, capsys):
    read(folder, True)
    assert [f.name.partition("-")[0] for f in copies(folder)] == ["image", "label"]
    assert "12 images of" in capsys.readouterr().out
    made = [f.stat().st_mtime_ns for f in copies(folder)]
    patches = Patches(folder, labelled=True)
    patches.keep_sources(1)  # another choice of the same patches
    read_decoded(patches, 0)
    assert [f.stat().st_mtime_ns for f in copies(folder)] == made and capsys.readouterr().out == ""
    wanted = [Patches(folder, labelled=True).image(i) for i in range(12)]
    shutil.rmtree(folder / "images")
    assert all((patches.image(i) == wanted[i]).all() for i in range(12))
    sent = pickle.dumps(patches)  # to a worker that is not forked: the path, not the pixels
    assert len(sent) < 12 * 16 * 16 * 2 and (pickle.loads(sent).image(7) == wanted[7]).all()


def test_a_changed_patch_makes_a_new_copy(folder):
    read(folder, True)
    before = copies(folder)
    file = folder / "images" / "image_3.png"
    Image.fromarray(255 - Patches(folder).image(3)).save(file)
    patches = Patches(folder, labelled=True)
    read_decoded(patches, 0)
    assert (patches.image(3) == IndexedLayout(folder, True).image(3)).all()
    assert copies(folder)[0] != before[0] and copies(folder)[1:] == before[1:]  # the labels are as they were
    os.utime(file, ns=(0, 0))
    read_decoded(Patches(folder), 0)
    assert len(copies(folder)) == 2


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_copy_is_named_by_the_size_and_the_time_of_each_file(folder, what):
    read(folder, True)
    before, file = copies(folder), folder / "images" / "image_3.png"
    time_of_change = file.stat().st_mtime_ns
    if what == "size":
        file.write_bytes(file.read_bytes() + b" ")
        os.utime(file, ns=(time_of_change, time_of_change))
    else:
        os.utime(file, ns=(time_of_change, time_of_change + 1))
    read(folder, True)
    assert copies(folder)[0] != before[0] and copies(folder)[1:] == before[1:]


def test_a_copy_of_another_shape_is_made_again(folder):
    wanted = read(folder, True)
    np.save(copies(folder)[0], np.zeros((12, 16, 8, 3), np.uint8))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(wanted, read(folder, True), strict=True))


def test_a_broken_copy_is_made_again(folder):
    wanted = read(folder, True)
    broken = copies(folder)[0]
    broken.write_bytes(broken.read_bytes()[:300])
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(wanted, read(folder, True), strict=True))


def test_other_checks_of_the_folder_do_not_see_it(folder, tmp_path):
    read(folder, True)
    assert len(Patches(folder, labelled=True)) == 12
    released = tmp_path / "released"
    released.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(released / f"image_{i}.jpg")
    labels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    scipy.io.savemat(released / "label_patches.mat", {"data": labels})
    for _ in range(2):
        patches = Patches(released, labelled=True)
        read_decoded(patches, 0)
        assert len(patches) == 4 and patches.image(3)[0, 0, 0] == pytest.approx(60, abs=3)
        assert [patches.label(i).max() for i in range(4)] == [0, 1, 2, 3] and patches.label(1).dtype == np.int32


def test_killed_while_decoding(folder, monkeypatch):
    slowly(monkeypatch, 0.2)
    process = multiprocessing.get_context("fork").Process(target=read_decoded, args=(Patches(folder), 0))
    process.start()
    while not list(folder.glob(".cache/.image-*.unfinished")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(copies(folder)) == 1  # the half one
    monkeypatch.undo()
    read_decoded(Patches(folder), 0)
    assert [f.name.startswith("image-") for f in copies(folder)] == [True]


def test_two_runs_at_once_decode_once(folder, monkeypatch):
    slowly(monkeypatch, 0.05)
    context = multiprocessing.get_context("fork")
    decoding, results = context.Value("i", 0), context.Queue()
    write = decoded._Copy._write

    def counted(copy, workers):
        with decoding:
            decoding.value += 1
        write(copy, workers)

    def run():
        patches = Patches(folder)
        read_decoded(patches, 0)
        results.put(patches.image(11))

    monkeypatch.setattr(decoded._Copy, "_write", counted)
    processes = [context.Process(target=run) for _ in range(2)]
    for process in processes:
        process.start()
    wanted = IndexedLayout(folder, False).image(11)
    assert all((results.get(timeout=60) == wanted).all() for _ in processes)
    for process in processes:
        process.join()
    assert decoding.value == 1


def test_what_cannot_be_written_is_one_line(folder, monkeypatch):
    (folder / ".cache").touch()
    with pytest.raises(InputError, match=r"--cache cannot write .*\.cache: .*; leave --cache out, or use a copy"):
        read_decoded(Patches(folder), 0)
    (folder / ".cache").unlink()
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: usage._replace(free=9000))
    with pytest.raises(InputError, match=r"--cache needs 0.00 GB for the images in .*, 0.00 GB are free: make room"):
        read_decoded(Patches(folder), 0)
    assert copies(folder) == []


def test_a_patch_of_another_size_is_named_and_nothing_is_left(folder):
    Image.new("RGB", (24, 16)).save(folder / "images" / "image_9.png")
    with pytest.raises(InputError, match=r"image_9.png is 24x16 pixels, not 16x16"):
        read_decoded(Patches(folder), 0)
    assert copies(folder) == []


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
def test_a_run_may_go_on_with_or_without(stage, request, tmp_path):
    settings = replace(request.getfixturevalue(stage), epochs=4)
    main = SS_diff.main if stage == "pretraining" else Diff_Seg.main
    main(settings)
    turned = replace(settings, run_name=str(tmp_path / "turned"))
    for epochs, cache in ((1, True), (2, False), (4, True)):
        main(replace(turned, epochs=epochs, cache=cache))
    assert_same_run(settings.run_name, turned.run_name)


def test_a_run_reads_the_copy_not_the_files(pretraining, monkeypatch):
    """But for the few whose pixels tell whether it goes on with the same images."""
    monkeypatch.setattr(data, "SEEN", 0)
    SS_diff.main(replace(pretraining, cache=True, epochs=1))
    monkeypatch.setattr(IndexedLayout, "image", lambda *_: pytest.fail("a file was decoded"))
    another = replace(pretraining, cache=True, epochs=2, workers=1, run_name=f"{pretraining.run_name}_again")
    SS_diff.main(another)
    assert (Path(another.run_name) / "last.pth").is_file()


def test_a_truncated_image_ends_in_one_line(pretraining, tiny_data_set):
    for file in (tiny_data_set / "unlabelled" / "images").iterdir():
        file.write_bytes(file.read_bytes()[:150])
    process = start(command(replace(pretraining, workers=1, cache=True)))
    output, _ = process.communicate()
    assert process.returncode == 1
    assert output.strip().splitlines()[-1].startswith("error: cannot read image") and "Traceback" not in output
