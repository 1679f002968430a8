import pandas as pd
import pytest

from benchmarks.loading import Settings, main, make_data_set
from GenSelfDiff.data import Patches


def test_the_table_has_a_row_for_each_case(tmp_path, capsys):
    """On a picture of scikit-image, since the data set is not there."""
    settings = Settings(data=tmp_path / "none", counts=(40,), workers=(1,), seconds=0.1, output=tmp_path / "results")
    main(settings)
    table = pd.read_csv(tmp_path / "results" / "loading.csv")
    assert table[["stage", "patches", "workers"]].to_numpy().tolist() == [["pretrain", 40, 1], ["finetune", 40, 1]]
    assert (table["patches/s"] > 0).all() and (table["worker resident MiB"] > table["worker own MiB"]).all()
    assert table["workers needed"].tolist() == pytest.approx((settings.images_per_second / table["patches/s"]).tolist())
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith("loading.csv, loading.md")
    assert {f.name for f in (tmp_path / "results").iterdir()} == {"loading.csv", "loading.md"}  # no patch is left


def test_patches_are_links_to_those_of_the_data_set(tiny_data_set, tmp_path):
    folder = make_data_set(tmp_path / "links", 300, tiny_data_set)
    made, real = Patches(folder, labelled=True), Patches(tiny_data_set / "labelled", labelled=True)
    assert len(made) == 300 and made.data_set.patch_size == 16 and len(made.select("val")) == 0
    assert (made.image(299) == real.image(299 % 12)).all() and (made.label(299) == real.label(299 % 12)).all()
    assert made.file(0).stat().st_nlink == 300 / 12 + 1
