"""experiments/pretraining.py for real on tiny data: choices, tests, going on, the table; and its statistics by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments import paired, pretraining, pretraining_report, questions, training_runs
from experiments.paired import difference
from experiments.pretraining_report import by_organ, controls, dice_by_draw, judge, parts, row_of
from experiments.questions import PreTraining, Question
from experiments.records import Records
from GenSelfDiff import checkpoint
from tests.experiments.in_process import one_after_the_other
from utils_general import ROOT, InputError, write_png

SMALL = ("--recipe", "improved", "--dim", 8, "--workers", 0)


@pytest.fixture
def asked(tiny_data_set, tmp_path, monkeypatch):
    """A question of two arms, two rates and one labelled image; its runs are done one after the other."""
    one_after_the_other(monkeypatch, pretraining, training_runs)
    monkeypatch.setattr(pretraining, "SMALL", SMALL)
    monkeypatch.setattr(pretraining, "DIM", 8)
    monkeypatch.setattr(pretraining, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(pretraining, "PRETRAINING_SEEDS", 1)
    monkeypatch.setitem(pretraining.PRETRAININGS, "low", PreTraining((*SMALL, "--t-below", 9), steps=2))
    tiny = Question("tiny", "glas", {1: 2}, {1: 2}, ("scratch", "low noise, shuffled"), chosen_with=1, pays=0.02,
                    choice_draws=(101,))  # fmt: skip
    monkeypatch.setitem(pretraining.QUESTIONS, "GlaS", tiny)
    return pretraining.Settings(
        data=tiny_data_set, output=tmp_path / "out", records=tmp_path / "records", weights=tmp_path / "weights", jobs=1
    )


def test_choices_then_tests_then_a_table(asked, capsys):
    pretraining.main(replace(asked, estimate=True))
    said = capsys.readouterr().out
    assert "1 networks to pre-train, 8 runs to fine-tune and test" in said and not asked.output.exists()
    pretraining.main(replace(asked, phase="choose"))
    chosen = pd.read_csv(asked.records / "glas_val.csv")
    assert len(chosen) == 4 and not (asked.records / "glas_test.csv").exists()
    best = chosen.loc[chosen[chosen.arm == "scratch"]["Dice"].idxmax(), "learning rate"]
    pretraining.main(asked)
    tests = pd.read_csv(asked.records / "glas_test.csv")
    draws = {"scratch": [1, 2], "low noise, shuffled": [1, 2], "all foreground": [0], "Otsu": [0]}
    assert tests.groupby("arm").draw.apply(list).to_dict() == draws
    assert set(tests[tests.arm == "scratch"]["learning rate"]) == {best}
    assert np.allclose(tests[["Dice t1", "Dice t2"]].mean(axis=1), tests["Dice"], atol=1e-5)
    assert (asked.output / "GlaS" / "curves.png").is_file()
    table = pd.read_csv(asked.output / "GlaS" / "table.csv")
    assert table.arm.tolist() == ["all foreground", "Otsu", "scratch", "low noise, shuffled"]
    means = pd.read_csv(asked.output / "GlaS" / "choices.csv").set_index("arm").loc["scratch"]
    assert means.idxmax() == f"Dice at {best:g}"
    assert not [*(asked.output / "GlaS").glob("test/*/*.pth")]  # the weights of hundreds of runs are not kept
    assert len([*(asked.output / "GlaS").glob("val/*.txt")]) == 4  # each run has a log of its own
    before = (asked.records / "glas_test.csv").read_bytes()
    capsys.readouterr()
    pretraining.main(asked)
    assert (asked.records / "glas_test.csv").read_bytes() == before
    assert "0 networks to pre-train, 0 runs" in capsys.readouterr().out


def test_weights_are_kept_and_those_of_another_plan_are_no_start(asked, monkeypatch, tmp_path):
    """They lie there, finished, of two steps; when three are asked for, none is fine-tuned from them."""
    grid = pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"])
    row = grid.ask("low noise, shuffled", 1, 1, 1e-3)
    assert not grid.is_ready(row)
    grid.pretrain("low", 1)
    kept = checkpoint.load(asked.weights / "tiny" / "low_1.pth")
    assert (kept["settings"]["run_name"], kept["settings"]["data"]) == ("low_1", ["tiny"])
    assert str(asked.output) not in str(kept["settings"]) and kept["settings"]["dim"] == 8
    kept = kept["model_state_dict"]
    whole = checkpoint.load(grid.work / "pretrained" / "low_1" / "best.pth")["model_state_dict"]
    assert all(torch.equal(value.half(), kept[name]) for name, value in whole.items())
    elsewhere = replace(asked, output=tmp_path / "elsewhere")  # another machine, with the weights alone
    again = pretraining.Grid(elsewhere, grid.question)
    assert again.is_ready(row)
    again.pretrain("low", 1)
    assert not [*again.work.glob("*.txt")]  # nothing was started
    monkeypatch.setitem(pretraining.PRETRAININGS, "low", PreTraining((*SMALL, "--t-below", 9), steps=3))
    with pytest.raises(InputError, match=r"low_1\.pth was asked for something else"):
        again.is_ready(row)


def test_weights_in_the_repository_name_no_folder_of_a_machine():
    kept = sorted((ROOT / "experiments" / "weights").rglob("*.pth"))
    for path in kept:
        told = checkpoint.load(path)["settings"]
        assert (told["run_name"], told["data"]) == (path.stem, [path.parent.name])
    assert kept


def test_an_arm_without_its_choice_is_refused(asked):
    grid = pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"])
    with pytest.raises(InputError, match="the learning rate of scratch is not chosen yet: 0 runs are done"):
        grid.rate("scratch")


def test_the_curves_go_on_where_another_question_has_other_numbers_of_images(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pretraining_report, "save_figure", lambda figure, _: drawn.append(figure))
    few, all_of_them = (
        Question("x", "x", {n: 2}, {n: 1}, ("scratch", arm), chosen_with=n, pays=0.02)
        for n, arm in ((4, "low noise"), (75, "P2"))
    )
    table = as_table(rows_with({"scratch": 0.0, "low noise": 0.1, "P2": 0.2}))
    more = table.assign(**{"labelled images": 75})
    pretraining_report.draw_curves([(few, table), (all_of_them, more)], tmp_path / "curves.png")
    lines = {line.get_label(): line.get_xdata() for line in drawn[0].axes[0].lines}
    assert [len(lines[arm]) for arm in ("scratch", "low noise", "P2")] == [2, 1, 1]
    assert [round(float(n)) for n in lines["scratch"]] == [4, 72]  # side by side: a little apart


def test_all_arms_of_a_question_are_known_and_their_choices_are_of_equal_number():
    for question in questions.QUESTIONS.values():
        arms = [questions.ARMS[name] for name in question.arms]
        assert all(not arm.pretraining or arm.pretraining in questions.PRETRAININGS for arm in arms)
        assert {*question.draws, question.chosen_with} == {*question.steps}
        assert not {*range(1, 1 + max(question.draws.values(), default=0))} & {*question.choice_draws}
        for arm in question.only:
            assert arm in question.arms and question.draws_of(arm).items() != question.draws.items()
            assert all(draws <= question.draws[n] for n, draws in question.draws_of(arm).items())
        assert all(min(question.steps.values()) + arm.more_steps > 0 for arm in arms)
        assert arms[0].start == "scratch" and question.judged in ("", *question.arms)


def test_what_is_tested_had_as_many_trials_as_what_it_is_compared_with():
    tried = {name: pretraining.rates_of(name) for name, arm in questions.ARMS.items() if not arm.rate_of}
    for question in (question for question in questions.QUESTIONS.values() if question.draws):
        rates = {(questions.ARMS[name].more_steps, tried[name]) for name in question.arms if name in tried}
        assert (0, questions.RATES) in rates and len({more for more, _ in rates}) == len(rates)
    for n in questions.LENGTHS:
        assert tried[f"scratch, {n} steps"] == tried[f"low noise, {n} steps"]
    assert {*questions.RATES_OF} <= {*tried} and all({*rates} <= {*questions.RATES} for rates in tried.values())


def test_an_arm_that_is_tried_with_fewer_rates_is_chosen_among_these(asked, monkeypatch):
    monkeypatch.setitem(pretraining.RATES_OF, "scratch", (1e-2,))
    pretraining.main(replace(asked, arms=("scratch",), phase="choose"))
    chosen = pd.read_csv(asked.records / "glas_val.csv")
    assert chosen["learning rate"].tolist() == [1e-2]
    assert pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"]).rate("scratch") == 1e-2


def test_a_longer_training_is_no_gain_over_a_shorter_one():
    arms = ("scratch", "scratch, whole compute", "low noise, 4,600 steps", "low noise, shuffled")
    question = Question("x", "x", {4: 4}, {4: 600}, arms, chosen_with=4, pays=0.02)
    gains = {"scratch": 0.0, "scratch, whole compute": 0.05, "low noise, 4,600 steps": 0.1, "low noise, shuffled": 0.0}
    table = as_table(rows_with(gains))
    told = [row_of(table, question, arm, 4) for arm in arms]
    judge(told, question, trivial=0.1)
    assert [row["gain"] for row in told[1:]] == ["longer", "longer", "no"]
    against = {row["against"]: row["difference in Dice"] for row in controls(table, question)}
    assert against == pytest.approx({"scratch, whole compute": 0.05})  # the shuffled ones were trained for fewer steps


def test_shuffled_weights_are_the_same_numbers_elsewhere(tmp_path):
    state = {"a": torch.arange(60.0).view(3, 20), "b": torch.arange(50.0)}
    content = {"epoch": 1, "loss": 0.5, "model_state_dict": state}
    checkpoint.save(tmp_path / "best.pth", content)
    pretraining.shuffle_weights(tmp_path / "best.pth", tmp_path / "shuffled.pth", 1)
    shuffled = checkpoint.load(tmp_path / "shuffled.pth")["model_state_dict"]
    for name, value in state.items():
        assert shuffled[name].shape == value.shape and not torch.equal(shuffled[name], value)
        assert torch.equal(shuffled[name].flatten().sort().values, value.flatten())


def test_records_are_found_by_their_key_and_survive(tmp_path):
    records = Records(tmp_path / "r.csv", ("arm", "rate"))
    row = {"arm": "a, b", "rate": 3e-4, "Dice": 0.5, "asked": "x"}
    assert row not in records
    records.add(row)
    again = Records(tmp_path / "r.csv", ("arm", "rate"))
    assert row in again and {**row, "rate": 1e-3} not in again and again.select(arm="a, b").Dice.tolist() == [0.5]
    with pytest.raises(InputError, match="a row of a, b, 0.0003 that was asked for something else"):
        _ = {**row, "asked": "y"} in again
    with pytest.raises(InputError, match="has no column draw"):
        Records(tmp_path / "r.csv", ("draw",))


def test_rows_of_others_are_kept(tmp_path):
    """Two grids that share the file: each read it before the other wrote. What both have done is there once."""
    key = ("arm",)
    first, second = (Records(tmp_path / "new" / "r.csv", key) for _ in range(2))
    first.add({"arm": "a", "asked": "x"})
    second.add({"arm": "b", "asked": "x"})
    first.add({"arm": "c", "asked": "x"})
    second.add({"arm": "c", "asked": "x"})
    assert Records(first.path, key).table.arm.tolist() == ["a", "b", "c"] and len(first.select(arm="b")) == 1


def test_whole_numbers_stay_whole_beside_gaps(tmp_path):
    for row in ({"arm": "a", "seed": 2, "Dice": 0.5}, {"arm": "b", "seed": ""}, {"arm": "c", "seed": 3, "Dice": 1.0}):
        Records(tmp_path / "r.csv", ("arm",)).add(row | {"asked": "x"})
    assert (tmp_path / "r.csv").read_text() == "arm,asked,seed,Dice\na,x,2,0.5\nb,x,,\nc,x,3,1\n"


def test_a_table_with_a_row_twice_is_refused(tmp_path):
    (tmp_path / "r.csv").write_text("arm,asked\nb,x\nb,x\n")
    with pytest.raises(InputError, match="has two rows of b: remove one"):
        Records(tmp_path / "r.csv", ("arm",))


def test_only_rates_that_are_asked_for_are_chosen_from(asked):
    """A row of a rate that is no longer among the rates, however good, does not win."""
    grid = pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"])
    for row in grid.choices():
        grid.records["val"].add(row | {"Dice": 0.5 + row["learning rate"]})
    grid.records["val"].add(grid.choices()[0] | {"learning rate": 0.7, "Dice": 0.99})
    assert grid.rate("scratch") == 1e-2


def test_only_some_arms(asked):
    asked = replace(asked, arms=("scratch",))
    pretraining.main(asked)
    assert set(pd.read_csv(asked.records / "glas_test.csv").arm) == {"scratch", "all foreground", "Otsu"}
    with pytest.raises(InputError, match="no arm is named 'P3'; there are scratch, low noise, shuffled"):
        pretraining.main(replace(asked, arms=("P3",)))


def test_another_plan_is_another_question(asked, monkeypatch):
    """More steps, other options of an arm or of its pre-training: none of the rows is one of it."""
    grid = pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"])
    which = ("low noise, shuffled", 1, 1, 1e-3)
    before = grid.ask(*which)["asked"]
    assert grid.ask(*which)["asked"] == before
    with monkeypatch.context() as patch:
        patch.setitem(pretraining.PRETRAININGS, "low", PreTraining(SMALL, steps=3))
        assert grid.ask(*which)["asked"] != before
    with monkeypatch.context() as patch:
        arm = pretraining.ARMS[which[0]]
        patch.setitem(pretraining.ARMS, which[0], replace(arm, options=("--head-steps", 5)))
        assert grid.ask(*which)["asked"] != before
    assert grid.ask(which[0], 1, 1, 1e-2)["asked"] == before  # the rate is in the key
    file = asked.data / "labelled" / "images" / "image_0.png"  # other pixels of the same index
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0] += 1
    write_png(file, pixels)
    assert pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"]).ask(*which)["asked"] != before


def test_other_test_images_are_another_test(asked):
    """A corrected label: tests are asked anew, of trivial methods too; choices and pre-trained networks stay."""

    def questions():
        grid = pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"])
        tests = [grid.ask("scratch", 1, 1, 1e-3), grid.ask_trivial("Otsu", "otsu")]
        return [*(row["asked"] for row in [*tests, *grid.choices()]), grid.ask_pretraining("low", 1)]

    before = questions()
    file = asked.data / "test" / "labels" / "label_0.png"
    write_png(file, np.asarray(Image.open(file)) * 0)
    assert [a == b for a, b in zip(questions(), before, strict=True)] == [False, False, *[True] * 5]


def test_a_paired_difference_by_hand():
    """The same gain everywhere has no width. One draw says nothing of draws: its two images alone make the width.

    Of gains 0 and 1 a resample of both has the mean 0, 1/2 or 1, in 1, 2 and 1 of 4 cases: deviation sqrt(1/8), times
    sqrt(2 / 1), times Student's t of one degree of freedom, 12.706. p = 2 P(T > 0.5 / 0.5) = 1/2 (Cauchy).
    """
    base = np.random.default_rng(0).normal(size=(4, 6))
    assert difference(base + 0.1, base) == pytest.approx((0.1, 0.1, 0.1, 0.0))
    assert difference(base, base) == (0, 0, 0, 1)
    gains = np.array([[0.0, 1.0]])
    told = difference(gains, 0 * gains)
    assert told.mean == 0.5 and told.high == pytest.approx(0.5 + 12.706 * 0.5, rel=0.02)
    assert told.low == pytest.approx(1 - told.high) and told.p == pytest.approx(0.5, abs=0.01)
    assert difference(np.ones((1, 1)), np.zeros((1, 1))) == (1, -np.inf, np.inf, 1)
    with pytest.raises(ValueError, match="without gaps"):
        difference(np.array([[np.nan]]), np.zeros((1, 1)))


@pytest.mark.parametrize(("draws", "images"), [(10, 20), (3, 20)])
def test_the_interval_holds_the_truth_as_often_as_it_says(draws, images, monkeypatch):
    """Draws and images with effects of their own around a gain of 0.1: of 200 intervals 95 % or more hold it.

    The bootstrap's own percentiles hold it in some 80 % where there are three draws.
    """
    monkeypatch.setattr(paired, "TIMES", 1000)
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        of_draws, of_images = random.normal(0, 0.05, (draws, 1)), random.normal(0, 0.02, (1, images))
        gains = 0.1 + of_draws + of_images + random.normal(0, 0.05, (draws, images))
        told = difference(gains, np.zeros((draws, images)))
        held += told.low <= 0.1 <= told.high
    assert held >= 0.93 * 200


def rows_with(gains, labelled=4, draws=(1, 2, 3, 4)):
    """Rows of arms that are better than "scratch" by so much in each draw and image."""
    return [
        {"arm": arm, "labelled images": labelled, "draw": draw, "learning rate": 1e-3, "pre-training seed": draw % 2}
        | {"Dice a": 0.5 + gain + 0.01 * draw, "Dice b": 0.7 + gain}
        for arm, gain in gains.items()
        for draw in draws
    ]


def as_table(rows):
    return pd.DataFrame(rows).assign(**{"object F1": 0.1, "object Dice": 0.2, "AJI": 0.3})


def test_what_is_called_a_gain():
    """Better in every image and draw by 0.05; by 0.01, which is surely more than nothing and surely too little."""
    arms = ("scratch", "P2", "low noise")
    question = Question("x", "x", {4: 4}, {4: 1}, arms, chosen_with=4, pays=0.02, judged="P2")
    table = as_table(rows_with({"scratch": 0.0, "P2": 0.05, "low noise": 0.01}))
    told = [row_of(table, question, arm, 4) for arm in arms]
    judge(told, question, trivial=0.6)
    assert "gain" not in told[0] and [row["gain"] for row in told[1:]] == ["yes", "no"]
    assert [row["excluded"] for row in told[1:]] == ["no", "yes"]
    assert told[1]["by seed of pre-training"] == "+0.050, +0.050"
    judge(told, question, trivial=0.65)  # scratch has 0.6125: better than what is worse than nothing is no gain
    assert [row["gain"] for row in told[1:]] == ["below trivial", "no"]
    assert row_of(table, question, "P2", 8) is None
    alone = [row_of(table[table.draw == 1], question, arm, 4) for arm in arms]
    judge(alone, question, trivial=0.6)
    assert [row["gain"] for row in alone[1:]] == ["one draw", "one draw"]


def test_all_comparisons_but_the_primary_one_are_adjusted():
    rows = [
        {"arm": arm, "labelled images": n, "Dice": 0.8, "paired draws": 2, "difference in Dice": 0.1, "p": p}
        for arm, n, p in (("P2", 4, 0.04), ("P2", 8, 0.04), ("low noise", 4, 0.01), ("low noise", 8, 0.03))
    ]
    question = Question("x", "x", {4: 2}, {4: 1}, ("scratch",), chosen_with=4, pays=0.02, judged="P2")
    judge(rows, question, trivial=0.5)
    assert [row["adjusted p"] for row in rows] == pytest.approx([0.04, 0.06, 0.03, 0.06])
    assert [row["gain"] for row in rows] == ["yes", "no", "yes", "no"]


def test_what_is_planned_is_adjusted_for_though_it_is_not_run_yet():
    """Of six planned comparisons one is the primary one; the first other with p = 0.01 counts for five."""
    question = Question("x", "x", {2: 9, 4: 9}, {2: 1, 4: 1}, ("scratch", "P2", "low noise", "shuffled", "some"),
                        chosen_with=4, pays=0.02, judged="low noise", only={"P2": {4: 9}, "some": {2: 3}})  # fmt: skip
    row = {"arm": "P2", "labelled images": 4, "Dice": 0.8, "paired draws": 9, "difference in Dice": 0.1, "p": 0.01}
    primary = row | {"arm": "low noise"}
    judge([row, primary], question, trivial=0.5)
    others = [("low noise", 2), ("low noise", 4), ("shuffled", 2), ("shuffled", 4), ("some", 2)]
    assert question.compared == [("P2", 4), *others]
    assert row["adjusted p"] == pytest.approx(0.05) and row["gain"] == "no"
    assert primary["adjusted p"] == 0.01 and primary["gain"] == "yes"


def test_pre_training_against_its_controls():
    arms = ("scratch", "scratch, whole compute", "P2", "low noise", "low noise, shuffled")
    question = Question("x", "x", {4: 4}, {4: 1}, arms, chosen_with=4, pays=0.02)
    gains = {"scratch": 0.0, "scratch, whole compute": 0.04, "P2": 0.0, "low noise": 0.05, "low noise, shuffled": 0.02}
    told = controls(as_table(rows_with(gains)), question)
    assert [(row["arm"], row["against"], round(row["difference in Dice"], 6)) for row in told] == [
        ("P2", "scratch, whole compute", -0.04),
        ("low noise", "scratch, whole compute", 0.01),
        ("low noise", "low noise, shuffled", 0.03),
    ]


def test_each_part_of_the_test_images_is_told_apart():
    """Better by 0.05 in "Dice a" alone."""
    question = Question("x", "x", {4: 4}, {4: 1}, ("scratch", "P2"), chosen_with=4, pays=0.02, parts=("a", "b"))
    table = as_table(rows_with({"scratch": 0.0, "P2": 0.05}))
    table.loc[table.arm == "P2", "Dice b"] -= 0.05
    told = parts(table, question)
    assert [(row["test images"], round(row["difference in Dice"], 6)) for row in told] == [("a", 0.05), ("b", 0.0)]


def test_a_gain_on_other_organs_than_the_labelled_one():
    """Better by 0.1 and 0.3 on the kidney alone; the breast is labelled in draw 1, the kidney in draw 2.

    Other organs: of draw 1 the kidney, +0.1, of draw 2 the breast, 0: 0.05 in the mean. Its own: 0 and 0.3.
    """
    breast, kidney = "Dice TCGA-AO-A0J2-01A", "Dice TCGA-GL-6846-01A"
    rows = [
        {"arm": arm, "labelled images": 1, "draw": draw, "learning rate": 1e-3, breast: 0.5, kidney: 0.5 + gain}
        for arm, gains in (("scratch", (0, 0)), ("P2", (0.1, 0.3)))
        for draw, gain in enumerate(gains, 1)
    ]
    question = Question("x", "x", {1: 2}, {1: 1}, ("scratch", "P2"), chosen_with=1, pays=0.02)
    labelled = {1: "TCGA-A7-A13E-01Z-00-DX1", 2: "TCGA-HE-7128-01Z-00-DX1"}
    told = by_organ(as_table(rows), question, labelled)
    assert [(row["test images"], row["draws"], round(row["difference in Dice"], 6)) for row in told] == [
        ("the labelled organ", 2, 0.15),
        ("other organs", 2, 0.05),
    ]
    assert by_organ(as_table(rows), question, {1: "train_1", 2: "train_2"}) == []


def test_tests_at_several_rates_are_refused():
    rows = rows_with({"scratch": 0.0})
    with pytest.raises(InputError, match="scratch with 4 labelled images was tested at several learning rates"):
        dice_by_draw(as_table([*rows, {**rows[0], "learning rate": 1e-2}]), "scratch", 4)
