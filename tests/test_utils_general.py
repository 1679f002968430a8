import contextlib
import errno
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import EpsImagePlugin, ExifTags, Image

from tests.conftest import damaged
from utils_general import (
    InputError,
    contact_sheet,
    list_images,
    read_index_map,
    read_json,
    read_rgb,
    replace_file,
    run_script,
    write_png,
)

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class NoSettings:
    """Of a script without settings."""


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replace_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with replace_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_images_are_listed_in_natural_order(tmp_path):
    for name in ("image_10.png", "image_2.PNG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [f.name for f in list_images(tmp_path)] == ["image_2.PNG", "image_10.png"]


def test_masks_and_images_survive_png_exactly(tmp_path):
    rng = np.random.default_rng(0)
    instances = rng.integers(0, 2**16, (9, 7), dtype=np.uint16)
    image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "instances.png", instances)
    write_png(tmp_path / "image.png", image)
    assert (read_index_map(tmp_path / "instances.png") == instances).all()
    assert (read_rgb(tmp_path / "image.png") == image).all()


def test_palette_and_one_bit_labels_keep_their_index(tmp_path):
    palette = Image.fromarray(np.array([[0, 3], [1, 2]], np.uint8), mode="P")
    palette.putpalette([10 * i for i in range(12)])
    palette.save(tmp_path / "palette.png")
    assert read_index_map(tmp_path / "palette.png").tolist() == [[0, 3], [1, 2]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bit.png")
    assert read_index_map(tmp_path / "bit.png").tolist() == [[0, 1]]


def test_what_cannot_be_read_is_named(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep.png has more than 8 bits a channel"):
        read_rgb(tmp_path / "deep.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour.png has 3 channels"):
        read_index_map(tmp_path / "colour.png")
    (tmp_path / "zip.tif").write_bytes(b"PK\3\4 something")
    with pytest.raises(InputError, match=r"cannot read image .*zip.tif"):
        read_rgb(tmp_path / "zip.tif")


def test_contact_sheet():
    images = [np.full((4, 5, 3), i, np.uint8) for i in range(3)]
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (4 + 2 + 4, 5 + 2 + 5, 3)
    assert (sheet[:4, 7:] == 1).all() and (sheet[6:, :5] == 2).all() and (sheet[6:, 7:] == 255).all()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EBUSY, errno.EMFILE])
def test_a_full_or_read_only_disk_ends_in_one_line(number, monkeypatch):
    def main(_settings):
        raise OSError(number, os.strerror(number), "/data/out.png")

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit, match=f"error: cannot write or read /data/out.png: {os.strerror(number)}"):
        run_script(main, NoSettings)


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def main(_settings):
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(ZeroDivisionError):
        run_script(main, NoSettings)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["--help"], 0, "--learning-rate"), (["--learning-rat", "1"], 2, "learning"), (["--epochs", "x"], 2, "epochs")],
)
def test_command_line(run_script_file, arguments, code, words):
    done = run_script_file("HE_diff_general.py", *arguments, check=False)
    assert done.returncode == code and words in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_a_user_mistake_is_one_line_and_exit_code_1(run_script_file, tmp_path):
    done = run_script_file("GenSelfDiff/pretrain/SS_diff.py", "--data", tmp_path / "nowhere", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_output_folder_that_cannot_be_made_ends_in_one_line(run_script_file, tiny_data_set):
    below_a_file = tiny_data_set / "dataset.json" / "images"
    done = run_script_file("sample_images.py", "--data", tiny_data_set, "--output", below_a_file, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --- images as they come ---


def sixteen_bit_png(path, channels, colour_type):
    """Pillow cannot write one: size 4 x 4, every channel 0x01ff."""
    rows = b"".join(b"\0" + b"\x01\xff" * 4 * channels for _ in range(4))

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6), (2, 4)])
def test_sixteen_bit_colours_do_not_lose_a_byte(tmp_path, channels, colour_type):
    sixteen_bit_png(tmp_path / "deep.png", channels, colour_type)
    with pytest.raises(InputError, match=r"deep.png has more than 8 bits a channel \(mode RGB"):
        read_rgb(tmp_path / "deep.png")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_sixteen_bit_tifs_do_not_lose_a_byte(tmp_path, planes, compression):
    pixels = np.full((4, 4, 3), 0x01FF, np.uint16)
    pixels = pixels if planes == "contig" else pixels.transpose(2, 0, 1)
    options = {"photometric": "rgb", "planarconfig": planes, "compression": compression}
    tifffile.imwrite(tmp_path / "deep.tif", pixels, **options)
    with pytest.raises(InputError, match="deep.tif has more than 8 bits a channel"):
        read_rgb(tmp_path / "deep.tif")


def test_a_script_in_postscript_is_not_run(tmp_path, monkeypatch):
    """Whatever it is called: Pillow would start the first `gs` on the PATH to draw it."""
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(InputError, match=r"cannot read image .*x.png"):
        read_rgb(tmp_path / "x.png")
    assert not (tmp_path / "started").exists()
    with Image.open(tmp_path / "x.png") as image, contextlib.suppress(OSError):  # the danger is there
        image.load()
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0, 3], pixels[0, 1, 3] = 255, 51  # black: opaque, a fifth, not at all
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), mode="P")
        image.putpalette([0] * 9)
        image.save(tmp_path / "a.png", transparency=bytes([255, 51, 0]))
    else:
        (image if mode == "RGBA" else image.convert(mode)).save(tmp_path / ("a.png" if mode != "PA" else "a.tif"))
    told = []
    read = read_rgb(next(tmp_path.glob("a.*")), told)
    assert read[..., 0].tolist() == [[0, 204], [255, 255]] and (read == read[..., :1]).all()
    assert "has opacity: what is transparent is taken as white" in told


def test_what_is_not_read_is_said(tmp_path):
    pages = [Image.new("RGB", (4, 6), (10 * i, 0, 0)) for i in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pages[0].save(tmp_path / "turned.jpg", exif=exif)
    pages[0].save(tmp_path / "plain.png")
    told = {}
    for file in tmp_path.iterdir():
        assert read_rgb(file, told.setdefault(file.name, [])).shape == (6, 4, 3)
    assert told["pages.tif"] == ["has 3 pages: the first is read"]
    assert told["turned.jpg"] == ["its EXIF data want it turned: it is read as stored"]
    assert told["plain.png"] == []


def test_labels_are_the_numbers_meant_or_refused(tmp_path):
    numbers = np.array([[0, 1], [2, 3]])
    Image.fromarray(numbers.astype(np.float32)).save(tmp_path / "whole.tif")
    assert read_index_map(tmp_path / "whole.tif").tolist() == numbers.tolist()
    for wrong in (0.5, np.nan, np.inf, 1e12):
        Image.fromarray(np.where(numbers == 3, wrong, numbers).astype(np.float32)).save(tmp_path / "half.tif")
        with pytest.raises(InputError, match="half.tif holds .*: whole numbers are wanted"):
            read_index_map(tmp_path / "half.tif")
    page = Image.fromarray(numbers.astype(np.uint8))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(InputError, match="pages.tif has 2 pages"):
        read_index_map(tmp_path / "pages.tif")
    page.save(tmp_path / "lossy.png", format="JPEG")
    with pytest.raises(InputError, match="lossy.png is compressed as JPEG, which changes indices"):
        read_index_map(tmp_path / "lossy.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="image .*a.png is no file"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of damaged tifs
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_damaged_images_are_read_or_named(tmp_path, suffix):
    rng = np.random.default_rng(11)
    Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / f"whole.{suffix}")
    whole, file = (tmp_path / f"whole.{suffix}").read_bytes(), tmp_path / f"damaged.{suffix}"
    for _ in range(150):
        file.write_bytes(damaged(whole, rng))
        with contextlib.suppress(InputError):
            assert read_rgb(file).shape[2] == 3
        with contextlib.suppress(InputError):
            assert read_index_map(file).ndim == 2


def test_json_of_any_kind_is_read_or_refused(tmp_path):
    for text in ("[" * 100_000, "9" * 10_000, "\ufeff{}", '{"a": }', ""):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="a.json is not valid JSON"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(InputError, match="a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from contextlib import suppress
from dataclasses import dataclass
from utils_general import *
@dataclass
class Settings:
    seed: int = 0
def main(settings):
    {body}
run_script(main, Settings)
"""


@pytest.fixture
def run_main(tmp_path):
    """Run a script of a few lines, the body of its main, by a shell command in which it is "$@"."""

    def run(body, shell='"$@"'):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(root=str(ROOT), body=body))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        command = ["bash", "-c", shell, "bash", sys.executable, str(script)]
        return subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", env=environment)

    return run


def one_line(done, code, words):
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert done.stderr.startswith("error: ") and words in done.stderr


def test_a_message_keeps_its_beginning(run_main):
    one_line(run_main(r"raise InputError('folder a\nb does not exist')"), 1, "error: folder a b does not exist")


def test_printing_into_a_pipe_that_nobody_reads_ends_quietly(run_main):
    later = "print('few', flush=True); __import__('time').sleep(1); print(1)"
    for body in ("[print('x' * 99) for _ in range(9999)]", later):
        done = run_main(body, '"$@" | head -1 > /dev/null; exit ${PIPESTATUS[0]}')
        assert (done.returncode, done.stderr) == (141, "")


def test_a_mistake_is_told_though_nobody_reads_the_output(run_main):
    one_line(run_main("print('x' * 9); raise InputError('wrong')", '"$@" | true; exit ${PIPESTATUS[0]}'), 1, "wrong")


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 9 GiB", "alloc: can't allocate memory: 9 bytes"]
)
def test_too_little_memory_is_told(run_main, words):
    one_line(run_main(f'raise RuntimeError("{words}")'), 1, "there is not enough memory: ")
    assert "Traceback" in run_main("raise RuntimeError('something else')").stderr


def test_a_broken_pipe_of_another_kind_keeps_its_traceback(run_main):
    done = run_main("raise BrokenPipeError(32, 'Broken pipe')")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_output_onto_a_full_disk_is_told(run_main):
    one_line(run_main("print('x')", '"$@" > /dev/full'), 1, "No space left on device")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_not_taken_for_files(closed, run_main, tmp_path):
    """What is printed to them must not go into the next file that is opened."""
    body = (
        f"file = open({str(tmp_path / 'data')!r}, 'w'); print('out', flush=True); print('err', file=sys.stderr)\n"
        "    for number in (1, 2):\n"
        "        with suppress(OSError):\n"
        "            os.write(number, b'a library')"
    )
    assert run_main(body, f'"$@" {closed}').returncode == 0
    assert (tmp_path / "data").read_text() == ""
    assert run_main("raise InputError('wrong')", f'"$@" {closed}').returncode == 1


def test_names_of_any_bytes_are_printed_and_one_that_cannot_be_written_is_named(run_main):
    done = run_main(r"print(os.fsdecode(b'tumour\xff.png'))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tumour\\udcff.png\n", "")
    body = r"replace_file; Path(os.devnull).write_text(os.fsdecode(b'tumour\xff.png'), encoding='utf-8')"
    one_line(run_main(body), 1, r"a name is not valid UTF-8, rename it: tumour\udcff.png")


def test_without_a_working_folder(run_main, tmp_path):
    one_line(run_main("pass", f'mkdir {tmp_path}/x; cd {tmp_path}/x; rmdir {tmp_path}/x; "$@"'), 1, "working folder")
    shell = f'mkdir {tmp_path}/x; cd {tmp_path}/x; rmdir {tmp_path}/x; "$1" {ROOT}/sample_images.py'
    one_line(run_main("pass", shell), 1, "working folder")


def test_too_little_memory_and_huge_numbers_end_in_one_line(run_main):
    one_line(run_main("np.zeros(2**50)"), 1, "there is not enough memory: Unable to allocate 8.00 PiB")
    one_line(
        run_main("at_least(settings, seed=0)", '"$@" --seed 4294967296'), 1, "--seed is 4294967296: at most 4294967295"
    )
    assert run_main("at_least(settings, seed=0)", '"$@" --seed 4294967295').returncode == 0


@pytest.mark.parametrize("text", [b"[" * 100_000, b"1" * 5000, b"{", b"\xff\xfe", b""])
def test_json_that_cannot_be_read_is_named(text, tmp_path):
    (tmp_path / "summary.json").write_bytes(text)
    with pytest.raises(InputError, match=r"summary.json is not valid JSON: ."):
        read_json(tmp_path / "summary.json")


def test_a_link_that_leads_to_itself_is_told(run_main):
    one_line(run_main("raise RuntimeError('Symlink loop from x')"), 1, "a link leads to itself, remove it: ")
