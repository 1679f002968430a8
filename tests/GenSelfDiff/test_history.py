"""The table of a run's epochs, read again: whatever is read has numbers that can be summed, drawn and compared."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments import paper_size, recipes
from GenSelfDiff.history import read_history
from tests.conftest import damaged, read_or_refuse
from utils_general import InputError

ROWS = "epoch,steps,train_loss,val_loss,seconds\n1,2,0.5,,1.5\n2,2,0.25,0.75,2.5\n"


def test_what_a_run_wrote_is_read(tmp_path):
    """A metric that was not counted is empty."""
    (tmp_path / "history.csv").write_text(ROWS)
    table = read_history(tmp_path / "history.csv", "steps", "val_loss")
    assert table.epoch.tolist() == [1, 2] and table.seconds.sum() == 4
    assert math.isnan(table.val_loss[0]) and table.val_loss[1] == 0.75
    assert paper_size._progress(tmp_path) == (4, 4.0)
    assert recipes.read(tmp_path)["step"].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing"),
        ("", "cannot be read as a table"),
        ("epoch,train_loss,seconds\n", "wants a row an epoch and the columns epoch, train_loss, seconds, steps"),
        (ROWS.replace("steps", "step"), "wants a row an epoch and the columns epoch, train_loss, seconds, steps"),
        (ROWS.replace("0.75", "x"), "something else than the numbers of epochs in its column 'val_loss'"),
        (ROWS.replace("1.5", "-1.5"), "in its column 'seconds'"),
        (ROWS.replace("1.5", "1e300"), "in its column 'seconds'"),  # no duration
        (ROWS.replace("1,2,", "1.5,2,"), "in its column 'epoch'"),
        (ROWS.replace("1,2,", ",2,"), "in its column 'epoch'"),
        (ROWS.replace("1,2,", "1,,"), "in its column 'steps'"),
        (ROWS.replace("0.25", "0.25,1"), "cannot be read as a table"),
    ],
)
def test_a_history_that_no_run_wrote_is_one_line(tmp_path, text, words):
    file = tmp_path / "history.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=rf"^{file} .*{words}"):
        read_history(file, "steps")


def test_a_damaged_history_is_read_or_refused(tmp_path):
    file, rng, refused = tmp_path / "history.csv", np.random.default_rng(11), 0
    for _ in range(300):
        file.write_bytes(damaged(ROWS.encode(), rng))
        table = read_or_refuse(lambda: read_history(file))
        refused += table is None
        if table is not None:
            assert all(pd.api.types.is_numeric_dtype(values) for _, values in table.items())
            assert 0 <= table.seconds.sum() < math.inf
    assert 100 < refused < 300
