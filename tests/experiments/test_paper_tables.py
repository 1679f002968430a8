"""experiments/paper_tables.py on tiny data: choices, tests, going on, the files; and its arithmetic by hand."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import paper_tables, pretraining, table_report, table_runs, training_runs
from experiments.tables import (
    ALL,
    BASELINES,
    CLASSIFIER,
    DIFFUSION,
    MASKED,
    MONAI,
    OURS,
    SIZES,
    TABLES,
    Length,
    SelfSupervised,
    Size,
    Table,
    Way,
)
from experiments.training_runs import taken
from file_contents import DataSet
from GenSelfDiff.intervals import mean_interval
from tests.conftest import ROOT, write_tiny_data_set
from tests.experiments.in_process import one_after_the_other, run_here
from tests.GenSelfDiff.methods.pretrainings import PRETRAININGS
from utils_general import InputError, read_rgb, write_json, write_png

TINY = Size(
    data={"MoNuSeg": "one", "GlaS": "two"},
    dim=8,
    recipe="improved",
    pretraining=Length(steps=2),
    training=Length(steps=2),
    rates=(1e-3, 1e-2),
    labels=(1, 0),
    workers=0,
    of_script={CLASSIFIER: ("--members", 2, "--hidden", 4, 4), MASKED: ("--block", 4)},
)
WAYS = {
    "Otsu": Way(script=BASELINES, options=("--method", "otsu")),
    "U-Net": Way(script=MONAI),
    "ours": OURS,
    "features": Way(SelfSupervised(), script=CLASSIFIER, rate_of=OURS),
    "masked, paper": Way(SelfSupervised(MASKED), recipe="paper", rate_of=OURS),
}


@pytest.fixture
def started(monkeypatch):
    """Runs scripts in this process, one after the other; the names of those that were started."""
    names = []

    def run(script, *words, log):
        names.append(script.rpartition("/")[2])
        run_here(script, *words, log=log)

    one_after_the_other(monkeypatch, training_runs, table_runs)
    for module in (training_runs, table_runs):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(table_runs, "WAIT", 0.0)
    return names


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Settings of a table of `WAYS` on a tiny data set, one seed."""
    monkeypatch.setitem(SIZES, "small", TINY)
    monkeypatch.setitem(TABLES, "methods", Table("Methods", WAYS))
    write_tiny_data_set(tmp_path / "data" / "one")
    return paper_tables.Settings(
        table="methods", data_set=("MoNuSeg",), seeds=1, data=tmp_path / "data", output=tmp_path / "tables",
        runs=tmp_path / "runs", records=tmp_path / "records", jobs=1,
    )  # fmt: skip


def test_a_table_is_estimated_run_written_and_gone_on_with(asked, started, capsys):
    paper_tables.main(replace(asked, estimate=True))
    said = capsys.readouterr().out
    # two networks for the tests; choices are made of the same ones: of seed 1
    assert "2 networks to pre-train, 9 runs to train and test" in said and not asked.runs.exists() and not started
    assert "rows that are not done: Otsu; U-Net; ours; features; masked, paper\n" in said
    paper_tables.main(asked)
    assert started.count("SS_diff.py") == 1 and started.count("masked_images.py") == 1
    chosen = pd.read_csv(asked.records / "tables_small_MoNuSeg_val.csv")
    tests = pd.read_csv(asked.records / "tables_small_MoNuSeg_test.csv")
    assert len(chosen) == 4 and len(tests) == 5 and {*tests["images"]} == {2}
    best = chosen[chosen["way"].str.startswith("SS_diff")].sort_values("Dice").iloc[-1]["learning rate"]
    ours = tests[tests["way"].str.startswith("SS_diff") & tests["way"].str.contains("Diff_Seg")]
    assert ours["learning rate"].tolist() == [best] and "--recipe improved" in ours["way"].iloc[0]
    assert np.allclose(tests[["Dice t1", "Dice t2"]].mean(axis=1), tests["Dice"], atol=1e-5)
    table = pd.read_csv(asked.output / "methods.csv")
    assert table["method"].tolist() == [*WAYS] and table["paper"].isna().all() and (table["runs"] == 1).all()
    assert table["published: AJI"].notna().all() and (table["Dice low"] <= table["Dice"]).all()
    text = (asked.output / "methods.md").read_text()
    assert "| Otsu |" in text and "MoNuSeg, 2 images" in text and "width 8, recipe improved, 2 steps of" in text
    assert "\\begin{table}" in (asked.output / "methods.tex").read_text() and (asked.output / "methods.png").is_file()
    assert not [*asked.runs.glob("small/test/*/*")]  # the weights of runs are not kept, those of pre-training are
    assert len([*asked.runs.glob("small/pretrained/*/run/best.pth")]) == 2
    before, done = (asked.records / "tables_small_MoNuSeg_test.csv").read_bytes(), len(started)
    table["paper"] = ["typed 0.8" if method == "ours" else None for method in table["method"]]
    table.to_csv(asked.output / "methods.csv", index=False)
    paper_tables.main(asked)
    assert len(started) == done and (asked.records / "tables_small_MoNuSeg_test.csv").read_bytes() == before
    assert "0 networks to pre-train, 0 runs" in capsys.readouterr().out
    again = pd.read_csv(asked.output / "methods.csv").set_index("method")["paper"]
    assert again["ours"] == "typed 0.8" and again.isna().sum() == 4


def test_across_data_sets(asked, started, monkeypatch):
    """Of the same classes, what is fine-tuned on one is tested on the other; of others, not."""
    write_tiny_data_set(asked.data / "two", seed=9, prefix="n")
    monkeypatch.setitem(SIZES, "small", replace(TINY, rates=()))
    ways = {"scratch": Way(), "on all": Way(SelfSupervised(on=ALL)), "on HN": Way(SelfSupervised(on="HN"))}
    monkeypatch.setitem(TABLES, "data-sets", Table("Across", ways, across=True))
    both = replace(asked, table="data-sets", data_set=("MoNuSeg", "GlaS"))
    paper_tables.main(both)
    assert started.count("Diff_Seg.py") == 4 and started.count("test_script.py") == 8
    assert started.count("SS_diff.py") == 1  # one network on both, whichever is fine-tuned
    table = pd.read_csv(asked.output / "data-sets.csv")
    of_one = table[table["data set"] == "GlaS"]["method"].tolist()
    crossed = [f"{way}, fine-tuned on MoNuSeg" for way in ("scratch", "on all")]
    assert sorted(of_one) == sorted(["scratch", "on all", *crossed])  # nothing on HN, which is not there
    other = DataSet("tiny", "paper", ["background", "gland"], "watershed", 16, 16, 2023)
    write_json(asked.data / "two" / "dataset.json", other.__dict__)
    roots = {name: asked.data / folder for name, folder in TINY.data.items()}
    runs = table_runs.TableRuns("small", TINY, roots, asked.runs, asked.records, 1)
    assert runs.tests_on(table_runs.Wanted(Way(), "GlaS", 0, 1), across=True) == ["GlaS"]


def test_what_another_process_does_is_left_to_it(asked, started, tmp_path):
    """A run that is taken is passed by, and done when it is free again."""
    roots = {"MoNuSeg": asked.data / "one"}
    runs = table_runs.TableRuns("small", replace(TINY, rates=()), roots, asked.runs, asked.records, 1)
    wanted = table_runs.Wanted(WAYS["Otsu"], "MoNuSeg", 0, 1)
    runs.one_run("test", wanted, False)
    (log,) = (tmp_path / "runs" / "small" / "test").glob("*.txt")
    (asked.records / "tables_small_MoNuSeg_test.csv").unlink()
    program = "import sys; from pathlib import Path; from experiments.training_runs import taken\n"
    program += "with taken(Path(sys.argv[1])) as ours:\n    print(ours, flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, log.with_suffix("")]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with taken(log.with_suffix("")) as ours:
            assert not ours
        runs.one_run("test", wanted, False)
        assert len(started) == 1 and not runs.is_done(wanted, ["MoNuSeg"], "test")
        other.stdin.close()
        assert other.wait() == 0
    runs.do("test", [wanted])
    assert len(started) == 2 and runs.is_done(wanted, ["MoNuSeg"], "test")


def test_what_is_asked(asked):
    """The same whatever a row is called; other at another length, recipe, number of labels or on other patches."""
    roots = {"MoNuSeg": asked.data / "one"}

    def ask(way, size=TINY, labelled=0, seed=1, split="test"):
        runs = table_runs.TableRuns("small", size, roots, asked.runs, asked.records, 1)
        return runs.ask(table_runs.Wanted(way, "MoNuSeg", labelled, seed, 1e-3), "MoNuSeg", split)

    assert ask(OURS) == ask(Way(SelfSupervised(on="MoNuSeg"), recipe="improved"))
    assert ask(OURS)["way"] != ask(Way(SelfSupervised(), recipe="paper"))["way"] != ask(Way(recipe="paper"))["way"]
    assert ask(OURS)["asked"] == ask(OURS, seed=2)["asked"]  # the seed is in the key
    longer = replace(TINY, pretraining=Length(steps=3))
    assert ask(OURS)["asked"] != ask(OURS, longer)["asked"] and ask(Way())["asked"] == ask(Way(), longer)["asked"]
    assert Length(epochs=3).in_steps(17, 8) == 6 and Length(steps=5).in_steps(17, 8) == 5
    few = table_runs.wanted_of(Table("", {"a": Way(), "b": WAYS["Otsu"]}, few_labels=True), TINY, ["MoNuSeg"], 2)
    assert [(name, w.labelled, w.seed) for name, w in few] == [
        *(("a", 1, 1), ("a", 1, 2), ("b", 1, 1)),
        *(("a", 0, 1), ("a", 0, 2), ("b", 0, 1)),
    ]


def test_other_held_out_or_test_images_are_another_question(asked):
    """Held-out images choose the network: they count for every row; test images for rows of tests, where tested."""
    roots = {"MoNuSeg": asked.data / "one", "GlaS": write_tiny_data_set(asked.data / "two", seed=9, prefix="n")}
    ways = (Way(), OURS)

    def questions():
        runs = table_runs.TableRuns("small", TINY, roots, asked.runs, asked.records, 1)
        wanted = [table_runs.Wanted(way, "MoNuSeg", 0, 1) for way in ways]
        rows = [runs.ask(w, *where)["asked"] for where in (("MoNuSeg", "val"), ("GlaS", "test")) for w in wanted]
        return [*rows, runs.weights(wanted[1])]

    before = questions()
    for image, same in (
        ("one/labelled/images/image_8.png", [False] * 4 + [True]),
        ("one/unlabelled/images/image_8.png", [True, False, True, False, False]),
        ("one/test/images/image_0.png", [True] * 5),
        ("two/test/images/image_0.png", [True, True, False, False, True]),
    ):
        write_png(asked.data / image, 255 - read_rgb(asked.data / image))
        now = questions()
        assert [a == b for a, b in zip(now, before, strict=True)] == same, image
        before = now


def test_targets_made_of_instances_want_instances(asked):
    """The tiny patches have instance maps; without them the way is left out, and no other."""
    root, border = asked.data / "one", replace(OURS, options=("--targets", "border"))
    for expected in (True, False):
        runs = table_runs.TableRuns("small", TINY, {"MoNuSeg": root}, asked.runs, asked.records, 1)
        wanted = [table_runs.Wanted(way, "MoNuSeg", 0, 1) for way in (border, OURS)]
        assert [not runs.lacking(w) for w in wanted] == [expected, True]
        shutil.rmtree(root / "labelled" / "instances", ignore_errors=True)


def test_numbers_of_labels_that_a_data_set_has_not_are_left_out(asked, capsys, monkeypatch):
    """Two images may be trained on: said at once, not by a run hours later."""
    monkeypatch.setitem(SIZES, "paper", replace(TINY, labels=(2, 3, 0)))
    monkeypatch.setitem(TABLES, "few-labels", Table("Few", {"scratch": Way()}, few_labels=True))
    paper_tables.main(replace(asked, table="few-labels", size="paper", estimate=True))
    said = capsys.readouterr().out
    assert "left out: MoNuSeg has 2 images to train on, not 3\n" in said and said.count("left out") == 1
    # a choice of each of two rates, with all labels; then a test with 2, and one with all
    assert "0 networks to pre-train, 4 runs to train and test" in said


def test_few_labels_are_those_of_the_question(asked, started, monkeypatch):
    """Rows of experiments/pretraining.py in the form of the tables; nothing is run beside it."""
    rows = [
        {"arm": arm, "labelled images": 4, "draw": draw, "learning rate": 1e-3, "asked": "x", "Dice": 0.5 + gain,
         "AJI": 0.3, "Dice a": 0.4 + gain, "Dice b": 0.6 + gain, "seconds": 5, "seconds of the test": 2}
        for arm, gain in (("scratch", 0.0), ("low noise", 0.1), ("unknown", 0.2)) for draw in (1, 2)
    ]  # fmt: skip
    write_tiny_data_set(asked.data / "two")
    asked.records.mkdir()
    pd.DataFrame(rows).to_csv(asked.records / "glas_test.csv", index=False)
    seen = []
    monkeypatch.setattr(pretraining, "main", seen.append)
    paper_tables.main(replace(asked, table="few-labels", data_set=("GlaS",)))
    assert [(s.question, s.records, s.estimate) for s in seen] == [("GlaS", asked.records, False)] and not started
    table = pd.read_csv(asked.output / "few-labels.csv")
    assert table["method"].tolist() == ["scratch", "low noise"] and table["Dice"].tolist() == [0.5, 0.6]
    assert table["runs"].tolist() == [2, 2] and table["images"].tolist() == [2, 2]


def test_means_deviations_and_intervals_by_hand():
    """Over two seeds; the interval is of the images' means over the seeds."""
    place = {"data set": "GlaS", "labelled images": 0, "method": "a", "learning rate": 1e-3, "images": 3}
    spent = {"seconds": 1800, "seconds of the test": 0, "commit": "c"}
    runs = pd.DataFrame([
        {**place, **spent, "seed": 1, "Dice": 0.5, "Dice x": 0.3, "Dice y": 0.5, "Dice z": 0.7, "published: AJI": 0.1},
        {**place, **spent, "seed": 2, "Dice": 0.7, "Dice x": 0.5, "Dice y": 0.7, "Dice z": 0.9, "published: AJI": 0.3},
    ])  # fmt: skip
    row = table_report.summarise(runs).iloc[0]
    assert row["Dice"] == pytest.approx(0.6) and row["Dice deviation"] == pytest.approx(0.02**0.5)
    assert (row["Dice low"], row["Dice high"]) == pytest.approx(mean_interval(np.array([0.4, 0.6, 0.8]), 0, 1))
    assert row["published: AJI"] == pytest.approx(0.2) and row["hours"] == 1 and row["commit"] == "c"
    text = table_report.as_text(table_report.summarise(runs).assign(paper=""))
    assert text.loc["a", "Dice"].startswith("0.600 ± 0.141 [") and text.loc["a", "published: AJI"] == "0.200 ± 0.141"
    assert "labels" not in text


def test_versions_that_rows_do_not_name_are_unknown(tmp_path, capsys):
    """Rows of old have none: the version of the others is not theirs."""
    place = {"data set": "GlaS", "labelled images": 0, "learning rate": 1e-3, "images": 2, "torch": "2"}
    spent = {"seconds": 1, "seconds of the test": 0, "Dice": 0.5, "AJI": 0.5, "Dice x": 0.5, "Dice y": 0.5}
    rows = [("a", 1, "c"), ("a", 2, None), ("b", 1, "d")]
    runs = pd.DataFrame([{**place, **spent, "method": m, "seed": s, "commit": c} for m, s, c in rows])
    table_report.write(runs, "Title", {"settings": "x"}, tmp_path, "t")
    assert pd.read_csv(tmp_path / "t.csv")["commit"].tolist() == ["c, d, unknown"] * 2
    assert "commit: c, d, unknown" in (tmp_path / "t.md").read_text()
    assert table_report.summarise(runs)["commit"].tolist() == ["c, unknown", "d"]
    assert table_report.summarise(runs.drop(columns="commit"))["commit"].tolist() == ["unknown"] * 2


def test_the_tables_of_the_paper_hold_together():
    """Every way's scripts are there, and every pre-training has a row; a shared learning rate is chosen for one way."""
    for table in TABLES.values():
        for way in table.ways.values():
            assert (ROOT / way.script).is_file() and (way.start is None or (ROOT / way.start.script).is_file())
            assert way.rate_of is None or way.rate_of.rate_of is None
    own = {DIFFUSION, *(Path(p.script.__file__).relative_to(ROOT).as_posix() for p in PRETRAININGS.values())}
    assert {way.start.script for way in TABLES["methods"].ways.values() if way.start} == own
    assert [name for name, way in TABLES["losses"].ways.items() if way == OURS] == [
        "structural similarity, published + focal"
    ]
    assert [name for name, way in TABLES["schedules"].ways.items() if way == OURS] == ["quadratic, P2"]
    assert len(TABLES["schedules"].ways) == 8 and len({*TABLES["losses"].ways.values()}) == 13


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data_set": ("GlaS",)}, "there is no .*two: docs/tables.md says how to make it"),
        ({"data_set": ("HN",)}, "there is no .*HN"),
        ({"data_set": ()}, "--data-set names none, or one twice"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"table": "few-labels", "data_set": ("MoNuSeg",)}, "few labels of MoNuSeg are no question"),
    ],
)
def test_what_cannot_work_is_said(asked, changed, message, monkeypatch):
    monkeypatch.delitem(paper_tables.QUESTIONS, "MoNuSeg")
    with pytest.raises(InputError, match=message):
        paper_tables.main(replace(asked, **changed))
