"""Several tests side by side: one small table and one picture.

python3 ./GenSelfDiff/test/overview.py results/MoNuSeg_scratch results/MoNuSeg_finetune
"""

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.pyplot as plt
import pandas as pd
import tyro

from GenSelfDiff.test.evaluation import BY_IMAGE, BY_INSTANCE
from GenSelfDiff.test.pictures import add_legend
from utils_general import RESULTS, InputError, at_least, read_json, read_rgb, replace_folder, run_script, save_figure

FIGURES = [(BY_IMAGE, "Dice"), (BY_IMAGE, "Jaccard"), (BY_IMAGE, "HD95 (px)")]
FIGURES += [(BY_INSTANCE, "AJI"), (BY_INSTANCE, "PQ"), (BY_INSTANCE, "object F1")]
CROP = 256  # pixels of each image that are shown, from its middle


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Compare results of the same test images."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """two or more folders that test_script.py or baselines.py wrote"""
    output: Path = RESULTS / "overview"
    """folder for the table and the picture"""
    images: int = 3
    """rows of the picture"""
    overwrite: bool = False
    """replace an earlier overview"""


def read_summaries(folders: tuple[Path, ...]) -> list[dict[str, Any]]:
    """The summaries of all results; `InputError` names results of other test images."""
    if not folders:
        raise InputError("name the results folders to compare, e.g. results/A results/B")
    for folder in folders:
        if not (folder / "summary.json").is_file():
            raise InputError(f"{folder} holds no results (no summary.json): run test_script.py or baselines.py first")
    summaries = [read_json(folder / "summary.json") for folder in folders]
    for folder, summary in zip(folders, summaries, strict=True):
        if not {averaging for averaging, _ in FIGURES} <= summary.get("figures", {}).keys():
            raise InputError(f"{folder}/summary.json is of another version of this project: test again")
        if other := set(summary["images"]) ^ set(summaries[0]["images"]):
            raise InputError(
                f"{folder} and {folders[0]} were tested on different images ({len(other)} are in one only, e.g. "
                f"{min(other)}): they cannot be compared"
            )
    return summaries


def figures_of(summary: dict[str, Any]) -> dict[str, float | None]:
    """The figures of the table, over all splits."""
    splits = [summary["figures"][averaging] for averaging, _ in FIGURES]
    column = "all" if "all" in splits[0] else next(iter(splits[0]))
    return {figure: split[column][figure] for split, (_, figure) in zip(splits, FIGURES, strict=True)}


def names(folders: tuple[Path, ...]) -> list[str]:
    """What each result is called: the name of its folder, with as many folders above it as make all differ."""
    for parts in range(1, max(len(folder.parts) for folder in folders)):
        called = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(called)) == len(folders):
            return called
    raise InputError(f"the same results folder is named twice: {', '.join(map(str, folders))}")


def draw(results: dict[str, Path], images: list[str], classes: list[str], path: Path) -> None:
    """A row an image: the middle of the image, its truth, and what each result says."""
    first = next(iter(results.values()))
    columns = [("image", first, "image"), ("truth", first, "truth")]
    columns += [(title.replace("_", " "), folder, "prediction") for title, folder in results.items()]
    size = (2.6 * len(columns), 2.6 * len(images) + 0.7)
    figure, axes = plt.subplots(len(images), len(columns), figsize=size, squeeze=False, layout="constrained")
    for row, source in zip(axes, images, strict=True):
        for panel, (title, folder, kind) in zip(row, columns, strict=True):
            picture = read_rgb(folder / "pictures" / f"{source}_{kind}.png")
            top, left = ((side - min(side, CROP)) // 2 for side in picture.shape[:2])
            panel.imshow(picture[top : top + CROP, left : left + CROP], interpolation="nearest")
            panel.axis("off")
            if panel in axes[0]:
                panel.set_title(textwrap.fill(title, 30), fontsize=10)
    add_legend(figure, classes)
    save_figure(figure, path)


def main(settings: Settings) -> None:
    """Read, compare, draw."""
    at_least(settings, images=1)
    folders = tuple(folder.absolute() for folder in settings.results)
    summaries = read_summaries(folders)
    titles = names(folders)
    table = pd.DataFrame(dict(zip(titles, map(figures_of, summaries), strict=True)), dtype=float).T
    drawn = [s for s in summaries[0]["images"] if all((f / "pictures" / f"{s}_image.png").is_file() for f in folders)]
    if not drawn:
        raise InputError(
            f"{folders[0]}/pictures and the others have no image in common: test with --pictures 3 or more"
        )
    with replace_folder(settings.output, "overview.csv", settings.overwrite) as output:
        table.to_csv(output / "overview.csv", index_label="result")
        results = dict(zip(titles, folders, strict=True))
        draw(results, drawn[: settings.images], summaries[0]["classes"], output / "overview.png")
    print(f"mean over {len(summaries[0]['images'])} test images, classes without background:")
    print(table.to_string(float_format="{:.3f}".format))
    print(f"table and picture are in {settings.output.absolute()}: overview.csv, overview.png")


if __name__ == "__main__":
    run_script(main, Settings)
