"""experiments/recipes.py for real on tiny data, and what grids share."""

import shutil
from dataclasses import fields, replace

import pandas as pd
import pytest
import torch

from experiments import attention, grid, nudiff, paper_tables, pretraining, recipes, robustness
from tests.experiments.in_process import one_after_the_other
from utils_general import InputError

SMALL = "--dim 8 --device cpu --initial-weights pytorch"


@pytest.fixture
def comparison(tiny_data_set, tmp_path):
    """Settings that compare three epochs with one in which nothing is learnt."""
    return recipes.Settings(
        data=tiny_data_set, output=tmp_path / "recipes", seeds=(1,), jobs=1,
        variants=(f"slow: --epochs 3 {SMALL} --learning-rate 5e-3", f"idle: --epochs 1 {SMALL} --learning-rate 0"),
    )  # fmt: skip


def test_recipes(comparison, capsys, monkeypatch):
    one_after_the_other(monkeypatch, recipes)
    recipes.main(comparison)
    table = pd.read_csv(comparison.output / "recipes.csv").set_index("recipe")
    history = pd.read_csv(comparison.output / "slow_1" / "history.csv")
    assert table.loc["slow", "steps"] == 3 and table.loc["idle", "steps"] == 1
    assert table["target"].tolist() == [history["val_loss"].iloc[-1]] * 2
    reached = history["epoch"][history["val_loss"] <= history["val_loss"].iloc[-1]].iloc[0]
    assert table.loc["slow", "steps to the target"] == reached and pd.isna(table.loc["idle", "steps to the target"])
    assert (comparison.output / "curves.png").is_file()
    assert (comparison.output / "recipes.md").read_text().startswith("| recipe | seed |")
    before = (comparison.output / "slow_1" / "last.pth").stat().st_mtime_ns
    recipes.main(comparison)  # everything is there: nothing is trained again
    assert (comparison.output / "slow_1" / "last.pth").stat().st_mtime_ns == before
    assert str(comparison.output) in capsys.readouterr().out.splitlines()[-1]


def test_a_run_that_fails_is_explained(comparison):
    with pytest.raises(InputError, match=r"SS_diff.py ended with 1: error: --epochs is 0: .* \(all of"):
        recipes.main(replace(comparison, variants=("none: --epochs 0",)))


def test_another_number_of_epochs_is_another_run(comparison, monkeypatch):
    """SS_diff.py would take the longer run for the shorter one, finished."""
    one_after_the_other(monkeypatch, recipes)
    slow, idle = comparison.variants
    recipes.main(comparison)
    shorter = replace(comparison, variants=(slow.replace("--epochs 3", "--epochs 1"), idle))
    with pytest.raises(InputError, match=r"slow_1 holds another run: options was --epochs 3 .*, now it is --epochs 1 "):
        recipes.main(shorter)
    shutil.rmtree(comparison.output / "slow_1")  # as the message says
    recipes.main(shorter)
    assert len(pd.read_csv(comparison.output / "slow_1" / "history.csv")) == 1


def test_what_a_run_was_asked_is_remembered(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    grid.remember(tmp_path, {one: {"steps": 1, "data": "a"}})
    grid.remember(tmp_path, {one: {"steps": 2, "data": "a"}})  # it was not begun
    one.mkdir()
    grid.remember(tmp_path, {two: {"steps": 1, "data": "a"}})  # one is not asked for, and not forgotten
    grid.remember(tmp_path, {one: {"steps": 2, "data": "a"}})
    with pytest.raises(InputError, match="one holds another run: data was a, now it is b"):
        grid.remember(tmp_path, {one: {"steps": 2, "data": "b"}})
    with pytest.raises(InputError, match="one holds another run: weights was None, now it is c"):
        grid.remember(tmp_path, {one: {"steps": 2, "data": "a", "weights": "c"}})
    (tmp_path / "three").mkdir()
    with pytest.raises(InputError, match="three holds another run: nobody knows what it was asked for"):
        grid.remember(tmp_path, {tmp_path / "three": {"steps": 2}})
    (tmp_path / "asked.json").write_text("[1]")
    with pytest.raises(InputError, match=r"asked.json is not what this script writes"):
        grid.remember(tmp_path, {})


def test_the_hash_is_of_contents_and_names_not_of_the_place(tmp_path):
    for name in "ab":
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "images" / "image_1.png").write_bytes(b"1")
    assert grid.hash_of(tmp_path / "a") == grid.hash_of(tmp_path / "b")
    (tmp_path / "b" / "notes.txt").touch()  # nothing that is read
    assert grid.hash_of(tmp_path / "a") == grid.hash_of(tmp_path / "b")
    (tmp_path / "b" / "images" / "image_1.png").write_bytes(b"2")
    assert grid.hash_of(tmp_path / "a") != grid.hash_of(tmp_path / "b")
    (tmp_path / "a" / "images" / "image_1.png").rename(tmp_path / "a" / "images" / "image_2.png")
    assert len({grid.hash_of(tmp_path / name) for name in "ab"}) == 2


@pytest.mark.parametrize(("device", "jobs"), [("cpu", 2), ("cuda", 1)])
def test_a_gpu_is_not_shared_unasked(device, jobs, monkeypatch, tiny_data_set, tmp_path):
    monkeypatch.setattr(grid, "pick_device", lambda _: torch.device(device))
    assert (grid.at_once(None), grid.at_once(3)) == (jobs, 3)
    started = []
    monkeypatch.setattr(recipes, "run_all", lambda _, at_once: started.append(at_once))
    monkeypatch.setattr(recipes, "read", lambda _: None)
    for name in ("compare", "write_table", "draw"):
        monkeypatch.setattr(recipes, name, lambda *_: None)
    recipes.main(recipes.Settings(data=tiny_data_set, output=tmp_path / "recipes"))
    assert started == [jobs]
    grids = (attention, nudiff, paper_tables, pretraining, recipes, robustness)
    assert {field.default for module in grids for field in fields(module.Settings) if field.name == "jobs"} == {None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variants": ("no colon",)}, "--variants wants \"name: options\", each name once; one is 'no colon'"),
        ({"variants": ("a: --dim 8", "a: --dim 16")}, "each name once; one is 'a: --dim 16'"),
        ({"variants": ("a b: --dim 8", "a/b: --dim 16")}, "each name once; one is 'a/b: --dim 16'"),  # one folder
        ({"variants": ('a: --dim "8',)}, "the options of a cannot be read: No closing quotation"),
        ({"seeds": (1, 1)}, "--seeds names no seed, or one twice"),
        ({"variants": ()}, "--variants names nothing"),
        ({"seeds": ()}, "--seeds names no seed"),
        ({"jobs": 0}, "--jobs is 0"),
    ],
)
def test_settings_that_cannot_work_are_named(tiny_data_set, tmp_path, changed, message):
    settings = replace(recipes.Settings(data=tiny_data_set, output=tmp_path / "recipes"), **changed)
    with pytest.raises(InputError, match=message):
        recipes.main(settings)
    assert not settings.output.exists()
