"""experiments/attention.py for real on tiny data: what is made, in which order, only once; its tables by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import attention, training_runs
from experiments import attention_arms as plan
from experiments.attention_arms import ARMS, RUNS, Attention
from experiments.attention_report import compared, controls_of, table_of
from tests.experiments.in_process import one_after_the_other
from tests.GenSelfDiff.methods.attention.levels import write_levels
from tests.GenSelfDiff.methods.attention.test_SS_attention import write_images
from utils_general import InputError, read_rgb, write_png

SMALL = ("--recipe", "improved", "--dim", 8, "--workers", 0)
TILES = ("--tile", 16, "--scale-jitter", 0, "--dilations", 1, "--batch-size", 6)


@pytest.fixture
def settings(tiny_data_set, tmp_path, monkeypatch):
    one_after_the_other(monkeypatch, attention, training_runs)
    monkeypatch.setattr(attention, "SMALL", SMALL)
    monkeypatch.setattr(attention, "DIM", 8)
    for name, value in {
        "ATTENTION": (*SMALL, *TILES),
        "LABELS": ("--patch-size", 16, "--stride", 16),
        "SEEN": ("--window", 16, "--minimum-area", 1),
        "PRETRAINING": (*SMALL, "--steps", 2, "--validate-every", 2, "--sample-every", 0),
        "SEGMENTATION_STEPS": 2,
    }.items():
        monkeypatch.setattr(plan, name, value)
    for name in RUNS:
        monkeypatch.setitem(RUNS, name, replace(RUNS[name], steps=2))
    write_images(tmp_path / "images")
    return attention.Settings(
        levels=write_levels(tmp_path / "levels"), data=tiny_data_set, images=tmp_path / "images",
        output=tmp_path / "out", records=tmp_path / "records", seeds=(1,), jobs=1,
        arms=("attention, begun with haematoxylin", "labels of attention, diffusion"),
    )  # fmt: skip


def test_everything_is_made_once_and_reported(settings, capsys, monkeypatch):
    attention.main(replace(settings, estimate=True))
    said = capsys.readouterr().out
    assert "3 rows are missing: 6 steps of attention, " in said and not settings.output.exists()
    monkeypatch.setattr(attention, "seconds_of_attention", lambda _: (0.1, 1e-6))
    monkeypatch.setattr(attention, "seconds_a_step", lambda *_: 0.1)
    attention.main(settings)
    rows = pd.read_csv(settings.records / "attention_MoNuSeg_test.csv").set_index("arm")
    assert rows.seed.to_dict() == {"Otsu, watershed": 0} | dict.fromkeys(settings.arms, 1)
    assert np.allclose(rows[["Dice t1", "Dice t2"]].mean(axis=1), rows.Dice, atol=1e-5) and rows.AJI.notna().all()
    assert rows["held out: accuracy"].notna().tolist() == [row != "Otsu, watershed" for row in rows.index]
    table = pd.read_csv(settings.output / "table.csv")
    assert table.arm.tolist() == ["Otsu, watershed", *settings.arms] and table.published.isna().all()
    assert {"Dice more", "AJI low", "gain", "hours of training"} <= {*table}
    logs = sorted(file.name.rpartition("_")[0].partition("_")[0] for file in settings.output.glob("runs/*.txt"))
    assert logs == ["attention", "diffusion", "dye", "learnt", "warm"]
    (warm,) = settings.output.glob("runs/warm_*.txt")
    assert "is begun with" in warm.read_text()
    (learnt,) = settings.output.glob("runs/learnt_*.txt")
    assert "tensors loaded" in learnt.read_text() and len([*settings.output.glob("tests/*/label_maps")]) == 3
    before = (settings.records / "attention_MoNuSeg_test.csv").read_bytes()
    table.assign(published=[None, "0.5, by hand", None]).to_csv(settings.output / "table.csv", index=False)
    capsys.readouterr()
    attention.main(settings)
    assert (settings.records / "attention_MoNuSeg_test.csv").read_bytes() == before
    kept = pd.read_csv(settings.output / "table.csv")
    assert (
        kept.published.fillna("").tolist() == ["", "0.5, by hand", ""]
        and kept.columns.tolist() == table.columns.tolist()
    )
    assert "0 rows are missing" in capsys.readouterr().out
    monkeypatch.setitem(RUNS, "dye", Attention(("--task", "haematoxylin"), steps=3))
    with pytest.raises(InputError, match="a row of attention, begun with haematoxylin, 1 that was asked for something"):
        attention.main(settings)


def test_what_decides_names_a_folder_and_nothing_else(settings, monkeypatch):
    grid = attention.Grid(settings)
    kinds = {"labels": "dye", "runs": "dye"}, {"runs": plan.DIFFUSION}

    def folders():
        return [grid.folder(kind, name, 1) for names in kinds for kind, name in names.items()]

    before = folders()
    monkeypatch.setattr(plan, "LABELS", ("--patch-size", 8, "--stride", 8))
    monkeypatch.setattr(plan, "SEGMENTATION_STEPS", 3)
    assert [now == then for now, then in zip(folders(), before, strict=True)] == [False, True, True]
    before, grid.resolution = folders(), 0.5
    assert [now == then for now, then in zip(folders(), before, strict=True)] == [False, True, True]
    monkeypatch.setattr(plan, "PRETRAINING", (*plan.PRETRAINING, "--learning-rate", 0.1))
    assert [now == then for now, then in zip(folders(), before, strict=True)] == [False, True, False]


def test_a_row_is_asked_with_the_images_it_is_tested_on(settings):
    """What learns from pseudo-labels is tested on other patches than attention; what was trained stays the same."""
    arms = ["attention, begun with haematoxylin", "labels of attention, diffusion"]

    def asked():
        grid = attention.Grid(settings)
        return [grid.question(ARMS[name]) for name in arms], grid.folder("runs", "warm", 1)

    before, trained = asked()
    for i, root in enumerate((settings.levels[0], settings.data)):
        image = root / "test" / "images" / "image_0.png"
        write_png(image, 255 - read_rgb(image))
        now, folder = asked()
        assert [a == b for a, b in zip(now, before, strict=True)] == [i > 0, i < 1] and folder == trained
        before = now


def test_all_names_are_known():
    assert all(arm.said_by in {*RUNS, plan.OTSU} and {*arm.controls} <= {*ARMS} for arm in ARMS.values())
    assert all(run.start in {"", *RUNS} and not RUNS.get(run.start, run).start for run in RUNS.values())
    assert plan.JUDGED in ARMS and plan.FLOOR == "Otsu, watershed" and {*plan.PLANNED} <= {*ARMS} - {plan.JUDGED}
    # What is judged and its first control differ in the levels alone
    assert RUNS[ARMS[plan.PRETEXT].said_by] == replace(RUNS[ARMS[plan.JUDGED].said_by], options=("--shuffle-levels",))
    assert ARMS[plan.PRETEXT].start == ARMS[plan.JUDGED].start
    seeds = {name: plan.seeds_of(name, (1, 2, 3, 4)) for name in (plan.FLOOR, plan.PRETEXT, "attention")}
    assert [*seeds.values()] == [(0,), (1, 2, 3, 4), (1, 2, 3)]


def rows_of(gains, seeds=(1, 2, 3)):
    """Rows of arms that are better than the floor by so much in each seed and image."""
    rows = [{"arm": plan.FLOOR, "seed": 0, "gain": 0.0}]
    rows += [{"arm": arm, "seed": seed, "gain": gain + 1e-3 * seed} for arm, gain in gains.items() for seed in seeds]
    images = {f"{metric} {image}": base for metric in ("Dice", "AJI") for image, base in (("a", 0.5), ("b", 0.6))}
    means = {"Dice": 0.55, "AJI": 0.55}
    return pd.DataFrame([
        {"arm": row["arm"], "seed": row["seed"], "seconds": 3600, "object F1": 0.5}
        | {name: base + row["gain"] for name, base in (means | images).items()}
        for row in rows
    ])  # fmt: skip


def test_what_is_called_a_gain():
    arms = [plan.FLOOR, "attention", "labels of Otsu", plan.JUDGED]
    gains = {"attention": 0.01, "labels of Otsu": -0.05, plan.JUDGED: 0.04}
    for of_control, is_gain in ((0.03, "yes"), (0.04, "no"), (0.05, "no")):
        told = table_of(rows_of(gains | {plan.PRETEXT: of_control}), [*arms, plan.PRETEXT]).set_index("arm")
        assert told.gain.fillna("").tolist() == ["", "no", "no", is_gain, ""] and np.isnan(told["Dice p"].iloc[-1])
    told = table_of(rows_of(gains), arms).set_index("arm")
    assert told.gain.fillna("").tolist() == ["", "no", "no", "no"]  # nothing to compare it with
    first = rows_of(gains)
    alone = table_of(first[first.seed <= 1], arms).set_index("arm")
    assert alone.gain.fillna("").tolist() == ["", "one seed", "one seed", "one seed"]
    assert told["Dice more"].tolist()[1:] == pytest.approx([0.012, -0.048, 0.042])
    assert told.loc[plan.JUDGED, "Dice"] == pytest.approx(0.592) and (told["hours of training"] == 1).all()
    assert (told["AJI low"] <= told["AJI more"]).iloc[1:].all()
    several = {control: 0.01 * i for i, control in enumerate(ARMS[plan.JUDGED].controls)}
    against = controls_of(rows_of(several | {plan.JUDGED: 0.04}), [*arms, *several]).set_index("against")
    assert against.arm.tolist() == [plan.JUDGED] * 3
    assert against["Dice more"].to_dict() == pytest.approx(dict(zip(several, (0.04, 0.03, 0.02), strict=True)))


def test_planned_differences_are_adjusted_for_their_number_whether_made_or_not():
    rows = rows_of({"attention": 0.0})
    for metric in ("Dice", "AJI"):
        rows.loc[1:, [f"{metric} a", f"{metric} b"]] += 0.03 * np.array([[0.97, 0.97], [1.0, 1.0], [1.03, 1.03]])
    told = table_of(rows, [plan.FLOOR, "attention"]).set_index("arm").loc["attention"]
    alone = compared(rows, "attention", plan.FLOOR, "Dice")["Dice p"]
    assert 0 < alone < 0.05 and told["Dice p"] == pytest.approx(len(plan.PLANNED) * alone)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": ("Otsu",)}, "--arms: no arm is named 'Otsu'; there are Otsu, watershed, attention"),
        ({"seeds": (1, 1)}, "--seeds names no seed, or one twice"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"images": Path("nowhere")}, "folder nowhere does not exist"),
    ],
)
def test_what_cannot_work_is_named(settings, changed, message):
    with pytest.raises(InputError, match=message):
        attention.main(replace(settings, **changed))
