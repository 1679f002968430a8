from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

from pre_process.demo.make_demo_data import STAINS, Settings, Tissue, main, make_image, stain
from pre_process.MoNuSeg import preprocess as monuseg
from utils_general import InputError


@pytest.fixture(scope="module")
def image_and_outlines():
    return make_image(np.random.default_rng(1), 256)


def test_script_makes_what_monuseg_preprocessing_reads(tmp_path, run_script_file, read_folder):
    arguments = ["--output", tmp_path / "raw", "--training-images", 2, "--test-images", 2, "--size", 96]
    done = run_script_file("pre_process/demo/make_demo_data.py", *arguments)
    assert done.stdout.splitlines()[-1] == f"synthetic images and annotations are in {tmp_path / 'raw'}"
    settings = monuseg.Settings(raw=tmp_path / "raw", output=tmp_path / "out", patch_size=64, stride=32)
    monuseg.main(replace(settings, protocol="official"))
    for folder in ("labelled", "test"):
        index, arrays = read_folder(tmp_path / "out" / folder)
        assert len(index) == 2 * 4
        assert all(0.02 < label.mean() < 0.7 for label in arrays["labels"])
        assert max(a.max() for a in arrays["instances"]) > 5


def test_same_seed_same_bytes(tmp_path):
    def make(name, seed):
        main(Settings(output=tmp_path / name, training_images=1, test_images=2, size=64, seed=seed))
        return {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("[!.]*") if f.is_file()}

    first, second, other = make("a", 7), make("b", 7), make("c", 8)
    assert len(first) == 7
    assert first == second
    assert all(first[name] != other[name] for name in first)


def test_number_of_images_does_not_change_the_images(tmp_path):
    for name, test_images in (("a", 2), ("b", 3)):
        main(Settings(output=tmp_path / name, training_images=1, test_images=test_images, size=64))
    for file in ("demo-test-01.tif", "demo-test-02.xml"):
        assert (tmp_path / "a" / monuseg.TEST_FOLDER / file).read_bytes() == (
            tmp_path / "b" / monuseg.TEST_FOLDER / file
        ).read_bytes()


def test_stains_mix_by_optical_density():
    """Twice the stain squares the transmission; haematoxylin takes the red, eosin the green."""

    def colour(haematoxylin, eosin):
        flat = np.zeros((40, 40))
        tissue = Tissue(flat, flat, flat, flat + haematoxylin, flat + eosin)
        return stain(np.random.default_rng(3), tissue).mean((0, 1))

    white, once, twice = colour(0, 0), colour(0.2, 0.1), colour(0.4, 0.2)
    assert np.allclose(twice / white, (once / white) ** 2, atol=0.01)
    assert colour(0.5, 0).argmax() == 2
    assert colour(0, 0.5).argmin() == 1
    assert np.allclose(np.linalg.norm(STAINS, axis=1), 1, atol=0.01)


def test_nuclei_are_of_several_sizes_and_touch(image_and_outlines):
    image, outlines = image_and_outlines
    class_map, numbers = monuseg.draw_nuclei(outlines, image.shape[:2])
    areas = np.bincount(numbers.ravel())[1:]
    inner = areas[areas > 20]
    assert len(inner) > 30
    assert np.quantile(inner, 0.9) > 2.5 * np.quantile(inner, 0.1)
    neighbours = (numbers[:, 1:] != numbers[:, :-1]) & (numbers[:, 1:] > 0) & (numbers[:, :-1] > 0)
    assert neighbours.sum() > 10
    vertices = np.concatenate(outlines)
    assert (vertices % 1 > 0.01).mean() > 0.9  # sub-pixel
    assert vertices.min() < 0 or vertices.max() > 256  # reach over the border


def test_labels_fit_the_image_but_no_threshold_does(image_and_outlines):
    image, outlines = image_and_outlines
    truth = monuseg.draw_nuclei(outlines, image.shape[:2])[0] > 0
    haematoxylin = gaussian_filter(rgb2hed(image)[..., 0], 1)
    assert haematoxylin[truth].mean() > haematoxylin[~truth].mean() + haematoxylin.std() / 2

    def dice(threshold):
        found = haematoxylin > threshold
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    assert 0.4 < dice(threshold_otsu(haematoxylin)) < 0.85
    assert max(dice(t) for t in np.quantile(haematoxylin, np.linspace(0.05, 0.95, 60))) < 0.88


def test_refusals(tmp_path):
    settings = Settings(output=tmp_path / "raw", training_images=1, test_images=2, size=64)
    for change in ({"training_images": 0}, {"test_images": 1}, {"size": 63}):
        with pytest.raises(InputError, match="at least 1 training image, 2 test images and a size of 64"):
            main(replace(settings, **change))
    main(settings)
    with pytest.raises(InputError, match="already holds files; --overwrite replaces them"):
        main(replace(settings, test_images=3))
    main(replace(settings, test_images=3, overwrite=True))
    assert len(list((tmp_path / "raw" / monuseg.TEST_FOLDER).glob("*.tif"))) == 3
