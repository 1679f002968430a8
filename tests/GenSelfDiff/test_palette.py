import numpy as np

from GenSelfDiff.palette import colours, draw_contours

CLASS_1, CLASS_2 = [255, 69, 0], [127, 255, 0]


def test_published_colours_and_a_repeat_beyond_seven_classes():
    assert colours(np.array([[0, 1, 2, 3]])).tolist() == [[[0, 0, 0], CLASS_1, CLASS_2, [135, 206, 250]]]
    assert (colours(np.array([[8, 9]])) == colours(np.array([[1, 2]]))).all()


def test_contours_lie_inside_the_objects_in_the_colours_of_their_classes():
    """Two objects that touch, of classes 2 and 1: only their middles are left as they were."""
    instances = np.zeros((7, 12), int)
    instances[1:6, 1:6], instances[1:6, 6:11] = 4, 2
    picture = np.full((7, 12, 3), 9, np.uint8)
    draw_contours(picture, instances, np.array([0, 0, 1, 0, 2]))
    expected = np.full((7, 12, 3), 9, np.uint8)
    expected[1:6, 1:6], expected[1:6, 6:11] = CLASS_2, CLASS_1
    expected[2:5, 2:5] = expected[2:5, 7:10] = 9
    assert (picture == expected).all()
