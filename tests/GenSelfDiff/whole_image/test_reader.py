"""Images read in a process of their own: the same pixels, and its death is that of one image."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from GenSelfDiff.whole_image import reader as readers
from GenSelfDiff.whole_image.reader import Reader
from GenSelfDiff.whole_image.slides import Slide, View, open_source, thumbnail
from tests.GenSelfDiff.whole_image.test_slides import noise, smooth, write_pyramid
from utils_general import InputError


@pytest.fixture
def reader():
    reader = Reader()
    yield reader
    reader.close()


def test_the_same_pixels_as_in_this_process(tmp_path, reader):
    write_pyramid(tmp_path / "a.tif", smooth(200, 300), resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    Image.fromarray(noise(50, 60)).convert("L").save(tmp_path / "b.png")
    for name in ("a.tif", "b.png", "a.tif"):
        ours, theirs = open_source(tmp_path / name), reader.open(tmp_path / name)
        for fact in ("width", "height", "mpp", "note"):
            assert getattr(ours, fact) == getattr(theirs, fact)
        assert tuple(ours.downsamples) == tuple(theirs.downsamples)
        for scale in (1, 4):
            one, other = (View.scaled(source, scale).read(-5, 3, 20, 30) for source in (ours, theirs))
            assert (one == other).all()
        assert (thumbnail(ours, 40) == thumbnail(theirs, 40)).all()
        theirs.close()


def test_what_is_raised_there_is_raised_here(tmp_path, reader):
    with pytest.raises(InputError, match="No such file"):
        reader.open(tmp_path / "none.png")
    Image.fromarray(noise(9, 9)).save(tmp_path / "a.png")
    assert reader.open(tmp_path / "a.png").width == 9


@pytest.mark.parametrize(
    ("death", "said"),
    [
        (os.abort, r"crashed \(SIGABRT\)"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"crashed \(SIGBUS\)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed .* enough memory"),
        (lambda: os._exit(1), "stopped with code 1"),
    ],
)
def test_a_death_in_the_middle_of_a_slide(tmp_path, monkeypatch, death, said):
    write_pyramid(tmp_path / "a.tif", smooth(200, 300))
    Image.fromarray(noise(9, 9)).save(tmp_path / "b.png")
    monkeypatch.setattr(Slide, "region", lambda *_: death())
    reader = Reader()
    source = reader.open(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"cannot read image .*a\.tif: its reader {said}"):
        source.region(0, 0, 0, 9, 9)
    with pytest.raises(InputError, match=r"a\.tif: its reader"):  # it stays dead
        source.region(0, 0, 0, 9, 9)
    source.close()
    assert reader.open(tmp_path / "b.png").region(0, 0, 0, 9, 9).shape == (9, 9, 3)
    reader.close()


def test_a_reader_that_hangs_is_ended(tmp_path, monkeypatch):
    write_pyramid(tmp_path / "a.tif", smooth(200, 300))
    monkeypatch.setattr(Slide, "region", lambda *_: time.sleep(100))
    monkeypatch.setattr(readers, "PATIENCE", 0.2)
    reader = Reader()
    with pytest.raises(InputError, match=r"a\.tif: its reader gave no answer in 0\.2 seconds"):
        reader.open(tmp_path / "a.tif").region(0, 0, 0, 9, 9)
    reader.close()
    assert reader.process.exitcode == -signal.SIGKILL


def test_it_ends_with_the_script_that_is_killed(tmp_path):
    theirs, ours = os.pipe()
    script = os.fork()
    if not script:
        os.write(ours, str(Reader().process.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(script, 0)
    pid = int(os.read(theirs, 20))
    end = time.monotonic() + 20
    while time.monotonic() < end and _lives(pid):
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_pixels_are_not_shared_between_answers(tmp_path, reader):
    Image.fromarray(noise(30, 30)).save(tmp_path / "a.png")
    source = reader.open(tmp_path / "a.png")
    one = source.region(0, 0, 0, 9, 9)
    kept = one.copy()
    source.region(0, 9, 9, 9, 9)
    assert np.array_equal(one, kept)
