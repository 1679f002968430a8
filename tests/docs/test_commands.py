"""No command of README and docs goes stale: each one's script reads its options, and nothing of it is run."""

import re

import pytest

from tests.docs.commands import StaleCommandError, all_options, check, statements
from tests.docs.pages import PAGES, fenced, inline_code, relative
from utils_general import ROOT

LANGUAGES = {"bash", "text", "bibtex"}
PROGRAM = re.compile(r"(\w+=\S+ )*(python3|torchrun|srun|make|pip|\S+\.py) ")
FILE = re.compile(r"[\w./]+/[\w.]+\.(py|txt|toml|md|npz)")


def all_commands():
    """Every command of every page, as a reader would copy it, with the place where it stands."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = [(line, s) for line, language, block in fenced(text) if language == "bash" for s in statements(block)]
        found += [(line, code) for line, code in inline_code(text) if PROGRAM.match(code)]
        for line, command in found:
            yield pytest.param(command, id=f"{relative(page)}:{line}: {command[:60]}")


@pytest.mark.parametrize("command", list(all_commands()))
def test_command_starts(command):
    check(command)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_block_says_what_it_is(page):
    """A command in a block that does not say bash would not be checked."""
    for line, language, block in fenced(page.read_text(encoding="utf-8")):
        assert language in LANGUAGES, f"{relative(page)}:{line}: say one of {sorted(LANGUAGES)} behind the backticks"
        assert language == "bash" or not re.search(r"^(\w+=\S+ )*(python3|torchrun|make|pip) ", block, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_options_and_files_in_the_text_exist(page):
    for line, code in inline_code(page.read_text(encoding="utf-8")):
        where = f"{relative(page)}:{line}: {code}"
        if code.startswith("--"):
            named = {word.partition("=")[0] for word in code.split() if word.startswith("--")}
            assert named <= all_options(), where
        if FILE.fullmatch(code):
            assert (ROOT / code).is_file(), where


def test_settings_are_those_of_the_command():
    settings = check("CUDA_VISIBLE_DEVICES=0,1 python3 ./GenSelfDiff/pretrain/SS_diff.py --recipe improved --epochs N")
    assert (settings.learning_rate, settings.epochs, settings.batch_size) == (1e-3, 1, 8)  # recipe, command, default
    general = check("srun torchrun --nnodes=2 --nproc-per-node=4 HE_diff_general.py --dim 16")
    assert (general.batch_size, general.dim) == (6, 16)
    assert check("compare.py A B").results == ("A", "B")
    assert check("python3 image_generation.py --help") is None


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("python3 GenSelfDiff/pretrain/SS_diff.py --epoch 3", "--epoch"),
        ("Diff_Seg.py --labeled-images 2", "--labeled-images"),
        ("python3 GenSelfDiff/pretrain/SS_diff.py --precision float16", "float16"),
        ("python3 GenSelfDiff/pretrain/SS_diff.py --epochs many", "many"),
        ("python3 GenSelfDiff/pretrain/SS_diff.py --dim 13", "a multiple of 8 is needed"),
        ("python3 GenSelfDiff/test/segment.py --run MoNuSeg_finetune", "--images"),
        ("python3 GenSelfDiff/test/overview.py A B", "no script GenSelfDiff/test/overview.py"),
        ("python3 preprocess.py", "no script preprocess.py"),  # several have this name
        ("python3 -m pytest tests/test_that_is_gone.py", "no tests/test_that_is_gone.py"),
        ("python3 -m pytest -m tpu", "no marker tpu"),
        ("python3 -m venvs .venv", "no module venvs"),
        ("torchrun --processes=4 GenSelfDiff/pretrain/SS_diff.py", "--processes"),
        ("torchrun --nproc-per-node=4 GenSelfDiff/pretrain/SS_diff.py --epoch 3", "--epoch"),
        ("make dmeo", "no target dmeo"),
        ("make bench BENCHES=--quick", "does not use BENCHES"),
        ("pip install -r requirements-all.txt", "no requirements-all.txt"),
        ("pyhton3 GenSelfDiff/pretrain/SS_diff.py", "'pyhton3' is no program"),
        ('python3 experiments/recipes.py --variants "new: --recipe improved --epoch 5"', "--epoch"),
    ],
)
def test_stale_command_is_found(command, why):
    with pytest.raises(StaleCommandError, match=re.escape(why)):
        check(command)


def test_options_are_those_of_the_scripts():
    assert {"--labelled-images", "--tta", "--eta", "--nproc-per-node"} <= all_options()
    assert not {"--labeled-images", "--labelled_images", "--nproc"} & all_options()


def test_shell_is_taken_apart():
    block = """\
# a comment; with --options
small="--epochs 3 --workers 1"      # words of several commands
python3 a.py $small --name "two words; one option" \\
    --seed 1
for run in one two; do
    python3 b.py --run $run && python3 c.py ${run}_c; done
host=$(scontrol hostnames "$LIST" | head -n 1)
srun torchrun --endpoint="$host:29500" --id="$SLURM_JOB_ID" d.py
"""
    assert [" ".join(statement.split()) for statement in statements(block)] == [
        'python3 a.py --epochs 3 --workers 1 --name "two words; one option" --seed 1',
        "python3 b.py --run one",
        "python3 b.py --run two",
        "python3 c.py one_c",
        "python3 c.py two_c",
        'srun torchrun --endpoint="VALUE:29500" --id="$SLURM_JOB_ID" d.py',
    ]


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check(f"python3 docs/draw_method.py --output {tmp_path / 'method.png'}").overwrite is False
    assert not list(tmp_path.iterdir())
