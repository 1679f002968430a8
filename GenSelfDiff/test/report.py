"""What every test leaves behind, whichever the predictor: tables, summary, pictures, label maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from GenSelfDiff.data import Patches
from GenSelfDiff.test import pictures
from GenSelfDiff.test.evaluation import Figures, Image, Predictor, check_patches, evaluate
from GenSelfDiff.test.instances import InstanceSettings
from GenSelfDiff.test.metrics import ABSENT_CLASSES
from GenSelfDiff.training import plain
from utils_general import MONUSEG, InputError, at_least, replace_folder, write_json

MARKER = "summary.json"


@dataclass(frozen=True, kw_only=True)
class ReportSettings(InstanceSettings):
    """What every test asks for."""

    data: Path = MONUSEG
    """root of the data set: its test patches"""
    pictures: int = 20
    """how many images get pictures; label maps are written of all"""
    overwrite: bool = False
    """replace the results of an earlier test"""


def run_test(
    settings: ReportSettings,
    output: Path,
    patches: Patches,
    classes: list[str],
    predict: Predictor,
    about: dict[str, Any],
) -> None:
    """Check, evaluate, write the results folder, print the table. `classes` are those of the predictor."""
    at_least(settings, pictures=0, minimum_area=0, peak_distance=1, largest_hole=0, smoothing=0)
    classes = _class_names(patches, classes)
    output = output.absolute()
    with replace_folder(output, MARKER, settings.overwrite) as folder:
        check_patches(patches, len(classes))
        drawn: list[str] = []

        def look(image: Image) -> None:
            pictures.write_label_maps(image, folder / "label_maps")
            if len(drawn) < settings.pictures:
                pictures.draw(image, classes, folder / "pictures")
                drawn.append(image.source)

        figures = evaluate(predict, patches, classes, settings, look)
        table = figures.table()
        _write(folder, figures, table, {**plain(settings), **about})
    _print(table, figures)
    print(f"tables, pictures and label maps are in {output}")


def _class_names(patches: Patches, predicted: list[str]) -> list[str]:
    """The names by class index: those of the data, which must be those of the predictor.

    A folder as released names no classes, and its labels need not show all of them: there the predictor's names hold.
    A published checkpoint names none either ("class 1", ...): as many as the data's are enough.
    """
    known = predicted if patches.matrix is not None else patches.data_set.classes
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


def _write(folder: Path, figures: Figures, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    figures.patches.to_csv(folder / "patches.csv", index=False)
    figures.images.to_csv(folder / "images.csv", index=False)
    table.to_csv(folder / "table.csv", index_label=["averaging", "figure"])
    pictures.draw_confusion_matrix(sum(figures.matrices.values()), figures.classes, folder / "confusion_matrix.png")
    valid = table.astype(object).where(table.notna(), None)  # JSON knows no NaN
    averages = {averaging: group.droplevel(0).to_dict() for averaging, group in valid.groupby(level=0, sort=False)}
    summary = {
        "settings": settings,
        "classes": figures.classes,
        "instances": figures.method,
        "true instances": figures.truth_instances,
        "absent classes": ABSENT_CLASSES,
        "images left out of a mean": figures.left_out(),
        "images": figures.images.source.tolist(),
        "patches": len(figures.patches),
        "figures": averages,
        "confusion matrices": {split: matrix.tolist() for split, matrix in figures.matrices.items()},
    }
    write_json(folder / MARKER, summary)


def _print(table: pd.DataFrame, figures: Figures) -> None:
    """The table, group by group: each says how it was averaged."""
    for averaging, group in table.groupby(level=0, sort=False):
        print(f"\n{averaging}")
        print(group.droplevel(0).to_string(float_format="{:.4f}".format))
    undefined = int(figures.images.isna().any(axis=1).sum())
    print(
        f"\n{len(figures.images)} images, {len(figures.patches)} patches. Predicted objects by {figures.method}, true "
        f"ones from {figures.truth_instances}.\nAbsent classes: {ABSENT_CLASSES} (in {undefined} images a figure is "
        f'left out, {MARKER} says which).\n"AJI" and "Hausdorff_distance" as published are not those of other papers: '
        "see the README."
    )
