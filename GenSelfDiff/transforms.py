"""torchvision's transforms and networks, `v2`, `tv_tensors` and `models`: also beside a CPU-only PyTorch.

Nothing else imports torchvision, which takes two seconds: only what augments images or trains its networks needs it.
"""

import sys

import torch


def _import_torchvision() -> None:
    """Import torchvision; where its CUDA-linked operators cannot load (CPU-only PyTorch), declare the two it misses.

    The transforms that this project uses need none of them. A whole torchvision is left as it is.
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

from torchvision import models, tv_tensors
from torchvision.transforms import v2

__all__ = ["models", "tv_tensors", "v2"]
