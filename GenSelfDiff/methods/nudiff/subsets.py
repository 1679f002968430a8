"""Parts of a labelled data set as folders of their own: which patches, and writing them beside links to the rest."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2

from file_contents import DataSet, read_table
from GenSelfDiff.data import pretraining_folder
from GenSelfDiff.native import FOLDER as NATIVE
from GenSelfDiff.patches import INDEX_COLUMNS, Patches
from utils_general import InputError, write_json

LABELLED = "labelled"
KINDS = ("images/image", "labels/label", "instances/instance")


def nested_choice(things: Iterable[str], fraction: float, least: int, seed: int) -> list[str]:
    """So many of some things, `least` of them at least: drawn by the seed, and nested, the fewer among the more.

    They are those that `Patches.keep_sources` draws.
    """
    things = np.array(sorted(things))
    number = min(len(things), max(least, round(fraction * len(things))))
    return things[np.random.RandomState(seed).permutation(len(things))[:number]].tolist()


def places_in_clusters(features: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster (N,) of each of some features (N, F), by k-means, and its place there (N,), from 0 to 1.

    A place is the share of its cluster that lies nearer to the centre, so the order by places takes from all clusters
    alike, from each what is nearest to its centre first. Features are scaled to deviation 1.
    """
    if clusters > len(features):
        raise InputError(f"--clusters is {clusters}: there are {len(features)} patches")
    scaled = features / np.maximum(features.std(axis=0), 1e-12)
    centres, cluster = kmeans2(scaled, clusters, minit="++", rng=np.random.default_rng(seed))
    distance = np.linalg.norm(scaled - centres[cluster], axis=1)
    place = np.empty(len(features))
    for c in range(clusters):
        members = np.flatnonzero(cluster == c)
        order = members[np.argsort(distance[members], kind="stable")]
        place[order] = (np.arange(len(order)) + 0.5) / max(1, len(order))
    return cluster, place


def until_enough(objects: list[set], place: np.ndarray, fraction: float) -> np.ndarray:
    """The first of some patches (N,), in the order of their places, that hold the fraction of all objects together.

    `objects`: those that each patch shows; what several patches show counts once. Returns their positions, in order.
    """
    everything = set().union(*objects)
    found: set = set()
    chosen = []
    for i in np.argsort(place, kind="stable"):
        if chosen and len(found) >= fraction * len(everything):
            break
        found |= objects[i]
        chosen.append(int(i))
    return np.sort(np.array(chosen, int))


def write_subset(target: Path, patches: Patches, index: pd.DataFrame) -> None:
    """Write the labelled patches of some rows into the new folder `target`.

    `unlabelled` and `test` are links, see `link_others`.
    """
    copy_labelled(patches, index, target / LABELLED)
    index[INDEX_COLUMNS].to_csv(target / LABELLED / "index.csv", index=False)
    link_others(patches.folder.parent, target)


def copy_labelled(patches: Patches, index: pd.DataFrame, folder: Path) -> None:
    """Copy the patches of some rows, with what is known of their source images; not the index."""
    for patch in index.patch:
        for stem in KINDS:
            copy_file(patches.folder / f"{stem}_{patch}.png", folder / f"{stem}_{patch}.png")
    sources = set(index.source.astype(str))
    if (patches.folder / "sources.csv").is_file():
        table = read_table(patches.folder / "sources.csv", text=("source",))
        table[table.source.isin(sources)].to_csv(folder / "sources.csv", index=False)
    for file in sorted((patches.folder / NATIVE).glob("*.png")):
        if file.stem.rpartition("_")[0] in sources:
            copy_file(file, folder / NATIVE / file.name)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, and make the folder it comes to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def link_others(root: Path, target: Path) -> None:
    """Links to the folders of a data set that are not for fine-tuning; links that are there stay.

    `unlabelled` is what the data set is pre-trained on: its labelled images where it has no others.
    """
    for name, folder in (("unlabelled", pretraining_folder(root)), ("test", root / "test")):
        if folder != root and folder.is_dir() and not os.path.lexists(target / name):
            (target / name).symlink_to(folder.resolve(), target_is_directory=True)


def describe(data_set: DataSet, target: Path, name: str) -> None:
    """dataset.json of a data set under another name."""
    write_json(target / "dataset.json", asdict(replace(data_set, name=name)))
