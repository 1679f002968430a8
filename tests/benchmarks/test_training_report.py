"""What benchmarks/training.py makes of its measurements, and the loader beside them."""

import pandas as pd
import pytest

from benchmarks import training_loader
from benchmarks.report import HEADINGS, cells, draw, loader_table, summarise, write_tables
from benchmarks.training_cases import CEILINGS, COPY, OFF, PEERS
from benchmarks.training_loader import loader_rates


def measurements(*rows):
    columns = ["round", "case", "precision", "gflop", "parameters", "numbers", "seconds", "peak", "failure"]
    return pd.DataFrame(rows, columns=columns).assign(dim=8, size=16, batch=2)


def test_ratios_are_to_everything_off_in_the_same_round():
    off, peer, ceiling = OFF, PEERS[0], CEILINGS["bfloat16"]
    table = summarise(
        measurements(
            (0, "all", "bfloat16", 12, 1, 0.5e9, 2.0, 2**30, None),
            (0, off, "float32", 12, 1, 0.5e9, 4.0, 2**31, None),
            (0, peer, "float32", None, None, None, None, None, "no module"),
            (0, ceiling, "bfloat16", 10, 0, None, 0.5, 2**29, None),
            (0, COPY, "float32", None, None, 1e9, 2.0, 2**29, None),
            (1, "all", "bfloat16", 12, 1, 0.5e9, 3.0, 2**30, None),
            (1, off, "float32", 12, 1, 0.5e9, 9.0, 2**31, None),
            (1, ceiling, "bfloat16", 10, 0, None, 0.5, 2**29, None),
        ),
        [off, "all", peer, ceiling, COPY],
    ).set_index("case")
    assert list(table.index) == [off, "all", peer, ceiling, COPY]
    ours = table.loc["all"]
    assert ours[["seconds", "images", "faster", "faster_lowest", "faster_highest"]].tolist() == [
        2.5,
        0.4,
        2.5,
        2.0,
        3.0,
    ]
    assert ours[["gib", "less", "rate", "share", "rounds"]].tolist() == [1.0, 2.0, 4.8, 0.24, 2]
    assert ours["gigabytes"] == (2 * 0.5e9 + 28 * 1e6 / 2) / 1e9  # two bytes a number; Adam's share of a batch of two
    assert table.loc[COPY, "bandwidth"] == 4 * 1e9 / 2.0 / 1e9  # GB/s
    assert ours["copied"] == pytest.approx(1.014 / 2.5 / 2)
    assert table.loc[off, "faster"] == 1 and pd.isna(table.loc[off, "share"])  # no float32 ceiling in this run
    shown = dict(zip(HEADINGS, cells({"case": "all", **ours}), strict=True))
    assert list(shown.values()) == ["all", "2.5", "0.4", "2.50 (2.00-3.00)", "12", "5", "24%", "1.01", "0.406", "20%",
                                    "1.00", "2.00"]  # fmt: skip
    assert cells({"case": OFF, **table.loc[off]})[5:7] == ["2", ""]
    assert cells({"case": peer, **table.loc[peer]})[:2] == [peer, "no module"]
    assert cells({"case": COPY, **table.loc[COPY]})[HEADINGS.index("GB/s")] == "2"
    assert cells({"case": ceiling, **table.loc[ceiling]})[5:7] == ["20", "100%"]
    assert all(len(cells({"case": name, **row})) == len(HEADINGS) for name, row in table.iterrows())


def test_a_table_of_what_was_not_measured_can_be_written(tmp_path):
    missing = measurements((0, OFF, "float32", None, None, None, None, None, "not measured: no time"))
    table = summarise(missing, [OFF])
    text = write_tables(table, loader_rates(tmp_path, 0, False, lambda: 0.0, tmp_path), tmp_path / "t.md", "cpu")
    assert f"| {OFF} | not measured: no time |" in text and "The loader" not in text
    draw(table, tmp_path / "t.png")
    assert not (tmp_path / "t.png").exists()  # there is nothing to draw


def test_the_loader_is_compared_with_the_fastest_step_of_its_size():
    table = summarise(
        measurements(
            (0, "all float32", "float32", 1, 1, 1, 0.1, 1, None),
            (0, "all bfloat16", "bfloat16", 1, 1, 1, 0.05, 1, None),
            (0, "diffusers", "float32", 1, 1, 1, 0.001, 1, None),
        ),
        ["all float32", "all bfloat16", "diffusers"],
    )
    loader = pd.DataFrame(
        {
            "workers": [1, 8],
            "cache": [False, True],
            "size": 16,
            "images_per_second": [5.0, None],
            "failure": [None, "RuntimeError: no memory"],
        }  # fmt: skip
    )
    lines = loader_table(table, loader).splitlines()
    assert lines[0] == (
        '| workers | 16 x 16 pixels: images a second | of the 20 that "all bfloat16" takes at dim 8, batch 2 |'
    )
    assert lines[2:] == ["| 1 | 5 | 25% |", "| 8, --cache | RuntimeError: no memory |  |"]
    other = loader_table(table, loader.assign(size=64))
    assert "takes" not in other and "64 x 64" in other


def test_the_loader_gives_images_and_a_failure_of_it_is_a_row(tmp_path, monkeypatch):
    found = loader_rates(tmp_path / "none", 0.1, True, lambda: 100.0, tmp_path)
    assert found[["workers", "cache", "size"]].to_numpy().tolist() == [[1, False, 256], [1, True, 256]]
    assert (found["images_per_second"] > 0).all()
    assert list(tmp_path.iterdir()) == []  # its patches are gone
    assert loader_rates(tmp_path, 0.1, True, lambda: 10.0, tmp_path).empty  # no time

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(training_loader, "in_new_process", fail)
    assert loader_rates(tmp_path / "none", 0.1, True, lambda: 100.0, tmp_path)["failure"].tolist() == [
        "RuntimeError: no memory",
        "RuntimeError: no memory",
    ]
