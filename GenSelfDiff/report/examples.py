"""The best, the median and the worst image of a test: chosen over all images, read again, drawn for the page."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image

from GenSelfDiff.data import Patches
from GenSelfDiff.evaluation.evaluate import Image, stitch
from GenSelfDiff.palette import colours
from GenSelfDiff.report import pictures
from GenSelfDiff.report.table_files import shown
from utils_general import read_index_map

RANKED_BY = "Dice"
EMBEDDED = 800  # pixels of the longer side in the page, where a picture can be enlarged to the page's width


@dataclass(frozen=True)
class Example:
    """What the page shows of an image; pictures are data URIs."""

    rank: str
    source: str
    split: str
    figures: pd.Series
    """its row of `evaluation.Figures.images`"""
    pictures: dict[str, str]
    """image, truth, prediction, errors"""
    contours: str
    """to lay over the image"""
    size: tuple[int, int]
    """width and height of the pictures, pixels"""
    error_kinds: list[str]
    """which of `pictures.ERRORS` there can be"""


def choose(images: pd.DataFrame) -> dict[str, pd.Series]:
    """Best, median and worst row of `evaluation.Figures.images` by Dice, by rank; fewer where there are fewer images.

    Images without Dice (no class but the background in truth and prediction) are not ranked, unless all are so.
    """
    ranked = images.dropna(subset=[RANKED_BY]) if images[RANKED_BY].notna().any() else images
    ranked = ranked.sort_values(RANKED_BY, ascending=False, kind="stable")
    if len(ranked) == 1:
        return {"only": ranked.iloc[0]}
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    if len(ranked) == 2:
        del places["median"]
    return {rank: ranked.iloc[place] for rank, place in places.items()}


def draw_examples(images: pd.DataFrame, patches: Patches, classes: list[str], folder: Path) -> list[Example]:
    """Draw `examples/<rank>_<source>.png` in the results `folder`, which holds the label maps, and what the page shows.

    `images` is `evaluation.Figures.images`.
    """
    examples = []
    for rank, row in choose(images).items():
        image = read_again(patches, row.source, row.split, folder / "label_maps")
        title = f"{rank}: {row.source} ({row.split}), {RANKED_BY} {shown(RANKED_BY, row[RANKED_BY])}"
        pictures.draw_example(image, classes, title, folder / "examples" / f"{rank}_{row.source}.png")
        examples.append(_embed(rank, row, image, classes))
    return examples


def read_again(patches: Patches, source: str, split: str, label_maps: Path) -> Image:
    """A tested image from its patches and its label maps, so that no test keeps all its images in memory.

    The probabilities are not kept: `confidence` is NaN. Where the annotation has no instances, the classes stand for
    them, whose contours are the same.
    """
    rows = patches.index[(patches.index.source == source) & (patches.index.split == split)]
    corners = list(zip(rows.x - rows.x.min(), rows.y - rows.y.min(), strict=True))
    truth = stitch(np.stack([patches.label(i) for i in rows.patch]), corners)
    instances = (
        stitch(np.stack([patches.instances(i) for i in rows.patch]), corners) if patches.has_instances else truth
    )
    pixels = stitch(np.stack([patches.image(i) for i in rows.patch]), corners)
    return Image(
        source=source,
        split=split,
        pixels=pixels,
        covered=stitch(np.ones((len(rows), *patches.image(rows.patch.iloc[0]).shape[:2]), bool), corners),
        truth=truth,
        prediction=read_index_map(label_maps / f"{source}_classes.png"),
        confidence=np.full(truth.shape, np.nan, np.float32),
        true_instances=instances,
        instances=read_index_map(label_maps / f"{source}_instances.png"),
    )


def shrink(image: Image, longest: int) -> Image:
    """The image at most `longest` pixels wide and high: tissue filtered, maps by nearest neighbours."""
    height, width = image.truth.shape
    scale = min(1, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tissue = PIL.Image.fromarray(image.pixels).resize(size, PIL.Image.Resampling.LANCZOS)
    y, x = (np.arange(n) * side // n for n, side in zip(size[::-1], (height, width), strict=True))
    names = ("covered", "truth", "prediction", "confidence", "true_instances", "instances")
    return replace(image, pixels=np.asarray(tissue), **{name: getattr(image, name)[np.ix_(y, x)] for name in names})


def _embed(rank: str, row: pd.Series, image: Image, classes: list[str]) -> Example:
    """The pictures of the page; contours are drawn after shrinking, so that they stay one pixel wide."""
    small = shrink(image, EMBEDDED)
    shown = {
        "image": small.pixels,
        "truth": pictures.on_tissue(small, colours(small.truth), small.truth > 0),
        "prediction": pictures.on_tissue(small, colours(small.prediction), small.prediction > 0),
        "errors": pictures.errors(small),
    }
    return Example(
        rank,
        row.source,
        row.split,
        row,
        {kind: data_uri(picture, "jpeg", quality=78, subsampling=0) for kind, picture in shown.items()},
        data_uri(pictures.contours(small), "png", optimize=True),
        small.truth.shape[::-1],
        pictures.error_kinds(image, classes),
    )


def data_uri(picture: np.ndarray, kind: str, **options: int | bool) -> str:
    """A picture uint8 (H, W, 3) or (H, W, 4) as text that stands in a page in place of an address."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
