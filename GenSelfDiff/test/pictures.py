"""Pictures of a test: class maps in colour, contours on the tissue, one panel an image, the confusion matrix."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from skimage.segmentation import find_boundaries

from GenSelfDiff.test.evaluation import Image
from utils_general import InputError, save_figure, write_png

# Classes 1 to 3 in the published colours, then four that can be told from them; the background is black.
PALETTE = np.array(
    [
        *[(0, 0, 0), (255, 69, 0), (127, 255, 0), (135, 206, 250)],
        *[(255, 215, 0), (218, 112, 214), (0, 128, 128), (160, 82, 45)],
    ],
    dtype=np.uint8,
)


def colours(class_map: np.ndarray) -> np.ndarray:
    """Class indices (H, W) in colour, uint8 (H, W, 3); beyond seven classes the colours repeat."""
    index = np.where(class_map > 0, (class_map - 1) % (len(PALETTE) - 1) + 1, 0)
    return PALETTE[index]


def overlay(image: Image) -> np.ndarray:
    """The tissue with contours one pixel wide, uint8 (H, W, 3).

    True objects in black and white dashes, which show on dark nuclei and on pale stroma and are no class's colour; over
    them predicted ones in the colour of their class: dashes are left where the two differ.
    """
    picture = image.pixels.copy()
    y, x = np.nonzero(find_boundaries(image.true_instances, mode="inner"))
    picture[y, x] = np.where((y // 3 + 2 * (x // 3)) % 4 < 2, 255, 0)[:, None]  # changes along lines of any direction
    class_of = np.zeros(int(image.instances.max()) + 1, int)  # by number; a filled hole is background in the class map
    np.maximum.at(class_of, image.instances, image.prediction)
    predicted = find_boundaries(image.instances, mode="inner")
    picture[predicted] = colours(class_of[image.instances[predicted]])
    return picture


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
    height, width = image.truth.shape
    side = max(height, width)
    scale = max(1, round(700 / side)) * min(1, 1000 / side) / 120  # inches a pixel: up to 1000 pixels as they are
    size = (2 * width * scale + 0.4, 2 * height * scale + 1.6)
    figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained")
    for panel, (kind, picture) in zip(axes.flat, pictures.items(), strict=True):
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(kind if kind != "overlay" else "overlay: contours of true and predicted objects")
        panel.axis("off")
    dashed = Patch(facecolor="white", edgecolor="black", linestyle="--", label="truth in the overlay (dashed)")
    add_legend(figure, classes, dashed)
    figure.suptitle(f"{image.source} ({image.split})")
    save_figure(figure, folder / f"{image.source}_panel.png")


def add_legend(figure: Figure, classes: list[str], *more: Patch) -> None:
    """The colours of the classes without background, and what else is to be explained, under a figure."""
    handles = [
        Patch(facecolor=colours(np.array(c)) / 255, edgecolor="black", label=name)
        for c, name in enumerate(classes[1:], 1)
    ]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=4, frameon=False)


def write_label_maps(image: Image, folder: Path) -> None:
    """`<source>_classes.png`, class indices uint8, and `<source>_instances.png`, numbers uint16."""
    if image.instances.max() > np.iinfo(np.uint16).max:
        raise InputError(
            f"{image.source}: {image.instances.max()} predicted objects do not fit a 16-bit PNG: raise --minimum-area"
        )
    write_png(folder / f"{image.source}_classes.png", image.prediction.astype(np.uint8))
    write_png(folder / f"{image.source}_instances.png", image.instances.astype(np.uint16))


def draw_confusion_matrix(matrix: np.ndarray, classes: list[str], path: Path) -> None:
    """Counts and the share of each true class, pooled over all pixels of the test images."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = 2.2 + 1.3 * len(classes)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(matrix.shape):
        colour = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, f"{share[i, j]:.1%}\n{matrix[i, j]:,}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=20, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class", title="pixels: share of the true class, and number")
    figure.colorbar(picture, shrink=0.7)
    save_figure(figure, path)
