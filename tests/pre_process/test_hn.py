import json
from dataclasses import replace

import numpy as np
import pytest

from file_contents import DataSet
from pre_process.HN.preprocess import CLASSES, Settings, main
from utils_general import InputError, read_rgb


def box(x, y, width, height):
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return {"geometry": [{"x": x, "y": y} for x, y in corners]}


LABELS = {
    "case_1.jpg": {"Malignant": [box(0, 0, 16, 16), box(20, 4, 4, 4)]},
    "case_2.jpg": {"Non_Malignant Stroma": [box(16, 0, 16, 16)], "non-malignant-epithelium": [box(24, 0, 4, 4)]},
    "case_10.jpg": {"non malignant epithelium": [box(-5, 8, 10, 99)], "MALIGNANT": [box(0, 0, 8, 12)]},
}


def expected(source):
    """The class map (16, 32) of an image, worked out by hand."""
    class_map = np.zeros((16, 32), np.uint8)
    if source == "case_1":
        class_map[:, :16] = 1
        class_map[4:8, 20:24] = 1
    elif source == "case_2":
        class_map[:, 16:] = 2
        class_map[:4, 24:28] = 3  # listed later: on top
    else:
        class_map[8:, :5] = 3
        class_map[:12, :8] = 1
    return class_map


@pytest.fixture
def raw(tmp_path, picture):
    raw = tmp_path / "raw"
    for name in LABELS:
        picture(raw / "labelled_images" / name, 16, 32)
    picture(raw / "unlabelled_images" / "other.jpg", 16, 32)
    write_export(raw, LABELS)
    return raw


def write_export(raw, labels):
    records = [{"ID": i, "External ID": name, "Label": label} for i, (name, label) in enumerate(labels.items())]
    (raw / "export.json").write_text(json.dumps(records[::-1]))  # not in the order of the images


@pytest.fixture
def settings(raw, tmp_path):
    return Settings(raw=raw, output=tmp_path / "out", patch_size=16, stride=16)


def test_every_patch_has_the_labels_of_its_own_image(raw, tmp_path, run_script_file, read_folder):
    out = tmp_path / "out"
    arguments = ["--raw", raw, "--output", out, "--patch-size", 16, "--stride", 16]
    done = run_script_file("pre_process/HN/preprocess.py", *arguments)
    sources = {}
    for folder in ("labelled", "test"):
        index, arrays = read_folder(out / folder)
        sources[folder] = index.source.unique().tolist()
        for row in index.itertuples():
            window = np.s_[row.y : row.y + 16, row.x : row.x + 16]
            assert np.array_equal(arrays["labels"][row.patch], expected(row.source)[window])
            image = read_rgb(raw / "labelled_images" / f"{row.source}.jpg")
            assert np.array_equal(arrays["images"][row.patch], image[window])
        assert "instances" not in arrays
    assert sources == {"labelled": ["case_1", "case_2"], "test": ["case_10"]}
    assert read_folder(out / "unlabelled")[0].source.tolist() == ["other", "other"]
    assert DataSet.read(out) == DataSet("out", "paper", CLASSES, "components", 16, 16, 2023)
    assert done.stdout.splitlines()[-1] == f"patches are in {out}"


def test_unlabelled_images_are_optional(settings, raw):
    (raw / "unlabelled_images" / "other.jpg").unlink()
    (raw / "unlabelled_images").rmdir()
    main(settings)
    assert sorted(p.name for p in settings.output.iterdir()) == ["dataset.json", "labelled", "test"]


def test_other_class_names_by_the_command_line(raw, tmp_path, run_script_file, read_folder):
    write_export(raw, {**LABELS, "case_10.jpg": {"Tumour bed": [box(0, 0, 16, 8)]}})
    arguments = ["--raw", raw, "--output", tmp_path / "out", "--patch-size", 16, "--stride", 16]
    done = run_script_file("pre_process/HN/preprocess.py", *arguments, check=False)
    assert done.returncode == 1
    assert "record of case_10.jpg has the class 'Tumour bed'; known are background, malignant" in done.stderr
    run_script_file("pre_process/HN/preprocess.py", *arguments, "--class-names", "tumour-bed", "malignant")
    _, arrays = read_folder(tmp_path / "out" / "test")
    assert arrays["labels"][0].sum(1).tolist() == [16] * 8 + [0] * 8


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({**LABELS, "gone.jpg": {}}, r"export.json labels gone.jpg, but .*labelled_images holds no image"),
        (
            {"case_1.jpg": {}, "case_2.jpg": {}},
            r"case_10.jpg has no label: looked for its External ID in .*export.json",
        ),
        ({**LABELS, "case_1.jpg": "Skip"}, r"record of case_1.jpg has no outlines \(Label: Skip\)"),
        ({**LABELS, "case_1.jpg": {"malignant": [{"bbox": 1}]}}, r"case_1.jpg, class 'malignant': a list of polygons"),
        (
            {**LABELS, "case_1.jpg": {"malignant": [{"geometry": [{"x": float("nan"), "y": 1}]}]}},
            r"case_1.jpg, class 'malignant': a list of polygons",
        ),
    ],
)
def test_labels_that_do_not_fit(settings, raw, labels, match):
    write_export(raw, labels)
    with pytest.raises(InputError, match=match):
        main(settings)
    assert not settings.output.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[{", "export.json is not valid JSON"),
        ('{"a": 1}', "export.json is no Labelbox export"),
        ('[{"ID": 1}]', "export.json is no Labelbox export"),
        (
            '[{"External ID": "case_1.jpg", "Label": {}}, {"External ID": "case_1.jpg", "Label": {}}]',
            "labels case_1.jpg more than once",
        ),
    ],
)
def test_broken_export(settings, raw, content, match):
    (raw / "export.json").write_text(content)
    with pytest.raises(InputError, match=match):
        main(settings)


def test_missing_files(settings, raw, tmp_path):
    with pytest.raises(InputError, match=r"--class-names bed cancer: cancer is none of background, malignant"):
        main(replace(settings, class_names={"bed": "cancer"}))
    (raw / "export.json").unlink()
    with pytest.raises(InputError, match=r"raw holds 0 .json files: one Labelbox export"):
        main(settings)
    with pytest.raises(InputError, match=r"folder .*labelled_images does not exist"):
        main(replace(settings, raw=tmp_path))
    for name in ("case_2.jpg", "case_10.jpg"):
        (raw / "labelled_images" / name).unlink()
    write_export(raw, {"case_1.jpg": {}})
    with pytest.raises(InputError, match=r"labelled_images holds 1 image: at least 2"):
        main(settings)
