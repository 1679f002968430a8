"""The formats of the files that a test leaves behind: names, order and rounding, written out here once more."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from GenSelfDiff.intervals import mean_interval

PUBLISHED = [
    *("AJI", "Jaccard_score", "F1_score", "Hausdorff_distance", "accuracy", "sensitivity", "precision"),
    *("specificity", "dice"),
]
OVERLAP = ["Dice", "Jaccard", "precision", "sensitivity", "specificity", "accuracy"]
MASKS = [*OVERLAP, "Hausdorff (px)", "HD95 (px)"]
OBJECTS = ["AJI", "PQ", "SQ", "RQ", "object F1", "GlaS F1", "object Dice", "object Hausdorff (px)", "AJI+"]
COUNTED = [
    *("true objects", "predicted objects", "objects found", "objects missed", "objects merged", "objects split"),
    "objects false",
]
TWO_DECIMALS = {"Hausdorff_distance", "Hausdorff (px)", "HD95 (px)", "object Hausdorff (px)"}
CLASSES = ["background", "Hausdorff: one", "two"]  # a class that is called like a metric
AVERAGED = {
    "as published: mean over patches, classes without background": PUBLISHED,
    "standard: mean over images, classes without background": MASKS,
    "standard, on instances: mean over images, classes without background": OBJECTS,
    "standard: pooled over the pixels of all images, mean over classes without background": OVERLAP,
    "standard, on instances: pooled over the objects of all images, mean over classes without background": OBJECTS,
}


def with_classes(names):
    """Each name, and then it for each class."""
    return [column for name in names for column in (name, *(f"{name}: {c}" for c in CLASSES[1:]))]


@pytest.fixture(scope="module")
def three(make_results, tmp_path_factory):
    """The results of a test of three classes; the last is nowhere."""
    return make_results(tmp_path_factory.mktemp("three"), name=CLASSES[1], absent=CLASSES[2:]).folder


def header(file):
    return file.read_text().splitlines()[0].split(",")


def test_columns_of_one_class(tested):
    standard = [f"standard: {name}" for name in MASKS]
    assert header(tested.folder / "patches.csv") == ["patch", "source", "split", *PUBLISHED, *standard]
    assert header(tested.folder / "images.csv") == ["source", "split", *MASKS, *OBJECTS, "covered share", *COUNTED]


def test_columns_of_several_classes(three):
    standard = [f"standard: {name}" for name in with_classes(MASKS)]
    assert header(three / "patches.csv") == ["patch", "source", "split", *PUBLISHED, *standard]
    metrics = with_classes([*MASKS, *OBJECTS])
    assert header(three / "images.csv") == ["source", "split", *metrics, "covered share", *COUNTED]


def test_rows_of_the_table(tested, three):
    for folder, of_classes in ((tested.folder, list), (three, with_classes)):
        assert header(folder / "table.csv") == ["averaging", "figure", "testA", "testB", "testC", "all"]
        rows = [
            (averaging, name)
            for averaging, names in AVERAGED.items()
            for name in (names if names == PUBLISHED else of_classes(names))
        ]
        assert pd.read_csv(folder / "table.csv", index_col=[0, 1]).index.tolist() == rows
        summary = json.loads((folder / "summary.json").read_text())["figures"]
        assert [(a, name) for a in summary for name in summary[a]["all"]] == rows


def test_every_value_of_the_table_and_its_decimals(tested, three):
    """Distances have two decimals, whatever a class is called; what is undefined is a dash, in summary.json null."""
    for folder in (tested.folder, three):
        table = pd.read_csv(folder / "table.csv", index_col=[0, 1])
        written = {name: (folder / name).read_text().splitlines() for name in ("table.md", "table.tex")}
        lines = {name: iter(text) for name, text in written.items()}
        summary = json.loads((folder / "summary.json").read_text())["figures"]
        for (averaging, name), row in table.iterrows():
            decimals = 2 if name.partition(": ")[0] in TWO_DECIMALS else 4
            cells = [name, *("–" if np.isnan(value) else f"{value:.{decimals}f}" for value in row)]
            assert "| " + " | ".join(cells) + " |" in lines["table.md"]  # each in its turn
            assert " & ".join(cells).replace("_", r"\_") + r" \\" in lines["table.tex"]
            told = [summary[averaging][split][name] for split in table]
            assert [math.nan if value is None else value for value in told] == pytest.approx(list(row), nan_ok=True)
        assert [line for line in written["table.md"] if "**" in line] == [f"**{averaging}**" for averaging in AVERAGED]
        assert written["table.md"].count("| figure | testA | testB | testC | all |") == len(AVERAGED)
        assert sum(line.startswith("figure & testA & testB") for line in written["table.tex"]) == len(AVERAGED)


def test_keys_of_the_summary(three):
    summary = json.loads((three / "summary.json").read_text())
    assert list(summary) == [
        "settings", "classes", "instances", "true instances", "absent classes", "images left out of a mean", "images",
        "patches", "figures", "confusion matrices", "calibration", "expected calibration error", "seconds",
        "covered share", "objects", "95 % intervals",
    ]  # fmt: skip
    left_out = summary["images left out of a mean"]
    assert [name for name in left_out if name.endswith(f": {CLASSES[2]}")] == [
        f"{name}: {CLASSES[2]}" for name in [*MASKS, *OBJECTS]
    ]
    assert left_out[f"Dice: {CLASSES[2]}"] == 5 and summary["classes"] == CLASSES
    assert np.shape(summary["confusion matrices"]["testA"]) == (3, 3) and np.shape(summary["calibration"]) == (20, 3)


def test_means_are_of_the_rows(three):
    table = pd.read_csv(three / "table.csv", index_col=[0, 1])["testA"]
    patches, images = (pd.read_csv(three / f"{name}.csv").query("split == 'testA'") for name in ("patches", "images"))
    averagings = list(AVERAGED)
    assert table[averagings[0]].tolist() == pytest.approx(patches[PUBLISHED].mean().tolist())
    for averaging, names in zip(averagings[1:3], (MASKS, OBJECTS), strict=True):
        expected = images[with_classes(names)].mean().tolist()
        assert table[averaging].tolist() == pytest.approx(expected, nan_ok=True)


def test_objects_and_the_covered_share(tested):
    images = pd.read_csv(tested.folder / "images.csv")
    summary = json.loads((tested.folder / "summary.json").read_text())
    assert (images["covered share"] == 1).all() and summary["covered share"] == 1
    fates = images[["objects found", "objects missed", "objects merged", "objects split"]].sum(axis=1)
    assert (fates == images["true objects"]).all() and (images["true objects"] == 4).all()
    for split in ("testA", "all"):
        rows = images if split == "all" else images[images.split == split]
        assert summary["objects"][split] == rows[COUNTED].sum().to_dict()
    assert list(summary["objects"]) == ["testA", "testB", "testC", "all"]


def test_intervals_are_of_the_means_over_all_images(tested):
    summary = json.loads((tested.folder / "summary.json").read_text())
    images = pd.read_csv(tested.folder / "images.csv")
    intervals = summary["95 % intervals"]
    assert list(intervals) == list(AVERAGED)[1:3]
    for averaging, names in zip(intervals, (MASKS, OBJECTS), strict=True):
        assert list(intervals[averaging]) == names
        for name, (low, high) in intervals[averaging].items():
            assert (low, high) == pytest.approx(mean_interval(images[name].to_numpy(float))), name
            assert low <= images[name].mean() <= high
