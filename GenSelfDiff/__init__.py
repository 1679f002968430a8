"""GenSelfDiff-HIS: self-supervision by a denoising diffusion model for histology segmentation (Purma et al., 2024).

Importing this package makes `torchvision` importable, also beside a CPU-only PyTorch.
"""

import sys

from utils_general import check_working_folder

check_working_folder()

import torch


def _import_torchvision() -> None:
    """Import torchvision; where its CUDA-linked operators cannot load (CPU-only PyTorch), declare the two it misses.

    The transforms and utilities that this project uses need none of them. A whole torchvision is left as it is.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        global _declared  # a Library's operators live as long as the object does
        _declared = torch.library.Library("torchvision", "DEF")
        _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


_import_torchvision()
