"""compare.py on results that are written by hand, and once, by its path, on those of real tests."""

import json
import math
import shutil
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from GenSelfDiff.comparison import results as comparison
from GenSelfDiff.comparison.results import MetricName, Result
from GenSelfDiff.test import baselines, compare
from utils_general import InputError, read_rgb

DISTANCES = ("HD95", "object Hausdorff")
COLUMNS = [f"{name} (px)" if name in DISTANCES else name for name in get_args(MetricName)]
BASE = np.linspace(0.6, 0.8, 10)


def write_results(folder, dice, splits=None, pictures=0, **summary):
    """A results folder with these values of Dice, and of all other metrics; distances are 100 times as large."""
    folder.mkdir(parents=True)
    names = [f"image_{i}" for i in range(len(dice))]
    values = {c: np.asarray(dice) * (100 if c.endswith("(px)") else 1) for c in COLUMNS}
    splits = splits or ["test"] * len(dice)
    pd.DataFrame({"source": names, "split": splits, **values}).to_csv(folder / "images.csv", index=False)
    content = {
        "classes": ["background", "nucleus"], "images": names, "true instances": "the annotation",
        "confusion matrices": {split: [[5, 3], [2, 4]] for split in dict.fromkeys(splits)},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(content | summary))
    (folder / "pictures").mkdir()
    for name in names[:pictures]:
        for kind in ("image", "truth", "prediction"):
            Image.new("RGB", (300, 80)).save(folder / "pictures" / f"{name}_{kind}.png")
    return folder


@pytest.fixture
def settings(tmp_path):
    """Two results of ten images: B is better by 0.02 to 0.05 in each."""
    write_results(tmp_path / "A", BASE, pictures=3)
    write_results(tmp_path / "B", BASE + np.array([2, 3, 4, 5, 2, 3, 4, 5, 2, 5]) / 100, pictures=2)
    return of(tmp_path, [tmp_path / "A", tmp_path / "B"])


def of(tmp_path, folders):
    """Settings that draw little: that takes time."""
    results = tuple(map(str, folders))
    return compare.Settings(results=results, output=tmp_path / "compare", figures=("Dice", "HD95"), images=1)


def run(settings):
    compare.main(settings)
    return (
        pd.read_csv(settings.output / "compare.csv").set_index(["split", "result", "figure"]),
        pd.read_csv(settings.output / "differences.csv").set_index(["split", "result", "figure"]),
    )


def test_everything_is_written_and_said(settings, capsys):
    means, differences = run(compare.Settings(results=settings.results, output=settings.output))
    names = {"compare.csv", "differences.csv", "images.csv", "compare.md", "compare.tex", "compare.png", "overview.png"}
    assert {f.name for f in settings.output.glob("[!.]*")} == names
    assert means.loc[("test", "A", "Dice"), "mean"] == pytest.approx(0.7)
    dice, distance = differences.loc[("test", "B", "Dice")], differences.loc[("test", "B", "HD95")]
    assert dice.difference == pytest.approx(0.035) and 0.02 < dice.low < 0.035 < dice.high < 0.05
    assert [dice.p, dice.adjusted_p, dice.comparisons] == pytest.approx([2 / 1024, 16 / 1024, 8])
    assert dice.verdict == "better" and distance.verdict == "worse" and distance.difference == pytest.approx(3.5)
    assert dice.images == 10 and dice.against == "A" and len(differences) == 8 and len(means) == 16
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "mean over 10 test images, classes without background:"
    assert printed[2].split() == ["A", "0.700", "0.700", "70.000", *["0.700"] * 4, "70.000"]
    assert printed[4].startswith("B is better than A by Dice: +0.035 [0.0")
    assert printed[4].endswith("]; sign-flip test of 10 images, p = 0.016 by Holm for 8 comparisons")
    assert printed[-1].endswith("compare.md, compare.png")
    text = (settings.output / "compare.md").read_text()
    assert "- B is worse than A by HD95: +3.50 [" in text and text.count("\n- ") == 8
    assert "| Dice | 0.700 [" in text and "(better) |" in text and "| HD95 (px) | +3.50 [" in text
    assert (settings.output / "compare.tex").read_text().count(r"\begin{tabular}{lr") == 2
    assert read_rgb(settings.output / "compare.png").shape[1] > 1000
    crops = read_rgb(settings.output / "overview.png")
    assert crops.shape[1] > crops.shape[0]  # four columns, two rows: only two images have pictures in both


def test_formats_of_the_files(settings, capsys):
    """Names and their order, and digits: three of shares, two of distances, in means, intervals and sentences."""
    compare.main(replace(settings, figures=("HD95", "Dice", "object Hausdorff", "PQ")))
    folder, names = settings.output, ["HD95", "Dice", "object Hausdorff", "PQ"]
    for file, columns in {
        "images.csv": "source,figure,split,A,B",
        "compare.csv": "split,figure,result,mean,low,high,images,left_out",
        "differences.csv": (
            "split,figure,result,against,difference,low,high,images,left_out,p,adjusted_p,comparisons,verdict"
        ),
    }.items():
        assert (folder / file).read_text().splitlines()[0] == columns
        assert pd.read_csv(folder / file).figure.unique().tolist() == names
    means = pd.read_csv(folder / "compare.csv").set_index(["figure", "result"])
    differences = pd.read_csv(folder / "differences.csv").set_index("figure")
    text, tex = ((folder / f"compare.{kind}").read_text() for kind in ("md", "tex"))
    heads = ["## Mean over 10 images (test)", "## Difference from A (test)"]
    assert [line for line in text.splitlines() if line.startswith("#")] == heads
    assert r"\caption{Mean over 10 images (test)}" in tex and r"\caption{Difference from A (test)}" in tex
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].strip() == "HD95 (px)  Dice  object Hausdorff (px)    PQ"
    for name in names:
        unit, digits = (" (px)", 2) if name in ("HD95", "object Hausdorff") else ("", 3)
        cells = [name + unit]
        for result in "AB":
            row = means.loc[(name, result)]
            cells.append(f"{row['mean']:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]")
        assert f"| {' | '.join(cells)} |\n" in text and " & ".join(cells) in tex
        row = differences.loc[name]
        change = f"{row.difference:+.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
        assert f"| {name}{unit} | {change} ({row.verdict}) |\n" in text
        assert f"- B is {row.verdict} than A by {name}: {change}{unit.replace('(', '').replace(')', '')}; " in text
    assert f"B is worse than A by HD95: {differences.difference['HD95']:+.2f} [" in printed


def test_images_stand_side_by_side(settings):
    run(replace(settings, figures=("AJI", "Dice")))
    images = pd.read_csv(settings.output / "images.csv")
    assert images.columns.tolist() == ["source", "figure", "split", "A", "B"]
    assert images.figure.tolist() == ["AJI"] * 10 + ["Dice"] * 10
    assert (images.B - images.A)[:4].tolist() == pytest.approx([0.02, 0.03, 0.04, 0.05])


def test_images_are_paired_by_name_not_by_row(settings, tmp_path):
    """In another order the same differences; as two independent samples B could not be told from A."""
    table = pd.read_csv(tmp_path / "B" / "images.csv")
    expected = run(settings)[1]
    table.sample(frac=1, random_state=1).to_csv(tmp_path / "B" / "images.csv", index=False)
    assert run(replace(settings, overwrite=True))[1].equals(expected)
    spread = BASE.std(ddof=1) * math.sqrt(2 / 10)
    assert spread * 1.96 > 0.035  # as far as a test that knows nothing of the pairs could see


def test_few_images_tell_nothing_and_it_is_said(tmp_path, capsys):
    folders = [
        write_results(tmp_path / name, np.array([0.5, 0.6, 0.7]) + more) for name, more in (("A", 0), ("B", 0.1))
    ]
    _, differences = run(of(tmp_path, folders))
    assert (differences.verdict == "not told apart").all() and (differences.low > 0).all()
    printed = capsys.readouterr().out
    assert (
        "B cannot be told from A by Dice: +0.100 [0.100, 0.100]; sign-flip test of 3 images, p = 0.5 by Holm for "
        "2 comparisons; too few images to tell, at least 7 are needed"
    ) in printed
    assert "no overview.png" in printed and not (tmp_path / "compare" / "overview.png").exists()


def test_one_image_has_no_interval(tmp_path, capsys):
    folders = [write_results(tmp_path / name, [value]) for name, value in (("A", 0.5), ("B", 0.4))]
    means, _ = run(of(tmp_path, folders))
    assert means.low.isna().all() and means["mean"].notna().all()
    assert (
        "by Dice: -0.100; sign-flip test of 1 image, p = 1 by Holm for 2 comparisons; too few"
        in capsys.readouterr().out
    )


def test_an_undefined_image_is_left_out_of_its_pair_and_counted(tmp_path, capsys):
    a, b = BASE.copy(), BASE + 0.1
    a[0], b[1] = np.nan, np.nan
    folders = [write_results(tmp_path / name, values) for name, values in (("A", a), ("B", b))]
    means, differences = run(of(tmp_path, folders))
    assert means.loc[("test", "A", "Dice"), ["images", "left_out"]].tolist() == [9, 1]
    dice = differences.loc[("test", "B", "Dice")]
    assert [dice.images, dice.left_out] == [8, 2] and dice.difference == pytest.approx(0.1)
    assert "2 comparisons; images left out, undefined in one of the two: 2" in capsys.readouterr().out


def test_a_metric_that_is_never_defined(tmp_path, capsys):
    folders = [write_results(tmp_path / name, [np.nan] * 7) for name in "AB"]
    means, differences = run(of(tmp_path, folders))
    assert means["mean"].isna().all() and (differences.verdict == "not told apart").all()
    assert (differences.left_out == 7).all()
    assert "by Dice: undefined; images left out, undefined in one of the two: 7" in capsys.readouterr().out


def test_splits_are_compared_apart_and_together(tmp_path):
    splits = ["testA"] * 8 + ["testB"] * 2
    b = BASE + [*[0.05] * 7, 0.06, -0.2, -0.2]
    folders = [write_results(tmp_path / name, values, splits) for name, values in (("A", BASE), ("B", b))]
    _, differences = run(of(tmp_path, folders))
    verdicts = differences.verdict.xs("Dice", level="figure")
    assert verdicts.tolist() == ["better", "not told apart", "not told apart"]
    assert differences.images.xs("Dice", level="figure").tolist() == [8, 2, 10]
    assert verdicts.index.get_level_values("split").tolist() == ["testA", "testB", "all"]


def change(folder, **content):
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | content))


def rename_image(folder):
    table = pd.read_csv(folder / "images.csv")
    table = table.assign(source=["other_1", *table.source[1:]])
    table.to_csv(folder / "images.csv", index=False)
    change(folder, images=table.source.tolist())


def drop_column(folder):
    pd.read_csv(folder / "images.csv").drop(columns="object Dice").to_csv(folder / "images.csv", index=False)


def move_image(folder):
    table = pd.read_csv(folder / "images.csv")
    table.assign(split=["testB", *table.split[1:]]).to_csv(folder / "images.csv", index=False)
    change(folder, **{"confusion matrices": {split: [[5, 3], [2, 4]] for split in ("testB", "test")}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename_image, r"A and .*B were tested on different images, they cannot .*: only .*A has image_0"),
        (lambda f: change(f, classes=["background", "gland"]), "are of different classes.*nucleus; background, gland"),
        (move_image, "image_0 is of split test in the first, of testB in the second"),
        (lambda f: change(f, **{"true instances": "connected components"}), "not tested against the same truth"),
        (lambda f: change(f, **{"confusion matrices": {"test": [[5, 3], [2, 5]]}}),
         r"true pixels by class {'test': \[8, 6\]}; {'test': \[8, 7\]} .*--border-windows"),
        (drop_column, "B is of another version .*, or damaged: images.csv has no column object Dice; test again"),
        (lambda f: (f / "images.csv").unlink(), "B is of another version of this project, or damaged: .*images.csv"),
        (lambda f: (f / "summary.json").write_text("{}"), "B is of another version of this project"),
        (lambda f: (f / "summary.json").write_text("{"), "summary.json is not valid JSON"),
        (lambda f: (f / "summary.json").unlink(), r"B holds no results \(no summary.json\): run test_script.py"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(settings, tmp_path, spoil, message):
    spoil(tmp_path / "B")
    with pytest.raises(InputError, match=message):
        compare.main(settings)
    assert not settings.output.exists()


def test_wrong_settings_are_refused(settings, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "A")
    a = settings.results[0]
    for change_of, message in [
        ({"results": (a,)}, "name two or more results"),
        ({"results": ()}, "name two or more results"),
        ({"results": (a, str(tmp_path / "link"))}, "the same results are named twice: .*link"),
        ({"results": (a, "nobody")}, "nobody holds no results"),
        ({"figures": ()}, "name one or more figures"),
        ({"figures": ("Dice", "Dice")}, "name one or more figures, each once"),
        ({"images": -1}, "--images is -1: 0 or more"),
    ]:
        with pytest.raises(InputError, match=message):
            compare.main(replace(settings, **change_of))


def test_a_run_is_found_by_its_name(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "RESULTS", tmp_path)
    monkeypatch.chdir("/")
    assert run(replace(settings, results=("A", "B")))[0].shape == (4, 5)


def test_nothing_is_overwritten_unasked(settings):
    compare.main(settings)
    before = (settings.output / "compare.md").read_text()
    with pytest.raises(InputError, match="--overwrite replaces them"):
        compare.main(settings)
    compare.main(replace(settings, overwrite=True))
    assert (settings.output / "compare.md").read_text() == before  # what is drawn by chance has a fixed seed


def test_results_that_are_called_alike_keep_their_folders_names(tmp_path):
    folders = [write_results(tmp_path / name / "results", BASE) for name in ("one", "two")]
    assert [r.name for r in comparison.read_results(tuple(map(str, folders)))] == ["one/results", "two/results"]


def test_the_script_compares_real_results(tiny_data_set, tmp_path, run_script_file):
    baselines.main(baselines.Settings(data=tiny_data_set, output=tmp_path / "otsu", pictures=1))
    shutil.copytree(tmp_path / "otsu", tmp_path / "copy")
    done = run_script_file(
        "GenSelfDiff/test/compare.py", tmp_path / "otsu", tmp_path / "copy", "--output", tmp_path / "compare",
        "--figures", "object Dice", "HD95",
    )  # fmt: skip
    assert (
        "copy cannot be told from otsu by object Dice: +0.000 [0.000, 0.000]; sign-flip test of 2 images, p = 1 "
        in done.stdout
    )
    assert (tmp_path / "compare" / "overview.png").is_file()
    means = pd.read_csv(tmp_path / "compare" / "compare.csv").set_index(["result", "figure"])["mean"]
    assert means["otsu", "object Dice"] == pytest.approx(Result.read(tmp_path / "otsu").means()["object Dice"])
    assert 0.8 < means["otsu", "object Dice"] < 1


@pytest.mark.parametrize(("output", "message"), [("A/inside", "lies in the input"), ("", "holds the input")])
def test_the_output_is_none_of_what_is_compared(settings, tmp_path, output, message):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        compare.main(replace(settings, output=tmp_path / output, overwrite=True))
    assert sorted(tmp_path.rglob("*")) == before
