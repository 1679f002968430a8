"""Pictures of a test: class maps in colour, contours on the tissue, one panel an image, the confusion matrix."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from skimage.segmentation import find_boundaries

from GenSelfDiff.test.evaluation import Image
from utils_general import save_figure, write_png

# Classes 1 to 3 in the published colours, then four that can be told from them; the background is black.
PALETTE = np.array(
    [
        *[(0, 0, 0), (255, 69, 0), (127, 255, 0), (135, 206, 250)],
        *[(255, 215, 0), (218, 112, 214), (0, 128, 128), (160, 82, 45)],
    ],
    dtype=np.uint8,
)
TRUTH_CONTOUR = (0, 0, 0)


def colours(class_map: np.ndarray) -> np.ndarray:
    """Class indices (H, W) in colour, uint8 (H, W, 3); beyond seven classes the colours repeat."""
    index = np.where(class_map > 0, (class_map - 1) % (len(PALETTE) - 1) + 1, 0)
    return PALETTE[index]


def overlay(image: Image) -> np.ndarray:
    """The tissue with contours, uint8 (H, W, 3): predicted objects in the colour of their class, true ones in black."""
    picture = image.pixels.copy()
    truth = find_boundaries(image.true_instances, mode="inner")
    predicted = find_boundaries(image.instances, mode="inner")
    picture[truth] = TRUTH_CONTOUR
    picture[predicted] = colours(image.prediction)[predicted]
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
    figure, axes = plt.subplots(1, 4, figsize=(20, 5.8), layout="constrained")
    for panel, (kind, picture) in zip(axes, pictures.items(), strict=True):
        panel.imshow(picture, interpolation="nearest" if len(picture) < 300 else None)
        panel.set_title(kind if kind != "overlay" else "overlay: contours of objects")
        panel.axis("off")
    handles = [
        Patch(facecolor=PALETTE[1:][c % 7] / 255, label=f"{name}, predicted") for c, name in enumerate(classes[1:])
    ]
    handles.append(Patch(facecolor=np.array(TRUTH_CONTOUR) / 255, label="truth (contours)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"{image.source} ({image.split})")
    save_figure(figure, folder / f"{image.source}_panel.png")


def write_label_maps(image: Image, folder: Path) -> None:
    """`<source>_classes.png`, class indices uint8, and `<source>_instances.png`, numbers uint16."""
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
