"""Images and labels made smaller, by hand; and tests that measure at the images' own size all the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from file_contents import DataSet
from GenSelfDiff.evaluation.evaluate import evaluate, patches_to_test
from GenSelfDiff.evaluation.images import enlarged
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.test import baselines
from GenSelfDiff.whole_image.pipeline import WholeImageSettings, segment_image
from GenSelfDiff.whole_image.slides import open_source
from pre_process.own_data import preprocess
from pre_process.resolution import Maps, most_frequent, reduce, reduced_shape
from tests.GenSelfDiff.whole_image.test_windows import predictor_of
from utils_general import InputError, read_index_map, read_json


def test_an_image_is_averaged_and_a_label_voted_for():
    gray = np.array([[0, 100, 10, 10], [100, 200, 10, 10]], np.uint8)
    classes = np.array([[1, 1, 0, 2], [1, 0, 2, 0]], np.uint8)  # three of four; two against two: the lowest
    small = reduce(Maps(np.dstack([gray] * 3), classes), 2)
    assert small.image[..., 0].tolist() == [[100, 10]] and small.classes.tolist() == [[1, 0]]
    assert small.instances is None and reduce(small, 1) is small


def test_an_object_keeps_its_class_and_its_number():
    """Most pixels are of class 1, of the objects 5 and 7; most of class 2 are of object 9, which is no class 1."""
    classes = np.array([[1, 1, 2], [1, 2, 2], [1, 1, 0]], np.uint8)
    instances = np.array([[5, 7, 9], [7, 9, 9], [7, 5, 0]], np.uint16)
    small = reduce(Maps(np.zeros((3, 3, 3), np.uint8), classes, instances), 3)
    assert small.classes.tolist() == [[1]] and small.instances.tolist() == [[7]]
    assert small.instances.dtype == np.uint16


def test_where_nothing_is_asked_there_is_background():
    values, asked = np.array([[3, 3, 4, 4]]), np.array([[False, False, True, False]])
    assert most_frequent(values, (1, 2), asked).tolist() == [[0, 4]]


@pytest.mark.parametrize(("shape", "factor"), [((522, 775), 4), ((10, 7), 2.5), ((5, 5), 1.3), ((64, 48), 8)])
def test_sizes_that_do_not_divide(shape, factor):
    """A large square in the middle stays where it is, to half a pixel of the smaller image."""
    native = np.zeros(shape, np.uint8)
    box = [(n // 4, n - n // 4) for n in shape]
    native[box[0][0] : box[0][1], box[1][0] : box[1][1]] = 1
    small = reduce(Maps(np.dstack([255 * native] * 3), native), factor)
    assert small.image.shape[:2] == small.classes.shape == reduced_shape(shape, factor)
    for axis, (low, high) in enumerate(box):
        scale = small.classes.shape[axis] / shape[axis]
        inside = np.flatnonzero(small.classes.any(1 - axis))
        nearest = 0.5 + scale / 2  # of either image's pixels
        assert abs(inside[0] - low * scale) <= nearest and abs(inside[-1] + 1 - high * scale) <= nearest
    same = (small.image[..., 0] > 128) == (small.classes == 1)
    assert same.mean() > 0.98 or small.classes.size < 20  # a pixel that is half of each is either


@pytest.fixture
def raw(tmp_path):
    """Four images of 64 x 80 pixels with a dark half, and its label."""
    for i in range(4):
        label = np.zeros((64, 80), np.uint8)
        label[:, : 30 + 6 * i] = 1
        for folder, array in (("images", np.where(label[..., None], 40, 220).repeat(3, 2)), ("labels", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / f"a{i}.png")
    return preprocess.Settings(
        images=tmp_path / "images", labels=tmp_path / "labels", output=tmp_path / "out", patch_size=8, stride=8,
        class_names=("background", "gland"), mpp=0.5, border_windows=True,
    )  # fmt: skip


def dark(images):
    """A network that sees class 1 in every dark pixel."""
    foreground = (images.mean(-1) < 130).astype(np.float32)
    return np.stack([1 - foreground, foreground], axis=1)


def test_figures_are_of_the_native_size(raw):
    preprocess.main(replace(raw, downscale=4.0))
    data_set = DataSet.read(raw.output)
    assert data_set.downscale == 4 and data_set.mpp == 2.0
    patches = patches_to_test(raw.output)
    assert patches.index[["x", "y"]].max().tolist() == [12, 8]  # 20 x 16 pixels in windows of 8

    for image, scores in evaluate(dark, patches, data_set.classes, InstanceSettings(minimum_area=1)):
        native = read_index_map(raw.labels / f"{image.source}.png")
        assert image.prediction.shape == image.truth.shape == (64, 80) and (image.truth == native).all()
        assert image.covered.all() and scores.area == scores.matrix.sum() == 64 * 80
        edge, predicted = (np.flatnonzero(m[32])[-1] for m in (native, image.prediction))
        assert abs(edge - predicted) <= 2  # half a pixel of the smaller image
        assert scores.image["Dice"] > 0.95 and len(scores.patches) == 6


@pytest.mark.parametrize(("small", "native"), [((4, 6), (16, 24)), ((5, 7), (22, 27))])
def test_what_is_enlarged_stays_where_it_is(small, native):
    """A ramp from one border to the other, in parts of the side at the pixels' centres; not half a pixel off."""
    ramp = np.tile((np.arange(small[1], dtype=np.float32) + 0.5) / small[1], (small[0], 1))
    inside = np.s_[:, native[1] // small[1] : -native[1] // small[1]]  # at the border there is nothing beyond
    assert np.allclose(enlarged(ramp, native)[inside], ((np.arange(native[1]) + 0.5) / native[1])[inside[1]], atol=1e-5)
    assert np.allclose(enlarged(ramp.T, native[::-1]), enlarged(ramp, native).T)


def test_a_part_that_is_not_covered_is_left_out_at_the_native_size(raw):
    preprocess.main(replace(raw, downscale=4.0, border_windows=False))
    patches = patches_to_test(raw.output)
    [(image, scores), *_] = evaluate(
        lambda images: np.stack([np.ones(images.shape[:3]), np.zeros(images.shape[:3])], 1).astype(np.float32),
        patches, ["background", "gland"], InstanceSettings(),
    )  # fmt: skip
    assert image.truth.shape == (64, 64) and scores.matrix.sum() == 64 * 64 and scores.area == 64 * 80


def disc(shape, row, column, radius):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2 < radius**2


@pytest.mark.parametrize(("method", "objects"), [("components", 3), ("watershed", 4)])
def test_segment_finds_the_objects_that_the_test_counts(tmp_path, method, objects):
    """Of images reduced 4 times: a large one, one below 16 times a speck's size, a touching pair, and a speck."""
    shape, (folder, labels) = (160, 160), (tmp_path / "images", tmp_path / "labels")
    mask = np.logical_or.reduce([disc(shape, 40, 40 + 18 * i, 12) for i in range(2)])  # the pair
    mask |= disc(shape, 120, 40, 12) | disc(shape, 40, 120, 5) | disc(shape, 120, 100, 2)  # large, small, speck
    for name, array in ((folder, np.where(mask[..., None], 40, 220).repeat(3, 2)), (labels, mask)):
        name.mkdir()
        for i in range(3):
            Image.fromarray(array.astype(np.uint8)).save(name / f"a{i}.png")
    settings = preprocess.Settings(
        images=folder, labels=labels, output=tmp_path / "out", patch_size=8, stride=8, downscale=4.0, instances=method,
        class_names=("background", "nucleus"), border_windows=True,
    )  # fmt: skip
    preprocess.main(settings)
    network = replace(predictor_of(dark, 2), downscale=4.0, instances=method, patch_size=8)
    [(image, _)] = evaluate(dark, patches_to_test(settings.output), ["background", "nucleus"], InstanceSettings())
    assert image.instances.max() == objects
    row = segment_image(
        folder / "a0.png", str(tmp_path / "a0"), tmp_path / "state", network, WholeImageSettings(), open_source
    )
    found = read_index_map(tmp_path / "a0_instances.png")
    assert row["objects"] == found.max() == objects and ((found > 0) == (image.instances > 0)).mean() > 0.98


def test_the_working_resolution_in_micrometres(raw, tmp_path):
    preprocess.main(replace(raw, downscale=2.0))
    preprocess.main(replace(raw, working_mpp=1.0, output=tmp_path / "same"))
    assert DataSet.read(tmp_path / "same").downscale == 2
    for file in (raw.output / "test").rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "same" / file.relative_to(raw.output)).read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"downscale": 0.5}, "--downscale is 0.5: 1 or more"),
        ({"working_mpp": 1.0, "mpp": None}, "--working-mpp wants the images' --mpp"),
        ({"working_mpp": 1.0, "downscale": 2.0}, "--working-mpp wants .* no --downscale"),
        ({"working_mpp": 0.25}, r"--working-mpp 0.25 is finer than the images' --mpp 0.5"),
        ({"downscale": 10.0}, r"is 80x64 pixels reduced 10 times, smaller than a patch of 8x8"),
        ({"validation_images": 3}, "--validation-images 3: there are 3 images in labelled"),
    ],
)
def test_what_cannot_work_is_named(raw, changed, message):
    with pytest.raises(InputError, match=message):
        preprocess.main(replace(raw, **changed))
    assert not raw.output.exists()


def test_held_out_images_are_counted_and_tested(raw, tmp_path):
    preprocess.main(replace(raw, validation_images=2))
    index = pd.read_csv(raw.output / "labelled" / "index.csv")
    held_out = set(index.source[index.split == "val"])
    assert len(held_out) == 2 and index.groupby("split").source.nunique().to_dict() == {"train": 1, "val": 2}
    results = tmp_path / "results"
    baselines.main(baselines.Settings(data=raw.output, split="val", output=results, method="foreground", pictures=0))
    images = pd.read_csv(results / "images.csv")
    assert set(images.source) == held_out and set(images.split) == {"val"}
    assert read_json(results / "summary.json")["settings"]["split"] == "val"
    preprocess.main(replace(raw, validation_images=0, output=tmp_path / "none"))
    with pytest.raises(InputError, match="no image out of training: there is no --split val"):
        baselines.main(baselines.Settings(data=tmp_path / "none", split="val", output=tmp_path / "r"))


def test_native_labels_of_unknown_classes_are_named(raw, tmp_path):
    preprocess.main(replace(raw, downscale=4.0))
    for file in (raw.output / "test" / "native").glob("*_classes.png"):
        Image.fromarray(np.full((64, 80), 7, np.uint8)).save(file)
    with pytest.raises(InputError, match=r"_classes.png holds classes that .*test does not know"):
        baselines.main(baselines.Settings(data=raw.output, output=Path(tmp_path / "r"), pictures=0))


def test_native_files_that_are_gone_are_named(raw, tmp_path):
    preprocess.main(replace(raw, downscale=4.0))
    for file in (raw.output / "test" / "native").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"native/a\d_image.png or a\d_classes.png is missing: .*preprocess.py again"):
        baselines.main(baselines.Settings(data=raw.output, output=Path(tmp_path / "r"), pictures=0))
