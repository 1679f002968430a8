"""Colours: of classes and of the contours of objects, in a test's figures and on whole images; of lines in charts."""

import numpy as np
from skimage.segmentation import find_boundaries

# Classes 1 to 3 in the published colours, then four that can be told from them; the background is black.
PALETTE = np.array(
    [
        *[(0, 0, 0), (255, 69, 0), (127, 255, 0), (135, 206, 250)],
        *[(255, 215, 0), (218, 112, 214), (0, 128, 128), (160, 82, 45)],
    ],
    dtype=np.uint8,
)
INK = "#010203"  # lines and text: black in a PNG; in the report's page it becomes the colour of the text around
SERIES = ("#3d85c6", "#c9741f", "#8a6fc0", "#4f9a5b")  # what a chart compares: told apart on white and on black


def colours(class_map: np.ndarray) -> np.ndarray:
    """Class indices (H, W) in colour, uint8 (H, W, 3); beyond seven classes the colours repeat."""
    index = np.where(class_map > 0, (class_map - 1) % (len(PALETTE) - 1) + 1, 0)
    return PALETTE[index]


def draw_contours(picture: np.ndarray, instances: np.ndarray, class_of: np.ndarray) -> None:
    """Draw the objects' contours, inside them and one pixel wide, into `picture`, uint8 (H, W, 3), in place.

    `instances` holds numbers (H, W), `class_of` the class of each by its number (n + 1,).
    """
    contours = find_boundaries(instances, mode="inner")
    picture[contours] = colours(class_of[instances[contours]])
