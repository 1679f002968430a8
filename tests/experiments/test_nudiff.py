"""experiments/nudiff.py for real on tiny data: all arms, going on, the table; what is asked, and what cannot work."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import nudiff, nudiff_report, training_runs
from experiments.nudiff import Size
from experiments.paired import difference
from GenSelfDiff.patches import Patches
from tests.experiments.in_process import one_after_the_other
from utils_general import InputError, read_json

TINY = Size(8, 1, 1, 2, 2, 3, 2.0, 2, ("--recipe", "improved", "--workers", 0, "--device", "cpu"))


@pytest.fixture
def asked(tiny_data_set, tmp_path, monkeypatch):
    """All arms with half of the labels, once; scripts run in this process.

    The data set is as of the documented protocol, official: no other images than labelled ones.
    """
    shutil.rmtree(tiny_data_set / "unlabelled")
    one_after_the_other(monkeypatch, nudiff, training_runs)
    monkeypatch.setitem(nudiff.SIZES, "small", TINY)
    return nudiff.Settings(
        data=tiny_data_set, output=tmp_path / "out", records=tmp_path / "records", percents=(50,), draws=1, jobs=1,
        arms=("real, from the pre-training", "synthetic", "real + images of real structures"),
    )  # fmt: skip


def test_choices_networks_pairs_runs_and_a_table(asked, capsys, monkeypatch):
    """Of four arms; the others have no more pairs than these."""
    nudiff.main(replace(asked, arms=(), estimate=True))
    assert "1 choices of labels to learn to draw from, 8 runs" in capsys.readouterr().out
    arms = ["real", *asked.arms]
    assert not asked.output.exists()
    nudiff.main(asked)
    (work,) = asked.output.iterdir()
    assert work.name.startswith("tiny_small_")
    rows = pd.read_csv(asked.records / "nudiff_small_tiny.csv").set_index("arm")
    assert rows.patches.to_dict() == dict(zip(arms, (4, 4, 3, 7), strict=True)) and (rows.steps == 2).all()
    seconds = rows["seconds before"]  # whichever arm comes first: what two arms need counts for both
    assert seconds["real"] == 0 < seconds["real, from the pre-training"]
    assert seconds["real + images of real structures"] > seconds["real, from the pre-training"]
    assert np.allclose(rows[["AJI t1", "AJI t2"]].mean(axis=1), rows["AJI"], atol=1e-5)
    kept = {path.parent.name for path in work.glob("*/*/best.pth")}
    assert kept == {"run", "structures", "images"}  # those that draw, not those that segment
    pairs = Patches(work / "50_1" / "pairs_synthetic" / "labelled", labelled=True).index
    drawn = read_json(work / "50_1" / "pairs_synthetic" / "settings.json")
    assert drawn["seed"] == nudiff.SEEDS_APART > max(size.pairs for size in nudiff.SIZES.values())
    assert pairs.source.astype(str).str.startswith("synthetic_").sum() == 3
    table = pd.read_csv(work / "table.csv")
    assert table.arm.tolist() == arms and table["Dice gain"].notna().tolist() == [False, True, True, True]
    assert (work / "gains.png").is_file() and set(pd.read_csv(work / "published.csv").source) == {
        "published, unchecked"
    }
    capsys.readouterr()
    before = (asked.records / "nudiff_small_tiny.csv").read_bytes()
    nudiff.main(asked)
    assert "0 choices of labels to learn to draw from, 0 runs" in capsys.readouterr().out
    assert (asked.records / "nudiff_small_tiny.csv").read_bytes() == before
    monkeypatch.setitem(nudiff.SIZES, "small", replace(TINY, structures=2))
    with pytest.raises(InputError, match="has a row of 50, real, 1 that was asked for something else"):
        nudiff.main(asked)


@pytest.mark.parametrize("part", ["labelled", "test"])
def test_other_patches_have_another_folder(asked, part):
    """So that nothing that was made of the earlier ones is taken for theirs."""
    before = nudiff.Grid(asked)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(asked.data / part / "images" / "image_0.png")
    after = nudiff.Grid(asked)
    assert before.work != after.work and before.ask(50, "real", 1) != after.ask(50, "real", 1)
    assert nudiff.Grid(asked).work == after.work


def test_only_some_arms_and_never_without_the_real_one(asked):
    """Which steps and options each has."""
    plans = nudiff.ARMS.values()
    assert [plan.times for plan in plans] == [1, 4, 1, 1, 1, 1, 1, 1] and sum(bool(plan.options) for plan in plans) == 1
    assert [name for name, plan in nudiff.ARMS.items() if plan.without_real] == ["synthetic"]
    grid = nudiff.Grid(replace(asked, arms=("synthetic",), draws=3, percents=(20, 50)))
    assert [(row["percent of the labels"], row["arm"], row["draw"]) for row in grid.wanted()] == [
        (*which, draw)
        for percent, draws in ((20, (1, 2, 3)), (50, (1, 2)))
        for draw in draws
        for which in ((percent, "real"), (percent, "synthetic"))
    ]


def test_gains_are_paired_by_draw_and_image():
    one = {"steps": 9, "seconds": 1800, "seconds of the test": 0, "seconds before": 1800, "object F1": 0.5}
    rows = pd.DataFrame([
        {nudiff_report.PERCENT: 10, "arm": arm, "draw": draw, **one, "Dice": 0, "AJI": 0, "Dice x": x, "Dice y": y,
         "AJI x": x, "AJI y": y}
        for arm, draw, x, y in (("real", 1, 0.5, 0.6), ("real", 2, 0.4, 0.5), ("synthetic", 1, 0.6, 0.6),
                                ("synthetic", 2, 0.7, 0.5), ("synthetic", 3, 0.0, 0.0))
    ])  # fmt: skip
    row = nudiff_report.row_of(rows, 10, "synthetic")
    told = difference(np.array([[0.6, 0.6], [0.7, 0.5]]), np.array([[0.5, 0.6], [0.4, 0.5]]))
    assert (row["Dice gain"], row["Dice low"]) == (pytest.approx(0.1), told.low)
    assert row["draws"] == 3 and row["hours"] == 3 and nudiff_report.row_of(rows, 20, "real") is None


def test_one_difference_was_named_beforehand():
    """Its p is not adjusted; the others, 0.01 and 0.04, are for all that are planned: these two, AJI and Dice of one
    more, and what was not planned, if it is there."""
    judged = {nudiff_report.PERCENT: 10, "arm": "real + synthetic", "draws": 6, "Dice p": 0.04}
    judged |= {"AJI gain": 0.021, "AJI low": 0.001, "AJI high": 0.041, "AJI p": 0.03}
    rows = [judged, {nudiff_report.PERCENT: 20, "arm": "real + synthetic", "AJI p": 0.01}]
    planned = [(10, "real"), (10, "real + synthetic"), (10, "synthetic")]
    nudiff_report.adjust(rows, planned)
    assert "AJI adjusted p" not in judged and judged["Dice adjusted p"] == pytest.approx(3 * 0.04)
    assert rows[1]["AJI adjusted p"] == pytest.approx(4 * 0.01)
    assert nudiff_report.judgement(rows).endswith("+0.021 (+0.001 to +0.041), p 0.03, of 6 draws")
    assert nudiff_report.judgement(rows[1:]).endswith("not run yet")


def test_the_published_table():
    table = nudiff_report.published().set_index(["network", "data set", nudiff_report.PERCENT, "arm"])
    assert table.loc[("PFF-Net", "Kumar", 20, "real"), ["Dice", "AJI"]].tolist() == [0.7786, 0.6087]
    assert table.loc[("HoVer-Net", "MoNuSeg", 10, "real + synthetic"), "AJI"] == 0.6785 and len(table) == 32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"percents": ()}, "--percents names no share"),
        ({"percents": (10, 10)}, "--percents names no share, or one twice"),
        ({"percents": (0,)}, "--percents names 0: 1 to 100"),
        ({"draws": 0}, "--draws is 0"),
    ],
)
def test_what_cannot_work_is_said(asked, changed, message):
    with pytest.raises(InputError, match=message):
        nudiff.main(replace(asked, **changed))


def test_a_data_set_without_test_images_is_refused_at_once(asked):
    shutil.rmtree(asked.data / "test")
    with pytest.raises(InputError, match="has no folder test"):
        nudiff.main(asked)
