"""Arrows between the rooms of the package point down: what imports what, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "GenSelfDiff"
# Of each room, the other rooms that it may import from; modules that lie in no room are open to all.
MAY_IMPORT = {
    "evaluation": set(),
    "whole_image": set(),
    "synthesis": set(),
    "report": {"evaluation"},
    "comparison": {"report"},
    "methods": {"pretrain", "downstream_train", "whole_image"},
}


def imported(file):
    """The dotted names that a module imports, of modules and of what is in them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_script(file):
    return "    run_script(" in file.read_text()


def test_a_room_imports_only_from_those_below():
    rooms = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert set(MAY_IMPORT) <= rooms
    for room, below in MAY_IMPORT.items():
        for file in (PACKAGE / room).rglob("*.py"):
            parts = [name.split(".") for name in imported(file) if name.startswith("GenSelfDiff.")]
            assert {part[1] for part in parts} & rooms <= below | {room}, file.name


def test_nothing_but_a_script_imports_a_script():
    files = list(PACKAGE.rglob("*.py"))
    scripts = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if is_script(file)}
    assert len(scripts) >= 6
    for file in files:
        if not is_script(file):
            names = {name for name in imported(file) if any(f"{name}.".startswith(f"{s}.") for s in scripts)}
            assert not names, file.name


def test_torchvision_and_pytorch_are_imported_only_where_they_are_needed():
    """They take seconds: whole images and tests augment nothing, a comparison computes nothing with tensors."""
    for modules, without in (("whole_image.pipeline", "torchvision"), ("comparison.results", "torch")):
        program = f"import sys, GenSelfDiff.{modules}; sys.exit({without!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_what_computes_needs_no_matplotlib():
    modules = ("evaluation.evaluate", "whole_image.pipeline", "metrics", "palette", "history")
    imports = ", ".join(f"GenSelfDiff.{module}" for module in modules)
    program = f"import sys, {imports}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_preprocessing_needs_no_pytorch():
    """It would take seconds to import."""
    scripts = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in ROOT.glob("pre_process/*/*.py")]
    program = f"import sys, {', '.join(scripts)}; sys.exit('torch' in sys.modules)"
    assert len(scripts) >= 5
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
