"""Segmentation networks of others, trained from scratch: the U-Net and the Attention U-Net of MONAI.

    python3 GenSelfDiff/methods/monai_networks.py --network attention --run-name MoNuSeg_attention_unet

U-Net: Ronneberger et al., 2015, "U-Net: convolutional networks for biomedical image segmentation", with BatchNorm;
Attention U-Net: Oktay et al., 2018, "Attention U-Net: learning where to look for the pancreas". Five resolutions of
widths dim to 16 dim: for dim 64 they have 31.1 and 31.7 million parameters, ours has 31.3. Data, augmentation, losses
and budget are those of Diff_Seg.py.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from file_contents import check_fields, one_of, whole
from GenSelfDiff.data import FINETUNING_RANGE
from GenSelfDiff.devices import set_up
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.downstream_train.labelled import LabelledData, LabelledSettings
from GenSelfDiff.downstream_train.losses import LossName
from GenSelfDiff.settings import read_command_line
from GenSelfDiff.training import Trainer, prepare_run
from GenSelfDiff.unet import InitialWeights, initialise
from GenSelfDiff.unet_checkpoint import WIDEST, fill
from utils_general import MOST_CLASSES, InputError, run_script

NetworkName = Literal["unet", "attention"]
WIDTHS = (1, 2, 4, 8, 16)  # of each resolution in units of dim
SIDE = 2 ** (len(WIDTHS) - 1)  # sides that can be halved so often
DESCRIBED = {"network": one_of(*get_args(NetworkName)), "dim": whole(8, WIDEST)}
"""What its settings say of a network in a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Settings(LabelledSettings):
    """Train a segmentation network of MONAI from scratch."""

    stage = "monai"
    improved = {name: value for name, value in Diff_Seg.Settings.improved.items() if name != "timestep"}

    network: NetworkName = "unet"
    """unet or attention"""
    run_name: str = "MoNuSeg_unet"
    epochs: int = 150
    batch_size: int = 8
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    dim: int = 64
    initial_weights: InitialWeights = "pytorch"
    losses: tuple[LossName, ...] = ("ss", "focal")
    """losses that are added up"""
    input_range: tuple[float, float] = FINETUNING_RANGE

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        if not self.losses:
            raise InputError("--losses names no loss")


class MonaiNet(nn.Module):
    """A network of MONAI for images of any size: they are continued to sides that it can halve."""

    def __init__(self, network: NetworkName, dim: int, classes: int):
        super().__init__()
        from monai.networks import nets  # seconds to import

        widths = [dim * width for width in WIDTHS]
        if network == "unet":
            self.net = nets.BasicUNet(2, 3, classes, features=(*widths, dim), norm="batch")
        else:
            self.net = nets.AttentionUnet(2, 3, classes, channels=widths, strides=[2] * (len(widths) - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images `x` (B, 3, H, W) -> logits (B, classes, H, W)."""
        height, width = x.shape[2:]
        return self.net(F.pad(x, (0, -width % SIDE, 0, -height % SIDE), mode="replicate"))[..., :height, :width]


class MonaiSegmentation(Diff_Seg.Segmentation):
    """The stage: that of our network."""

    name = Settings.stage


def segmenting(loaded: dict[str, Any], path: Path) -> MonaiNet:
    """The segmentation network of a checkpoint; see `networks.TrainedMethod`."""
    settings, classes = loaded["settings"], len(loaded["classes"])
    check_fields(settings, DESCRIBED, f"{path}, settings,")
    if not 2 <= classes <= MOST_CLASSES or not DESCRIBED.keys() <= settings.keys():
        raise InputError(f"{path} does not say its network and its dim, or tells {classes} classes apart")
    return fill(lambda: MonaiNet(settings["network"], settings["dim"], classes), loaded["model_state_dict"], path)


def main(settings: Settings) -> None:
    """Check everything, build it, train."""
    settings.check()
    devices = set_up(settings.device)
    data = LabelledData.read(settings)
    prepare_run(settings, devices)
    torch.manual_seed(settings.seed)
    model = MonaiNet(settings.network, settings.dim, len(data.classes))
    initialise(model, settings.initial_weights)
    Trainer(
        MonaiSegmentation(settings.losses), model, settings, data.training, data.validation, devices, data.about
    ).run()


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
