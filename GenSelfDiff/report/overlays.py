"""What is laid over the tissue of a tested image: contours, classes and errors, as arrays."""

import numpy as np
from skimage.segmentation import find_boundaries

from GenSelfDiff.evaluation.images import PredictedImage
from GenSelfDiff.palette import draw_contours

# Told apart with each of the common colour vision deficiencies, and none of them a quiet grey.
ERRORS = {
    "found": (160, 160, 160),
    "predicted, not there": (216, 27, 96),
    "missed": (30, 136, 229),
    "wrong class": (255, 193, 7),
    "not covered by patches": (15, 15, 15),
}
DASH = 3  # pixels
FLAT, TISSUE = 0.85, 0.15  # shares of a flat colour and of the tissue under it
PALE = 0.35  # share of its contrast that tissue keeps elsewhere


def contours(image: PredictedImage) -> np.ndarray:
    """Contours one pixel wide to lay over the tissue, uint8 (H, W, 4) with 0 or 255 as opacity.

    True objects in black and white dashes, which show on dark nuclei and on pale stroma and are no class's colour; over
    them predicted ones in the colour of their class: dashes are left where the two differ.
    """
    picture = np.zeros((*image.truth.shape, 4), np.uint8)
    y, x = np.nonzero(find_boundaries(image.true_instances, mode="inner"))
    dashes = np.where((y // DASH + 2 * (x // DASH)) % 4 < 2, 255, 0)  # changes along lines of any direction
    picture[y, x] = np.stack([*[dashes] * 3, np.full_like(dashes, 255)], axis=-1)
    class_of = np.zeros(int(image.instances.max()) + 1, int)  # by number; a filled hole is background in the class map
    np.maximum.at(class_of, image.instances, image.prediction)
    picture[find_boundaries(image.instances, mode="inner"), 3] = 255
    draw_contours(picture[..., :3], image.instances, class_of)
    return picture


def overlay(image: PredictedImage) -> np.ndarray:
    """The tissue with `contours`, uint8 (H, W, 3)."""
    lines = contours(image)
    return np.where(lines[..., 3:] > 0, lines[..., :3], image.pixels)


def on_tissue(image: PredictedImage, colour: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Flat colours uint8 (H, W, 3) `where` (H, W) they say something, elsewhere the tissue in pale grey; (H, W, 3)."""
    grey = image.pixels.mean(-1, keepdims=True)
    pale = 255 - PALE * (255 - grey)
    return np.where(where[..., None], FLAT * colour + TISSUE * grey, pale).astype(np.uint8)


def errors(image: PredictedImage) -> np.ndarray:
    """The error map, uint8 (H, W, 3): `ERRORS` in their colours, all that is right in quiet greys."""
    truth, prediction = image.truth, image.prediction
    kinds = {
        "found": (truth > 0) & (prediction == truth),
        "predicted, not there": (truth == 0) & (prediction > 0),
        "missed": (truth > 0) & (prediction == 0),
        "wrong class": (truth > 0) & (prediction > 0) & (prediction != truth),
        "not covered by patches": ~image.covered,
    }
    index = np.select(list(kinds.values()), range(1, len(kinds) + 1))
    palette = np.array([(0, 0, 0), *(ERRORS[kind] for kind in kinds)], np.uint8)
    return on_tissue(image, palette[index], index > 0)


def error_kinds(image: PredictedImage, classes: list[str]) -> list[str]:
    """Which of `ERRORS` an error map needs: one foreground class is never a wrong one."""
    never = {"wrong class"} if len(classes) == 2 else set()
    never |= {"not covered by patches"} if image.covered.all() else set()
    return [kind for kind in ERRORS if kind not in never]
