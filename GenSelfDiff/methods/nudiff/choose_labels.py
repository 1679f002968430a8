"""Nudiff: a part of a data set's labels, as a data set of its own, to learn from few labels.

    python3 GenSelfDiff/methods/nudiff/choose_labels.py --data data/MoNuSeg --fraction 0.1
    python3 GenSelfDiff/methods/nudiff/choose_labels.py --data data/MoNuSeg --fraction 0.1 --by clusters \
        --pretrained MoNuSeg_pretrain

By images: a share of the labelled images, whole ones. By clusters, as published: the patches are divided by what a
network sees in them (its bottleneck; here our pre-trained one's, published a ResNet-50's), and of each cluster those
nearest to the centre are taken until the share of the objects is there: a few patches of nearly all images. Held-out
images have labels too: they are chosen by the same share, of themselves. The choices of one seed are nested.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from file_contents import check_fields
from GenSelfDiff import checkpoint, unet_checkpoint
from GenSelfDiff.data import PRETRAINING_RANGE, sized_image, to_input
from GenSelfDiff.devices import InPrecision, set_up_alone
from GenSelfDiff.methods.nudiff.subsets import (
    describe,
    nested_choice,
    places_in_clusters,
    until_enough,
    write_subset,
)
from GenSelfDiff.methods.nudiff.with_labels import labelled_patches
from GenSelfDiff.networks import load_start
from GenSelfDiff.patches import Patches
from GenSelfDiff.unet import Encoder
from GenSelfDiff.unet_checkpoint import dim_of
from output_folder import replace_folder
from utils_general import MONUSEG, SPLIT_SEED, InputError, at_least, plain, run_script, write_json

MARKER = "dataset.json"
TIMESTEP = 50  # that the network is told, if its own training does not say one: little noise, where tissue is seen
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choose a part of the labels."""

    data: Path = MONUSEG
    """root of the data set"""
    output: Path | None = None
    """folder for the part; beside the data set, its name and the percentage, if not given"""
    fraction: float = 0.1
    """share of the labels: of the images, or of the objects"""
    by: Literal["images", "clusters"] = "images"
    """whole images, or patches from clusters of alike ones"""
    pretrained: str = "MoNuSeg_pretrain"
    """clusters: run of a pre-training whose features tell what is alike, or the path of its folder or of a .pth"""
    clusters: int = 6
    """clusters: how many"""
    batch_size: int = 32
    """clusters: patches that the network sees at once"""
    device: str = "auto"
    """clusters: auto, cpu, cuda or cuda:N"""
    seed: int = SPLIT_SEED
    """of the draw; fewer labels of one seed are among more"""
    overwrite: bool = False
    """replace the part that was chosen before"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, clusters=1, batch_size=1, seed=0)
        if not 0 < self.fraction <= 1:
            raise InputError(f"--fraction is {self.fraction:g}: a share from above 0 to 1 is needed")

    @property
    def target(self) -> Path:
        """Where the part goes."""
        return self.output or self.data.with_name(f"{self.data.name}_{100 * self.fraction:g}")


class Features(nn.Module):
    """The mean of an encoder's lowest activations at one step t."""

    def __init__(self, encoder: Encoder, timestep: int):
        super().__init__()
        self.encoder, self.timestep = encoder, timestep

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, 8 dim)."""
        t = torch.full((len(x),), self.timestep, device=x.device)
        return self.encoder.encode(x, t)[0].mean(dim=(2, 3))


@torch.no_grad()
def features_of(patches: Patches, numbers: np.ndarray, settings: Settings) -> np.ndarray:
    """What the encoder of a pre-trained network says of some patches, (N, 8 dim)."""
    device, path = set_up_alone(settings.device).device, checkpoint.find(settings.pretrained)
    weights, trained = load_start(path).weights, checkpoint.load(path).get("settings", {})
    check_fields(trained, unet_checkpoint.SETTINGS, f"{path}, settings,")
    encoder = Encoder(dim_of(weights, path))
    encoder.load_state_dict({name: weights[f"net.{name}"] for name in encoder.state_dict()})
    features = InPrecision(Features(encoder, trained.get("timestep", TIMESTEP)).to(device).eval(), "float32")
    values = tuple(trained.get("input_range", PRETRAINING_RANGE))
    found = []
    for start in tqdm(range(0, len(numbers), settings.batch_size), "looking at patches", disable=None):
        batch = numbers[start : start + settings.batch_size]
        x = to_input(np.stack([sized_image(patches, patch) for patch in batch]), values).to(device)
        found.append(features(x).cpu().numpy())
    return np.concatenate(found)


def choose_images(patches: Patches, settings: Settings) -> pd.DataFrame:
    """The rows of the chosen images: one to train on at least; held-out ones only where their share makes one."""
    index, chosen = patches.index, []
    for split, least in zip(SPLITS, (1, 0), strict=True):
        sources = index.source[index.split == split].unique()
        chosen += nested_choice(sources, settings.fraction, least, settings.seed)
    return index[index.source.isin(chosen)]


def choose_patches(patches: Patches, settings: Settings) -> pd.DataFrame:
    """The rows of the chosen patches, with their cluster and their place in it."""
    index = patches.index[patches.index.split.isin(SPLITS)]
    cluster, place = places_in_clusters(
        features_of(patches, index.patch.to_numpy(), settings), settings.clusters, settings.seed
    )
    index = index.assign(cluster=cluster, place=place)
    parts = []
    for _, rows in index.groupby("split", observed=True):
        objects = [objects_of(patches, row.patch, row.source) for row in rows.itertuples()]
        parts.append(rows.iloc[until_enough(objects, rows.place.to_numpy(), settings.fraction)])
    return pd.concat(parts).sort_values("patch")


def objects_of(patches: Patches, patch: int, source: str) -> set[tuple[str, int]]:
    """The objects that a patch shows, by their image and their number in it."""
    return {(source, number) for number in np.unique(patches.instances(patch)).tolist() if number}


def summary(patches: Patches, chosen: pd.DataFrame) -> pd.DataFrame:
    """A row a split: images, patches and objects that there are and that were chosen."""
    rows = []
    for split in SPLITS:
        row = {"split": split}
        for name, index in (("chosen", chosen), ("all", patches.index)):
            ours = index[index.split == split]
            objects = set().union(*(objects_of(patches, one.patch, one.source) for one in ours.itertuples()))
            row |= {f"images, {name}": ours.source.nunique(), f"patches, {name}": len(ours)}
            row |= {f"objects, {name}": len(objects)}
        rows.append(row)
    return pd.DataFrame(rows)


def main(settings: Settings) -> None:
    """Choose, write, say what it costs in labels."""
    settings.check()
    patches = labelled_patches(settings.data)
    target = settings.target
    chosen = (choose_images if settings.by == "images" else choose_patches)(patches, settings)
    table = summary(patches, chosen)
    with replace_folder(target, MARKER, settings.overwrite, [patches.folder]) as folder:
        write_subset(folder, patches, chosen)
        chosen.to_csv(folder / "chosen.csv", index=False)
        table.to_csv(folder / "labels.csv", index=False)
        write_json(folder / "settings.json", plain(settings))
        describe(patches.data_set, folder, target.resolve().name)
    print(table.to_string(index=False))
    print(f"the chosen labels are in {target}; held-out images have labels too, and are counted")


if __name__ == "__main__":
    run_script(main, Settings)
