"""Figures of tested images: tissue, truth, prediction and errors side by side, with legends."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from GenSelfDiff.evaluation.images import PredictedImage
from GenSelfDiff.palette import colours
from GenSelfDiff.report.overlays import ERRORS, FATE_COLOURS, error_kinds, errors, overlay
from utils_general import DPI, save_figure, write_png

MAGNIFIED, SHRUNK = 700, 1000  # pixels of a panel's longer side: what smaller and larger images come to, about
CONTOURS = "contours: true objects dashed, predicted ones in lines"


def draw(image: PredictedImage, classes: list[str], folder: Path) -> None:
    """`<source>_{image,truth,prediction,overlay}.png` pixel by pixel, and `<source>_panel.png` with a legend."""
    pictures = {
        "image": image.pixels,
        "truth": colours(image.truth),
        "prediction": colours(image.prediction),
        "overlay": overlay(image),
    }
    for kind, picture in pictures.items():
        write_png(folder / f"{image.source}_{kind}.png", picture)
    pictures[CONTOURS] = pictures.pop("overlay")
    title = f"{image.source} ({image.split})"
    _draw_panels(pictures, 2, title, [*class_legend(classes), *fate_legend()], folder / f"{image.source}_panel.png")


def draw_example(image: PredictedImage, classes: list[str], title: str, path: Path) -> None:
    """Image with contours, truth, prediction and error map side by side, with a legend."""
    pictures = {
        CONTOURS: overlay(image),
        "truth": colours(image.truth),
        "prediction": colours(image.prediction),
        "errors": errors(image),
    }
    legend = [*class_legend(classes), *error_legend(image, classes), *fate_legend()]
    _draw_panels(pictures, 4, title, legend, path)


def _draw_panels(pictures: dict[str, np.ndarray], columns: int, title: str, legend: list[Patch], path: Path) -> None:
    """Pictures (H, W, 3) by title, `columns` a row, with a legend under them."""
    height, width = next(iter(pictures.values())).shape[:2]
    side, rows = max(height, width), -(-len(pictures) // columns)
    scale = max(1, round(MAGNIFIED / side)) * min(1, SHRUNK / side) / DPI  # inches a pixel
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


def error_legend(image: PredictedImage, classes: list[str]) -> list[Patch]:
    """The colours of the error map."""
    return [
        Patch(facecolor=np.array(ERRORS[kind]) / 255, edgecolor="black", label=kind)
        for kind in error_kinds(image, classes)
    ]


def fate_legend() -> list[Patch]:
    """The colours of the contours."""
    return [
        Patch(facecolor=np.array(colour) / 255, edgecolor="black", label=f"contour: {fate}")
        for fate, colour in FATE_COLOURS.items()
    ]
