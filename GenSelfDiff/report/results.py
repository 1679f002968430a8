"""What every test leaves behind, whichever the predictor: tables, summary, report, pictures, label maps."""

import math
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from GenSelfDiff.evaluation.calibration import calibration_error, tells_how_sure
from GenSelfDiff.evaluation.evaluate import COVERED, Evaluation, TestSplit, check_patches, evaluate
from GenSelfDiff.evaluation.images import LABEL_MAPS, read_again, write_label_maps
from GenSelfDiff.evaluation.pixel_metrics import ABSENT_CLASSES
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.patches import Patches
from GenSelfDiff.predictor import Predictor, WholePredictor
from GenSelfDiff.report import charts, image_figures
from GenSelfDiff.report.examples import draw_examples
from GenSelfDiff.report.page import Facts, percent, write_page
from GenSelfDiff.report.table_files import write_tables
from GenSelfDiff.report.training_record import StageRecord
from GenSelfDiff.targets import Targets
from output_folder import add_files, input_paths, replace_folder
from utils_general import MONUSEG, InputError, at_least, plain, write_json

MARKER = "summary.json"


@dataclass(frozen=True, kw_only=True)
class ReportSettings(InstanceSettings):
    """What every test asks for."""

    data: Path = MONUSEG
    """root of the data set: its test patches"""
    split: TestSplit = "test"
    """test, or val: the labelled images that are held out of training, to make choices on"""
    pictures: int = 20
    """how many images get pictures, beside the report's examples; label maps are written of all"""
    report: bool = True
    """draw the report, its charts and its examples: half of a test's time, which grids of many tests spare"""
    overwrite: bool = False
    """replace the results of an earlier test"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is tested."""

    name: str
    """of the run or the trivial method: the report's title"""
    predict: Predictor
    classes: list[str]
    whole: WholePredictor | None = None
    """how it predicts whole images; if not given, as `predict` does each as one"""
    targets: Targets = "classes"
    """what it says beside class probabilities"""
    about: dict[str, Any] = field(default_factory=dict)
    """what the summary and the report say of it beside the settings"""
    stages: list[StageRecord] = field(default_factory=list)
    """how it was trained"""


def run_test(settings: ReportSettings, output: Path, patches: Patches, method: Method) -> None:
    """Check, evaluate, write the results folder, print the table; then draw, which cannot cost the results any more."""
    at_least(settings, pictures=0, minimum_area=0, peak_distance=1, largest_hole=0, smoothing=0)
    method = replace(method, classes=_class_names(patches, method.classes))
    output = output.absolute()
    with replace_folder(output, MARKER, settings.overwrite, input_paths(settings)) as folder:
        check_patches(patches, len(method.classes))
        evaluation, seconds = _evaluate(settings, patches, method, folder / LABEL_MAPS)
        reduced = {"patches reduced": f"{factor:g} times"} if (factor := patches.data_set.downscale) != 1 else {}
        about = {**plain(settings), **method.about, **reduced}
        write_tables(evaluation, folder)
        write_json(folder / MARKER, _summary(evaluation, about, seconds))
    _print(evaluation)
    facts = Facts(
        name=method.name,
        evaluation=evaluation,
        patches=patches,
        settings=about,
        stages=method.stages,
        seconds=seconds,
    )
    with add_files(output):
        _draw(output, facts, settings)
    report = "report.html, tables, pictures" if settings.report else "tables"
    print(f"{report} and label maps are in {output}")


def _evaluate(
    settings: ReportSettings, patches: Patches, method: Method, label_maps: Path
) -> tuple[Evaluation, dict[str, float]]:
    """Evaluate, writing label maps on the way; and the seconds that it took, see `Facts`."""
    scores, start, writing = [], time.perf_counter(), 0.0
    for image, of_image in evaluate(method.predict, patches, method.classes, settings, method.whole, method.targets):
        scores.append(of_image)
        predicted = time.perf_counter()
        write_label_maps(image, label_maps)
        writing += time.perf_counter() - predicted
    network, everything = sum(of_image.seconds for of_image in scores), time.perf_counter() - start
    evaluation = Evaluation.of(scores, patches, method.classes, settings, method.targets)
    return evaluation, {"network": network, "pictures": writing, "all": everything}


def _draw(results: Path, facts: Facts, settings: ReportSettings) -> None:
    """The report, and pictures of the first images; where one of the two fails, the other is drawn all the same."""
    failures = []
    drawings = [partial(draw_report, results, facts)] if settings.report else []
    for draw in (*drawings, partial(draw_images, results, facts, settings.pictures)):
        try:
            draw()
        except Exception as error:  # whatever it is: raised again below
            failures.append(error)
    if failures:
        print(f"the report or a picture could not be drawn; the tables in {results} are complete", file=sys.stderr)
        raise failures[0]


def draw_report(results: Path, facts: Facts) -> None:
    """Charts and examples as pictures, and the page with all of them."""
    evaluation = facts.evaluation
    curves = [panel for stage in facts.stages for panel in charts.curves(stage)]
    charts.save_png(curves, results / "curves.png")
    charts.save_png(charts.distribution(evaluation.images), results / "distribution.png")
    charts.save_png(charts.reliability(evaluation.calibration), results / "reliability.png")
    matrix = sum(evaluation.matrices.values())
    charts.draw_confusion_matrix(matrix, evaluation.classes, results / "confusion_matrix.png")
    write_page(results / "report.html", facts, draw_examples(facts.patches, evaluation, results))


def draw_images(results: Path, facts: Facts, number: int) -> None:
    """Pictures of the first so many images."""
    tested = facts.evaluation.images[["source", "split"]].head(number)
    for row in tqdm(tested.itertuples(), "pictures", len(tested), disable=None):
        image = read_again(facts.patches, row.source, row.split, results / LABEL_MAPS)
        image_figures.draw(image, facts.evaluation.classes, results / "pictures")


def _class_names(patches: Patches, predicted: list[str]) -> list[str]:
    """The names by class index: those of the data, which must be those of the predictor.

    A folder as released names no classes, and its labels need not show all of them: there the predictor's names hold.
    A published checkpoint names none either ("class 1", ...): as many as the data's are enough.
    """
    known = patches.data_set.classes if patches.described else predicted
    unnamed = predicted[1:] == [f"class {c}" for c in range(1, len(predicted))]
    if len(known) != len(predicted) or (known != predicted and not unnamed):
        raise InputError(
            f"{patches.folder} has {len(known)} classes ({', '.join(known)}), the network {len(predicted)} "
            f"({', '.join(predicted)}): pass the data set it was fine-tuned for, --data"
        )
    if len(known) < 2:
        raise InputError(f"{patches.folder} has no class beside the background: there is nothing to test")
    if known != predicted:
        print(f"note: the network calls the classes {', '.join(predicted)}; the data's names are used")
    return known


def _summary(evaluation: Evaluation, about: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """Everything that a program may want to read of a test; without NaN, which JSON does not know."""
    table = evaluation.table()
    valid = table.astype(object).where(table.notna(), None)
    intervals = pd.DataFrame(evaluation.intervals).T
    intervals = intervals.astype(object).where(intervals.notna(), None)
    return {
        "settings": about,
        "classes": evaluation.classes,
        "instances": evaluation.method,
        "true instances": evaluation.truth_instances,
        "absent classes": ABSENT_CLASSES,
        "images left out of a mean": evaluation.left_out(),
        "images": evaluation.images.source.tolist(),
        "patches": len(evaluation.patches),
        "figures": {averaging: group.droplevel(0).to_dict() for averaging, group in valid.groupby(level=0, sort=False)},
        "confusion matrices": {split: matrix.tolist() for split, matrix in evaluation.matrices.items()},
        "calibration": evaluation.calibration.tolist(),
        "expected calibration error": _calibration_error(evaluation),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        COVERED: None if math.isnan(evaluation.covered) else evaluation.covered,
        "objects": evaluation.objects().to_dict(),
        "95 % intervals": {
            averaging: dict(zip(group.index.get_level_values(1), group.to_numpy().tolist(), strict=True))
            for averaging, group in intervals.groupby(level=0, sort=False)
        },
    }


def _calibration_error(evaluation: Evaluation) -> float | None:
    """The expected calibration error; None for a method that does not say how sure it is."""
    calibration = evaluation.calibration
    return calibration_error(calibration) if tells_how_sure(calibration) else None


def _print(evaluation: Evaluation) -> None:
    """The table, group by group: each says how it was averaged."""
    for averaging, group in evaluation.table().groupby(level=0, sort=False):
        print(f"\n{averaging}")
        print(group.droplevel(0).to_string(float_format="{:.4f}".format))
    print(f"\nobjects\n{evaluation.objects().to_string()}")
    undefined = int(evaluation.images.isna().any(axis=1).sum())
    print(
        f"\n{len(evaluation.images)} images, {len(evaluation.patches)} patches. "
        f"Predicted objects by {evaluation.method}, true ones from {evaluation.truth_instances}.\n"
        f"Absent classes: {ABSENT_CLASSES} (in {undefined} images a figure is left out, {MARKER} says which).\n"
        '"AJI" and "Hausdorff_distance" as published are not those of other papers: see docs/evaluation.md.'
    )
    print(coverage(evaluation.covered))


def coverage(share: float) -> str:
    """What the patches cover of the test images, in words; `share` is `Evaluation.covered`."""
    if math.isnan(share):
        return (
            "warning: what share of the test images the patches cover is not known, as their folder does not say how "
            "large the images are: cut them again with preprocess.py"
        )
    if share < 1:
        return (
            f"warning: the patches cover {percent(share)} of the test images, the rest is not tested: these are no "
            "figures of whole images; cut them again with --border-windows True"
        )
    return "The patches cover all of the test images."
