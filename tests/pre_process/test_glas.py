from dataclasses import replace

import numpy as np
import pytest

from file_contents import DataSet
from pre_process.GlaS.preprocess import Settings, main
from pre_process.patches import read_instance_labels
from utils_general import InputError


def glands(name):
    """Two glands of numbers that only this image has; 24x32 pixels."""
    first = 10 * int(name.split("_")[1]) + (100 if "B" in name else 0)
    numbers = np.zeros((24, 32), np.uint8)
    numbers[2:9, 3:12], numbers[11:15, 20:30] = first, first + 1
    return numbers


@pytest.fixture
def download(tmp_path, picture, index_map):
    """Images train_1, train_2, train_10, testA_1, testA_2, testA_10, testB_1, testB_2 of 32x24 with their labels."""
    raw = tmp_path / "raw"
    for name in ("train_1", "train_2", "train_10", "testA_1", "testA_2", "testA_10", "testB_1", "testB_2"):
        picture(raw / f"{name}.bmp")
        index_map(raw / f"{name}_anno.bmp", glands(name))
    (raw / "Grade.csv").write_text("name, grade\n")
    return raw


@pytest.fixture
def settings(download, tmp_path):
    return Settings(raw=download, output=tmp_path / "out", patch_size=16, stride=8)


def check_labels(index, arrays):
    for row in index.itertuples():
        expected = glands(row.source)[row.y : row.y + 16, row.x : row.x + 16]
        assert np.array_equal(arrays["instances"][row.patch], expected)
        assert np.array_equal(arrays["labels"][row.patch], expected > 0)


def test_paper_protocol_by_the_script(download, tmp_path, run_script_file, read_folder):
    (download / "train_2_anno.bmp").unlink()  # not needed
    out = tmp_path / "out"
    arguments = ["--raw", download, "--output", out, "--patch-size", 16, "--stride", 8]
    done = run_script_file("pre_process/GlaS/preprocess.py", *arguments)

    lines = done.stdout.splitlines()
    assert lines[0] == "GlaS: 3 train (official: 85), 3 testA (official: 60), 2 testB (official: 20)"
    assert lines[-1] == f"patches are in {out}"
    assert read_folder(out / "unlabelled")[0].source.unique().tolist() == ["train_1", "train_2", "train_10"]
    # RandomState(2023).permutation(5) = 3 0 4 2 | 1 of testA_1, testA_2, testA_10, testB_1, testB_2
    index, arrays = read_folder(out / "labelled")
    assert index.source.unique().tolist() == ["testA_1", "testA_10", "testB_1", "testB_2"]
    check_labels(index, arrays)
    index, arrays = read_folder(out / "test")
    assert index.source.unique().tolist() == ["testA_2"]
    assert set(index.split) == {"test"}
    check_labels(index, arrays)
    assert DataSet.read(out) == DataSet("out", "paper", ["background", "gland"], "components", 16, 8, 2023, 0.62005)


def test_official_protocol_tells_test_a_from_test_b(settings, read_folder):
    main(replace(settings, protocol="official"))
    assert not (settings.output / "unlabelled").exists()
    assert read_folder(settings.output / "labelled")[0].source.unique().tolist() == ["train_1", "train_2", "train_10"]
    index, arrays = read_folder(settings.output / "test")
    check_labels(index, arrays)
    assert len(index) == 5 * 6
    assert (index.split == index.source.str.partition("_")[0]).all()


@pytest.mark.parametrize(
    ("protocol", "gone", "match"),
    [
        ("paper", "testB_1_anno", r"testB_1.bmp has no label: looked for NAME_anno.bmp beside it \(1 of 5"),
        ("official", "train_10_anno", r"train_10.bmp has no label"),
        ("paper", "train_10", r"train_10_anno.bmp labels train_10, but .* holds no image"),
        ("paper", "t*[0-9]", r"no GlaS image in .*: looked for train_\*.bmp"),
        ("official", "test*", r"too few images: at least 1 train_\*.bmp and 2 test\*.bmp"),
        ("official", "train*", r"too few images"),
        ("official", "*", r"no image in .*: looked for \*.bmp"),
    ],
)
def test_incomplete_download(settings, download, protocol, gone, match):
    for file in download.glob(f"{gone}.bmp"):
        file.unlink()
    with pytest.raises(InputError, match=match):
        main(replace(settings, protocol=protocol))
    assert not settings.output.exists()


def test_small_and_truncated_images(settings, download, truncate):
    with pytest.raises(InputError, match=r"train_1.bmp is 32x24 pixels, smaller than a patch of 64x64"):
        main(replace(settings, patch_size=64))
    truncate(download / "testA_1_anno.bmp")
    with pytest.raises(InputError, match=r"cannot read label image .*testA_1_anno.bmp"):
        main(settings)
    assert not settings.output.exists()


def test_real_labels(real_data):
    (raw,) = (real_data / "GlaS").glob("Warwick*")
    classes, numbers = read_instance_labels(raw / "testA_10_anno.bmp", (0, 0))
    assert classes.shape == (522, 775)
    assert np.unique(numbers).tolist() == list(range(32))
    assert np.array_equal(classes, numbers > 0)
