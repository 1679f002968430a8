"""A method of another kind than the product's: a network with BatchNorm and two outputs, trained by the one loop."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from GenSelfDiff.augmentation import flips
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.devices import set_up
from GenSelfDiff.patches import Patches
from GenSelfDiff.settings import TrainingSettings, read_command_line
from GenSelfDiff.training import Trainer, prepare_run
from utils_general import run_script


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    stage = "toy"
    data: Path = Path()
    run_name: str = "toy"
    epochs: int = 40
    batch_size: int = 4
    learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    dim: int = 8
    input_range: tuple[float, float] = (0.0, 1.0)


class Net(nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU())
        self.logits, self.brightness = nn.Conv2d(dim, classes, 1), nn.Conv2d(dim, 1, 1)

    def forward(self, x):
        x = self.body(x)
        return {"logits": self.logits(x), "brightness": self.brightness(x).mean((1, 2, 3))}


class Stage:
    name = "toy"

    def validation_metrics(self, model, batch):
        out, count = model(batch["image"]), len(batch["image"])
        wrong = (out["brightness"] - batch["image"].mean((1, 2, 3))).square().sum()
        return {"loss": (F.cross_entropy(out["logits"], batch["label"]) * count + wrong, count)}

    def training_loss(self, model, batch):
        sums = self.validation_metrics(model, batch)
        return sums["loss"][0] / sums["loss"][1], sums

    def after_epoch(self, model, epoch, folder): ...


class Segmenting(Net):
    def forward(self, x):
        return super().forward(x)["logits"]


def build(loaded, _path):
    net = Segmenting(loaded["settings"]["dim"], len(loaded["classes"]))
    net.load_state_dict(loaded["model_state_dict"])
    return net


def main(settings):
    devices, patches = set_up(settings.device), Patches(settings.data / "labelled", labelled=True)
    prepare_run(settings, devices)
    training, validation = (PatchDataset([patches], s, settings.seed, flips()) for s in ("train", "val"))
    about = {"classes": patches.data_set.classes, "patch_size": training.size}
    torch.manual_seed(settings.seed)
    net = Net(settings.dim, len(about["classes"]))
    Trainer(Stage(), net, settings, training, validation, devices, about).run()


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
