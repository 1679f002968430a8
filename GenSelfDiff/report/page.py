"""The report of a test as one page that opens anywhere: no script, nothing loaded, all pictures inside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from GenSelfDiff.evaluation.calibration import calibration_error
from GenSelfDiff.evaluation.evaluate import Evaluation
from GenSelfDiff.evaluation.pixel_metrics import ABSENT_CLASSES
from GenSelfDiff.instances import InstanceMethod
from GenSelfDiff.metrics import STANDARD, UNDEFINED, of_row
from GenSelfDiff.palette import colours
from GenSelfDiff.patches import Patches
from GenSelfDiff.report import charts
from GenSelfDiff.report.examples import RANKED_BY, Example
from GenSelfDiff.report.overlays import ERRORS, FATE_COLOURS
from GenSelfDiff.report.table_files import groups
from GenSelfDiff.report.training_record import StageRecord
from utils_general import replace_file

TEMPLATE = "report.html.jinja"
MOST_ROWS = 200  # images listed in the page; images.csv has all
INTERVAL = "95 % interval"
OF_NUCLEI = ("Dice", "Jaccard", "AJI", "AJI+", "PQ", "object F1", "HD95")
HEADLINES: dict[InstanceMethod, tuple[str, ...]] = {  # what is told first: of glands, and of what is divided, nuclei
    "components": ("Dice", "Jaccard", "object F1", "object Dice", "object Hausdorff", "HD95"),
    "watershed": OF_NUCLEI, "border": OF_NUCLEI, "hv": OF_NUCLEI,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the report tells."""

    name: str
    """of what was tested"""
    evaluation: Evaluation
    patches: Patches
    settings: dict[str, Any]
    """of the test"""
    stages: list[StageRecord]
    """how it was trained, as far as that is known"""
    seconds: dict[str, float]
    """of the test: in "all", and of these for the "network" and for "pictures", its label maps"""


def write_page(path: Path, facts: Facts, examples: list[Example]) -> None:
    """Write the page. Every name in it is escaped by the template."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": text, "percent": percent}
    page = environment.get_template(TEMPLATE).render(
        facts=facts,
        evaluation=facts.evaluation,
        data_set=facts.patches.data_set,
        examples=examples,
        colours=_colours(facts.evaluation.classes),
        costs=costs(facts),
        settings={"test": facts.settings, **{stage.name: stage.settings for stage in facts.stages if stage.settings}},
        **_tables(facts.evaluation),
        **_charts(facts),
    )
    with replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _tables(evaluation: Evaluation) -> dict[str, Any]:
    """The metrics as the template wants them."""
    table, images = evaluation.table(), evaluation.images
    shown = images.sort_values(RANKED_BY.label, na_position="last", kind="stable").head(MOST_ROWS)
    return {
        "splits": list(evaluation.matrices),
        "headlines": headlines(evaluation, table),
        "tables": [
            (*averaging.partition(": ")[::2], with_intervals(averaging, group, evaluation))
            for averaging, group in groups(table).items()
        ],
        "objects": evaluation.objects(),
        "absent_classes": ABSENT_CLASSES,
        "images": shown,
        "tallies": evaluation.tallies.loc[shown.index],
        "metrics": list(STANDARD.values()),
        "ranked_by": RANKED_BY.label,
        "matrix": (matrix := sum(evaluation.matrices.values())),
        "shares": charts.shares(matrix),
    }


def headlines(evaluation: Evaluation, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The first metrics that a reader wants: mean over images, lowest and highest, and the mean of each split."""
    told = []
    for metric in (STANDARD[name] for name in HEADLINES[evaluation.method]):
        row, values = table.loc[(metric.mean, metric.label)], evaluation.images[metric.label]
        told.append({
            "metric": metric,
            "mean": row.iloc[-1],  # of all splits, or of the only one
            "range": (values.min(), values.max()),
            "splits": row.iloc[:-1].to_dict(),
            "interval": evaluation.intervals[metric.mean, metric.label],
        })  # fmt: skip
    return told


def with_intervals(averaging: str, group: pd.DataFrame, evaluation: Evaluation) -> pd.DataFrame:
    """A table of `groups`; of means over images with the interval of the last column, that of all images."""
    of_rows = [evaluation.intervals.get((averaging, name)) for name in group.index]
    if None in of_rows:
        return group
    metrics = [of_row(averaging, name) for name in group.index]
    texts = [f"{m.text(low)} to {m.text(high)}" for m, (low, high) in zip(metrics, of_rows, strict=True)]
    return group.assign(**{INTERVAL: texts})


def _charts(facts: Facts) -> dict[str, Any]:
    """The charts as elements of the page."""
    images, calibration = facts.evaluation.images, facts.evaluation.calibration
    curves = [(stage, panel) for stage in facts.stages for panel in charts.curves(stage)]
    panels = {
        "distribution": [
            (panel, "Figures of each image; the table of images below has the numbers")
            for panel in charts.distribution(images)
        ],
        "reliability": [
            (panel, "Confidence of the network; the text beside sums it up")
            for panel in charts.reliability(calibration)
        ],
        "curves": [(panel, f"Curve of the {stage.name} over its epochs") for stage, panel in curves],
    }
    svgs = {
        kind: [charts.to_svg(panel, f"{kind}{k}", words) for k, (panel, words) in enumerate(described)]
        for kind, described in panels.items()
    }
    return {"charts": svgs, "calibration_error": calibration_error(calibration)}


def _colours(classes: list[str]) -> dict[str, dict[str, str]]:
    """Colours for the legends, as CSS wants them."""
    of_class = {name: colours(np.array(c)) for c, name in enumerate(classes) if c}
    return {
        kind: {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in group.items()}
        for kind, group in (("classes", of_class), ("errors", ERRORS), ("fates", FATE_COLOURS))
    }


# --- what it cost ---


def costs(facts: Facts) -> dict[str, dict[str, str]]:
    """A column a stage and one for the test: what each took, and on what; rows that say nothing are left out."""
    columns = {stage.name: _cost_of_training(stage) for stage in facts.stages}
    columns["test"] = _cost_of_test(facts)
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    return {row: {name: column.get(row, UNDEFINED) for name, column in columns.items()} for row in rows}


def _cost_of_training(stage: StageRecord) -> dict[str, str]:
    settings = {"computed on": "device", "batch size": "batch_size", "precision": "precision"}
    cost = {row: text(stage.settings[name]) for row, name in settings.items() if name in stage.settings}
    if stage.history is not None:
        seconds = stage.history.seconds
        cost |= {
            "epochs": f"{len(seconds)}",
            "an epoch, median": duration(seconds.median()),
            "in all, without validation": duration(seconds.sum()),
        }
    return {"run": stage.run, **cost}


def _cost_of_test(facts: Facts) -> dict[str, str]:
    number = len(facts.evaluation.images)
    evaluation = facts.seconds["all"] - facts.seconds["pictures"]
    cost = {
        "an image and its patches, prediction": duration(facts.seconds["network"] / number),
        "an image, with its figures": duration(evaluation / number),
    }
    settings = {
        "computed on": "computed on",
        "batch size": "batch_size",
        "precision": "precision",
        "parameters of the network": "parameters",
    }
    return cost | {row: text(facts.settings[name]) for row, name in settings.items() if name in facts.settings}


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.42 s", "12 s", "5 min 03 s", "2 h 07 min"."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def percent(share: float) -> str:
    """A share in words: "92.2 %"; what is not all is never "100.0 %"."""
    return UNDEFINED if pd.isna(share) else f"{min(100 * share, 99.9) if share < 1 else 100:.1f} %"


def text(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
