import subprocess
import sys
import textwrap

PROGRAM = """
import sys, types
{before}
import GenSelfDiff
from torchvision.transforms import v2
print(sys.modules["torchvision"].__version__, hasattr(GenSelfDiff, "_declared"))
"""


def run(before=""):
    program = textwrap.dedent(PROGRAM).format(before=before)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=sys.path[0] or ".")


def test_torchvision_can_be_imported_beside_a_cpu_only_torch():
    done = run()
    assert done.returncode == 0, done.stderr


def test_a_whole_torchvision_is_left_alone():
    """Where its operators exist before (as a whole torchvision declares them), nothing is declared again."""
    whole = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')"
    )
    done = run(whole)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("False")
