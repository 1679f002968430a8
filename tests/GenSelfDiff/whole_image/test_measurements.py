"""What is measured of objects, against scikit-image and by hand."""

import numpy as np
import shapely
from skimage.measure import label, perimeter

from GenSelfDiff.whole_image.measurements import contour_lengths, outlines
from tests.GenSelfDiff.whole_image.test_objects import blobs


def test_contours_add_up_to_the_perimeter_of_scikit_image():
    for seed in range(5):
        numbers = label(blobs(50, 60, 0.7 + seed / 2, 0.2, seed, 3), connectivity=2)
        ours = np.bincount(numbers.ravel(), weights=contour_lengths(numbers).ravel())
        theirs = [perimeter(numbers == n) for n in range(1, numbers.max() + 1)]
        assert np.allclose(ours[1:], theirs)


def test_an_outline_runs_along_the_pixels():
    numbers = np.zeros((6, 7), int)
    numbers[1:5, 1:6] = 3
    numbers[2:4, 2:4] = 0
    numbers[2, 2] = 9
    found = dict(outlines(numbers, (10, 20)))
    assert set(found) == {3, 9} and found[9].equals(shapely.box(12, 22, 13, 23))
    whole, hole = shapely.box(11, 21, 16, 25), shapely.box(12, 22, 14, 24)
    assert found[3].equals(whole - hole) and len(found[3].interiors) == 1


def test_outlines_are_valid_and_have_the_area_of_their_pixels():
    for seed in range(5):
        numbers = label(blobs(70, 60, 0.6 + seed / 2, 0, seed), connectivity=2)
        found = dict(outlines(numbers, (0, 0)))
        assert all(s.is_valid for s in found.values())
        assert [found[n].area for n in range(1, numbers.max() + 1)] == np.bincount(numbers.ravel())[1:].tolist()
