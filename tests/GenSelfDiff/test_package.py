import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from GenSelfDiff import transforms
from torchvision.extension import _has_ops
print(_has_ops(), hasattr(transforms, "_declared"))
"""


def run():
    return subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT)


def test_torchvision_can_be_imported_and_is_left_alone_where_it_is_whole():
    """Its own operators, or the declared ones where they cannot load (beside a CPU-only PyTorch); never both."""
    done = run()
    assert done.returncode == 0, done.stderr
    whole, declared = done.stdout.split()
    assert (whole, declared) in (("True", "False"), ("False", "True"))
