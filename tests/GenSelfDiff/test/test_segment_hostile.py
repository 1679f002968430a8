"""segment.py where things go wrong: files that lie, crash their reader or are gone, others at work, no room."""
# ruff: noqa: F811

import errno
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from GenSelfDiff import checkpoint
from GenSelfDiff.test import segment
from GenSelfDiff.unet import SegNet
from GenSelfDiff.whole_image import slides
from GenSelfDiff.whole_image.output import Output, Part
from tests.GenSelfDiff.test.test_segment import (  # noqa: F401, two of them are fixtures
    CONTENT,
    dark,
    failing,
    run,
    settings,
    tissue,
    write_slide,
)
from utils_general import InputError

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ("_classes.png", "_instances.png", "_overlay.png", "_objects.csv", ".geojson")


def summary_of(settings, name="summary.csv"):
    return pd.read_csv(settings.output / name, index_col="image", keep_default_na=False, na_values=[""])


def set_tile_width(path, width):
    """A flipped byte or more in the width of the tiles: OpenSlide then ends its process."""
    with tifffile.TiffFile(path) as file:
        place, order = file.pages[0].tags["TileWidth"].valueoffset, file.byteorder
    content = bytearray(path.read_bytes())
    content[place : place + 4] = struct.pack(f"{order}I", width)
    path.write_bytes(content)


def test_a_slide_that_crashes_its_reader_stops_only_itself(settings, capfd):
    write_slide(settings.images / "aborts.tif", tissue(200, 200)[0])
    set_tile_width(settings.images / "aborts.tif", 2_000_000_000)
    for _ in range(2):  # and again at the next start
        summary = failing(settings)
        assert "its reader crashed (SIGABRT)" in summary.error["aborts.tif"]
        assert "aborts.tif" in summary.error["aborts.tif"]
        assert summary.error[["a.tif", "b.png"]].isna().all() and (settings.output / "b_overlay.png").is_file()
    assert "1 failed" in capfd.readouterr().out


def test_fuzz(run_script_file, run, tmp_path):
    """Bytes of good images are changed, most of them in the headers: exit code 0 or 3, and the good ones are done."""
    rng = np.random.default_rng(11)
    images, out, pixels = tmp_path / "images", tmp_path / "out", tissue(80, 80)[0]
    images.mkdir()
    write_slide(tmp_path / "slide.tif", pixels)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    Image.fromarray(pixels).save(tmp_path / "plain.tif")
    with tifffile.TiffFile(tmp_path / "slide.tif") as file:
        tags = [tag.offset + i for page in file.pages for tag in page.tags.values() for i in range(12)]
    for i in range(60):
        original = tmp_path / ("slide.tif", "slide.tif", "plain.png", "plain.tif")[i % 4]
        content = bytearray(original.read_bytes())
        for _ in range(rng.integers(1, 4)):
            where = rng.choice(tags) if original.stem == "slide" else rng.integers(4, len(content))
            content[where] = rng.integers(256)
        extension = ".svs" if i % 8 == 1 else original.suffix
        (images / f"bad{i}{extension}").write_bytes(content)
    for name in ("first.png", "last.png"):
        Image.fromarray(pixels).save(images / name)
    done = run_script_file(
        "GenSelfDiff/test/segment.py", "--run", run, "--images", images, "--output", out, "--device", "cpu",
        "--window", 64, "--overlap", 0, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    summary = pd.read_csv(out / "summary.csv", index_col="image")
    assert len(summary) == 62 and summary.error[["first.png", "last.png"]].isna().all()
    assert summary.error.notna().sum() > 10 and all((out / f"last{ending}").is_file() for ending in RESULTS)
    assert not any("\n" in error for error in summary.error.dropna())


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MemoryError(), "b.png needs more memory than there is"),
        (torch.OutOfMemoryError("CUDA"), "b.png needs more memory than the GPU has: choose a smaller --batch-size"),
        (ZeroDivisionError("two\nlines"), "b.png: ZeroDivisionError: two lines"),
        (OSError(errno.ENAMETOOLONG, "", "x" * 9), "cannot read or write xxxxxxxxx: File name too long"),
    ],
)
def test_whatever_fails_of_one_image_the_others_are_done(settings, monkeypatch, raised, said):
    real = segment.segment_image

    def fails(path, *arguments):
        if path.name == "b.png":
            raise raised
        return real(path, *arguments)

    monkeypatch.setattr(segment, "segment_image", fails)
    Image.fromarray(tissue(30, 30)[0]).save(settings.images / "c.png")
    summary = failing(settings)
    assert said in summary.error["b.png"] and summary.error[["a.tif", "c.png"]].isna().all()
    monkeypatch.undo()


def test_a_full_disk_stops_all(settings, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment, "segment_image", full)
    with pytest.raises(OSError, match="No space"):
        segment.main(settings)


def test_odd_names(settings, capsys):
    pixels = Image.fromarray(tissue(30, 30)[0])
    odd = [b"caf\xe9.png", b"two\nlines.png", b"NA.png", b"null.png", b"$x_1$ {}%s.png", "ü€.png".encode()]
    for name in odd:
        with open(os.fsencode(settings.images) + b"/" + name, "wb") as file:  # noqa: PTH123, a name that is no text
            pixels.save(file, format="PNG")
    write_slide(settings.images / "NA", tissue(30, 30)[0])  # known by its content
    segment.main(settings)
    names = {"caf\\udce9.png", "two\\nlines.png", "NA.png", "null.png", "$x_1$ {}%s.png", "ü€.png", "a.tif", "b.png"}
    assert set(summary_of(settings).index) == names
    assert os.path.exists(os.fsencode(settings.output) + b"/caf\xe9.geojson")  # noqa: PTH110
    segment.main(settings)
    assert "8 were done before" in capsys.readouterr().out
    segment.main(replace(settings, images=settings.images / "NA", output=settings.output.with_name("one")))
    segment.main(replace(settings, images=settings.images / "NA", output=settings.output.with_name("one")))
    assert "1 were done before, 0 failed" in capsys.readouterr().out


def test_what_is_no_file_is_not_waited_for(settings):
    os.mkfifo(settings.images / "pipe.png")
    assert "pipe.png is no ordinary file" in failing(settings).error["pipe.png"]


def test_names_in_a_summary_are_not_believed(settings, tmp_path):
    """A summary from elsewhere names files outside, and what its user made."""
    segment.main(settings)
    outside = [tmp_path / "x_overlay.png", tmp_path / "x.geojson", settings.output / "sub" / "y_classes.png"]
    own = ["b_overlay.docx", "b_classes.png.bak", "b_classes_mine.png", "b_probability_my notes.png", "b_instances.txt"]
    for file in (*outside, *(settings.output / name for name in own)):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    rows = pd.read_csv(settings.output / "summary.csv")
    lies = ["../x.png", str(tmp_path / "x.png"), "sub/y.png", "..", ".", "../../x"]
    pd.concat([rows, *(rows[:1].assign(image=lie) for lie in lies)]).to_csv(
        settings.output / "summary.csv", index=False
    )
    segment.main(replace(settings, overwrite=True, images=settings.images / "a.tif"))
    assert all(file.is_file() for file in outside) and all((settings.output / name).is_file() for name in own)
    assert not any((settings.output / f"b{ending}").exists() for ending in RESULTS)
    assert all((settings.output / f"a{ending}").is_file() for ending in RESULTS)


def test_overwriting_removes_the_files_of_every_kind(settings):
    first = replace(settings, probabilities=True)
    segment.main(first)
    (settings.output / "b_probability_nucleus.tif").touch()  # as of an image that was larger
    segment.main(replace(settings, overwrite=True, images=settings.images / "a.tif"))
    left = {f.name for f in settings.output.iterdir()}
    assert left == {"settings.json", "summary.csv", *(f"a{ending}" for ending in RESULTS)}


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 500, b"image\n\xff\xfe", b'a,"b\nc', b"x,y\n1,2\n", b"image,height\na.tif," + b"9" * 400]
)
def test_a_broken_summary_is_said_and_all_is_done_again(settings, capsys, content):
    segment.main(settings)
    whole = summary_of(settings).drop(columns="seconds")
    (settings.output / "summary.csv").write_bytes(content)
    capsys.readouterr()
    segment.main(settings)
    printed = capsys.readouterr().out
    assert "summary.csv is broken" in printed and "0 were done before, 0 failed" in printed
    pd.testing.assert_frame_equal(summary_of(settings).drop(columns="seconds"), whole)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off", None])
def test_after_a_power_loss_blocks_are_done_again(settings, monkeypatch, damage):
    """Empty, cut off, or with a page of zeros: what was kept of an image that was not complete."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    segment.main(replace(settings, output=settings.output.with_name("whole")))
    with monkeypatch.context() as patch:
        patch.setattr("GenSelfDiff.whole_image.pipeline.write_objects", killed)
        with pytest.raises(Killed):
            segment.main(settings)
    blocks = sorted((settings.output / ".unfinished").glob("a_*/*.npz"))
    assert len(blocks) == 8
    for file in blocks[1::2]:
        content = bytearray(file.read_bytes())
        content[100:140] = bytes(40)
        file.write_bytes(content if damage is None else damage)
    segment.main(settings)
    for ending in RESULTS:
        whole = settings.output.with_name("whole") / f"a{ending}"
        assert (settings.output / f"a{ending}").read_bytes() == whole.read_bytes()


def test_another_time_zone_changes_nothing(settings, monkeypatch, capsys):
    segment.main(settings)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        segment.main(settings)
        assert "2 were done before" in capsys.readouterr().out
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_touched_image_is_not_done_again_and_a_changed_one_is(settings, capsys):
    segment.main(settings)
    image = settings.images / "b.png"
    os.utime(image, ns=(5, 5))
    segment.main(settings)
    assert "2 were done before" in capsys.readouterr().out
    about = image.stat()
    content = bytearray(image.read_bytes())
    content[-1] ^= 1  # of the same size; a byte that Pillow does not look at
    image.write_bytes(content)
    os.utime(image, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    segment.main(settings)
    assert "1 were done before" in capsys.readouterr().out


def test_weights_that_are_no_numbers_are_refused(settings, run):
    weights = SegNet(8, 2).state_dict()
    name = next(iter(weights))
    weights[name][0] = np.nan
    checkpoint.save(run / "best.pth", {**CONTENT, "model_state_dict": weights})
    with pytest.raises(InputError, match=r"best\.pth holds weights that are not finite numbers"):
        segment.main(settings)
    assert not settings.output.exists()


def test_a_network_that_says_no_numbers_of_an_image(settings, monkeypatch):
    loaded = segment.load_network
    broken = lambda images: dark(images) * np.float32(np.nan if images.shape[0] == 1 else 1)  # noqa: E731
    monkeypatch.setattr(segment, "load_network", lambda *a: replace(loaded(*a), predict=broken, batch_size=1))
    assert "says no numbers (NaN) of b.png" in failing(settings).error["b.png"]


def test_a_temporary_file_without_room_is_one_clear_line(settings, monkeypatch):
    """Not the end of the process, as that of a mapped file on a full disk."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(slides, "DECODED_WHOLE", 100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    (settings.images / "b.png").unlink()
    error = failing(settings).error["a.tif"]
    assert "a.tif wants a temporary file of 0.0 GB in" in error and "No space left on device; set TMPDIR" in error


def test_an_image_unlike_the_training_is_warned_of(settings, run, capsys):
    checkpoint.save(run / "best.pth", {**CONTENT, "mpp": 0.25, "model_state_dict": SegNet(8, 2).state_dict()})
    Image.fromarray(tissue(90, 110)[0]).save(settings.images / "usual.png", dpi=(25_400 / 0.25,) * 2)
    Image.fromarray(tissue(90, 110)[0]).save(settings.images / "coarse.png", dpi=(25_400 / 0.5,) * 2)
    Image.fromarray(np.full((90, 110, 3), 230, np.uint8)).save(settings.images / "empty.png", dpi=(25_400 / 0.25,) * 2)
    segment.main(settings)
    warnings = summary_of(settings).warning
    assert pd.isna(warnings["usual.png"]) and warnings["empty.png"] == "no object was found"
    assert warnings["b.png"] == "its resolution is unknown and taken for the training's 0.25 micrometres a pixel"
    assert "coarser than the training's 0.25" in warnings["coarse.png"]
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if "warning: " in line]
    assert len(lines) == 4 and not any("usual" in line for line in lines)


def test_parts_share_the_images_and_one_run_joins_them(settings, capsys):
    for i in range(5):
        Image.fromarray(tissue(40, 50, i)[0]).save(settings.images / f"image_{i}.png")
    together = replace(settings, output=settings.output.with_name("together"))
    segment.main(together)
    for part in ("2/3", "3/3", "1/3"):
        segment.main(replace(settings, part=part))
    out = settings.output
    tables = [summary_of(settings, f"summary_{k}_of_3.csv") for k in (1, 2, 3)]
    assert [list(table.index) for table in tables] == [
        ["a.tif", "image_1.png", "image_4.png"], ["b.png", "image_2.png"], ["image_0.png", "image_3.png"],
    ]  # fmt: skip
    assert not (out / "summary.csv").exists() and not (out / ".unfinished").exists()
    capsys.readouterr()
    segment.main(replace(settings, part="2/3"))
    assert "2 images" in (said := capsys.readouterr().out) and "2 were done before" in said
    segment.main(settings)
    assert "7 were done before" in capsys.readouterr().out and not list(out.glob("summary_*"))
    ours, theirs = (summary_of(s).drop(columns="seconds").sort_index() for s in (settings, together))
    pd.testing.assert_frame_equal(ours, theirs)
    for file in together.output.glob("*.geojson"):
        assert (out / file.name).read_bytes() == file.read_bytes()
    segment.main(replace(settings, part="1/2"))  # all are done by others
    assert "0 images, 0 objects; 4 were done before, 0 failed" in capsys.readouterr().out


def test_a_part_without_images_is_done_at_once(settings):
    segment.main(replace(settings, part="9/12"))
    segment.main(replace(settings, part="1/1"))
    assert len(summary_of(settings)) == 2


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "1/ 3", "٣/٤", "1/100000000000"])
def test_a_part_that_cannot_be(settings, part):
    with pytest.raises(InputError, match="NUMBER/OF is wanted, as 3/8"):
        segment.main(replace(settings, part=part))
    assert not settings.output.exists()


def test_a_part_does_not_overwrite_the_others(settings):
    with pytest.raises(InputError, match="would remove the other parts' results"):
        segment.main(replace(settings, part="1/3", overwrite=True))


WORKING = """
import sys, time
from pathlib import Path
from GenSelfDiff.whole_image.output import Output, Part
out = Output(Path(sys.argv[1]), Part.parse(sys.argv[2]), {"script": "segment.py"}, set(), False)
print("works", flush=True)
time.sleep(100)
"""


@pytest.fixture
def at_work(tmp_path):
    """The function that starts a process which works on a part of an output folder."""
    processes = []

    def start(folder, part):
        words = [sys.executable, "-c", WORKING, str(folder), part]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        assert processes[-1].stdout.readline() == "works\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_two_at_once_in_one_folder(at_work, tmp_path):
    """All images: alone. Parts of one number of parts: together, each once."""

    def enter(part):
        return Output(tmp_path / "out", Part.parse(part), {"script": "segment.py"}, set(), False)

    all_images = at_work(tmp_path / "out", "1/1")
    for part in ("1/1", "2/3"):
        with pytest.raises(InputError, match=r"another segment\.py works on .*out .*--output"):
            enter(part)
    all_images.send_signal(signal.SIGKILL)
    all_images.wait()
    for part in ("1/3", "2/3"):
        at_work(tmp_path / "out", part)
    for part in ("1/1", "1/3", "2/3", "1/2", "3/8"):
        with pytest.raises(InputError, match=r"another segment\.py works on"):
            enter(part)
    third = enter("3/3")
    third.close(done=True)
    assert (tmp_path / "out" / ".unfinished").is_dir()  # the others are at work


def test_an_absurd_resolution_is_named_before_memory_is_asked_for(settings):
    with pytest.raises(SystemExit):
        segment.main(replace(settings, mpp=0.5, image_mpp=1e300))
    errors = pd.read_csv(settings.output / "summary.csv").error
    assert errors.str.contains("would be enlarged 2e.300 times to 0.5: is --mpp or --image-mpp wrong").all()
