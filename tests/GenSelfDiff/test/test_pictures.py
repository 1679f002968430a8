from dataclasses import replace

import numpy as np
import pytest

from GenSelfDiff.test.evaluation import Image
from GenSelfDiff.test.pictures import colours, draw, draw_confusion_matrix, overlay, write_label_maps
from utils_general import InputError, read_index_map, read_rgb

TISSUE, CLASS_1, CLASS_2 = [200, 100, 150], [255, 69, 0], [127, 255, 0]


@pytest.fixture
def image():
    """A true square of class 1 that is missed, one that is found, and an object of class 2 that is not there."""
    truth, prediction = np.zeros((30, 30), int), np.zeros((30, 30), int)
    truth[2:8, 2:8] = truth[12:18, 12:18] = 1
    prediction[12:18, 12:18] = 1
    prediction[22:28, 2:8] = 2
    numbers = [np.zeros((30, 30), np.int32) for _ in range(2)]
    numbers[0][2:8, 2:8], numbers[0][12:18, 12:18] = 5, 9
    numbers[1][12:18, 12:18], numbers[1][22:28, 2:8] = 1, 2
    pixels = np.full((30, 30, 3), TISSUE, np.uint8)
    return Image("a", "test", pixels, np.ones((30, 30), bool), truth, prediction, *numbers)


def test_published_colours_and_a_repeat_beyond_seven_classes():
    assert colours(np.array([[0, 1, 2, 3]])).tolist() == [[[0, 0, 0], CLASS_1, CLASS_2, [135, 206, 250]]]
    assert (colours(np.array([[8, 9]])) == colours(np.array([[1, 2]]))).all()


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


def test_pictures_are_pixel_by_pixel(image, tmp_path):
    draw(image, ["background", "one", "two"], tmp_path)
    assert (read_rgb(tmp_path / "a_image.png") == image.pixels).all()
    assert (read_rgb(tmp_path / "a_truth.png") == colours(image.truth)).all()
    assert (read_rgb(tmp_path / "a_prediction.png") == colours(image.prediction)).all()
    assert (read_rgb(tmp_path / "a_overlay.png") == overlay(image)).all()
    assert min(read_rgb(tmp_path / "a_panel.png").shape[:2]) > 1000  # small images are magnified


def test_label_maps(image, tmp_path):
    write_label_maps(image, tmp_path)
    assert (read_index_map(tmp_path / "a_classes.png") == image.prediction).all()
    assert (read_index_map(tmp_path / "a_instances.png") == image.instances).all()
    with pytest.raises(InputError, match="a: 65537 predicted objects do not fit a 16-bit PNG: raise --minimum-area"):
        write_label_maps(replace(image, instances=np.full((2, 2), 65537)), tmp_path)


def test_confusion_matrix_with_a_class_that_is_nowhere(tmp_path):
    draw_confusion_matrix(np.array([[9, 1], [0, 0]]), ["background", "nucleus"], tmp_path / "matrix.png")
    assert read_rgb(tmp_path / "matrix.png").size
