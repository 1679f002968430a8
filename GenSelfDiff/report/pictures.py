"""Pictures of a test: class maps in colour, contours on the tissue, maps of the errors, several in one panel."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from skimage.segmentation import find_boundaries

from GenSelfDiff.evaluation.evaluate import Image
from GenSelfDiff.palette import colours, draw_contours
from utils_general import InputError, save_figure, write_png

# Told apart with each of the common colour vision deficiencies, and none of them a quiet grey.
ERRORS = {
    "found": (160, 160, 160),
    "predicted, not there": (216, 27, 96),
    "missed": (30, 136, 229),
    "wrong class": (255, 193, 7),
    "not covered by patches": (15, 15, 15),
}
DASHED = Patch(facecolor="white", edgecolor="black", linestyle="--", label="truth in the contours (dashed)")


def contours(image: Image) -> np.ndarray:
    """Contours one pixel wide to lay over the tissue, uint8 (H, W, 4) with 0 or 255 as opacity.

    True objects in black and white dashes, which show on dark nuclei and on pale stroma and are no class's colour; over
    them predicted ones in the colour of their class: dashes are left where the two differ.
    """
    picture = np.zeros((*image.truth.shape, 4), np.uint8)
    y, x = np.nonzero(find_boundaries(image.true_instances, mode="inner"))
    dashes = np.where((y // 3 + 2 * (x // 3)) % 4 < 2, 255, 0)  # changes along lines of any direction
    picture[y, x] = np.stack([*[dashes] * 3, np.full_like(dashes, 255)], axis=-1)
    class_of = np.zeros(int(image.instances.max()) + 1, int)  # by number; a filled hole is background in the class map
    np.maximum.at(class_of, image.instances, image.prediction)
    picture[find_boundaries(image.instances, mode="inner"), 3] = 255
    draw_contours(picture[..., :3], image.instances, class_of)
    return picture


def overlay(image: Image) -> np.ndarray:
    """The tissue with `contours`, uint8 (H, W, 3)."""
    lines = contours(image)
    return np.where(lines[..., 3:] > 0, lines[..., :3], image.pixels)


def on_tissue(image: Image, colour: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Flat colours uint8 (H, W, 3) `where` (H, W) they say something, elsewhere the tissue in pale grey; (H, W, 3)."""
    grey = image.pixels.mean(-1, keepdims=True)
    pale = 255 - 0.35 * (255 - grey)
    return np.where(where[..., None], 0.85 * colour + 0.15 * grey, pale).astype(np.uint8)


def errors(image: Image) -> np.ndarray:
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


def draw(image: Image, classes: list[str], folder: Path) -> None:
    """`<source>_{image,truth,prediction,overlay}.png` pixel by pixel, and `<source>_panel.png` with a legend."""
    pictures = {
        "image": image.pixels,
        "truth": colours(image.truth),
        "prediction": colours(image.prediction),
        "overlay": overlay(image),
    }
    for kind, picture in pictures.items():
        write_png(folder / f"{image.source}_{kind}.png", picture)
    pictures["overlay: contours of true and predicted objects"] = pictures.pop("overlay")
    title = f"{image.source} ({image.split})"
    _draw_panels(pictures, 2, title, [*class_legend(classes), DASHED], folder / f"{image.source}_panel.png")


def draw_example(image: Image, classes: list[str], title: str, path: Path) -> None:
    """Image with contours, truth, prediction and error map side by side, with a legend."""
    pictures = {
        "image with contours": overlay(image),
        "truth": colours(image.truth),
        "prediction": colours(image.prediction),
        "errors": errors(image),
    }
    _draw_panels(pictures, 4, title, [*class_legend(classes), DASHED, *error_legend(image, classes)], path)


def _draw_panels(pictures: dict[str, np.ndarray], columns: int, title: str, legend: list[Patch], path: Path) -> None:
    """Pictures (H, W, 3) by title, `columns` a row, with a legend under them."""
    height, width = next(iter(pictures.values())).shape[:2]
    side, rows = max(height, width), -(-len(pictures) // columns)
    scale = max(1, round(700 / side)) * min(1, 1000 / side) / 120  # inches a pixel: up to 1000 pixels as they are
    size = (columns * width * scale + 0.4, rows * height * scale + 1.6)
    with plt.rc_context({"text.parse_math": False}):  # a class or a file may be called $
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
        for panel, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
            panel.imshow(picture, interpolation="nearest")
            panel.set_title(name)
            panel.axis("off")
        figure.legend(handles=legend, loc="outside lower center", ncols=2 * columns, frameon=False)
        figure.suptitle(title)
        save_figure(figure, path)


def class_legend(classes: list[str]) -> list[Patch]:
    """The colours of the classes without background."""
    return [
        Patch(facecolor=colours(np.array(c)) / 255, edgecolor="black", label=name)
        for c, name in enumerate(classes[1:], 1)
    ]


def error_kinds(image: Image, classes: list[str]) -> list[str]:
    """Which of `ERRORS` an error map needs: one foreground class is never a wrong one."""
    never = {"wrong class"} if len(classes) == 2 else set()
    never |= {"not covered by patches"} if image.covered.all() else set()
    return [kind for kind in ERRORS if kind not in never]


def error_legend(image: Image, classes: list[str]) -> list[Patch]:
    """The colours of the error map."""
    return [
        Patch(facecolor=np.array(ERRORS[kind]) / 255, edgecolor="black", label=kind)
        for kind in error_kinds(image, classes)
    ]


def add_legend(figure: Figure, classes: list[str]) -> None:
    """The colours of the classes without background, under a figure."""
    figure.legend(handles=class_legend(classes), loc="outside lower center", ncols=4, frameon=False)


def write_label_maps(image: Image, folder: Path) -> None:
    """`<source>_classes.png`, class indices uint8, and `<source>_instances.png`, numbers uint16."""
    if image.instances.max() > np.iinfo(np.uint16).max:
        raise InputError(
            f"{image.source}: {image.instances.max()} predicted objects do not fit a 16-bit PNG: raise --minimum-area"
        )
    write_png(folder / f"{image.source}_classes.png", image.prediction.astype(np.uint8))
    write_png(folder / f"{image.source}_instances.png", image.instances.astype(np.uint16))
