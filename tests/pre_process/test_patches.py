from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from file_contents import DataSet
from GenSelfDiff.patches import Patches
from pre_process.patches import (
    PatchSettings,
    SourceImage,
    by_name,
    check_pairs,
    polygon_pixels,
    read_instance_labels,
    split_by_image,
    window_positions,
    write_data_set,
)
from utils_general import InputError, read_index_map, write_png

CLASSES = ["background", "thing"]


@pytest.fixture
def settings(tmp_path):
    return PatchSettings(output=tmp_path / "out", patch_size=16, stride=8)


def labelled(image_file, label_file):
    return SourceImage(image_file, label_file, partial(read_instance_labels, label_file))


# Windows


def test_windows_are_row_by_row_and_dropped_at_the_border(settings):
    # 35 - 16 = 19 pixels to move: 0, 8, 16; 26 - 16 = 10: 0, 8
    expected = [(0, 0), (8, 0), (16, 0), (0, 8), (8, 8), (16, 8)]
    assert window_positions((26, 35), settings) == expected


def test_border_windows_are_flush_with_the_border(settings):
    expected = [(x, y) for y in (0, 8, 10) for x in (0, 8, 16, 19)]
    assert window_positions((26, 35), replace(settings, border_windows=True)) == expected


@pytest.mark.parametrize(
    ("protocol", "given", "patches"),
    [("official", None, 12), ("paper", None, 6), ("by image", None, 6), ("official", False, 6), ("paper", True, 12)],
)
def test_border_windows_by_default_where_figures_are_of_whole_images(settings, tmp_path, protocol, given, patches):
    for kind in ("image", "label"):
        write_png(tmp_path / f"{kind}.png", np.ones((26, 35, 3) if kind == "image" else (26, 35), np.uint8))
    sources = [labelled(tmp_path / "image.png", tmp_path / "label.png")]
    settings = replace(settings, border_windows=given)
    write_data_set(settings, protocol, CLASSES, "components", {"test": sources})
    index = pd.read_csv(settings.output / "test" / "index.csv")
    assert len(index) == patches and ((19, 10) in zip(index.x, index.y, strict=True)) == (patches == 12)
    assert (settings.output / "test" / "sources.csv").read_text() == "source,width,height\nimage,35,26\n"


def test_border_windows_add_nothing_where_windows_fit(settings):
    assert window_positions((24, 16), replace(settings, border_windows=True)) == [(0, 0), (0, 8)]


def test_patches_to_test_on_have_a_stride_of_their_own(settings, tmp_path, picture, capsys):
    folders = {name: [SourceImage(tmp_path / f"{name}.png")] for name in ("labelled", "test")}
    for (source,) in folders.values():
        picture(source.file, 16, 32)
    write_data_set(replace(settings, test_stride=16), "p", [], "components", folders)
    places = {name: pd.read_csv(settings.output / name / "index.csv").x.tolist() for name in folders}
    assert places == {"labelled": [0, 8, 16], "test": [0, 16]}
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()[-2:]] == ["3", "2"]


def test_paper_windows_are_144_an_image(settings):
    assert len(window_positions((1000, 1000), replace(settings, patch_size=256, stride=64))) == 144


# Splits


def test_split_of_the_fourteen_test_images():
    # RandomState(2023).permutation(14) = 11 8 12 2 0 5 10 4 3 1 13 | 6 9 7
    first, rest = split_by_image(range(14), 0.8)
    assert first == [0, 1, 2, 3, 4, 5, 8, 10, 11, 12, 13]
    assert rest == [6, 7, 9]


@pytest.mark.parametrize(("number", "fraction", "expected"), [(80, 0.8, 64), (30, 0.9, 27), (10, 0.7, 7), (1, 0.8, 0)])
def test_size_of_a_split(number, fraction, expected):
    first, rest = split_by_image(range(number), fraction)
    assert len(first) == expected
    assert sorted(first + rest) == list(range(number))


# Polygons


def pixels_of(vertices, shape=(6, 7)):
    return sorted(zip(*(a.tolist() for a in polygon_pixels(np.array(vertices, float), shape)), strict=True))


def test_square_between_pixel_corners_covers_these_pixels():
    assert pixels_of([(1, 2), (3, 2), (3, 4), (1, 4)]) == [(2, 1), (2, 2), (3, 1), (3, 2)]


@pytest.mark.parametrize(("shift", "columns"), [(0.4, [1, 2]), (0.6, [2, 3])])
def test_a_pixel_belongs_if_its_centre_is_inside(shift, columns):
    square = [(1 + shift, 2), (3 + shift, 2), (3 + shift, 3), (1 + shift, 3)]
    assert pixels_of(square) == [(2, c) for c in columns]


def test_parts_outside_the_image_are_left_out():
    assert pixels_of([(-5, -5), (1.2, -5), (1.2, 1.2), (-5, 1.2)]) == [(0, 0)]
    assert pixels_of([(6, 5), (90, 5), (90, 90), (6, 90)]) == [(5, 6)]
    assert pixels_of([(20, 20), (30, 20), (30, 30)]) == []


def test_area_of_a_subpixel_circle_is_unbiased():
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(200):
        circle = np.stack([6 * np.cos(t), 6 * np.sin(t)], 1) + rng.uniform(10, 11, 2)
        areas.append(len(polygon_pixels(circle, (24, 24))[0]))
    assert np.mean(areas) == pytest.approx(np.pi * 36, rel=0.01)  # rounded vertices would give 6 % more


@pytest.mark.parametrize("vertices", [np.empty((0, 2)), [(1, 1)], [(1, 1), (4, 4)]])
def test_fewer_than_three_vertices_cover_nothing(vertices):
    assert pixels_of(vertices) == []


# Names


def test_two_files_of_one_name_are_told(tmp_path):
    with pytest.raises(InputError, match=r"a.png and a.tif have the same name"):
        by_name([tmp_path / "a.png", tmp_path / "a.tif"])


def test_pairs(tmp_path):
    images, labels = by_name([tmp_path / "a.png"]), by_name([tmp_path / "b_anno.png"], suffix="_anno")
    with pytest.raises(InputError, match=r"b_anno.png labels b, but .* holds no image .*\(1 of 1 labels"):
        check_pairs(images, labels, (), tmp_path, "")
    with pytest.raises(InputError, match=r"a.png has no label: looked for X \(1 of 1 images"):
        check_pairs(images, {}, images, tmp_path, "X")
    check_pairs(images, {}, (), tmp_path, "")


# What is checked before anything is written


def refuses(settings, sources, match, classes=CLASSES):
    with pytest.raises(InputError, match=match):
        write_data_set(settings, "p", classes, "components", {"labelled": sources})
    assert not settings.output.exists()
    assert not list(settings.output.parent.glob("*.unfinished"))


def test_image_smaller_than_a_patch(settings, tmp_path, picture):
    picture(tmp_path / "large.png")
    picture(tmp_path / "small.png", height=15, width=40)
    sources = [SourceImage(tmp_path / "large.png"), SourceImage(tmp_path / "small.png")]
    refuses(settings, sources, r"small.png is 40x15 pixels, smaller than a patch of 16x16: .* --patch-size")


def test_truncated_image(settings, tmp_path, picture, truncate):
    picture(tmp_path / "a.png")
    truncate(tmp_path / "a.png")
    refuses(settings, [SourceImage(tmp_path / "a.png")], r"cannot read image .*a.png")


def test_label_of_another_size(settings, tmp_path, picture, index_map):
    picture(tmp_path / "a.png", 24, 32)
    index_map(tmp_path / "l" / "a.png", np.zeros((32, 24), np.uint8))
    source = labelled(tmp_path / "a.png", tmp_path / "l" / "a.png")
    refuses(settings, [source], r"l/a.png is 24x32 pixels, but its image .*a.png is 32x24")


@pytest.mark.parametrize("value", [2, -1])
def test_class_without_a_name(settings, tmp_path, picture, value):
    picture(tmp_path / "a.png")
    class_map = np.zeros((24, 32), np.int32)
    class_map[23, 31] = value
    source = SourceImage(tmp_path / "a.png", tmp_path / "x.png", lambda shape: (class_map, None))
    refuses(settings, [source], rf"x.png holds class {value}; 0 to 1 are allowed \(indices of background, thing\)")


def test_instance_number_over_16_bit(settings, tmp_path, picture):
    picture(tmp_path / "a.png")
    numbers = np.zeros((24, 32), np.int32)
    source = SourceImage(tmp_path / "a.png", tmp_path / "x.png", lambda shape: (numbers > 0, numbers))
    numbers[0, 0] = 65536
    refuses(settings, [source], r"x.png holds instance 65536; 0 to 65535 are allowed")
    numbers[0, 0] = 65535
    assert write_data_set(settings, "p", CLASSES, "components", {"labelled": [source]}) == 1
    assert read_index_map(settings.output / "labelled" / "instances" / "instance_0.png")[0, 0] == 65535


def test_one_name_in_two_folders(settings, tmp_path, picture):
    picture(tmp_path / "a.png")
    picture(tmp_path / "other" / "a.png")
    folders = {"labelled": [SourceImage(tmp_path / "a.png")], "test": [SourceImage(tmp_path / "other" / "a.png")]}
    with pytest.raises(InputError, match="2 images are named a"):
        write_data_set(settings, "p", CLASSES, "components", folders)


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("\u00e9", "e\u0301")])
def test_names_that_are_one_on_other_machines(settings, tmp_path, picture, one, other):
    """Where case or the form of an accent does not count, one picture would take the other's place."""
    picture(tmp_path / f"{one}.png")
    picture(tmp_path / "more" / f"{other}.png")
    sources = [SourceImage(tmp_path / f"{one}.png"), SourceImage(tmp_path / "more" / f"{other}.png")]
    refuses(settings, sources, "2 images are named .+ and .+: names tell images apart")


@pytest.mark.parametrize("classes", [["background", "thing", "thing"], [f"class {i}" for i in range(300)], ["a", ""]])
def test_class_names_that_cannot_be_told_apart_or_stored(settings, tmp_path, picture, classes):
    """Class 299 would be stored as 43."""
    picture(tmp_path / "a.png")
    refuses(settings, [SourceImage(tmp_path / "a.png")], "wanted: at most 256 class names, each once", classes)


def test_256_classes_are_stored_as_they_are(settings, tmp_path, picture, read_folder):
    picture(tmp_path / "a.png", 16, 16)
    class_map = np.arange(256).reshape(16, 16)
    source = SourceImage(tmp_path / "a.png", tmp_path / "x.png", lambda shape: (class_map, None))
    write_data_set(settings, "p", [f"class {i}" for i in range(256)], "components", {"labelled": [source]})
    assert np.array_equal(read_folder(settings.output / "labelled")[1]["labels"][0], class_map)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "\udcff"])
def test_image_names_that_the_index_cannot_hold(settings, tmp_path, picture, name):
    picture(tmp_path / "good.png")
    (tmp_path / "good.png").rename(tmp_path / f"{name}.png")
    refuses(settings, [SourceImage(tmp_path / f"{name}.png")], "names an image .*: a name without /")


@pytest.mark.parametrize("name", ["NA", "null"])
def test_images_called_na_keep_their_patches(settings, tmp_path, picture, name):
    for file in (name, "b"):
        picture(tmp_path / f"{file}.png", 16, 16)
    write_data_set(settings, "p", [], "components", {"unlabelled": [SourceImage(f) for f in tmp_path.glob("*.png")]})
    assert set(Patches(settings.output / "unlabelled").index.source) == {name, "b"}


def test_how_an_image_is_read_is_said_once(settings, tmp_path, capsys):
    for name in "abc":
        Image.new("RGBA" if name < "c" else "RGB", (16, 16)).save(tmp_path / f"{name}.png")
    sources = [SourceImage(tmp_path / f"{name}.png") for name in "abc"]
    write_data_set(settings, "p", [], "components", {"unlabelled": sources})
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {tmp_path}/a.png and 1 more: has opacity: what is transparent is taken as white"]


@pytest.mark.parametrize(("change", "match"), [({"patch_size": 20}, "multiple of 8"), ({"stride": 0}, "at least 1"),
                                               ({"test_stride": 0}, "--test-stride 0: at least 1")])  # fmt: skip
def test_settings_that_cannot_work(settings, tmp_path, picture, change, match):
    picture(tmp_path / "a.png")
    refuses(replace(settings, **change), [SourceImage(tmp_path / "a.png")], match)


# What is written


def test_patches_are_exact_crops_in_natural_order(settings, tmp_path, picture, index_map, read_folder):
    pixels, numbers = {}, {}
    for i, name in enumerate(["s_10", "s_9", "s_1"]):
        pixels[name] = picture(tmp_path / f"{name}.png", 24 + 8 * i, 32)
        numbers[name] = np.random.default_rng(i).integers(0, 1000, (24 + 8 * i, 32)).astype(np.uint16)
        index_map(tmp_path / "l" / f"{name}.png", numbers[name])
    sources = [labelled(tmp_path / f"{name}.png", tmp_path / "l" / f"{name}.png") for name in pixels]
    total = write_data_set(settings, "mine", CLASSES, "watershed", {"labelled": sources})

    assert total == sum(len(np.unique(n[n > 0])) for n in numbers.values())
    index, arrays = read_folder(settings.output / "labelled")
    assert list(index.columns) == ["patch", "source", "x", "y", "split"]
    assert index.patch.tolist() == list(range(12 + 9 + 6))
    assert index.source.tolist() == ["s_1"] * 12 + ["s_9"] * 9 + ["s_10"] * 6
    for row in index.itertuples():
        window = np.s_[row.y : row.y + 16, row.x : row.x + 16]
        assert np.array_equal(arrays["images"][row.patch], pixels[row.source][window])
        assert np.array_equal(arrays["instances"][row.patch], numbers[row.source][window])
        assert np.array_equal(arrays["labels"][row.patch], numbers[row.source][window] > 0)
        assert arrays["labels"][row.patch].dtype == np.uint8
        assert arrays["instances"][row.patch].dtype == np.uint16
    # permutation(3) = 2 0 1: of s_1, s_9, s_10 the first int(2.7) are s_10, s_1
    assert set(index.source[index.split == "train"]) == {"s_1", "s_10"}
    assert set(index.source[index.split == "val"]) == {"s_9"}
    assert DataSet.read(settings.output) == DataSet("out", "mine", CLASSES, "watershed", 16, 8, 2023)


def test_a_single_image_is_for_training(settings, tmp_path, picture, read_folder, capsys):
    picture(tmp_path / "a.png")
    write_data_set(settings, "p", [], "components", {"unlabelled": [SourceImage(tmp_path / "a.png")]})
    index, arrays = read_folder(settings.output / "unlabelled")
    assert set(index.split) == {"train"}
    assert set(arrays) == {"images"}
    assert capsys.readouterr().out.splitlines()[1].split() == ["unlabelled", "train", "1", "6", "-"]


def test_second_run_is_refused_and_overwrite_replaces(settings, tmp_path, picture, read_folder):
    for name in "ab":
        picture(tmp_path / f"{name}.png", 16, 16)

    def write(name, **change):
        folders = {"unlabelled": [SourceImage(tmp_path / f"{name}.png")]}
        write_data_set(replace(settings, **change), "p", [], "components", folders)

    write("a")
    with pytest.raises(InputError, match="already holds files; --overwrite replaces them"):
        write("b")
    assert read_folder(settings.output / "unlabelled")[0].source.tolist() == ["a"]
    write("b", overwrite=True)
    assert read_folder(settings.output / "unlabelled")[0].source.tolist() == ["b"]


def test_overwrite_keeps_a_folder_of_something_else(settings, tmp_path, picture):
    picture(tmp_path / "a.png")
    precious = settings.output / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years")
    with pytest.raises(InputError, match=r"this script did not write \(no dataset.json\)"):
        write_data_set(
            replace(settings, overwrite=True), "p", [], "components", {"unlabelled": [SourceImage(tmp_path / "a.png")]}
        )
    assert precious.read_text() == "years"


def test_a_failed_overwrite_keeps_the_old_patches(settings, tmp_path, picture, read_folder):
    picture(tmp_path / "a.png")
    write_data_set(settings, "p", [], "components", {"unlabelled": [SourceImage(tmp_path / "a.png")]})
    again = replace(settings, overwrite=True)
    with pytest.raises(InputError, match="gone.png is missing"):
        write_data_set(again, "p", [], "components", {"unlabelled": [SourceImage(tmp_path / "gone.png")]})
    assert len(read_folder(settings.output / "unlabelled")[0]) == 6


def test_output_may_be_a_link_but_not_below_a_file(settings, tmp_path, picture, read_folder):
    picture(tmp_path / "a.png")
    folders = {"unlabelled": [SourceImage(tmp_path / "a.png")]}
    (tmp_path / "disk").mkdir()
    settings.output.symlink_to(tmp_path / "disk")
    write_data_set(settings, "p", [], "components", folders)
    write_data_set(replace(settings, overwrite=True), "p", [], "components", folders)
    assert settings.output.is_symlink()
    assert len(read_folder(tmp_path / "disk" / "unlabelled")[0]) == 6
    with pytest.raises(InputError, match="a file is where a folder is wanted"):
        write_data_set(replace(settings, output=tmp_path / "a.png" / "out"), "p", [], "components", folders)
