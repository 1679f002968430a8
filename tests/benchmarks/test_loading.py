import os
import time
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import pytest
import torch

from benchmarks import loading
from benchmarks.loading import Case, Settings, in_new_process, main, make_data_set, processor_seconds
from GenSelfDiff.devices import Devices
from GenSelfDiff.patches import Patches
from tests.GenSelfDiff.runs import fork_server

ROW = {"workers": 1, "patches/s": 1.0}


def in_forked_process(function, *arguments):
    """As `in_new_process`, without the seconds that it takes to import what is needed."""
    with ProcessPoolExecutor(1, fork_server()) as pool:
        return pool.submit(function, *arguments).result()


def test_a_new_process_is_another():
    assert in_new_process(os.getpid) != os.getpid()


def test_the_tables_have_a_row_for_each_case_and_part(tmp_path, capsys, monkeypatch):
    """On a picture of scikit-image, since the data set is not there."""
    monkeypatch.setattr(loading, "in_new_process", in_forked_process)
    settings = Settings(
        data=tmp_path / "none", counts=(40,), recipes=("improved",), workers=(1,), seconds=0.1,
        output=tmp_path / "results", device="cpu",
    )  # fmt: skip
    main(settings)
    table = pd.read_csv(tmp_path / "results" / "loading.csv")
    cases = [(stage, 40, cache) for stage in ("pretrain", "finetune") for cache in (False, True)]
    assert list(table[["stage", "patches", "cache"]].itertuples(index=False, name=None)) == cases
    assert (table["patches/s"] > 0).all() and (table["worker resident MiB"] > table["worker own MiB"]).all()
    assert (table["ms"] >= table["main ms"]).all()
    assert table["workers needed"].tolist() == pytest.approx((settings.images_per_second / table["patches/s"]).tolist())
    costs = pd.read_csv(tmp_path / "results" / "parts.csv", index_col="part").ms
    assert costs["image from its PNG file"] > 3 * costs["image from the decoded copy"] > 0
    assert costs["augmentation of finetune, improved"] > costs["augmentation of pretrain, improved"] > 0
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith("loading.csv, loading.md, parts.csv")
    text = (tmp_path / "results" / "loading.md").read_text()
    assert all(part in text for part in costs.index)
    names = {"loading.csv", "parts.csv", "loading.md"}
    assert {f.name for f in (tmp_path / "results").glob("[!.]*")} == names  # no patch is left


def test_labels_are_read_before_the_first_batch_of_fine_tuning_alone(tiny_data_set, tmp_path, monkeypatch):
    folder, read = make_data_set(tmp_path / "links", 12, tiny_data_set), []
    monkeypatch.setattr(loading, "prepare", lambda _: Devices(torch.device("cpu")))
    monkeypatch.setattr(loading, "speed_of", lambda *_: {})
    monkeypatch.setattr(Patches, "check_labels", lambda patches, classes: read.append((len(patches), classes)))
    for stage, known in (("pretrain", []), ("finetune", [(12, 2)])):
        case = Case(stage=stage, recipe="paper", patches=12, cache=False, workers=0)
        loading.measure(folder, case, Settings(batch_size=2))
        assert read == known


def test_a_large_data_set_is_not_decoded(tmp_path, monkeypatch):
    cases = []
    monkeypatch.setattr(loading, "in_new_process", lambda _, __, case, ___: cases.append(case) or ROW)
    main(Settings(data=tmp_path / "none", counts=(40,), decode_up_to=39, workers=(1,), output=tmp_path / "results"))
    assert len(cases) == 4 and not any(case.cache for case in cases)
    assert {f.name for f in (tmp_path / "results").glob("[!.]*")} == {"loading.csv", "loading.md"}


def test_processor_time_is_counted_also_of_other_processes():
    before, begin = processor_seconds(os.getpid()), time.process_time()
    while time.process_time() - begin < 0.1:
        pass
    assert processor_seconds(os.getpid()) - before == pytest.approx(0.1, abs=0.05)


def test_patches_are_links_to_those_of_the_data_set(tiny_data_set, tmp_path):
    folder = make_data_set(tmp_path / "links", 300, tiny_data_set)
    made, real = Patches(folder, labelled=True), Patches(tiny_data_set / "labelled", labelled=True)
    assert len(made) == 300 and made.data_set.patch_size == 16 and len(made.select("val")) == 0
    assert (made.image(299) == real.image(299 % 12)).all() and (made.label(299) == real.label(299 % 12)).all()
    assert made.file(0).stat().st_nlink == 300 / 12 + 1
