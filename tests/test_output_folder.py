"""Outputs: two runs never mix, nothing of others is removed, and no result is lost, wherever the folder lies."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from output_folder import KEPT, LIST, LOCK, REPLACED, UNFINISHED, FolderLock, add_files, replace_folder
from utils_general import InputError

ROOT = Path(__file__).resolve().parents[1]


def write(path, text="new", names=("marker", "maps/a.png"), **options):
    """A script that writes some files."""
    with replace_folder(path, "marker", **{"overwrite": False, **options}) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def content(path):
    """What a folder holds: text by relative path; the list apart."""
    files = {str(f.relative_to(path)): f.read_text() for f in path.rglob("*") if f.is_file()}
    return {name: text for name, text in files.items() if name != LIST}


@pytest.fixture
def path(tmp_path):
    """Where a script writes; it has done so once."""
    write(tmp_path / "out", "old")
    return tmp_path / "out"


OLD, NEW = ({"marker": text, "maps/a.png": text} for text in ("old", "new"))


def test_a_filled_folder_is_replaced_only_on_request_and_only_if_it_is_ours(tmp_path):
    path = tmp_path / "out"
    with replace_folder(path, "marker", overwrite=False) as new:
        (new / "marker").touch()
    with pytest.raises(InputError, match="--overwrite replaces them"), replace_folder(path, "marker", overwrite=False):
        pass
    with replace_folder(path, "marker", overwrite=True) as new:
        (new / "other").touch()
    assert set(content(path)) == {"other"}
    with pytest.raises(InputError, match="did not write"), replace_folder(path, "marker", overwrite=True):
        pass
    assert set(content(path)) == {"other"}


def test_a_failed_run_leaves_the_old_folder(path, tmp_path):
    for name in ("out", "new"):
        with pytest.raises(RuntimeError), replace_folder(tmp_path / name, "marker", overwrite=True) as new:
            (new / "half").touch()
            raise RuntimeError
    assert list(tmp_path.iterdir()) == [path] and content(path) == OLD


def test_overwrite_removes_only_what_the_script_wrote(path):
    """Notes of the user stay, beside the results and among them; what the script does not write again goes."""
    for name in ("notes.docx", "maps/notes.txt", "raw/slide.svs"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("mine")
    write(path, names=("marker", "maps/b.png"), overwrite=True)
    mine = {"notes.docx": "mine", "maps/notes.txt": "mine", "raw/slide.svs": "mine"}
    assert content(path) == {"marker": "new", "maps/b.png": "new", **mine}
    with pytest.raises(InputError, match=r"maps/notes.txt is a file that this script did not write.*complete in") as e:
        write(path, names=("marker", "maps/notes.txt"), overwrite=True)
    kept = Path(str(e.value).rpartition(" ")[2])
    assert content(kept) == {"marker": "new", "maps/notes.txt": "new"}
    assert {k: v for k, v in content(path).items() if KEPT not in k} == {"marker": "new", "maps/b.png": "new", **mine}


def test_what_is_added_later_is_replaced_too(path):
    (path / "notes.docx").write_text("mine")
    with add_files(path):
        (path / "report.html").write_text("old")
    write(path, overwrite=True)
    assert content(path) == {**NEW, "notes.docx": "mine"}


@pytest.mark.parametrize(
    "text", ['["../precious", "marker"]', '["/precious", "marker"]', '{"marker": 1}', "[1]", "[[["]
)
def test_a_list_that_leads_elsewhere_removes_nothing(text, path, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (path / LIST).write_text(text)
    with pytest.raises(InputError, match=LIST):
        write(path, overwrite=True)
    assert content(path) == OLD and (tmp_path / "precious").read_text() == "mine"


def test_files_behind_a_link_are_of_others(path, tmp_path):
    (path / "maps").rename(tmp_path / "elsewhere")
    (path / "maps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"maps is a file that this script did not write"):
        write(path, overwrite=True)
    assert content(tmp_path / "elsewhere") == {"a.png": "old"} and (path / "marker").read_text() == "old"


def test_results_without_a_list_are_not_overwritten(path):
    (path / LIST).unlink()
    with pytest.raises(InputError, match=r"does not say which of its files"):
        write(path, overwrite=True)
    assert content(path) == OLD


def test_a_foreign_folder_of_nearly_the_same_name_is_left_alone(tmp_path):
    foreign = tmp_path / "out.unfinished"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    write(tmp_path / "out")
    assert content(foreign) == {"thesis.tex": "mine"}


@pytest.mark.parametrize("given", ["out", "out/raw", "out/raw/a.tif", "."])
def test_an_output_that_holds_an_input_or_lies_in_one_is_refused(given, tmp_path):
    with pytest.raises(InputError, match=r"output folder .*out (holds|lies in) the input"):
        write(tmp_path / "out", inputs=[tmp_path / "elsewhere", tmp_path / given])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES])
@pytest.mark.parametrize("name", ["marker", "a.png"])
def test_an_earlier_file_that_cannot_be_moved_leaves_all_as_it_was(name, number, path, monkeypatch):
    """As root sees an immutable file, others a folder that is not theirs; also a subfolder that is a mount point."""
    rename = os.rename

    def fail(source, target):
        if Path(source).name == name and REPLACED in str(target):
            raise OSError(number, os.strerror(number), str(source))
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(InputError, match=os.strerror(number)) as e:
        patch.setattr(os, "rename", fail)
        write(path, overwrite=True)
    kept = Path(str(e.value).rpartition(" ")[2])
    assert content(kept) == NEW and (kept / LIST).exists()
    assert {k: v for k, v in content(path).items() if KEPT not in k} == OLD and not list(path.glob(".[!w]*"))
    write(path, overwrite=True)
    assert {k: v for k, v in content(path).items() if KEPT not in k} == NEW


def test_a_new_file_that_cannot_be_placed_brings_the_earlier_ones_back(path, monkeypatch):
    rename = os.rename

    def full(source, target):
        if UNFINISHED in str(source) and Path(source).name == "marker":
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(source))
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="quota exceeded; nothing was replaced"):
        patch.setattr(os, "rename", full)
        write(path, overwrite=True)
    assert {k: v for k, v in content(path).items() if KEPT not in k} == OLD
    assert content(next(path.glob(f"{KEPT}*"))) == NEW


def test_files_that_came_meanwhile_are_not_touched(tmp_path):
    """Somebody copies files into the output while the script computes."""
    with pytest.raises(InputError, match=r"already holds files.* the new files are complete in"):  # noqa: SIM117
        with replace_folder(tmp_path / "out", "marker", overwrite=False) as folder:
            (folder / "marker").write_text("new")
            (tmp_path / "out" / "marker").write_text("mine")
    assert (tmp_path / "out" / "marker").read_text() == "mine"
    assert content(next((tmp_path / "out").glob(f"{KEPT}*"))) == {"marker": "new"}


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_point_as_with_docker(kind, tmp_path):
    """It can neither be renamed nor removed; a new disk holds lost+found."""
    path, device = tmp_path / "out", tmp_path / "disk"
    path.mkdir()
    device.mkdir()
    options = ["--bind", str(device)] if kind == "bind" else ["-t", "tmpfs", "tmpfs"]
    if subprocess.run(["mount", *options, str(path)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        (path / "lost+found").mkdir()
        write(path, "old")
        assert content(path) == OLD
        write(path, overwrite=True)
        assert content(path) == NEW and not [f for f in tmp_path.iterdir() if f not in (path, device)]
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_without_a_mount_the_folder_itself_is_never_moved(path, monkeypatch):
    """What a mount point would refuse; for machines that do not let us mount."""
    rename = os.rename

    def busy(source, target):
        if path in (Path(source), Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", busy)
    write(path, overwrite=True)
    assert content(path) == NEW


def _write_slowly(path, writing, go_on):
    with replace_folder(path, "marker", overwrite=True) as folder:
        (folder / "marker").write_text("first")
        writing.set()
        go_on.wait(60)


@pytest.fixture
def another(tmp_path):
    """A process that is writing into `tmp_path / "out"`, and what lets it finish."""
    context = multiprocessing.get_context("fork")
    writing, go_on = context.Event(), context.Event()
    process = context.Process(target=_write_slowly, args=(tmp_path / "out", writing, go_on))
    process.start()
    assert writing.wait(60)
    yield process, go_on
    process.kill()
    process.join()


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_runs_into_one_output_the_second_is_refused(overwrite, another, tmp_path):
    process, go_on = another
    with pytest.raises(InputError, match=f"out is in use: process {process.pid} on "):
        write(tmp_path / "out", overwrite=overwrite)
    go_on.set()
    process.join()
    assert process.exitcode == 0 and content(tmp_path / "out") == {"marker": "first"}


def test_after_a_kill_the_output_is_free_and_its_remains_go(another, tmp_path):
    process, _ = another
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and list((tmp_path / "out").glob(f"{UNFINISHED}*"))
    write(tmp_path / "out")
    assert content(tmp_path / "out") == NEW and not list((tmp_path / "out").glob(".[!w]*"))


def test_after_a_kill_between_old_and_new_nothing_is_lost(path):
    """The process dies before its last move: the earlier files are aside, the marker is not in its place."""
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from output_folder import replace_folder
rename = os.rename
def die(source, target):
    if ".unfinished-" in str(source) and source.name == "marker":
        os.kill(os.getpid(), 9)
    rename(source, target)
os.rename = die
with replace_folder(Path({str(path)!r}), "marker", overwrite=True) as folder:
    (folder / "marker").write_text("new")
    (folder / "maps").mkdir()
    (folder / "maps/a.png").write_text("new")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = content(path)
    aside = next(path.glob(f"{REPLACED}*"))
    assert {k: v for k, v in content(aside).items() if k in OLD} == OLD
    with pytest.raises(InputError, match="a run was killed while it replaced files"):
        write(path, overwrite=True)
    assert content(path) == before


def test_a_lock_is_held_by_one_process_and_leaves_no_trace(tmp_path):
    def try_it():
        try:
            FolderLock(tmp_path, "wait").release()
        except InputError:
            os._exit(1)
        os._exit(0)

    def outcome():
        process = multiprocessing.get_context("fork").Process(target=try_it)
        process.start()
        process.join()
        return process.exitcode

    with FolderLock(tmp_path, "wait"):
        assert outcome() == 1 and (tmp_path / LOCK).exists()
    assert outcome() == 0 and not list(tmp_path.iterdir())


def test_where_there_are_no_locks_there_is_none(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unknown)
    write(tmp_path / "out")
    assert content(tmp_path / "out") == NEW


def test_the_list_is_of_every_file(path):
    assert json.loads((path / LIST).read_text()) == ["maps/a.png", "marker"]
