"""The best, the median and the worst image of a test: chosen over all images, read again, drawn for the page."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image

from GenSelfDiff.evaluation.evaluate import Evaluation
from GenSelfDiff.evaluation.images import LABEL_MAPS, PredictedImage, read_again
from GenSelfDiff.metrics import STANDARD
from GenSelfDiff.palette import colours
from GenSelfDiff.patches import Patches
from GenSelfDiff.report.image_figures import draw_example
from GenSelfDiff.report.overlays import contours, error_kinds, errors, on_tissue

RANKED_BY = STANDARD["Dice"]
EMBEDDED = 800  # pixels of the longer side in the page, where a picture can be enlarged to the page's width
QUALITY = 78  # of its JPEGs


@dataclass(frozen=True, kw_only=True)
class Example:
    """What the page shows of an image; pictures are data URIs."""

    rank: str
    source: str
    split: str
    metrics: pd.Series
    """its row of `Evaluation.images`"""
    pictures: dict[str, str]
    """image, truth, prediction, errors"""
    contours: str
    """to lay over the image"""
    size: tuple[int, int]
    """width and height of the pictures, pixels"""
    error_kinds: list[str]
    """which of `overlays.ERRORS` there can be"""


def choose(images: pd.DataFrame) -> dict[str, pd.Series]:
    """Best, median and worst row of `Evaluation.images` by Dice, by rank; fewer where there are fewer images.

    Images without Dice (no class but the background in truth and prediction) are not ranked, unless all are so.
    """
    by = RANKED_BY.label
    ranked = images.dropna(subset=[by]) if images[by].notna().any() else images
    ranked = ranked.sort_values(by, ascending=False, kind="stable")
    if len(ranked) == 1:
        return {"only": ranked.iloc[0]}
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    if len(ranked) == 2:
        del places["median"]
    return {rank: ranked.iloc[place] for rank, place in places.items()}


def draw_examples(patches: Patches, evaluation: Evaluation, results: Path) -> list[Example]:
    """Draw `examples/<rank>_<source>.png` in the `results`, which hold the label maps, and what the page shows."""
    examples = []
    for rank, row in choose(evaluation.images).items():
        image = read_again(patches, row.source, row.split, results / LABEL_MAPS)
        title = f"{rank}: {row.source} ({row.split}), {RANKED_BY.label} {RANKED_BY.text(row[RANKED_BY.label])}"
        draw_example(image, evaluation.classes, title, results / "examples" / f"{rank}_{row.source}.png")
        examples.append(_embed(rank, row, image, evaluation.classes))
    return examples


def shrink(image: PredictedImage, longest: int) -> PredictedImage:
    """The image at most `longest` pixels wide and high: tissue filtered, maps by nearest neighbours."""
    height, width = image.truth.shape
    scale = min(1, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tissue = PIL.Image.fromarray(image.pixels).resize(size, PIL.Image.Resampling.LANCZOS)
    y, x = (np.arange(n) * side // n for n, side in zip(size[::-1], (height, width), strict=True))
    names = ("covered", "truth", "prediction", "true_instances", "instances")
    return replace(image, pixels=np.asarray(tissue), **{name: getattr(image, name)[np.ix_(y, x)] for name in names})


def _embed(rank: str, row: pd.Series, image: PredictedImage, classes: list[str]) -> Example:
    """The pictures of the page; contours are drawn after shrinking, so that they stay one pixel wide."""
    small = shrink(image, EMBEDDED)
    shown = {
        "image": small.pixels,
        "truth": on_tissue(small, colours(small.truth), small.truth > 0),
        "prediction": on_tissue(small, colours(small.prediction), small.prediction > 0),
        "errors": errors(small),
    }
    return Example(
        rank=rank,
        source=row.source,
        split=row.split,
        metrics=row,
        pictures={kind: data_uri(picture, "jpeg", quality=QUALITY, subsampling=0) for kind, picture in shown.items()},
        contours=data_uri(contours(small), "png", optimize=True),
        size=small.truth.shape[::-1],
        error_kinds=error_kinds(image, classes),
    )


def data_uri(picture: np.ndarray, kind: str, **options: int | bool) -> str:
    """A picture uint8 (H, W, 3) or (H, W, 4) as text that stands in a page in place of an address."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
