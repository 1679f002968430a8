"""What is laid over the tissue of a tested image: contours, classes and errors, as arrays."""

import numpy as np
from skimage.segmentation import find_boundaries

from GenSelfDiff.evaluation.images import PredictedImage
from GenSelfDiff.evaluation.object_fates import FATES, fates_by_number

# Told apart with each of the common colour vision deficiencies, and none of them a quiet grey.
ERRORS = {
    "found": (160, 160, 160),
    "predicted, not there": (216, 27, 96),
    "missed": (30, 136, 229),
    "wrong class": (255, 193, 7),
    "not covered by patches": (15, 15, 15),
}
# What became of objects: found ones quiet, the others as in the error map; all show on dark nuclei and pale stroma.
FATE_COLOURS = {
    "found": (255, 255, 255),
    "missed": ERRORS["missed"],
    "merged": (127, 255, 0),
    "split": (0, 0, 0),
    "false": ERRORS["predicted, not there"],
}
DASH = 3  # pixels
FLAT, TISSUE = 0.85, 0.15  # shares of a flat colour and of the tissue under it
PALE = 0.35  # share of its contrast that tissue keeps elsewhere


def contours(image: PredictedImage) -> np.ndarray:
    """Contours one pixel wide to lay over the tissue, uint8 (H, W, 4) with 0 or 255 as opacity.

    True objects in dashes, predicted ones in lines over them; both in the colour of what became of the object, see
    `object_fates`: found, missed, merged, split or false. Dashes are left where the two differ.
    """
    maps = (image.true_instances, image.truth), (image.instances, image.prediction)
    palette = np.array([FATE_COLOURS[fate] for fate in FATES], np.uint8)
    y, x = np.indices(image.truth.shape, sparse=True)
    dashes = (y // DASH + 2 * (x // DASH)) % 4 < 2  # they change along lines of any direction
    picture = np.zeros((*image.truth.shape, 4), np.uint8)
    for (instances, _), of_number, drawn in zip(maps, fates_by_number(*maps), (dashes, True), strict=True):
        edge = find_boundaries(instances, mode="inner") & drawn & (of_number[instances] >= 0)
        picture[edge, :3], picture[edge, 3] = palette[of_number[instances[edge]]], 255
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
