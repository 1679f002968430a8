import numpy as np
import pandas as pd
import pytest

from benchmarks import metrics
from utils_general import InputError


def test_the_table_has_a_row_for_each_case(tmp_path, capsys):
    settings = metrics.Settings(output=tmp_path / "results", repeats=1, patch=48, side=100, nuclei=8)
    metrics.main(settings)
    table = pd.read_csv(tmp_path / "results" / "metrics.csv")
    assert len(table) == 5 and (table.ms > 0).all()
    assert table["times faster"][:3].tolist() == pytest.approx((table["plain ms"] / table.ms)[:3].tolist())
    assert capsys.readouterr().out.strip().endswith("metrics.csv and metrics.md are in " + str(tmp_path / "results"))
    with pytest.raises(InputError, match="--overwrite replaces them"):
        metrics.main(settings)


def test_other_values_are_not_timed(tmp_path, monkeypatch):
    other = metrics.plain_published
    monkeypatch.setattr(metrics, "plain_published", lambda *a: {**other(*a), "dice": np.zeros(3)})
    with pytest.raises(InputError, match="some errors: dice are not the plain ones"):
        metrics.main(metrics.Settings(output=tmp_path / "results", repeats=1, patch=16, side=64, nuclei=1))


def test_most_nuclei_are_found(tmp_path):
    true, found = metrics.draw_nuclei(np.random.default_rng(0), 300, 40)
    figures = {name: float(values[0]) for name, values in metrics.image_figures(true, found).items()}
    assert 0.5 < figures["PQ"] < figures["object F1"] < 1 and figures["AJI"] < figures["Dice"] < 1
