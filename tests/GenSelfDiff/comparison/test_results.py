"""Results folders of others: what is odd is read as it is, what is broken is refused in one line."""

import json
import random
import re

import pandas as pd
import pytest

from GenSelfDiff.comparison.results import Result, read_results, sections, side_by_side
from GenSelfDiff.test import compare
from tests.GenSelfDiff.comparison.test_compare import BASE, change, of, write_results
from utils_general import InputError

ODD = ["NA", "null", "nan", "None", "", "n", "-inf", "1e5", "007", "true", 'a,"b', "ü | $x$_1"]


def rename(folder, names):
    """Other names for the images."""
    table = pd.read_csv(folder / "images.csv").assign(source=names)
    table.to_csv(folder / "images.csv", index=False)
    change(folder, images=names)


def test_an_image_may_be_called_na(tmp_path):
    """pandas would read these names as nothing, or as numbers, and the images would vanish."""
    names = [name for name in ODD if name]
    folders = [
        write_results(tmp_path / name, BASE[:1].repeat(len(names)) + more) for name, more in (("A", 0), ("B", 0.1))
    ]
    for folder in folders:
        rename(folder, names)
    results = read_results(tuple(map(str, folders)))
    assert results[0].images.index.tolist() == names and results[0].images.Dice.notna().all()
    compare.main(of(tmp_path, folders))
    written = pd.read_csv(tmp_path / "compare" / "images.csv", keep_default_na=False)
    assert written.source.tolist() == names * 2


def test_a_split_may_be_called_na_or_all(tmp_path):
    folder = write_results(tmp_path / "A", BASE, ["NA"] * 4 + ["all"] * 6)
    parts = sections(Result.read(folder))
    assert {split: len(images) for split, images in parts.items()} == {"NA": 4, "all": 6, "all splits": 10}


def test_a_result_that_is_called_like_a_column_gets_a_longer_name(tmp_path):
    folders = [write_results(tmp_path / name, BASE + more) for name, more in (("split", 0), ("figure", 0.1))]
    results = read_results(tuple(map(str, folders)))
    table = side_by_side(results, ("Dice",))
    last = [f"{tmp_path.name}/split", f"{tmp_path.name}/figure"]
    assert table.columns.tolist() == ["source", "figure", "split", *last] and set(table.split) == {"test"}


def test_an_empty_cell_is_undefined_and_nothing_else_is(tmp_path):
    folder = write_results(tmp_path / "A", [0.5, float("nan")])
    assert Result.read(folder).images.Dice.isna().tolist() == [False, True]
    text = (folder / "images.csv").read_text()
    (folder / "images.csv").write_text(text.replace("0.5", "broken", 1))
    with pytest.raises(InputError, match=r"Dice of image image_0 in images.csv is 'broken'"):
        Result.read(folder)


def cells(change_of):
    """What spoils images.csv: a change of its text."""

    def spoil(folder):
        text = (folder / "images.csv").read_text()
        assert change_of(text) != text
        (folder / "images.csv").write_text(change_of(text))

    return spoil


def summary(**content):
    """What spoils summary.json."""
    return lambda folder: change(folder, **{key.replace("_", " "): value for key, value in content.items()})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cells(lambda t: t.replace("0.6,", "1.5,", 1)), "Dice of image image_0 in images.csv is '1.5'"),
        (cells(lambda t: t.replace("0.6,", "-0.1,", 1)), "Dice of image image_0 in images.csv is '-0.1'"),
        (cells(lambda t: t.replace("0.6,", "inf,", 1)), "Dice of image image_0 in images.csv is 'inf'"),
        (cells(lambda t: t.replace("image_1,", "image_0,")), "an image of no name, of a path, or twice: 'image_0'"),
        (
            cells(lambda t: t.replace("image_1,", "../image_1,")),
            "an image of no name, of a path, or twice: '../image_1'",
        ),
        (cells(lambda t: t.replace("image_1,", ",")), "an image of no name, of a path, or twice: ''"),
        (cells(lambda t: t.replace("image_1,", "image_1,1,")), "row 2 of images.csv has 12 values, not 11"),
        (cells(lambda t: "".join(t.splitlines(keepends=True)[:-1])), "are of different images"),
        (cells(lambda t: t.splitlines(keepends=True)[0]), "are of different images"),
        (cells(lambda t: ""), "images.csv has no column source"),
        (cells(lambda t: t.replace("image_1,", '"image_1,')), "unexpected end of data"),
        (cells(lambda t: t.replace("test", "other", 1)), "are of different splits"),
        (lambda f: (f / "images.csv").write_bytes(b"source,\xff\xfe"), "can't decode"),
        (lambda f: ((f / "images.csv").unlink(), (f / "images.csv").mkdir()), "Is a directory"),
        (summary(classes="ab"), "no list of names of two classes or more under 'classes'"),
        (summary(classes=["background"]), "under 'classes'"),
        (summary(classes=["background", 3]), "under 'classes'"),
        (summary(images=None), "no list of images under 'images'"),
        (summary(images=["image_0"]), "are of different images"),
        (summary(true_instances=3), "no text under 'true instances'"),
        (summary(confusion_matrices=[1]), "under 'confusion matrices'"),
        (summary(confusion_matrices={"test": [[1, 2]]}), "no C x C under 'confusion matrices'"),
        (summary(confusion_matrices={"test": [[1, 2], [3]]}), "no C x C under 'confusion matrices'"),
        (summary(confusion_matrices={"test": [[1, 2], [3, float("nan")]]}), "no numbers of pixels under"),
        (summary(confusion_matrices={"test": [[1, 2], [3, -4]]}), "no numbers of pixels under"),
        (summary(confusion_matrices={"test": [[1, 2], [3, 2**64]]}), "no numbers of pixels under"),
        (lambda f: (f / "summary.json").write_text("[]"), "summary.json holds no object"),
        (lambda f: (f / "summary.json").write_text("[" * 100_000), "recursion|not valid JSON"),
        (lambda f: (f / "summary.json").write_text("1" * 5000), "digits|not valid JSON"),
    ],
)
def test_what_is_broken_is_said_in_one_line(tmp_path, spoil, message):
    folder = write_results(tmp_path / "A", BASE)
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        Result.read(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


VALUES = [None, True, -1, 2**70, float("nan"), float("inf"), "", "NA", "null", [], {}, [[]], [None], {"test": None}]


def damaged_json(text, chance):
    """The same with a value, a key or some bytes changed."""
    content = json.loads(text)
    key = chance.choice(list(content))
    kind = chance.randrange(4)
    if kind == 0:
        content[key] = chance.choice(VALUES)
    elif kind == 1:
        del content[key]
    elif kind == 2 and content[key] and not isinstance(content[key], str):
        inner = chance.choice(list(content[key]) if isinstance(content[key], dict) else range(len(content[key])))
        content[key][inner] = chance.choice(VALUES)
    else:
        return damaged_text(text, chance)
    return json.dumps(content)


def damaged_text(text, chance):
    """Some signs taken away, doubled, or replaced."""
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(text))
        end = place + chance.choice((1, 1, 2, 20))
        new = chance.choice(("", '"', ",", "\n", "\0", "NA", "nan", "inf", "-1", "1e999", "ü", text[place:end] * 2))
        text = text[:place] + new + text[end:] or " "
    return text


@pytest.mark.parametrize("file", ["summary.json", "images.csv"])
def test_whatever_is_in_a_file_it_is_read_whole_or_refused(file, tmp_path):
    """500 damages: an `InputError` of one line, or each image once, with shares from 0 to 1, and it is compared."""
    write_results(tmp_path / "A", BASE[:3])
    folder = write_results(tmp_path / "B", BASE[:3])
    whole, chance, refused = (folder / file).read_text(), random.Random(2023), 0
    for _ in range(500):
        damage = damaged_json if file == "summary.json" else damaged_text
        (folder / file).write_text(damage(whole, chance))
        try:
            one, other = read_results((str(tmp_path / "A"), str(folder)))
        except InputError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
            refused += 1
            continue
        assert one.images.index.tolist() == ["image_0", "image_1", "image_2"] == sorted(other.images.index)
        assert ((other.images.Dice >= 0) & (other.images.Dice <= 1) | other.images.Dice.isna()).all()
        assert side_by_side([one, other], ("Dice", "HD95")).shape == (6, 5) and other.true_pixels() == one.true_pixels()
    assert 200 < refused < 500


def test_names_in_the_texts_are_escaped(tmp_path, capsys):
    folders = [write_results(tmp_path / name, BASE[:3]) for name in ("without_pretraining", "50% | _$x$_")]
    compare.main(of(tmp_path, folders))
    tex, text = ((tmp_path / "compare" / f"compare.{kind}").read_text() for kind in ("tex", "md"))
    assert r"\caption{Difference from without\_pretraining (test)}" in tex and r"50\% \textbar{} \_\$x\$\_" in tex
    assert not re.search(r"(?<!\\)[%$_|]", tex.replace(r"\%", ""))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {3, 4}
    assert r"- 50% \| \_\$x\$\_ cannot be told from without_pretraining by Dice" in text
    assert "50% | _$x$_ cannot be told from without_pretraining" in capsys.readouterr().out  # here nothing is escaped
