"""experiments/pretraining.py for real on tiny data: choices, tests, going on, the table; and its statistics by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import pretraining, questions
from experiments.paired import difference
from experiments.pretraining_report import row_of
from experiments.questions import PreTraining, Question
from experiments.records import Records
from GenSelfDiff import checkpoint
from utils_general import InputError

SMALL = ("--recipe", "improved", "--dim", 8, "--workers", 0)


@pytest.fixture
def asked(tiny_data_set, tmp_path, monkeypatch, forked):
    """A question of two arms, two rates and one labelled image."""
    monkeypatch.setattr(pretraining, "SMALL", SMALL)
    monkeypatch.setattr(pretraining, "DIM", 8)
    monkeypatch.setattr(pretraining, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(pretraining, "CHOICE_DRAWS", (101,))
    monkeypatch.setattr(pretraining, "PRETRAINING_SEEDS", 1)
    monkeypatch.setitem(pretraining.PRETRAININGS, "low", PreTraining((*SMALL, "--t-below", 9), steps=2))
    tiny = Question("tiny", {1: 2}, {1: 2}, ("scratch", "low noise, shuffled"), chosen_with=1, pays=0.02, only={})
    monkeypatch.setitem(pretraining.QUESTIONS, "GlaS", tiny)
    return pretraining.Settings(data=tiny_data_set, output=tmp_path / "out", records=tmp_path / "records", jobs=1)


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
    assert tests.groupby("arm").draw.apply(list).to_dict() == {"scratch": [1, 2], "low noise, shuffled": [1, 2]}
    assert set(tests[tests.arm == "scratch"]["learning rate"]) == {best}
    assert np.allclose(tests[["Dice t1", "Dice t2"]].mean(axis=1), tests["Dice"], atol=1e-5)
    assert (asked.output / "GlaS" / "curves.png").is_file()
    assert not [*(asked.output / "GlaS").glob("test/*/*.pth")]  # the weights of hundreds of runs are not kept
    assert len([*(asked.output / "GlaS").glob("val/*.txt")]) == 4  # each run has a log of its own
    before = (asked.records / "glas_test.csv").read_bytes()
    capsys.readouterr()
    pretraining.main(asked)
    assert (asked.records / "glas_test.csv").read_bytes() == before
    assert "0 networks to pre-train, 0 runs" in capsys.readouterr().out


def test_an_arm_without_its_choice_is_refused(asked):
    grid = pretraining.Grid(asked, pretraining.QUESTIONS["GlaS"])
    with pytest.raises(InputError, match="the learning rate of scratch is not chosen yet: 0 runs are done"):
        grid.rate("scratch")


def test_all_arms_of_a_question_are_known_and_their_choices_are_of_equal_number():
    for question in questions.QUESTIONS.values():
        arms = [questions.ARMS[name] for name in question.arms]
        assert all(not arm.pretraining or arm.pretraining in questions.PRETRAININGS for arm in arms)
        assert set(question.draws) == set(question.steps) and question.chosen_with in question.draws
        assert not {*range(1, 1 + max(question.draws.values()))} & {*questions.CHOICE_DRAWS}
        assert arms[0].start == "scratch"


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


def test_a_paired_difference_by_hand():
    """The same gain everywhere has no width; one draw says nothing of draws, so its images alone make the width."""
    base = np.random.default_rng(0).normal(size=(4, 6))
    assert difference(base + 0.1, base) == pytest.approx((0.1, 0.1, 0.1))
    gains = np.array([[0.0, 1.0]])
    told = difference(gains, 0 * gains)
    assert told.mean == 0.5 and (told.low, told.high) == (0, 1)
    with pytest.raises(ValueError, match="without gaps"):
        difference(np.array([[np.nan]]), np.zeros((1, 1)))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Draws and images with effects of their own around a gain of 0.1: of 200 intervals some 95 % hold it."""
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        gains = (
            0.1 + random.normal(0, 0.05, (10, 1)) + random.normal(0, 0.05, (1, 20)) + random.normal(0, 0.05, (10, 20))
        )
        told = difference(gains, np.zeros((10, 20)))
        held += told.low <= 0.1 <= told.high
    assert 0.86 * 200 <= held <= 0.99 * 200


def test_what_is_called_a_gain():
    """Better in every image and draw by 0.05; by 0.01, which is surely more than nothing and surely too little."""
    question = Question("x", {4: 2}, {4: 1}, ("scratch", "P2", "low noise"), chosen_with=4, pays=0.02, only={})
    rows = [
        {
            "arm": arm,
            "labelled images": 4,
            "draw": draw,
            "learning rate": 1e-3,
            "Dice a": 0.5 + gain,
            "Dice b": 0.7 + gain,
        }
        for arm, gain in (("scratch", 0.0), ("P2", 0.05), ("low noise", 0.01))
        for draw in (1, 2)
    ]
    table = pd.DataFrame(rows).assign(**{"object F1": 0.1, "object Dice": 0.2, "AJI": 0.3})
    told = [row_of(table, question, arm, 4) for arm in question.arms]
    assert "gain" not in told[0] and [row["gain"] for row in told[1:]] == ["yes", "no"]
    assert [row["excluded"] for row in told[1:]] == ["no", "yes"]
    assert row_of(table, question, "P2", 8) is None
