"""The distance between image sets: by hand in one dimension, and what must be near and what far."""

import numpy as np
import pytest
from scipy import ndimage

from GenSelfDiff.synthesis.image_distance import (
    compare,
    image_distance,
    laplacian_pyramid,
    read_images,
    real_patches,
    sliced_wasserstein,
)
from utils_general import InputError, write_png


def tissue(number, seed, size=32):
    """Smooth two-coloured images with grain: a stand-in for tissue."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((number, size, size)), (0, 3, 3))
    mix = (field > 0)[..., None]
    images = np.where(mix, [200, 150, 190], [110, 70, 140]) + rng.normal(0, 8, (number, size, size, 3))
    return images.clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def real():
    return tissue(24, seed=0)


def changed(images, function):
    return np.stack([function(image.astype(float)) for image in images]).clip(0, 255).round().astype(np.uint8)


def test_one_dimension_by_hand():
    # Sorted: 0, 1, 4 against 2, 3, 9: differences 2, 2, 5.
    a, b = np.array([[4.0], [0.0], [1.0]]), np.array([[2.0], [9.0], [3.0]])
    assert sliced_wasserstein(a, b, np.array([[1.0]])) == pytest.approx(3)
    assert sliced_wasserstein(a, b, np.array([[1.0], [-1.0]])) == pytest.approx(3)


def test_a_shift_is_seen_by_its_length_along_each_direction():
    points = np.random.default_rng(0).standard_normal((500, 2))
    directions = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    shifted = points + [3, 1]  # along the directions: 3, 1 and 2.6
    assert sliced_wasserstein(points, shifted, directions) == pytest.approx((3 + 1 + 2.6) / 3)


def test_the_directions_are_averaged_however_many_there_are():
    points = np.random.default_rng(0).standard_normal((50, 2))
    directions = np.repeat([[1.0, 0.0], [0.0, 1.0]], [300, 100], axis=0)  # more than are computed at once
    assert sliced_wasserstein(points, points + [4, 8], directions) == pytest.approx((300 * 4 + 100 * 8) / 400)


def test_pyramid_of_a_flat_image_holds_it_in_the_coarsest_level():
    levels = list(laplacian_pyramid(np.full((1, 64, 64, 3), 7, np.uint8)))
    assert [level.shape[1] for level in levels] == [64, 32, 16]
    assert all(np.abs(level).max() < 1e-4 for level in levels[:-1])
    assert np.abs(levels[-1] - 7).max() < 1e-4


def test_pyramid_separates_the_scales():
    ys, xs = np.mgrid[:64, :64]
    board = np.where((ys + xs) % 2, 255, 0)[None, ..., None].astype(np.uint8)
    finest, *rest = laplacian_pyramid(board)
    assert np.abs(finest).mean() > 120 and all(level.std() < 1 for level in rest)


def test_a_set_has_no_distance_from_itself(real):
    distances = image_distance(real, real)
    assert list(distances) == ["32 px", "16 px", "mean", "mean, real scale"]
    assert max(distances.values()) == 0


def test_mean_is_that_of_the_levels_and_the_seed_decides(real):
    other = tissue(24, seed=1)
    distances = image_distance(real, other, seed=1)
    assert distances["mean"] == pytest.approx((distances["32 px"] + distances["16 px"]) / 2)
    assert image_distance(real, other, seed=1) == distances != image_distance(real, other, seed=2)


def test_more_images_of_one_kind_are_nearer(real):
    few = image_distance(real[:3], tissue(3, seed=1))["mean"]
    assert image_distance(real, tissue(24, seed=1))["mean"] < few / 1.5


@pytest.mark.parametrize(
    ("change", "figure", "factor"),
    [
        (lambda image: ndimage.gaussian_filter(image, (1.5, 1.5, 0)), "32 px", 2),
        (lambda image: image + np.random.default_rng(0).normal(0, 60, image.shape), "32 px", 2),
        (lambda image: image + [25, 0, -25], "mean, real scale", 2),
        (lambda image: 128 + 0.6 * (image - 128), "mean, real scale", 2),
        (lambda image: np.roll(image, 1, axis=2), "mean, real scale", 2),
    ],
    ids=["blurred", "noisy", "other colour", "less contrast", "swapped channels"],
)
def test_changed_images_are_far(real, change, figure, factor):
    other = tissue(24, seed=1)
    assert image_distance(real, changed(other, change))[figure] > factor * image_distance(real, other)[figure]


def test_the_published_figure_sees_no_colour_cast_and_no_contrast(real):
    other = (tissue(24, seed=1) // 2) * 2
    alike = image_distance(real, other)["mean"]
    assert image_distance(real, other // 2 + 20)["mean"] == pytest.approx(alike, rel=0.02)


def test_flat_images_have_a_distance(real):
    assert np.isfinite(list(image_distance(real, np.zeros_like(real)).values())).all()


@pytest.mark.parametrize("other", [(23, 32, 32, 3), (24, 16, 32, 3), (24, 32, 32, 1)])
def test_sets_that_do_not_go_together_are_named(real, other):
    with pytest.raises(InputError, match=r"\(24, 32, 32, 3\) and \(.*as many images of one size"):
        image_distance(real, np.zeros(other, np.uint8))


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (4, 6, 6, 3)])
def test_too_few_or_too_small_images_are_named(shape):
    with pytest.raises(InputError, match="at least one image, of 7 pixels or more"):
        image_distance(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))


def test_generated_images_stand_beside_other_real_ones(real):
    both = np.concatenate([real, tissue(50, seed=1)])  # 50 real ones make 25 pairs; 24 images are generated
    tables = compare(tissue(24, seed=2) // 2, both)
    first, other = both[:24], both[24:48]
    assert tables["distance"].loc["other real"].to_dict() == image_distance(first, other)
    assert tables["distance"].loc["generated"].to_dict() == image_distance(first, tissue(24, seed=2) // 2)
    assert tables["colours"].loc["real", "mean red"] == pytest.approx(both[..., 0].mean())
    few = compare(tissue(24, seed=2), real[:5])["distance"]
    assert few.loc["other real"].to_dict() == image_distance(real[:2], real[2:4])


def test_real_patches_come_in_the_order_of_the_seed(tiny_data_set):
    files = real_patches((tiny_data_set,), 16)
    wanted = np.random.RandomState(2023).permutation(12)
    assert [f.name for f in files] == [f"image_{i}.png" for i in wanted]
    with pytest.raises(InputError, match="patches of 16 pixels, the network draws 32: .* --data"):
        real_patches((tiny_data_set,), 32)
    with pytest.raises(InputError, match="names no data set"):
        real_patches((), 16)


def test_one_real_patch_is_too_few(tmp_path, write_patches):
    write_patches(tmp_path / "one", ["a"], ["train"], per_source=1, labelled=False)
    (tmp_path / "dataset.json").write_text(
        '{"name": "x", "protocol": "paper", "classes": [], "instances": "components", "patch_size": 16, "stride": 16,'
        ' "seed": 1}'
    )
    with pytest.raises(InputError, match="one patch: two or more"):
        real_patches((tmp_path / "one",), 16)


def test_an_image_of_another_size_is_named(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    write_png(tmp_path / "b.png", np.zeros((16, 24, 3), np.uint8))
    assert read_images([tmp_path / "a.png"], 16).shape == (1, 16, 16, 3)
    with pytest.raises(InputError, match=r"b.png is 24x16 pixels, not 16x16"):
        read_images([tmp_path / "a.png", tmp_path / "b.png"], 16)
