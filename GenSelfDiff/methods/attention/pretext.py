"""The stages of attention-based self-supervision: what a batch of tiles is trained to."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from GenSelfDiff.data import to_image
from GenSelfDiff.haematoxylin import haematoxylin
from GenSelfDiff.history import MetricSums
from GenSelfDiff.methods.attention.losses import of_scale
from utils_general import contact_sheet, write_png

SHOWN = 9  # tiles in a picture, of all levels in turn
USUAL = 0.25  # deviation of haematoxylin's density over tissue, about: what F learns of it has about deviation 1


class Attention:
    """What both stages share: pictures of where F looks, every `sample_every` epochs; 0: none."""

    name = "attention"

    def __init__(self, input_range: tuple[float, float], sample_every: int):
        self.input_range, self.sample_every = input_range, sample_every
        self.shown: dict[str, Tensor] | None = None  # held-out tiles

    def _look(self, batch: dict[str, Any]) -> None:
        if self.shown is None:
            self.shown = {name: batch[name][:SHOWN] for name in ("image", "level")}

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int, folder: Path) -> None:
        """Held-out tiles, each beside its attention, white where F looks."""
        if not self.sample_every or epoch % self.sample_every or self.shown is None:
            return
        attention = model(self.shown["image"], self.shown["level"])["attention"].expand(-1, 3, -1, -1)
        pairs = zip(to_image(self.shown["image"], self.input_range), to_image(attention, (0.0, 1.0)), strict=True)
        path = folder / f"sample_epoch_{epoch}.png"
        write_png(path, contact_sheet([frame for pair in pairs for frame in pair], columns=6))
        print(f"held-out tiles, each beside its attention: {path}")


class Magnification(Attention):
    """G tells the level of a tile from what F leaves visible; all losses of the released code are added."""

    def __init__(self, levels: int, weights: dict[str, float], **pictures: Any):
        """`weights` of the losses "smoothness", "equivariance" and "scale"; that of the cross-entropy is 1."""
        super().__init__(**pictures)
        self.levels, self.weights = levels, weights

    def _losses(self, said: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Figures of each tile (B,) by name; "loss" is what is minimised.

        "dye": how much more haematoxylin there is where F looks than in the whole tile. Below 0 it looks at white.
        """
        terms = {name: said[name] for name in ("smoothness", "equivariance")}
        terms["scale"] = of_scale(said["scale"], batch["level"], self.levels)
        entropy = F.cross_entropy(said["scores"], batch["told"], reduction="none")
        return {
            "loss": entropy + sum(self.weights[name] * term for name, term in terms.items()),
            "magnification": entropy,
            **terms,
            "accuracy": (said["scores"].argmax(1) == batch["told"]).float(),
            "area": said["attention"].mean((1, 2, 3)),
            "dye": self._dye(said["attention"].detach(), batch["image"]),
        }

    def _dye(self, attention: Tensor, images: Tensor) -> Tensor:
        dye = haematoxylin(images, self.input_range)
        inside = (dye * attention).sum((1, 2, 3)) / attention.sum((1, 2, 3)).clamp(min=1e-6)
        return inside - dye.mean((1, 2, 3))

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """The mean over the batch; see `Stage`."""
        losses = self._losses(model(batch["image"], batch["level"], batch["seed"]), batch)
        return losses["loss"].mean(), _sums(losses)

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The same for held-out tiles, cut and spoilt in the same way in every epoch.

        And what G says of the mask alone, without an image: where that is right, too, F codes the level in its mask.
        """
        self._look(batch)
        said = model(batch["image"], batch["level"], batch["seed"])
        by_mask = (said["scores of the mask"].argmax(1) == batch["told"]).float()
        return _sums({**self._losses(said, batch), "accuracy_of_mask": by_mask})


class Haematoxylin(Attention):
    """No pretext: F alone learns how much haematoxylin a pixel has. To begin with, or as a control."""

    def validation_metrics(self, model: nn.Module, batch: dict[str, Any]) -> MetricSums:
        """The same for held-out tiles."""
        self._look(batch)
        return _sums(self._losses(model, batch))

    def _losses(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        said = model(batch["image"], batch["level"])
        wanted = haematoxylin(batch["image"], self.input_range) / USUAL
        return {
            "loss": (said["logits"] - wanted).square().mean((1, 2, 3)),
            "area": said["attention"].mean((1, 2, 3)),
        }

    def training_loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, MetricSums]:
        """Mean squared error; see `Stage`."""
        losses = self._losses(model, batch)
        return losses["loss"].mean(), _sums(losses)


def _sums(figures: dict[str, Tensor]) -> MetricSums:
    return {name: (values.detach().sum(), len(values)) for name, values in figures.items()}
