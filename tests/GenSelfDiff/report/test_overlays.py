import numpy as np
import pytest
from skimage.color import rgb2lab

from GenSelfDiff.palette import colours
from GenSelfDiff.report.overlays import ERRORS, FATE_COLOURS, contours, error_kinds, errors, on_tissue, overlay
from tests.GenSelfDiff.report.squares import TISSUE, squares


@pytest.fixture
def image():
    return squares()


def test_contours_of_what_is_missed_found_and_invented(image):
    image.prediction[12, 14] = 0  # as a filled hole: in the object, but not in the class map
    picture = overlay(image)
    for line in (np.s_[2, 2:8], np.s_[7, 2:8], np.s_[2:8, 2], np.s_[2:8, 7]):  # missed: all sides of it dashed
        assert {tuple(pixel) for pixel in picture[line].tolist()} == {FATE_COLOURS["missed"], tuple(TISSUE)}
    for corner, fate in (((12, 12), "found"), ((12, 14), "found"), ((22, 2), "false")):
        assert tuple(picture[corner].tolist()) == FATE_COLOURS[fate]
    for inside in ((4, 4), (14, 14), (24, 4), (10, 10)):
        assert picture[inside].tolist() == TISSUE
    assert (image.pixels == TISSUE).all()  # the image itself is untouched


def test_contours_of_what_is_merged_and_split(image):
    """One prediction over two true objects; and two over one, which is 12 pixels wide."""
    for a in (image.truth, image.prediction, image.true_instances, image.instances):
        a[:] = 0
    image.true_instances[2:8, 2:8], image.true_instances[2:8, 10:16], image.instances[2:8, 2:16] = 1, 2, 3
    image.true_instances[20:26, 2:14], image.instances[20:26, 2:8], image.instances[20:26, 8:14] = 4, 5, 6
    image.truth[:], image.prediction[:] = image.true_instances > 0, image.instances > 0
    picture = overlay(image)
    for row, column, fate in (
        (2, 9, "merged"),
        (7, 15, "merged"),
        (20, 7, "split"),
        (20, 8, "split"),
        (25, 2, "split"),
    ):
        assert tuple(picture[row, column].tolist()) == FATE_COLOURS[fate]
    drawn = {tuple(colour) for colour in contours(image)[contours(image)[..., 3] > 0][:, :3].tolist()}
    assert drawn == {FATE_COLOURS["merged"], FATE_COLOURS["split"]}


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


PINK, PURPLE = (230, 180, 215), (110, 70, 150)  # stroma and nuclei

# Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia; of linear RGB.
DEFICIENCIES = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


@pytest.mark.parametrize("seen", [np.eye(3), *DEFICIENCIES], ids=["all colours", "protan", "deutan", "tritan"])
@pytest.mark.parametrize("told", [[*ERRORS.values(), (240, 240, 240)], [*FATE_COLOURS.values(), PINK, PURPLE]])
def test_colours_are_told_apart_by_everybody(seen, told):
    rgb = np.array(told) / 255
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
