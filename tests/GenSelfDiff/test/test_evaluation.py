import numpy as np
import pandas as pd
import pytest

from GenSelfDiff.test.evaluation import (
    AS_PUBLISHED,
    BY_IMAGE,
    BY_INSTANCE,
    POOLED,
    evaluate,
    patches_to_test,
    stitch,
    stitch_probabilities,
)
from GenSelfDiff.test.instances import InstanceSettings
from utils_general import InputError


def one_hot(class_maps, classes=2):
    return np.eye(classes, dtype=np.float32)[class_maps].transpose(0, 3, 1, 2)


def test_stitched_patches_are_the_whole():
    rng = np.random.default_rng(0)
    whole = rng.random((2, 20, 28)).astype(np.float32)
    corners = [(x, y) for y in (0, 4, 8, 12) for x in (0, 4, 8, 12, 16, 20)]
    cut = np.stack([whole[:, y : y + 8, x : x + 8] for x, y in corners])
    assert np.allclose(stitch_probabilities(cut, corners), whole)
    assert (stitch(cut[:, 0], corners) == whole[0]).all()


def test_where_patches_overlap_probabilities_are_averaged():
    patches = np.stack([np.full((1, 2, 2), 0.2), np.full((1, 2, 2), 0.6)])
    assert stitch_probabilities(patches, [(0, 0), (1, 0)])[0].tolist() == [pytest.approx([0.2, 0.4, 0.6])] * 2


@pytest.fixture
def oracle(tiny_data_set):
    """The test patches, and a predictor that knows their labels (dark pixels are class 1)."""
    return patches_to_test(tiny_data_set), lambda images: one_hot((images.mean(-1) < 150).astype(int))


def run(patches, predict, **settings):
    seen = []
    settings = InstanceSettings(minimum_area=1, **settings)
    return evaluate(predict, patches, ["background", "nucleus"], settings, seen.append), seen


def test_a_perfect_prediction_has_perfect_figures(oracle):
    patches, predict = oracle
    figures, seen = run(patches, predict, instances="components")
    table = figures.table().test
    for averaging, name in [(AS_PUBLISHED, "AJI"), (BY_IMAGE, "Dice"), (BY_INSTANCE, "AJI"), (BY_INSTANCE, "PQ"),
                            (POOLED, "Jaccard")]:  # fmt: skip
        assert table[averaging, name] == 1
    assert table[BY_IMAGE, "HD95 (px)"] == 0 and table[AS_PUBLISHED, "Hausdorff_distance"] == 0
    assert [image.source for image in seen] == ["t1", "t2"] and seen[0].pixels.shape == (32, 32, 3)
    assert len(np.unique(seen[0].true_instances)) == 5  # four patches, a numbered disc in each, and the background
    assert len(figures.patches) == 8 and figures.truth_instances == "the annotation"


def test_images_and_pixels_are_averaged_differently(oracle):
    """One image right, the other all background: the mean over images is a half, the pooled Dice is not."""
    patches, right = oracle
    calls = []

    def predict(images):
        calls.append(1)
        return right(images) if len(calls) == 1 else one_hot(np.zeros(images.shape[:3], int))

    figures, seen = run(patches, predict, instances="components")
    table = figures.table().test
    first, second = (int((image.truth == 1).sum()) for image in seen)
    assert table[BY_IMAGE, "Dice"] == 0.5 and table[BY_INSTANCE, "AJI"] == 0.5
    assert table[POOLED, "Dice"] == pytest.approx(2 * first / (2 * first + second))
    assert table[AS_PUBLISHED, "precision"] == 1  # nothing predicted counts 1, as published
    assert table[BY_IMAGE, "precision"] == 0.5


def test_splits_are_reported_apart_and_together(tiny_data_set):
    index = tiny_data_set / "test" / "index.csv"
    table = pd.read_csv(index)
    table["split"] = ["testA"] * 4 + ["testB"] * 4
    table.to_csv(index, index=False)
    patches = patches_to_test(tiny_data_set)
    right_in_a = iter([lambda i: one_hot((i.mean(-1) < 150).astype(int)), lambda i: one_hot(0 * i[..., 0].astype(int))])
    figures, _ = run(patches, lambda images: next(right_in_a)(images), instances="components")
    result = figures.table()
    assert result.columns.tolist() == ["testA", "testB", "all"]
    assert result.loc[(BY_IMAGE, "Dice")].tolist() == [1, 0, 0.5]


def test_three_classes_are_named(tiny_data_set):
    patches = patches_to_test(tiny_data_set)
    figures = evaluate(
        lambda images: one_hot((images.mean(-1) < 150).astype(int), 3),
        patches, ["background", "nucleus", "gland"], InstanceSettings(), lambda image: None,
    )  # fmt: skip
    assert figures.images["Dice: nucleus"].tolist() == [1, 1] and figures.images["Dice: gland"].isna().all()
    assert figures.images["Dice"].tolist() == [1, 1]  # the absent class is left out


def test_without_instances_they_come_from_the_class_map(tiny_data_set):
    for file in (tiny_data_set / "test" / "instances").iterdir():
        file.unlink()
    (tiny_data_set / "test" / "instances").rmdir()
    figures, _ = run(patches_to_test(tiny_data_set), lambda i: one_hot((i.mean(-1) < 150).astype(int)))
    assert "connected components" in figures.truth_instances


def test_a_data_set_without_test_patches(tmp_path):
    with pytest.raises(InputError, match="has no folder test"):
        patches_to_test(tmp_path)
