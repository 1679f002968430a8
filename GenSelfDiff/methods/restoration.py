"""What the methods share that restore spoilt images: settings, metrics and pictures. Not a method by itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from GenSelfDiff.data import to_image
from GenSelfDiff.history import MetricSums
from GenSelfDiff.pretrain.unlabelled import UnlabelledSettings
from utils_general import at_least, contact_sheet, write_png

COLOURS = 3  # outputs of the U-Net that restores; its head is not handed on
SHOWN = 6  # images in a picture


@dataclass(frozen=True, kw_only=True)
class OneStepSettings(UnlabelledSettings):
    """Settings of pre-trainings that know no noise: the U-Net is always told the same step t."""

    improved = UnlabelledSettings.improved | {"timestep": 50}

    timestep: int = 0
    """the step t that the network is told: that of fine-tuning"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, timestep=0)


@dataclass(frozen=True, kw_only=True)
class RestorationSettings(OneStepSettings):
    """Settings of what restores images."""

    sample_every: int = 20
    """epochs between pictures of held-out patches: as given to the network, as restored, as they are; 0: none"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, sample_every=0)


class Restored(NamedTuple):
    """Images, what became of them, and how good that is."""

    given: Tensor
    """what the network was given (B, 3, H, W)"""
    restored: Tensor
    """what it made of it (B, 3, H, W)"""
    losses: dict[str, Tensor]
    """figures of each image (B,) by name; "loss" is what is minimised"""


class Restoration:
    """A stage of which a method only says how it restores a batch."""

    def __init__(self, settings: RestorationSettings):
        self.name, self.settings = settings.stage, settings
        self.shown: dict[str, Tensor] | None = None  # a held-out batch

    def restore(self, model: nn.Module, image: Tensor, seed: Tensor) -> Restored:
        """What the network makes of images (B, 3, H, W); what is random comes from their seeds (B,)."""
        raise NotImplementedError

    def _metrics(self, losses: dict[str, Tensor]) -> MetricSums:
        return {name: (values.sum(), len(values)) for name, values in losses.items()}

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The mean over the batch; see `Stage`."""
        losses = self.restore(model, batch["image"], batch["seed"]).losses
        return losses["loss"].mean(), self._metrics(losses)

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The same for held-out images, which are spoilt in the same way in every epoch."""
        if self.shown is None:
            self.shown = {name: batch[name][:SHOWN] for name in ("image", "seed")}
        return self._metrics(self.restore(model, batch["image"], batch["seed"]).losses)

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Every `sample_every` epochs a row a held-out patch: given, restored, as it is."""
        if not self.settings.sample_every or epoch % self.settings.sample_every or self.shown is None:
            return
        image = self.shown["image"]
        given, restored, _ = self.restore(model, image, self.shown["seed"])
        rows = zip(given, restored, image, strict=True)
        frames = [to_image(x, self.settings.input_range) for row in rows for x in row]
        path = folder / f"sample_epoch_{epoch}.png"
        write_png(path, contact_sheet(frames, columns=3))
        print(f"patches as given, as restored, and as they are: {path}")


def squared_error(restored: Tensor, image: Tensor) -> Tensor:
    """Mean over channels and pixels of an image (B,); both (B, 3, H, W)."""
    return (restored - image).square().mean(dim=(1, 2, 3))
