import numpy as np
import pytest
from skimage.color import rgb2lab

from GenSelfDiff.palette import colours
from GenSelfDiff.report.overlays import ERRORS, contours, error_kinds, errors, on_tissue, overlay
from tests.GenSelfDiff.report.squares import CLASS_1, CLASS_2, TISSUE, squares


@pytest.fixture
def image():
    return squares()


def test_contours_of_what_is_missed_found_and_invented(image):
    image.prediction[12, 14] = 0  # as a filled hole: in the object, but not in the class map
    picture = overlay(image)
    for line in (np.s_[2, 2:8], np.s_[7, 2:8], np.s_[2:8, 2], np.s_[2:8, 7]):  # missed: all sides of it dashed
        assert {tuple(pixel) for pixel in picture[line].tolist()} == {(0, 0, 0), (255, 255, 255)}
    for corner, colour in (((12, 12), CLASS_1), ((12, 14), CLASS_1), ((22, 2), CLASS_2)):
        assert picture[corner].tolist() == colour
    for inside in ((4, 4), (14, 14), (24, 4), (10, 10)):
        assert picture[inside].tolist() == TISSUE
    assert (image.pixels == TISSUE).all()  # the image itself is untouched


def test_contours_are_the_overlay_without_the_tissue(image):
    lines = contours(image)
    drawn = lines[..., 3] == 255
    assert (lines[~drawn] == 0).all() and 0 < drawn.mean() < 0.2
    assert (overlay(image)[drawn] == lines[drawn, :3]).all() and (overlay(image)[~drawn] == TISSUE).all()


def test_every_pixel_of_the_error_map(image):
    image.prediction[12:18, 15:18] = 2  # half of the object that was found
    image.covered[29] = False
    kinds = np.full((30, 30), "", dtype=object)
    kinds[2:8, 2:8], kinds[22:28, 2:8], kinds[29] = "missed", "predicted, not there", "not covered by patches"
    kinds[12:18, 12:15], kinds[12:18, 15:18] = "found", "wrong class"
    picture = errors(image).astype(int)
    for kind, colour in ERRORS.items():
        assert np.abs(picture[kinds == kind] - colour).max() <= 0.15 * 200 + 1, kind  # the tissue shines through
    quiet = picture[kinds == ""]
    assert (quiet == quiet[0]).all() and quiet.min() > 200 and np.ptp(quiet[0]) == 0
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 6


# Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia; of linear RGB.
DEFICIENCIES = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


@pytest.mark.parametrize("seen", [np.eye(3), *DEFICIENCIES], ids=["all colours", "protan", "deutan", "tritan"])
def test_errors_are_told_apart_by_everybody(seen):
    rgb = np.array([*ERRORS.values(), (240, 240, 240)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ seen.T
    linear = linear.clip(0, 1)
    lab = rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert distances.min() > 20  # 2 is just noticeable


def test_flat_colours_lie_on_pale_tissue(image):
    picture = on_tissue(image, colours(image.truth), image.truth > 0)
    assert (picture[4, 4] > [200, 60, 0]).all() and picture[4, 4, 0] > picture[4, 4, 2] + 150
    assert (picture[0, 0] == picture[0, 0, 0]).all() and picture[0, 0, 0] > 200


def test_the_legend_names_the_errors_that_there_can_be(image):
    assert error_kinds(image, ["background", "one"]) == ["found", "predicted, not there", "missed"]
    image.covered[0] = False
    assert error_kinds(image, ["background", "one", "two"]) == list(ERRORS)
