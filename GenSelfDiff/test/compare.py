"""Is B better than A? Tests of the same images side by side, with intervals over images.

    python3 ./GenSelfDiff/test/compare.py results/MoNuSeg_scratch results/MoNuSeg_finetune

Each is a results folder, or a run's name under results. The first is what the others are compared with.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import tyro

from GenSelfDiff.comparison import statistics as comparison
from GenSelfDiff.comparison.figures import draw_comparison, draw_crops, pictured
from GenSelfDiff.comparison.statistics import FEWEST, NOT_TOLD, MetricName
from GenSelfDiff.metrics import STANDARD
from GenSelfDiff.report.tables import latex, markdown
from output_folder import input_paths, replace_folder
from utils_general import RESULTS, InputError, at_least, run_script

FEW = 20  # images; with fewer the bootstrap's intervals are too narrow
DIGITS = 3  # at most: an interval over some images tells no fourth
NOTES = f"""\
Intervals are of the bootstrap over images (BCa, 95 %), differences are paired by image. They tell what other images
might have changed, not what another seed of training would: train several. With fewer than {FEW} images they are rather
too narrow, with fewer than {FEWEST} nothing is called better or worse: even if all agree, that is too often chance.
Each stands for itself; of twenty differences between equal methods one is called better or worse.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Compare results of the same test images."""

    results: tyro.conf.Positional[tuple[str, ...]]
    """two or more folders that test_script.py or baselines.py wrote, or their names under results"""
    figures: tuple[MetricName, ...] = (
        "Dice", "Jaccard", "HD95", "AJI", "PQ", "object F1", "object Dice", "object Hausdorff"
    )  # fmt: skip
    """what to compare: mean over the classes without background; the first is what the printed verdict is about"""
    output: Path = RESULTS / "compare"
    """folder for the tables and the pictures"""
    images: int = 3
    """rows of the picture with the images themselves"""
    overwrite: bool = False
    """replace an earlier comparison"""


def sentence(row: pd.Series) -> str:
    """A row of differences in words."""
    verdict = "cannot be told from" if row.verdict == NOT_TOLD else f"is {row.verdict} than"
    unit = f" {unit}" if (unit := STANDARD[row.figure].unit) else ""
    few = f"; too few images to tell: {row.images}" if row.images < FEWEST else ""
    left_out = f"; images left out, undefined in one of the two: {row.left_out}" if row.left_out else ""
    return f"{row.result} {verdict} {row.against} by {row.figure}: {interval(row, sign='+')}{unit}{few}{left_out}"


def interval(row: pd.Series, sign: str = "-") -> str:
    """Mean and interval: 0.123 [0.100, 0.150]; distances in pixels have a digit less. `sign` is "+" or "-"."""
    if np.isnan(row["mean"]):
        return "undefined"
    digits = min(STANDARD[row.figure].digits, DIGITS)
    mean = f"{row['mean']:{sign}.{digits}f}"
    return f"{mean} [{row.low:.{digits}f}, {row.high:.{digits}f}]" if np.isfinite(row.low) else mean


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """A column a result, a row a metric, of means with their intervals; differences that can be told are marked."""
    told = rows.get("verdict", pd.Series(NOT_TOLD, rows.index))
    cells = rows.apply(interval, axis=1, sign="+" if "verdict" in rows else "-")
    cells = cells + told.map({NOT_TOLD: ""}).fillna(" (" + told + ")")
    rows = rows.assign(cell=cells, figure=rows.figure.map(label))
    table = rows.pivot(index="figure", columns="result", values="cell")
    return table.loc[rows.figure.unique(), rows.result.unique()]


def label(name: str) -> str:
    """How a metric is called in a table, by its name."""
    return STANDARD[name].label


def write_text(means: pd.DataFrame, differences: pd.DataFrame, sizes: dict[str, int], output: Path) -> None:
    """compare.md and compare.tex: means, differences and (in Markdown) every verdict as a sentence, split by split."""
    text, tex = [NOTES], []
    for split, number in sizes.items():
        of_split, changes = means[means.split == split], differences[differences.split == split]
        heads = f"Mean over {number} images ({split})", f"Difference from {changes.against.iloc[0]} ({split})"
        text.append(f"## {heads[0]}\n\n{markdown(readable(of_split))}")
        text.append(f"## {heads[1]}\n\n{markdown(readable(changes))}")
        text.append("\n".join(f"- {sentence(row)}" for _, row in changes.iterrows()) + "\n")
        tex += [latex(readable(rows), head) for head, rows in zip(heads, (of_split, changes), strict=True)]
    (output / "compare.md").write_text("\n".join(text))
    (output / "compare.tex").write_text("\n".join(tex))


def print_all(means: pd.DataFrame, differences: pd.DataFrame, images: int) -> None:
    """The means, and a sentence a pair of results."""
    print(f"mean over {images} test images, classes without background:")
    named = means.assign(figure=means.figure.map(label))
    table = named.pivot(index="result", columns="figure", values="mean")
    table = table.loc[named.result.unique(), named.figure.unique()].rename_axis(index=None, columns=None)
    print(table.to_string(float_format="{:.3f}".format))
    first = differences[differences.figure == differences.figure.iloc[0]]
    print("\n".join(sentence(row) for _, row in first.iterrows()))
    if FEWEST <= images < FEW:
        print(f"note: with {images} images intervals are rather too narrow")


def main(settings: Settings) -> None:
    """Read, compare, draw."""
    at_least(settings, images=0)
    if not settings.figures or len(set(settings.figures)) < len(settings.figures):
        raise InputError(f"--figures {' '.join(settings.figures)}: name one or more figures, each once")
    results = comparison.read_results(settings.results)
    names, sizes, means, differences = [result.name for result in results], {}, [], []
    table = comparison.side_by_side(results, settings.figures)
    for split, sources in comparison.sections(results[0]).items():
        part = table[table.source.isin(sources)]
        means += [{"split": split, **row} for row in comparison.estimates(part, names)]
        differences += [{"split": split, **row} for row in comparison.differences(part, names)]
        sizes[split] = len(sources)
    means, differences = pd.DataFrame(means), pd.DataFrame(differences)
    whole, changes = means[means.split == split], differences[differences.split == split]  # the last: of all images
    with replace_folder(settings.output, "compare.csv", settings.overwrite, input_paths(settings)) as output:
        table.to_csv(output / "images.csv", index=False)
        means.to_csv(output / "compare.csv", index=False)
        differences.rename(columns={"mean": "difference"}).to_csv(output / "differences.csv", index=False)
        write_text(means, differences, sizes, output)
        draw_comparison(table, whole, changes, output / "compare.png")
        if shown := pictured(results)[: settings.images]:
            draw_crops(results, shown, output / "overview.png")
    print_all(whole, changes, sizes[split])
    if settings.images and not shown:
        print("note: no overview.png, the results have no image's pictures in common: test with --pictures 3 or more")
    print(f"tables and pictures are in {settings.output.absolute()}: compare.md, compare.png")


if __name__ == "__main__":
    run_script(main, Settings)
