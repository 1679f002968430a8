"""What grids of small runs share: what a test reads, and what a row says of how it was made."""

import subprocess

import numpy as np
import pytest

from experiments import training_runs
from experiments.records import Records
from experiments.training_runs import about, commit, what_is_tested
from tests.conftest import ROOT
from utils_general import read_index_map, read_json, read_rgb, write_json, write_png


@pytest.fixture
def reduced(tiny_data_set):
    """A data set of reduced images, whose test images are of two parts, as those of GlaS."""
    write_json(tiny_data_set / "dataset.json", read_json(tiny_data_set / "dataset.json") | {"downscale": 2.0})
    index = tiny_data_set / "test" / "index.csv"
    index.write_text(index.read_text().replace(",test", ",testA", 4).replace(",test\n", ",testB\n"))
    for source in ("t1", "t2"):
        native = {"image": np.full((64, 64, 3), 90), "classes": np.eye(64), "instances": np.eye(64)}
        for kind, pixels in native.items():
            write_png(tiny_data_set / "test" / "native" / f"{source}_{kind}.png", pixels.astype(np.uint8))
    return tiny_data_set


@pytest.mark.parametrize(
    "file",
    [
        *("images/image_5.png", "labels/label_5.png", "instances/instance_5.png"),
        *(f"native/t2_{kind}.png" for kind in ("image", "classes", "instances")),
    ],
)
def test_all_that_a_test_reads_is_told_apart(reduced, file):
    before = what_is_tested(reduced)
    path = reduced / "test" / file
    pixels = (read_rgb if "image_" in file or file.endswith("image.png") else read_index_map)(path).copy()
    pixels[0, 0] = 1 - np.minimum(pixels[0, 0], 1)
    write_png(path, pixels.astype(np.uint8))
    assert what_is_tested(reduced) != before


def test_what_is_trained_on_is_no_part_of_it(reduced, tmp_path):
    before = what_is_tested(reduced)
    image = reduced / "labelled" / "images" / "image_0.png"
    write_png(image, 255 - read_rgb(image))
    reduced.rename(tmp_path / "elsewhere")
    assert what_is_tested(tmp_path / "elsewhere") == before


def test_the_version_of_the_project(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, "-C", tmp_path, *words], check=True, capture_output=True)

    assert commit() != "unknown" or not (ROOT / ".git").exists()
    monkeypatch.setattr(training_runs, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"
    git("init")
    for name in ("a.py", "rows.csv"):
        (tmp_path / name).write_text("1")
        git("add", name)
    git("commit", "-m", "a")
    first = commit()
    assert len(first) == 10
    (tmp_path / "rows.csv").write_text("2")
    assert commit() == first
    (tmp_path / "a.py").write_text("2")
    assert commit() == f"{first}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


def test_rows_of_old_name_no_version_and_stay(tmp_path):
    (tmp_path / "r.csv").write_text("arm,asked,Dice,torch\na,x,0.5,2\n")
    records = Records(tmp_path / "r.csv", ("arm",))
    records.add({"arm": "b", "asked": "x", "Dice": 0.6} | about(1, 2, "0123456e78"))
    again = Records(tmp_path / "r.csv", ("arm",))
    assert {"arm": "a", "asked": "x"} in again
    assert again.table.commit.isna().tolist() == [True, False] and again.select(arm="b").commit.item() == "0123456e78"
