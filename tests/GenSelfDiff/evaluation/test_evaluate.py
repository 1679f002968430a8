import shutil
import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image as Picture

from file_contents import DataSet
from GenSelfDiff.evaluation.evaluate import Evaluation, check_patches, evaluate, patches_to_test
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.metrics import AS_PUBLISHED, BY_IMAGE, BY_INSTANCE, POOLED, POOLED_INSTANCES
from utils_general import InputError, write_json, write_png


def one_hot(class_maps, classes=2):
    return np.eye(classes, dtype=np.float32)[class_maps].transpose(0, 3, 1, 2)


@pytest.fixture
def oracle(tiny_data_set):
    """The test patches, and a predictor that knows their labels (dark pixels are class 1)."""
    return patches_to_test(tiny_data_set), lambda images: one_hot((images.mean(-1) < 150).astype(int))


def run(patches, predict, classes=("background", "nucleus"), minimum_area=1, **settings):
    """The evaluation, and the images that it saw."""
    settings, classes = InstanceSettings(minimum_area=minimum_area, **settings), list(classes)
    seen = list(evaluate(predict, patches, classes, settings))
    return Evaluation.of([scores for _, scores in seen], patches, classes, settings), [image for image, _ in seen]


def test_a_perfect_prediction_has_perfect_metrics(oracle):
    patches, predict = oracle
    evaluation, seen = run(patches, predict, instances="components")
    table = evaluation.table().test
    for averaging, name in [(AS_PUBLISHED, "AJI"), (BY_IMAGE, "Dice"), (BY_INSTANCE, "AJI"), (BY_INSTANCE, "PQ"),
                            (POOLED, "Jaccard")]:  # fmt: skip
        assert table[averaging, name] == 1
    assert table[BY_IMAGE, "HD95 (px)"] == 0 and table[AS_PUBLISHED, "Hausdorff_distance"] == 0
    assert [image.source for image in seen] == ["t1", "t2"] and seen[0].pixels.shape == (32, 32, 3)
    assert len(np.unique(seen[0].true_instances)) == 5  # four patches, a numbered disc in each, and the background
    assert len(evaluation.patches) == 8 and evaluation.truth_instances == "the annotation"
    assert (evaluation.patches["standard: Dice"] == 1).all() and (evaluation.patches["standard: HD95 (px)"] == 0).all()
    assert not any(name.startswith("standard: ") for name in table[AS_PUBLISHED].index)
    assert evaluation.left_out() == {}


def test_images_and_pixels_are_averaged_differently(oracle):
    """One image right, the other all background: the mean over images is a half, the pooled Dice is not."""
    patches, right = oracle
    calls = []

    def predict(images):
        calls.append(1)  # of each image the patches, and then it as one
        return right(images) if len(calls) <= 2 else one_hot(np.zeros(images.shape[:3], int))

    evaluation, seen = run(patches, predict, instances="components")
    table = evaluation.table().test
    first, second = (int((image.truth == 1).sum()) for image in seen)
    assert table[BY_IMAGE, "Dice"] == 0.5 and table[BY_INSTANCE, "AJI"] == 0.5
    assert table[POOLED, "Dice"] == pytest.approx(2 * first / (2 * first + second))
    assert table[POOLED_INSTANCES, "AJI"] == pytest.approx(first / (first + second))
    assert table[POOLED_INSTANCES, "RQ"] == pytest.approx(4 / (4 + 4 / 2))
    assert table[AS_PUBLISHED, "precision"] == 1  # nothing predicted counts 1, as published
    assert table[BY_IMAGE, "precision"] == 0.5
    assert evaluation.patches["precision"].tolist() == [1] * 8
    assert evaluation.patches["standard: precision"].tolist() == [1] * 4 + [0] * 4
    assert evaluation.patches["standard: HD95 (px)"].tolist() == pytest.approx([0] * 4 + [16 * 2**0.5] * 4)
    assert evaluation.left_out() == {"SQ": 1}  # nothing is matched in the second image


def test_splits_are_reported_apart_and_together(tiny_data_set):
    index = tiny_data_set / "test" / "index.csv"
    table = pd.read_csv(index)
    table["split"] = ["testA"] * 4 + ["testB"] * 4
    table.to_csv(index, index=False)
    patches = patches_to_test(tiny_data_set)
    right, wrong = lambda i: one_hot((i.mean(-1) < 150).astype(int)), lambda i: one_hot(0 * i[..., 0].astype(int))
    right_in_a = iter([right, right, wrong, wrong])  # of each image the patches, and then it as one
    evaluation, _ = run(patches, lambda images: next(right_in_a)(images), instances="components")
    result = evaluation.table()
    assert result.columns.tolist() == ["testA", "testB", "all"]
    assert result.loc[(BY_IMAGE, "Dice")].tolist() == [1, 0, 0.5]
    assert result.loc[(AS_PUBLISHED, "Jaccard_score")].tolist() == [1, 0, 0.5]
    assert result.loc[(POOLED_INSTANCES, "RQ")].tolist() == pytest.approx([1, 0, 2 / 3])
    assert result.loc[(POOLED, "Dice")].tolist() == pytest.approx([1, 0, pooled_dice(evaluation.matrices)])
    for split, right in (("testA", True), ("testB", False)):  # the sums of each split are of its own image
        matrix, counts = evaluation.matrices[split], evaluation.counts[split]
        assert matrix.sum() == 32 * 32 and (matrix[0, 1] == 0) and (matrix[1, 0] == 0) == right
        assert counts[0, 4] == 4 and counts[0, 2] == (4 if right else 0)  # true objects, matched pairs


def pooled_dice(matrices):
    """Of class 1, over the pixels of all splits."""
    together = sum(matrices.values())
    return 2 * together[1, 1] / (together[1].sum() + together[:, 1].sum())


def test_three_classes_are_named(tiny_data_set):
    evaluation, _ = run(
        patches_to_test(tiny_data_set), lambda images: one_hot((images.mean(-1) < 150).astype(int), 3),
        ["background", "nucleus", "gland"], 30,
    )  # fmt: skip
    assert evaluation.images["Dice: nucleus"].tolist() == [1, 1] and evaluation.images["Dice: gland"].isna().all()
    assert evaluation.images["Dice"].tolist() == [1, 1]  # the absent class is left out
    assert evaluation.images["AJI"].tolist() == [1, 1] and evaluation.images["AJI: gland"].isna().all()
    assert evaluation.table().test[POOLED, "Dice: nucleus"] == 1


def test_an_object_of_the_wrong_class_is_not_found(tiny_data_set):
    evaluation, _ = run(
        patches_to_test(tiny_data_set), lambda images: one_hot(2 * (images.mean(-1) < 150).astype(int), 3),
        ["background", "nucleus", "gland"], 30,
    )  # fmt: skip
    images = evaluation.images
    for name in ("AJI", "PQ", "Dice"):
        assert images[f"{name}: nucleus"].tolist() == images[f"{name}: gland"].tolist() == [0, 0]


def test_nothing_there_and_nothing_found_leaves_all_metrics_out(tiny_data_set):
    for kind, dtype in (("label", np.uint8), ("instance", np.uint16)):
        for file in (tiny_data_set / "test" / f"{kind}s").iterdir():
            write_png(file, np.zeros((16, 16), dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation, _ = run(patches_to_test(tiny_data_set), lambda images: one_hot(0 * images[..., 0].astype(int)))
        table = evaluation.table().test
    assert table.drop(index=AS_PUBLISHED, level=0).isna().all()
    assert table[AS_PUBLISHED, "Jaccard_score"] == 1  # as published
    assert evaluation.patches["standard: Jaccard"].isna().all()
    assert evaluation.left_out() == dict.fromkeys(evaluation.images.columns[2:], 2)


def write_cut(root, image, instances, size, stride):
    """A data set whose test folder is one image, cut into patches."""
    rows = []
    for y, x in product(*(range(0, side - size + 1, stride) for side in instances.shape)):
        window = np.s_[y : y + size, x : x + size]
        i = len(rows)
        write_png(root / f"test/images/image_{i}.png", image[window])
        write_png(root / f"test/labels/label_{i}.png", (instances[window] > 0).astype(np.uint8))
        write_png(root / f"test/instances/instance_{i}.png", instances[window].astype(np.uint16))
        rows.append((i, "whole", x, y, "test"))
    table = pd.DataFrame(rows, columns=["patch", "source", "x", "y", "split"])
    table.to_csv(root / "test" / "index.csv", index=False)
    write_json(root / "dataset.json", DataSet("cut", "x", ["b", "n"], "watershed", size, stride, 0).__dict__)
    return patches_to_test(root)


@pytest.fixture
def tissue():
    """An image of 48 pixels with a dark nucleus in every 16, and their numbers."""
    ys, xs = np.mgrid[:48, :48] % 16 - 8
    number = np.mgrid[:48, :48][0] // 16 * 3 + np.mgrid[:48, :48][1] // 16 + 1
    instances = np.where(ys**2 + xs**2 < 30, number, 0)
    image = np.where(instances[..., None] > 0, 60, 220) + np.random.default_rng(0).integers(-30, 30, (48, 48, 3))
    return image.astype(np.uint8), instances


def test_overlapping_patches_give_the_metrics_of_the_whole_image(tmp_path, tissue):
    def predict(images):
        return one_hot((images[..., 0] < 85).astype(int))  # finds most pixels of the nuclei

    (of_whole, (whole,)), (of_cut, (cut,)) = (
        run(write_cut(tmp_path / str(size), *tissue, size, 8), predict) for size in (48, 16)
    )  # fmt: skip
    for name in ("pixels", "truth", "prediction", "true_instances", "instances"):
        assert (getattr(whole, name) == getattr(cut, name)).all()
    assert whole.covered.all() and cut.covered.all()
    pd.testing.assert_frame_equal(of_whole.images, of_cut.images)
    assert (of_whole.calibration == of_cut.calibration).all() and of_whole.calibration[:, 0].sum() == 48 * 48
    assert 0 < of_whole.images.Dice[0] < 1


def test_gaps_between_patches_count_for_nothing(tmp_path, tissue):
    """Patches of 16 every 32 pixels: four nuclei are seen, five are in the gaps."""
    patches = write_cut(tmp_path, *tissue, 16, 32)
    evaluation, (seen,) = run(patches, lambda images: one_hot(np.ones(images.shape[:3], int)))
    assert seen.covered.sum() == evaluation.matrices["test"].sum() == 4 * 16 * 16
    assert evaluation.images.precision[0] == pytest.approx((tissue[1][:16, :16] > 0).mean())


def test_borders_without_patches_are_as_if_cut_off(tmp_path, tissue):
    """Patches of 16 every 12 pixels cover 40 of 48: the evaluation are those of the image without its last 8."""
    image, instances = tissue
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    patches = write_cut(whole, image, instances, 16, 12), write_cut(cut, image[:40, :40], instances[:40, :40], 40, 40)
    (evaluation, (seen,)), (expected, _) = (run(p, lambda i: one_hot((i[..., 0] < 85).astype(int))) for p in patches)
    assert seen.covered.all() and seen.covered.shape == (40, 40)
    pd.testing.assert_frame_equal(evaluation.images, expected.images)


def test_patches_absurdly_far_apart_are_refused(tiny_data_set):
    patches = patches_to_test(tiny_data_set)
    patches.index.loc[patches.index.index[0], "x"] = 2_000_000_000
    with pytest.raises(
        InputError, match=r"patches of t1 in .*test span 20000000\d\dx\d+ pixels, which they hardly cover"
    ):
        run(patches, lambda images: one_hot(0 * images[..., 0].astype(int)))


def test_a_gap_between_patches_is_no_hole_in_a_gland(tmp_path):
    """Patches of 16 every 24 pixels on one large gland: filling its holes must not fill what nobody has seen."""
    gland = np.ones((64, 64), int)
    for name in ("annotated", "by components"):
        patches = write_cut(tmp_path / name, np.zeros((64, 64, 3), np.uint8), gland, 16, 24)
        if name == "by components":
            shutil.rmtree(patches.folder / "instances")
            patches = patches_to_test(tmp_path / name)
        assert patches.has_instances == (name == "annotated")
        evaluation, (seen,) = run(patches, lambda i: one_hot(np.ones(i.shape[:3], int)), instances="components")
        assert ((seen.instances > 0) == seen.covered).all() and ((seen.true_instances > 0) == seen.covered).all()
        assert seen.covered.sum() == 9 * 16 * 16 and evaluation.images.Dice[0] == 1


def test_glands_are_components_with_their_holes_filled(tmp_path):
    """Two glands of 20 by 20 pixels with lumina are annotated as filled; one is found, one is missed by half."""
    instances = np.zeros((48, 48), int)
    instances[2:22, 2:22], instances[26:46, 26:46] = 1, 2
    image = np.where(instances[..., None] > 0, 60, 220).astype(np.uint8).repeat(3, axis=-1)
    image[8:14, 8:14] = 220  # a lumen: not seen as gland, but filled
    image[26:46, 35:46] = 220  # of the second gland 9 columns of 20 are seen
    patches = write_cut(tmp_path, image, instances, 24, 8)
    evaluation, (seen,) = run(patches, lambda i: one_hot((i[..., 0] < 85).astype(int)), instances="components")
    assert (seen.instances == 1).sum() == 400 and seen.instances.max() == 2
    row = evaluation.images.iloc[0]
    dice = 2 * 180 / (400 + 180)
    assert row["object Dice"] == pytest.approx(((400 + 400 * dice) / 800 + (400 + 180 * dice) / 580) / 2)
    assert row["object Hausdorff (px)"] == pytest.approx((400 * 11 / 800 + 180 * 11 / 580) / 2)
    assert row["GlaS F1"] == row["object F1"] == pytest.approx(2 * 1 / 4)
    assert evaluation.table().test[POOLED_INSTANCES, "object Dice"] == pytest.approx(row["object Dice"])


def test_calibration_counts_covered_pixels_by_confidence(tmp_path, tissue):
    """Class 1 everywhere with 0.72 in dark pixels, 0.97 in others: right in nuclei only. Gaps count for nothing."""
    image = np.where(tissue[1][..., None] > 0, 60, 220).astype(np.uint8).repeat(3, axis=-1)
    patches = write_cut(tmp_path, image, tissue[1], 16, 32)

    def predict(images):
        p = np.where(images[..., 0] < 100, 0.72, 0.97).astype(np.float32)
        return np.stack([1 - p, p], axis=1)

    evaluation, (seen,) = run(patches, predict)
    nuclei = int((tissue[1] > 0)[seen.covered[:48, :48]].sum())
    others = 4 * 16 * 16 - nuclei
    rows = {14: [nuclei, 0.72 * nuclei, nuclei], 19: [others, 0.97 * others, 0]}
    expected = [rows.get(i, [0, 0, 0]) for i in range(20)]
    assert evaluation.calibration == pytest.approx(np.array(expected), rel=1e-5)
    assert evaluation.calibration.dtype == np.float64


def test_calibration_of_a_method_that_is_always_sure(oracle):
    """Probabilities of 0 and 1 lie in the last bin; two images are added up."""
    evaluation, _ = run(*oracle)
    assert evaluation.calibration[-1].tolist() == [2 * 32 * 32] * 3 and not evaluation.calibration[:-1].any()


def test_without_instances_they_come_from_the_class_map(tiny_data_set):
    for file in (tiny_data_set / "test" / "instances").iterdir():
        file.unlink()
    (tiny_data_set / "test" / "instances").rmdir()
    evaluation, _ = run(patches_to_test(tiny_data_set), lambda i: one_hot((i.mean(-1) < 150).astype(int)))
    assert "connected components" in evaluation.truth_instances


def write_released(folder, labels):
    """A folder as the released code wrote it."""
    folder.mkdir(parents=True)
    for i, label in enumerate(labels):
        grey = np.where(label[..., None] > 0, 60, 220).repeat(3, axis=-1).astype(np.uint8)
        Picture.fromarray(grey).save(folder / f"image_{i}.jpg", quality=95)
    scipy.io.savemat(folder / "label_patches.mat", {"data": labels.astype(np.uint8)})


@pytest.mark.parametrize("folder", [".", "test"])
def test_a_folder_as_released_is_all_for_testing(tmp_path, folder):
    labels = np.zeros((12, 16, 16), int)
    labels[:, 4:12, 4:12] = 1
    write_released(tmp_path / "data" / folder, labels)
    patches = patches_to_test(tmp_path / "data")
    evaluation, seen = run(patches, lambda images: one_hot((images.mean(-1) < 140).astype(int)))
    assert evaluation.table().columns.tolist() == ["test"] and len(seen) == 12
    assert evaluation.table().test[BY_INSTANCE, "PQ"] > 0.9


def test_a_class_map_is_not_taken_for_instances(tmp_path, tissue):
    """Nine nuclei share one number; with eleven pieces or more that is no accident."""
    image, instances = (np.tile(a, (2, 1, 1)[: a.ndim]) for a in tissue)
    patches = write_cut(tmp_path, image, (instances > 0).astype(int), 16, 8)
    with pytest.raises(InputError, match="annotation of whole .* but a class map: 18 pieces share 1 numbers; without"):
        run(patches, lambda images: one_hot(0 * images[..., 0].astype(int)))


@pytest.mark.parametrize(("kind", "stem"), [("images", "image"), ("labels", "label"), ("instances", "instance")])
def test_broken_and_wrong_files_are_found_before_any_work(tiny_data_set, kind, stem):
    check_patches(patches_to_test(tiny_data_set), 2)
    file = tiny_data_set / "test" / kind / f"{stem}_5.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(InputError, match=f"cannot read .*{stem}_5.png"):
        check_patches(patches_to_test(tiny_data_set), 2)
    file.write_bytes(whole)
    Picture.open(file).resize((24, 16)).save(file)
    with pytest.raises(InputError, match=r"5.* 24x16 pixels"):
        check_patches(patches_to_test(tiny_data_set), 2)


def test_a_data_set_without_test_patches(tmp_path):
    with pytest.raises(InputError, match="has no folder test"):
        patches_to_test(tmp_path)
