from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from file_contents import DataSet
from pre_process.own_data.preprocess import Settings, main
from utils_general import InputError


def numbers_of(name):
    """An index map (24, 32) that differs from image to image, values 0 to 2."""
    seed = int.from_bytes(name.encode(), "little")
    return np.random.default_rng(seed).integers(0, 3, (24, 32)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path, picture, index_map):
    """Seven images a to g of several formats, of which a to e have labels of several formats."""
    for i, name in enumerate("abcdefg"):
        picture(tmp_path / "images" / f"{name}{('.jpg', '.png', '.tif', '.bmp')[i % 4]}")
    for i, name in enumerate("abcde"):
        index_map(tmp_path / "labels" / f"{name}{('.png', '.tif', '.bmp')[i % 3]}", numbers_of(name))
    return tmp_path


@pytest.fixture
def settings(folders):
    classes = ("background", "tumour", "stroma")
    folder = {"images": folders / "images", "labels": folders / "labels", "output": folders / "out"}
    return Settings(**folder, class_names=classes, patch_size=16, stride=8)


def sources(read_folder, settings):
    found = sorted(p.name for p in settings.output.iterdir() if p.is_dir())
    return {folder: "".join(read_folder(settings.output / folder)[0].source.unique()) for folder in found}


def test_class_labels_by_the_script(folders, run_script_file, read_folder):
    out = folders / "out"
    arguments = ["--images", folders / "images", "--labels", folders / "labels", "--output", out]
    names = ["--class-names", "background", "tumour", "stroma", "--patch-size", 16, "--stride", 8]
    done = run_script_file("pre_process/own_data/preprocess.py", *arguments, *names)
    # RandomState(2023).permutation(5) = 3 0 4 2 | 1
    for folder, expected in {"labelled": "acde", "test": "b", "unlabelled": "fg"}.items():
        index, arrays = read_folder(out / folder)
        assert "".join(index.source.unique()) == expected
        assert set(arrays) == ({"images"} if folder == "unlabelled" else {"images", "labels"})
        for row in index[index.source.isin(list("abcde"))].itertuples():
            window = np.s_[row.y : row.y + 16, row.x : row.x + 16]
            assert np.array_equal(arrays["labels"][row.patch], numbers_of(row.source)[window])
    assert DataSet.read(out).classes == ["background", "tumour", "stroma"]
    assert done.stdout.splitlines()[0].endswith(
        "7 images (.png, .jpg, .jpeg, .tif, .tiff, .bmp), 5 of them with a label"
    )
    assert done.stdout.splitlines()[-1] == f"patches are in {out}"


def test_instance_labels(settings, read_folder):
    main(replace(settings, label_kind="instances", class_names=("background", "cell"), instances="watershed"))
    index, arrays = read_folder(settings.output / "labelled")
    for row in index.itertuples():
        expected = numbers_of(row.source)[row.y : row.y + 16, row.x : row.x + 16]
        assert np.array_equal(arrays["instances"][row.patch], expected)
        assert np.array_equal(arrays["labels"][row.patch], expected > 0)
    assert DataSet.read(settings.output) == DataSet("out", "by image", ["background", "cell"], "watershed", 16, 8, 2023)


def test_without_labels(settings, read_folder):
    main(replace(settings, labels=None))
    assert sources(read_folder, settings) == {"unlabelled": "abcdefg"}
    assert DataSet.read(settings.output).classes == []


def test_without_test_images(settings, read_folder):
    main(replace(settings, test_fraction=0))
    assert sources(read_folder, settings) == {"labelled": "abcde", "unlabelled": "fg"}


def test_one_labelled_image_cannot_be_divided(settings, folders, read_folder):
    for file in (folders / "labels").glob("[b-e]*"):
        file.unlink()
    with pytest.raises(InputError, match=r"1 labelled image\(s\) leave none to fine-tune .*--test-fraction 0.2"):
        main(settings)
    main(replace(settings, test_fraction=0))
    assert sources(read_folder, settings)["labelled"] == "a"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"test_fraction": 1.0}, "--test-fraction 1.0: 0 to below 1"),
        ({"mpp": 2e6}, "dataset.json, as these settings make it, holds mpp = 2000000.0; wanted: a number from 0.001"),
        ({"stride": 10**20}, "as these settings make it, holds stride"),
        ({"output": Path("/tmp/two\nlines")}, "as these settings make it, holds name"),
        ({"class_names": ("background",)}, "--class-names background: 2 names"),
        ({"label_kind": "instances"}, "--class-names background tumour stroma: 2 names"),
        ({"class_names": ("background", "tumour")}, r"labels/a.png holds class 2; 0 to 1 are allowed"),
    ],
)
def test_settings_that_do_not_fit(settings, change, match):
    with pytest.raises(InputError, match=match):
        main(replace(settings, **change))
    assert not settings.output.exists()


def test_mask_of_255(settings, folders, index_map):
    index_map(folders / "labels" / "a.png", np.where(numbers_of("a") > 0, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match=r"a.png is a mask of 0 and 255: .* divide it by 255"):
        main(settings)


def test_labels_that_do_not_fit(settings, folders, index_map, picture):
    index_map(folders / "labels" / "z.png", numbers_of("z"))
    with pytest.raises(InputError, match=r"z.png labels z, but .*images holds no image of that name \(1 of 6"):
        main(settings)
    (folders / "labels" / "z.png").rename(folders / "labels" / "a.tif")
    with pytest.raises(InputError, match=r"a.tif and a.png have the same name|a.png and a.tif have the same name"):
        main(settings)
    (folders / "labels" / "a.tif").unlink()
    index_map(folders / "labels" / "a.png", numbers_of("a")[:, :20])
    with pytest.raises(InputError, match=r"labels/a.png is 20x24 pixels, but its image .*a.jpg is 32x24"):
        main(settings)
    picture(folders / "labels" / "a.png")
    with pytest.raises(InputError, match=r"label image .*a.png has 3 channels"):
        main(settings)
    picture(folders / "labels" / "f.jpg")
    with pytest.raises(InputError, match=r"f.jpg: JPEG changes indices"):
        main(settings)
    assert not settings.output.exists()


def test_missing_and_empty_folders(settings, tmp_path):
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        main(replace(settings, images=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no image in .*empty: looked for \*.png, \*.jpg"):
        main(replace(settings, labels=tmp_path / "empty"))
