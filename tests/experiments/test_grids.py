"""experiments/recipes.py and experiments/labels.py for real on tiny data."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments import labels, recipes
from utils_general import InputError

SMALL = "--dim 8 --device cpu --initial-weights pytorch"


@pytest.fixture
def comparison(tiny_data_set, tmp_path):
    """Settings that compare three epochs with one in which nothing is learnt."""
    return recipes.Settings(
        data=tiny_data_set, output=tmp_path / "recipes", seeds=(1,), jobs=1,
        variants=(f"slow: --epochs 3 {SMALL} --learning-rate 5e-3", f"idle: --epochs 1 {SMALL} --learning-rate 0"),
    )  # fmt: skip


def test_recipes(comparison, capsys):
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


def test_labels(tiny_data_set, tmp_path):
    settings = labels.Settings(
        data=tiny_data_set, output=tmp_path / "labels", seeds=(1,), labels=(1, 2), steps=2, jobs=1,
        variants=(f"from scratch: --pretrained scratch {SMALL}",),
    )  # fmt: skip
    labels.main(settings)
    table = pd.read_csv(settings.output / "labels.csv")
    assert table["labelled images"].tolist() == [1, 2]
    for row in table.itertuples():
        log = (settings.output / f"from-scratch_{row[2]}_1.txt").read_text()
        assert f"Dice        {row.Dice:.4f}" in log
        steps = pd.read_csv(settings.output / f"from-scratch_{row[2]}_1" / "history.csv")["steps"]
        assert steps.sum() == 2  # 4 or 8 patches are one step of 8
    means = pd.read_csv(settings.output / "means.csv")
    assert means["Dice"].tolist() == table["Dice"].tolist() and means["Dice deviation"].isna().all()
    assert (settings.output / "labels.png").is_file()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variants": ("no colon",)}, "--variants wants \"name: options\", each name once; one is 'no colon'"),
        ({"variants": ("a: --dim 8", "a: --dim 16")}, "each name once; one is 'a: --dim 16'"),
        ({"variants": ()}, "--variants names nothing"),
        ({"seeds": ()}, "--seeds names no seed"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"labels": (1, 5)}, "5 labelled images were asked for; .* has 2"),
        ({"labels": ()}, "--labels names no number"),
    ],
)
def test_settings_that_cannot_work_are_named(tiny_data_set, tmp_path, changed, message):
    settings = replace(labels.Settings(data=tiny_data_set, output=tmp_path / "labels"), **changed)
    with pytest.raises(InputError, match=message):
        labels.main(settings)
    assert not settings.output.exists()
