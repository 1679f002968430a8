"""Commands as README and docs show them: taken apart, and held against what the scripts themselves accept.

Nothing is run. A script's options are read as at its start: its own last line says which settings it has and what
parses them, `run_script(main, Settings, ...)`, and that is stopped before `main`.
"""

import contextlib
import functools
import importlib.util
import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import tyro
from torch.distributed.run import get_args_parser

import utils_general
from utils_general import ROOT, InputError

VARIABLE = re.compile(r"\$\{?(\w+)\}?")
ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)
# Pieces of a line that stand between ; and && and |, where these are not inside quotes
STATEMENT = re.compile(r"""(?:"[^"]*"|'[^']*'|[^;&|"'])+""")
# What no test here needs to look into
OTHER_PROGRAMS = {"cd", "git", "scontrol", "head"}
# Scripts whose --variants hold options of another one
GRIDS = {
    "experiments/recipes.py": "GenSelfDiff/pretrain/SS_diff.py",
}


class StaleCommandError(Exception):
    """A command that a reader cannot use as it stands."""


def statements(block: str) -> Iterator[str]:
    """The commands of a piece of shell, one by one: loops unrolled, known variables replaced.

    What the shell would ask another program for, $(...), becomes the word VALUE; variables that are set elsewhere
    (by SLURM, by the user) stay as they are.
    """
    block = block.replace("\\\n", " ")
    block = re.sub(r"(^|\s)#.*", "", block)
    block = re.sub(r"\$\([^()]*\)", "VALUE", block)
    known: dict[str, list[str]] = {}
    for line in block.splitlines():
        for piece in STATEMENT.findall(line):
            statement = piece.strip().removeprefix("do ").strip()
            if statement in ("", "do", "done"):
                continue
            if loop := re.fullmatch(r"for (\w+) in (.*)", statement):
                known[loop[1]] = shlex.split(loop[2])
            elif (set_here := ASSIGNMENT.fullmatch(statement)) and len(shlex.split(statement)) == 1:
                known[set_here[1]] = ["".join(shlex.split(set_here[2]))]
            else:
                yield from _with_values(statement, known)


def _with_values(statement: str, known: dict[str, list[str]]) -> Iterator[str]:
    """The statement with every value of the variables that are known, the first of them first."""
    for match in VARIABLE.finditer(statement):
        if match[1] in known:
            for value in known[match[1]]:
                yield from _with_values(statement[: match.start()] + value + statement[match.end() :], known)
            return
    yield statement


def check(command: str) -> Any:
    """The settings that a script gets, None for other programs; `StaleCommandError` for what would not start."""
    words = shlex.split(command)
    while words and (ASSIGNMENT.fullmatch(words[0]) or words[0] == "srun"):
        words = words[1:]
    if not words:
        raise StaleCommandError(f"{command!r} is no command")
    program, *words = words
    if program == "python3":
        return _python(words)
    if program == "torchrun":
        return _torchrun(words)
    if program == "make":
        return _make(words)
    if program == "pip":
        return _pip(words)
    if program == ".":  # the shell's way to enter a virtual environment
        return None
    if program.endswith(".py"):
        return parse(find_script(program), words)
    if program not in OTHER_PROGRAMS:
        raise StaleCommandError(f"{program!r} is no program that is known here: a slip, or one for OTHER_PROGRAMS?")
    return None


def _python(words: list[str]) -> Any:
    if words[:1] == ["-m"]:
        if importlib.util.find_spec(words[1]) is None:
            raise StaleCommandError(f"there is no module {words[1]}")
        return _pytest(words[2:]) if words[1] == "pytest" else None
    if not words:
        raise StaleCommandError("python3 of what?")
    return parse(find_script(words[0]), words[1:])


def _pytest(words: list[str]) -> None:
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m" and f'"{word}:' not in (ROOT / "pyproject.toml").read_text():
            raise StaleCommandError(f"there is no marker {word}")
        if word.startswith("tests") and not (ROOT / word).exists():
            raise StaleCommandError(f"there is no {word}")


def _torchrun(words: list[str]) -> Any:
    parsed = _parsed("torchrun", get_args_parser().parse_args, words)
    return parse(find_script(parsed.training_script), parsed.training_script_args)


def _make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        variable = ASSIGNMENT.fullmatch(word)
        if variable and f"$({variable[1]})" not in makefile:
            raise StaleCommandError(f"the Makefile does not use {variable[1]}")
        if not variable and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            raise StaleCommandError(f"the Makefile has no target {word}")


def _pip(words: list[str]) -> None:
    for before, word in zip(words, words[1:], strict=False):
        if before == "-r" and not (ROOT / word).is_file():
            raise StaleCommandError(f"there is no {word}")


def find_script(name: str) -> str:
    """The path of a script from the root; a name alone is enough where only one script has it."""
    path = Path(name)
    if len(path.parts) == 1 and not (ROOT / path).is_file():
        found = [script for script in scripts() if Path(script).name == name]
        if len(found) == 1:
            return found[0]
    if path.as_posix() not in scripts():
        raise StaleCommandError(f"there is no script {name}")
    return path.as_posix()


@functools.cache
def scripts() -> tuple[str, ...]:
    """All files that end in `run_script(...)`, from the root."""
    rooms = ("", "pre_process/**/", "GenSelfDiff/**/", "experiments/", "benchmarks/", "docs/")
    files = sorted(file for room in rooms for file in ROOT.glob(f"{room}*.py"))
    calls = re.compile(r"^    run_script\(", re.MULTILINE)
    return tuple(file.relative_to(ROOT).as_posix() for file in files if calls.search(file.read_text(encoding="utf-8")))


def at_the_last_line(script: str, options: list[str], look: Callable[[type, Callable], Any]) -> Any:
    """What `look` makes of a script's settings class and its parser, in place of its `run_script(...)`."""
    seen: list[Any] = []
    with (
        mock.patch.object(utils_general, "run_script", lambda _, own, by=tyro.cli: seen.append(look(own, by))),
        mock.patch.object(sys, "argv", [script, *options]),
        mock.patch.object(sys, "path", list(sys.path)),
    ):
        _parsed(script, runpy.run_path, str(ROOT / script), run_name="__main__")
    return seen[0] if seen else None


def parse(script: str, options: list[str]) -> Any:
    """What a script makes of its command line; None where that asks for --help. N stands for a number.

    Raises `StaleCommandError` for an unknown option or an impossible value.
    """
    numbered = ["1" if word == "N" else word for word in options]
    settings = at_the_last_line(script, numbered, lambda settings, parser: parser(settings))
    try:
        checked = settings.check() if hasattr(settings, "check") else None
    except InputError as error:
        raise StaleCommandError(f"{script}: {error}") from None
    if script in GRIDS:
        for words in checked.values():
            parse(GRIDS[script], words)
    return settings


@functools.cache
def all_options() -> frozenset[str]:
    """--name of every setting of every script, --no-name of switches, what torchrun knows, and --name itself."""
    names = {"--help", "--name", *(name for action in get_args_parser()._actions for name in action.option_strings)}
    for script in scripts():
        settings = at_the_last_line(script, [], lambda settings, _: fields(settings))
        for field in settings:
            option = field.name.replace("_", "-")
            names |= {f"--{option}", f"--no-{option}"} if field.type is bool else {f"--{option}"}
    return frozenset(names)


def _parsed(name: str, parser: Any, *arguments: Any, **options: Any) -> Any:
    """What a parser returns; `StaleCommandError` with what it says where it would end the program."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parser(*arguments, **options)
    except SystemExit as end:
        if end.code == 0:  # --help
            return None
        raise StaleCommandError(f"{name}: {said.getvalue().strip()}") from None
