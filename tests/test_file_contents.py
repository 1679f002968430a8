import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from file_contents import DataSet, check_name, read_table
from GenSelfDiff.patches import Patches
from tests.conftest import HOSTILE, damaged, read_or_refuse
from utils_general import InputError


@pytest.mark.parametrize(
    "name", ["NA", "null", "nan", "None", "007", "1e3", "a b.c", "Fall ü", "写真\u3000一", "-", ".hidden"]
)
def test_names_of_images_stay_what_they_are(tmp_path, name):
    check_name(name, "index.csv")
    pd.DataFrame({"source": [name, "b"], "value": [1.5, np.nan]}).to_csv(tmp_path / "a.csv", index=False)
    table = read_table(tmp_path / "a.csv", text=("source",))
    assert table.source.tolist() == [name, "b"] and np.isnan(table.value[1])


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/b", "a\\b", "..", ".", "", None, 7, "a\nb", "a\0b", "\x1b[2J", "\udcff", "x" * 201]
)
def test_a_name_that_would_be_a_path_is_refused(name):
    with pytest.raises(InputError, match=r"index.csv names an image .*: a name without /"):
        check_name(name, "index.csv")


@pytest.mark.parametrize("text", ["", "a,b\n1,2,3\n", "a,b\n1,2\n1,2,3\n", 'a,b\n"1,2\n', "a\n\0\n\xff"])
def test_a_broken_table_is_one_line(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    assert read_or_refuse(lambda: read_table(tmp_path / "a.csv", text=("a",))) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0,../../x,0,0,train", "column source, names an image '../../x'"),
        ("0,/tmp/x,0,0,train", "column source, names an image '/tmp/x'"),
        ("0,,0,0,train", "column source, names an image ''"),
        ("0,a,0,0,../x", "column split, names an image '../x'"),
        ("-1,a,0,0,train", "whole numbers from 0 in its column patch"),
        ("0,a,-5,0,train", "whole numbers from 0 in its column x"),
        ("0,a,0,1.5,train", "whole numbers from 0 in its column y"),
        ("0,a,0,99999999999999999999,train", "whole numbers from 0 in its column y"),
        ("0,a,0,4294967296,train", "whole numbers from 0 in its column y"),
        ("18446744073709551615,a,0,0,train", "whole numbers from 0 in its column patch"),
        ("0,a,0,0,train,more", "cannot be read as a table"),
    ],
)
def test_an_index_that_is_not_ours_is_refused(tiny_data_set, row, words):
    (tiny_data_set / "labelled" / "index.csv").write_text(f"patch,source,x,y,split\n{row}\n")
    with pytest.raises(InputError, match=words):
        Patches(tiny_data_set / "labelled", labelled=True)


def test_images_called_na_and_null_do_not_vanish(tmp_path, write_patches):
    write_patches(tmp_path / "labelled", ["NA", "null", "nan"], ["train", "train", "val"])
    DataSetFile(tmp_path).write({})
    patches = Patches(tmp_path / "labelled", labelled=True)
    assert patches.index.source.unique().tolist() == ["NA", "null", "nan"] and len(patches.select("train")) == 8


class DataSetFile:
    """A dataset.json, whole but for some changes."""

    def __init__(self, root):
        self.root, self.file = root, root / "dataset.json"
        self.content = asdict(DataSet("a", "paper", ["background", "thing"], "components", 16, 8, 2023, 0.5))

    def write(self, changes):
        self.file.write_text(json.dumps({**self.content, **changes}))


@pytest.mark.parametrize("field", list(asdict(DataSet("", "", [], "", 8, 8, 0))))
def test_every_field_of_dataset_json_is_as_wanted_or_named(tmp_path, field):
    """All values of other kinds, of which each field takes few."""
    described, taken = DataSetFile(tmp_path), 0
    for value in HOSTILE:
        try:
            described.write({field: value})
        except ValueError:  # Python writes no number of 400 digits
            described.file.write_text(json.dumps({**described.content, field: "X"}).replace('"X"', "9" * 5000))
        read = read_or_refuse(lambda: DataSet.read(tmp_path))
        taken += read is not None
        if read is None:
            with pytest.raises(InputError, match=rf"dataset\.json (holds {field} = |is not valid JSON)"):
                DataSet.read(tmp_path)
    assert taken < 8
    del described.content[field]
    described.write({})
    assert (read_or_refuse(lambda: DataSet.read(tmp_path)) is None) == (field not in ("mpp", "downscale"))


@pytest.mark.parametrize("text", ["[]", "null", "1", '"a"', "{}", '{"a": 1}', "[[[", "NaN"])
def test_what_is_no_description_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json is not"):
        DataSet.read(tmp_path)


def test_classes_of_one_name_are_refused(tmp_path):
    DataSetFile(tmp_path).write({"classes": ["background", "tumour", "tumour"]})
    with pytest.raises(InputError, match=r"classes = .*; wanted: at most 256 class names, each once"):
        DataSet.read(tmp_path)


@pytest.mark.parametrize("name", ["labelled/index.csv", "dataset.json"])
def test_a_damaged_description_is_read_or_refused(tiny_data_set, name):
    """Bytes flipped, removed, put in; a type of a value changed. Whatever is read has numbers and names that hold."""
    file, rng = tiny_data_set / name, np.random.default_rng(11)
    whole, refused = file.read_bytes(), 0
    for i in range(300):
        content = damaged(whole, rng)
        if i % 3 == 0:  # one value becomes one of another kind
            values = whole.replace(b"\n", b",\n").split(b",")
            values[rng.integers(len(values))] = str(HOSTILE[rng.integers(7)]).encode()
            content = b",".join(values).replace(b",\n", b"\n")
        file.write_bytes(content)
        patches = read_or_refuse(lambda: Patches(tiny_data_set / "labelled", labelled=True))
        refused += patches is None
        if patches:
            assert patches.index.dtypes.astype(str).tolist() == ["int64", "category", "int64", "int64", "category"]
            assert not any("/" in source for source in patches.index.source)
    assert 100 < refused < 300
