"""Is B better than A? Tests of the same images side by side, with intervals and a test over images.

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

from GenSelfDiff.comparison.figures import draw_comparison, draw_crops, pictured
from GenSelfDiff.comparison.results import MetricName, read_results, sections, side_by_side
from GenSelfDiff.comparison.statistics import EXACT, LEVEL, NOT_TOLD, differences, estimates, fewest
from GenSelfDiff.metrics import STANDARD
from GenSelfDiff.report.tables import as_markdown, latex, markdown
from output_folder import replace_folder
from utils_general import RESULTS, InputError, at_least, run_script

DIGITS = 3  # at most: an interval over some images tells no fourth
SCORES = 3  # metrics under each prediction in the overview
NOTES = f"""\
Intervals are Student's t, 95 %, over images; differences are paired by image. One is called better or worse where the
sign-flip test of the differences has p < {LEVEL} after Holm's correction for all comparisons of its table: of tables in
which all results are equally good, at most one in twenty calls any better or worse. Up to {EXACT} images the test is
exact, beyond it tries {2**EXACT:,} random choices of signs. p is at least 2 / 2^n for n images: {fewest(1)} are the
fewest that can tell a single comparison, {fewest(8)} one of eight. All this is about other images, not about another
seed of training: train several.
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
    told = "cannot be told from" if row.verdict == NOT_TOLD else f"is {row.verdict} than"
    unit = f" {unit}" if (unit := STANDARD[row.figure].unit) else ""
    left_out = f"; images left out, undefined in one of the two: {row.left_out}" if row.left_out else ""
    return (
        f"{row.result} {told} {row.against} by {row.figure}: {interval(row, sign='+')}{unit}{evidence(row)}{left_out}"
    )


def evidence(row: pd.Series) -> str:
    """What a verdict rests on: the test, its p, and what it would need if it could not tell anything."""
    if not row.images:
        return ""
    images = "1 image" if row.images == 1 else f"{row.images} images"
    adjusted = f" by Holm for {row.comparisons} comparisons" if row.comparisons > 1 else ""
    needed = fewest(row.comparisons)
    few = f"; too few images to tell, at least {needed} are needed" if row.images < needed else ""
    return f"; sign-flip test of {images}, p = {row.adjusted_p:.2g}{adjusted}{few}"


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


def write_text(means: pd.DataFrame, changes: pd.DataFrame, sizes: dict[str, int], output: Path) -> None:
    """compare.md and compare.tex: means, differences and (in Markdown) every verdict as a sentence, split by split."""
    text, tex = [NOTES], []
    for split, number in sizes.items():
        of_split, of_both = means[means.split == split], changes[changes.split == split]
        first = of_both.against.iloc[0]
        parts = {f"Mean over {number} images ({split})": of_split, f"Difference from {first} ({split})": of_both}
        text += [f"## {as_markdown(head)}\n\n{markdown(readable(rows))}" for head, rows in parts.items()]
        text.append("\n".join(f"- {as_markdown(sentence(row))}" for _, row in of_both.iterrows()) + "\n")
        tex += [latex(readable(rows), head) for head, rows in parts.items()]
    (output / "compare.md").write_text("\n".join(text), encoding="utf-8")
    (output / "compare.tex").write_text("\n".join(tex), encoding="utf-8")


def print_all(means: pd.DataFrame, changes: pd.DataFrame, images: int) -> None:
    """The means, and a sentence a pair of results."""
    print(f"mean over {images} test images, classes without background:")
    named = means.assign(figure=means.figure.map(label))
    table = named.pivot(index="result", columns="figure", values="mean")
    table = table.loc[named.result.unique(), named.figure.unique()].rename_axis(index=None, columns=None)
    print(table.to_string(float_format="{:.3f}".format))
    first = changes[changes.figure == changes.figure.iloc[0]]
    print("\n".join(sentence(row) for _, row in first.iterrows()))


def main(settings: Settings) -> None:
    """Read, compare, draw."""
    at_least(settings, images=0)
    if not settings.figures or len(set(settings.figures)) < len(settings.figures):
        raise InputError(f"--figures {' '.join(settings.figures)}: name one or more figures, each once")
    results = read_results(settings.results)
    names, sizes, means, changes = [result.name for result in results], {}, [], []
    table = side_by_side(results, settings.figures)
    for split, sources in sections(results[0]).items():
        part = table[table.source.isin(sources)]
        means += [{"split": split, **row} for row in estimates(part, names)]
        changes += [{"split": split, **row} for row in differences(part, names)]
        sizes[split] = len(sources)
    means, changes = pd.DataFrame(means), pd.DataFrame(changes)
    whole, of_whole = means[means.split == split], changes[changes.split == split]  # the last: of all images
    read = [result.folder for result in results]
    with replace_folder(settings.output, "compare.csv", settings.overwrite, read) as output:
        table.to_csv(output / "images.csv", index=False)
        means.to_csv(output / "compare.csv", index=False)
        changes.rename(columns={"mean": "difference"}).to_csv(output / "differences.csv", index=False)
        write_text(means, changes, sizes, output)
        draw_comparison(table, whole, of_whole, output / "compare.png")
        if shown := pictured(results)[: settings.images]:
            draw_crops(results, shown, settings.figures[:SCORES], output / "overview.png")
    print_all(whole, of_whole, sizes[split])
    if settings.images and not shown:
        print("note: no overview.png, the results have no image's pictures in common: test with --pictures 3 or more")
    print(f"tables and pictures are in {settings.output.absolute()}: compare.md, compare.png")


if __name__ == "__main__":
    run_script(main, Settings)
