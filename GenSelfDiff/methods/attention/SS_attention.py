"""Nuclei without any label: attention-based self-supervision (Sahasrabudhe et al., 2020, "Self-supervised nuclei
segmentation in histopathological images using attention", MICCAI, arXiv 2007.08373).

    python3 GenSelfDiff/methods/attention/SS_attention.py --data data/MoNuSeg_x1 data/MoNuSeg_x2 data/MoNuSeg_x4

A network that may look only at a sparse part of a tile must still tell at which magnification it is seen: what it
chooses to look at are the nuclei, whose size tells. `--data` names the same images at several magnifications, the
finest first. The run is tested, compared and used by segment.py like a fine-tuned one; its classes are background and
nucleus. The last network is handed on: a low validation loss may be that of a shortcut.
Edit the defaults below, or pass them: `--name value`. The recipe "paper" is the released code's, "improved" is for few
images and no GPU.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import Tensor

from file_contents import check_fields
from GenSelfDiff import checkpoint
from GenSelfDiff.course import RateGroup
from GenSelfDiff.data import FINETUNING_RANGE
from GenSelfDiff.devices import set_up
from GenSelfDiff.methods.attention.levels import Levels, nuclei_share, read_levels, target_colours
from GenSelfDiff.methods.attention.network import ClassifierName, SelfAttention, make_classifier
from GenSelfDiff.methods.attention.pretext import Haematoxylin, Magnification
from GenSelfDiff.methods.attention.segmenting import CLASSES, DESCRIBED
from GenSelfDiff.methods.attention.tiles import Tile, tiles
from GenSelfDiff.patches import Patches
from GenSelfDiff.pretrain.unlabelled import UnlabelledSettings
from GenSelfDiff.run_folder import RunFolder
from GenSelfDiff.settings import THESE, read_command_line
from GenSelfDiff.training import Trainer, prepare_run
from GenSelfDiff.unet import InitialWeights, initialise
from utils_general import MONUSEG, SIDE_MULTIPLE, InputError, at_least, plain, run_script


def _level(downscale: int) -> Path:
    return MONUSEG.with_name(f"{MONUSEG.name}_x{downscale}")


@dataclass(frozen=True, kw_only=True)
class Settings(UnlabelledSettings):
    """Learn where nuclei are from tiles at several magnifications."""

    stage = "attention"
    improved = {
        "dim": 16,
        "dilations": (1, 1, 2, 3, 5),
        "tile": 64,
        "classifier": "small",
        "share": None,
        "threshold_by_level": True,
        "threshold": "image",
        "stain_normalise": False,
        "scale_jitter": 0.15,
        "spoil": True,
        "batch_size": 30,
        "steps": 3000,
        "validate_every": 300,
        "learning_rate": 0.001,
        "warm_up": 100,
        "decay": "cosine",
        "rate_drops": (),
        "clip": 1.0,
        "ema": 0.99,
        "sample_every": 1,
    }

    run_name: str = "MoNuSeg_attention"
    data: tuple[Path, ...] = (_level(1), _level(2), _level(4))
    """roots of the same images at several magnifications, the finest first, each half as large as the one before: their
    unlabelled patches, or the images of their labelled ones"""
    leave_out: tuple[str, ...] = ()
    """beginnings of the names of images that are not taken, such as those of another magnification"""
    epochs: int = 200
    batch_size: int = 32
    learning_rate: float = 2e-4
    validate_every: int | None = 100
    input_range: tuple[float, float] = FINETUNING_RANGE
    initial_weights: InitialWeights = "pytorch"
    quarter_turns: bool = True
    dilations: tuple[int, ...] = (1, 2, 3, 5, 10, 20)
    """of the residual blocks of the attention network, whose width is `dim`"""
    tile: int = 160
    """pixels of the side of what is cut out of patches, which are larger"""
    classifier: ClassifierName = "imagenet"
    """what tells the magnification: ResNet-34 with ImageNet's weights, or new (resnet34), or four convolutions"""
    share: float | None = 0.07
    """part of a tile that is looked at; if not given, what Otsu's threshold of haematoxylin finds in training images"""
    steepness: float = 20.0
    """r of attention A = sigmoid(r (a - tau))"""
    threshold_by_level: bool = False
    """a tau of its own for each level: else the area that is looked at could tell the level"""
    threshold: Literal["running", "image"] = "running"
    """tau in use: the running one of training, or of each image its own, Otsu's threshold of its logits"""
    smoothness: float = 1.0
    """weight of the loss of smoothness"""
    equivariance: float = 1.0
    """weight of the loss of equivariance under turns and flips"""
    scale_equivariance: float = 1.0
    """weight of the loss of equivariance under halving"""
    stain_normalise: bool = True
    """give each tile the colours of the first training image (Reinhard)"""
    stain_deviation: float = 0.03
    """deviation of the factors of haematoxylin, eosin and the rest"""
    scale_jitter: float = 0.0
    """part by which tiles are made larger or smaller at random, at every level, so that the pixel grid does not tell"""
    spoil: bool = False
    """blur, noise and JPEG of random strength, at every level, so that sharpness does not tell"""
    weight_decay: float = 1e-4
    """of Adam, as an L2 penalty"""
    rate_drops: tuple[int, ...] = (30_000, 60_000)
    """steps from which on the learning rate is a tenth of what it was"""
    task: Literal["magnification", "haematoxylin"] = "magnification"
    """what is learnt; haematoxylin: no pretext, the attention network learns the dye, to start from or as a control"""
    start: str | None = None
    """run of this script, or its path, whose attention network is begun with"""
    shuffle_levels: bool = False
    """control: each tile is said to be of any level"""
    sample_every: int = 20
    """epochs between pictures of held-out tiles beside their attention; 0: none"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        super().check()
        at_least(self, tile=SIDE_MULTIPLE, smoothness=0, equivariance=0, scale_equivariance=0)
        at_least(self, stain_deviation=0, weight_decay=0, sample_every=0)
        check_fields(plain(self), DESCRIBED, THESE)
        if self.share is not None and not 0 < self.share < 1:
            raise InputError(f"--share is {self.share:g}: a part between 0 and 1 is needed")
        if not 0 <= self.scale_jitter < 1:
            raise InputError(f"--scale-jitter is {self.scale_jitter:g}: 0 to below 1 is needed")
        if self.tile % SIDE_MULTIPLE:
            raise InputError(f"--tile is {self.tile}: a multiple of {SIDE_MULTIPLE} is needed")
        if any(drop < 1 for drop in self.rate_drops):
            raise InputError(f"--rate-drops are {self.rate_drops}: steps from 1 on are needed")

    @property
    def attending(self) -> dict[str, Any]:
        """What makes the attention network."""
        shape = {"dim": self.dim, "dilations": self.dilations, "steepness": self.steepness}
        return shape | {"input_range": self.input_range, "stain": self.stain_normalise}


def build_network(settings: Settings, share: float, target: Tensor | None) -> SelfAttention:
    """Both networks with their initial weights; `target`: colours (2, 3) that images are given."""
    levels = len(settings.data)
    classifier = make_classifier(settings.classifier, settings.dim, levels)
    buckets = levels if settings.threshold_by_level else 1
    model = SelfAttention(classifier, levels, share, buckets=buckets, **settings.attending)
    initialise(model.net, settings.initial_weights)
    if target is not None:
        model.stain.copy_(target)
    if settings.task == "haematoxylin":
        model.classifier.requires_grad_(False)
    if settings.start is not None and not RunFolder(settings.run_name).goes_on(settings.fresh):  # its own come later
        begin_with(model, checkpoint.find(settings.start))
    return model


def begin_with(model: SelfAttention, path: Path) -> None:
    """Take over the attention network of another run, with its statistics; `InputError` where it does not fit."""
    loaded = checkpoint.load_handed_on(path)
    if loaded.get("stage") != Settings.stage:
        raise InputError(f"{path} is no run of SS_attention.py: --start wants one")
    known = loaded["model_state_dict"].items()
    state = {name.removeprefix("net."): value for name, value in known if name.startswith("net.")}
    try:
        model.net.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:160]
        raise InputError(f"{path} does not fit: --dim and --dilations have to be those of its run ({reason})") from None
    print(f"the attention network of {path} is begun with")


def make_stage(settings: Settings) -> Haematoxylin | Magnification:
    """What is learnt."""
    pictures = {"input_range": settings.input_range, "sample_every": settings.sample_every}
    if settings.task == "haematoxylin":
        return Haematoxylin(**pictures)
    weights = {"smoothness": settings.smoothness, "equivariance": settings.equivariance}
    return Magnification(len(settings.data), weights | {"scale": settings.scale_equivariance}, **pictures)


def read_data(settings: Settings, target: Tensor | None, levels: list[Patches]) -> tuple[Levels, Levels]:
    """Tiles to train on, and held-out ones; `InputError` where the patches are smaller than tiles."""
    size, largest = levels[0].data_set.patch_size, Tile.largest(settings.tile, settings.scale_jitter)
    if largest > size:
        raise InputError(
            f"--tile is {settings.tile}, with --scale-jitter {settings.scale_jitter:g} up to {largest} pixels of a "
            f"patch; those of {levels[0].folder} have {size}: cut larger ones, or choose a smaller tile"
        )
    change = tiles(
        settings.tile,
        settings.quarter_turns,
        target,
        settings.stain_deviation,
        settings.scale_jitter,
        settings.spoil,
    )
    training = Levels(levels, "train", settings.seed, change)
    validation = Levels(levels, "val", settings.seed + 1, change)
    training.shuffled = validation.shuffled = settings.shuffle_levels
    return training, validation


def main(settings: Settings) -> None:
    """Check everything, build it, train."""
    settings.check()
    devices = set_up(settings.device)
    levels = read_levels(settings.data, settings.leave_out)
    target = target_colours(levels[0]) if settings.stain_normalise else None
    training, validation = read_data(settings, target, levels)
    estimated = {"share of nuclei": nuclei_share(levels[0])} if settings.share is None else {}
    share = estimated.get("share of nuclei", settings.share)
    print(f"{len(levels)} levels; {share:.1%} of a tile is looked at")
    prepare_run(settings, devices)
    torch.manual_seed(settings.seed)
    model = build_network(settings, share, target)
    finest = levels[0].data_set
    about = {"classes": CLASSES, "data_set": finest.name, "patch_size": finest.patch_size, "instances": "watershed"}
    about |= {"mpp": finest.mpp, "downscale": finest.downscale, **estimated}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rates = [RateGroup(trained, weight_decay=settings.weight_decay, drops=settings.rate_drops)]
    Trainer(make_stage(settings), model, settings, training, validation, devices, about, rates, last_is_best=True).run()


if __name__ == "__main__":
    run_script(main, Settings, read_command_line)
