"""What every test leaves behind, whichever the predictor: tables, summary, report, pictures, label maps."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from GenSelfDiff.data import Patches
from GenSelfDiff.evaluation.evaluate import Figures, Image, check_patches, evaluate
from GenSelfDiff.evaluation.pixel_metrics import ABSENT_CLASSES
from GenSelfDiff.instances import InstanceSettings
from GenSelfDiff.predictor import Predictor
from GenSelfDiff.report import charts, pictures
from GenSelfDiff.report.examples import draw_examples
from GenSelfDiff.report.page import Facts, write_page
from GenSelfDiff.report.table_files import write_tables
from GenSelfDiff.report.training_record import Stage
from utils_general import MONUSEG, InputError, at_least, plain, replace_folder, write_json

MARKER = "summary.json"


@dataclass(frozen=True, kw_only=True)
class ReportSettings(InstanceSettings):
    """What every test asks for."""

    data: Path = MONUSEG
    """root of the data set: its test patches"""
    pictures: int = 20
    """how many images get pictures, beside the report's examples; label maps are written of all"""
    overwrite: bool = False
    """replace the results of an earlier test"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is tested."""

    name: str
    """of the run or the trivial method: the report's title"""
    predict: Predictor
    classes: list[str]
    about: dict[str, Any] = field(default_factory=dict)
    """what the summary and the report say of it beside the settings"""
    stages: list[Stage] = field(default_factory=list)
    """how it was trained"""


class Drawing:
    """Drawing, which must not cost the results of a test: the first failure is kept until they are safe."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep what fails inside."""
        try:
            yield
        except Exception as error:  # whatever it is: the figures are worth more than a picture of them
            self.error = self.error or error

    def raise_again(self, results: Path) -> None:
        """Say what is missing, and end with the failure."""
        if self.error:
            print(f"the report or a picture could not be drawn; the tables in {results} are complete", file=sys.stderr)
            raise self.error


def run_test(settings: ReportSettings, output: Path, patches: Patches, method: Method) -> None:
    """Check, evaluate, write the results folder, print the table."""
    at_least(settings, pictures=0, minimum_area=0, peak_distance=1, largest_hole=0, smoothing=0)
    classes = _class_names(patches, method.classes)
    output = output.absolute()
    drawing, seconds = Drawing(), Counter()
    with replace_folder(output, MARKER, settings.overwrite) as folder:
        check_patches(patches, len(classes))
        figures = _evaluate(settings, patches, method, classes, folder, drawing, seconds)
        about = {**plain(settings), **method.about}
        write_tables(figures, folder)
        write_json(folder / MARKER, _summary(figures, about, seconds))
        with drawing.attempt():
            _draw(folder, Facts(method.name, figures, patches, about, method.stages, seconds))
    _print(figures)
    print(f"report.html, tables, pictures and label maps are in {output}")
    drawing.raise_again(output)


def _evaluate(
    settings: ReportSettings,
    patches: Patches,
    method: Method,
    classes: list[str],
    folder: Path,
    drawing: Drawing,
    seconds: Counter,
) -> Figures:
    """Evaluate, writing label maps and pictures on the way; `seconds` says what took how long."""
    drawn: list[str] = []

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] += time.perf_counter() - start

    def predict(images: np.ndarray) -> np.ndarray:
        with timed("network"):
            return method.predict(images)

    def look(image: Image) -> None:
        with timed("pictures"):
            pictures.write_label_maps(image, folder / "label_maps")
            if len(drawn) < settings.pictures:
                with drawing.attempt():
                    pictures.draw(image, classes, folder / "pictures")
                drawn.append(image.source)

    with timed("all"):
        return evaluate(predict, patches, classes, settings, look)


def _draw(folder: Path, facts: Facts) -> None:
    """Charts and examples as pictures, and the page with all of them."""
    figures = facts.figures
    curves = [panel for stage in facts.stages for panel in charts.curves(stage)]
    charts.save_png(curves, folder / "curves.png")
    charts.save_png(charts.distribution(figures.images), folder / "distribution.png")
    charts.save_png(charts.reliability(figures.calibration), folder / "reliability.png")
    charts.draw_confusion_matrix(sum(figures.matrices.values()), figures.classes, folder / "confusion_matrix.png")
    examples = draw_examples(figures.images, facts.patches, figures.classes, folder)
    write_page(folder / "report.html", facts, examples)


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


def _summary(figures: Figures, about: dict[str, Any], seconds: Counter) -> dict[str, Any]:
    """Everything that a program may want to read of a test; without NaN, which JSON does not know."""
    table = figures.table()
    valid = table.astype(object).where(table.notna(), None)
    return {
        "settings": about,
        "classes": figures.classes,
        "instances": figures.method,
        "true instances": figures.truth_instances,
        "absent classes": ABSENT_CLASSES,
        "images left out of a mean": figures.left_out(),
        "images": figures.images.source.tolist(),
        "patches": len(figures.patches),
        "figures": {averaging: group.droplevel(0).to_dict() for averaging, group in valid.groupby(level=0, sort=False)},
        "confusion matrices": {split: matrix.tolist() for split, matrix in figures.matrices.items()},
        "calibration": figures.calibration.tolist(),
        "expected calibration error": charts.calibration_error(figures.calibration),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _print(figures: Figures) -> None:
    """The table, group by group: each says how it was averaged."""
    for averaging, group in figures.table().groupby(level=0, sort=False):
        print(f"\n{averaging}")
        print(group.droplevel(0).to_string(float_format="{:.4f}".format))
    undefined = int(figures.images.isna().any(axis=1).sum())
    print(
        f"\n{len(figures.images)} images, {len(figures.patches)} patches. Predicted objects by {figures.method}, true "
        f"ones from {figures.truth_instances}.\nAbsent classes: {ABSENT_CLASSES} (in {undefined} images a figure is "
        f'left out, {MARKER} says which).\n"AJI" and "Hausdorff_distance" as published are not those of other papers: '
        "see the README."
    )
