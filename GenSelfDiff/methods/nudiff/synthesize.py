"""Nudiff: synthetic labelled patches, beside the real ones, as a data set for Diff_Seg.py (Yu et al., MICCAI 2023).

    python3 GenSelfDiff/methods/nudiff/synthesize.py --data data/MoNuSeg_10 --count 512
    python3 GenSelfDiff/downstream_train/Diff_Seg.py --data data/MoNuSeg_10_augmented --run-name MoNuSeg_augmented

A structure is drawn, its instances are found, and an image is drawn of the structure of these very instances, so that
image and label say the same. No pair is sorted out. Pairs are written as they come; started again, the script goes on
with those that are missing. In `index.csv` the source of a synthetic pair is called synthetic_<i>.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import pandas as pd
from tqdm import tqdm

from file_contents import read_table
from GenSelfDiff.data import PatchDataset, derived_seed
from GenSelfDiff.devices import Precision, check_precision, set_up_alone
from GenSelfDiff.methods.nudiff.generators import ImagePainter, StructureGenerator
from GenSelfDiff.methods.nudiff.resemblance import ORIENTATIONS, nearest, nuclei, oriented, table_of
from GenSelfDiff.methods.nudiff.structure import as_picture, encode, pieces
from GenSelfDiff.methods.nudiff.subsets import LABELLED, copy_labelled, describe, link_others
from GenSelfDiff.methods.nudiff.with_labels import labelled_patches, learnt_from
from GenSelfDiff.palette import draw_contours
from GenSelfDiff.patches import INDEX_COLUMNS, Patches
from GenSelfDiff.samplers import Sampler, SamplerName
from output_folder import UNFINISHED_FILES, holds_files, write_together
from utils_general import (
    LARGEST,
    MONUSEG,
    SHEET_COLUMNS,
    SPLIT_SEED,
    InputError,
    at_least,
    contact_sheet,
    plain,
    read_json,
    replace_file,
    run_script,
    write_json,
    write_png,
)

SOURCE = "synthetic_"
SHOWN = 3 * SHEET_COLUMNS  # pairs on the contact sheet
PAINT, ORIENT = 1, 2  # what else is drawn with the number of a pair


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw synthetic pairs of image and label."""

    data: Path = MONUSEG
    """root of the data set of real labels, that both runs were trained on"""
    structures: str = "MoNuSeg_structures"
    """run of train_structures.py, or the path of its folder or of a .pth"""
    images: str = "MoNuSeg_images"
    """run of train_images.py, or the path of its folder or of a .pth"""
    output: Path | None = None
    """folder for the data set of real and synthetic labels; beside the real one, _augmented, if not given"""
    count: int = 512
    """how many pairs"""
    guidance: float = 2.0
    """weight w of the guidance, (w + 1) eps(y) - w eps(nothing known); 0: none"""
    sampler: SamplerName = "ancestral"
    """of both networks; ancestral: as published; ddim, dpm-solver++: fewer steps (DPM-Solver++(2M))"""
    steps: int | None = None
    """evaluations of each network a pair; None: all T (ancestral), 50 (ddim), 20 (dpm-solver++)"""
    real_structures: bool = False
    """draw images of the structures of the real patches, turned and flipped, in place of synthetic ones"""
    batch_size: int = 8
    """pairs at a time; a pair does not depend on it"""
    precision: Precision = "float32"
    """float32, tf32 (on GPUs: products rounded to 10 bits), or bfloat16 (autocast: faster, rounded to 8)"""
    device: str = "auto"
    """auto, cpu, cuda (the first visible GPU) or cuda:N"""
    seed: int = SPLIT_SEED
    """pair i is drawn from seed + i"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(self, count=1, batch_size=1, seed=0, guidance=0)
        if self.seed + self.count > LARGEST:
            raise InputError(f"--seed {self.seed}: with {self.count} pairs at most {LARGEST - self.count}")

    @property
    def target(self) -> Path:
        """Where the data set goes."""
        return self.output or self.data.with_name(f"{self.data.name}_augmented")


class Synthesis:
    """The real patches, the networks, and the folder of pairs that they fill."""

    def __init__(self, settings: Settings):
        """Everything checked; `InputError` for networks and patches that do not go together."""
        self.settings, self.folder = settings, settings.target / LABELLED
        self.real = labelled_patches(settings.data)
        if self.real.index.source.astype(str).str.startswith(SOURCE).any():
            raise InputError(f"{self.real.folder} holds synthetic pairs already: name the data set of real labels")
        if settings.target.resolve() in (here := self.real.folder.resolve(), *here.parents):
            raise InputError(f"--output {settings.target} holds the real labels: choose another folder")
        devices = set_up_alone(settings.device)
        check_precision(settings.precision, devices.device)
        self.device = devices.device.type
        """kind of device: of one seed it draws noise of its own"""
        self.painter = ImagePainter(settings.images, devices)
        self.painter.check_guidance(settings.guidance)
        self.drawer = None if settings.real_structures else StructureGenerator(settings.structures, devices)
        for network in self.networks:
            if network.size != (size := self.real.data_set.patch_size):
                raise InputError(f"{network.path} draws {network.size} pixels, patches of {settings.data} are {size}")
            if network.learnt_from != learnt_from(PatchDataset([self.real], "train", settings.seed)):
                raise InputError(
                    f"{network.path} did not learn from the labels in {settings.data}: name the data set that it was "
                    "trained on, or train it on this one"
                )
        self.training = self.real.select("train")
        self.first = int(self.real.index.patch.max()) + 1
        """number of the first synthetic patch"""

    @property
    def networks(self) -> list[StructureGenerator | ImagePainter]:
        """Those that draw."""
        return [network for network in (self.drawer, self.painter) if network is not None]

    def sampler(self, network: StructureGenerator | ImagePainter) -> Sampler:
        """How a network draws; its x_0 is kept in range, which guidance needs."""
        settings = self.settings
        sampler = Sampler(settings.sampler, settings.steps, clamp=network.input_range)
        return sampler.resolved(network.diffusion.timesteps)

    def identity(self) -> dict[str, Any]:
        """All that pairs depend on."""
        settings = self.settings
        same = {name: getattr(settings, name) for name in ("seed", "precision", "sampler", "guidance")}
        same |= {"real_structures": settings.real_structures, "kind of device": self.device}
        for network in self.networks:
            same[f"weights of {network.stage}"] = hashlib.sha256(network.path.read_bytes()).hexdigest()
            same[f"steps of {network.stage}"] = self.sampler(network).steps
        index = self.real.index.to_csv(index=False)
        return same | {"labels": hashlib.sha256((index + self.real.labels_hash).encode()).hexdigest()}

    def prepare(self) -> list[int]:
        """The numbers of the pairs still to be drawn; `InputError` where the folder holds something else."""
        target, record, same = self.settings.target, self.settings.target / "settings.json", self.identity()
        if record.is_file():
            earlier = read_json(record)
            if not isinstance(earlier, dict) or "labels" not in earlier:
                raise InputError(f"{target} holds files of something else: choose another --output")
            earlier = {"kind of device": self.device} | earlier  # it was not written down once
            if changed := [name for name in same if earlier.get(name) != same[name]]:
                raise InputError(
                    f"{target} holds pairs that were drawn with another {changed[0]} ({earlier.get(changed[0])}, now "
                    f"{same[changed[0]]}): choose another --output"
                )
            if self.file(self.settings.count).is_file():
                raise InputError(
                    f"{target} holds more than --count {self.settings.count} pairs: choose another --output"
                )
        elif holds_files(target):
            raise InputError(f"{target} holds files of something else: choose another --output")
        write_json(record, {**plain(self.settings), **same})
        missing = [i for i in range(self.settings.count) if not self.file(i).is_file()]
        if missing:  # Diff_Seg.py shall not take a part for the whole
            (self.folder / "index.csv").unlink(missing_ok=True)
        return missing

    def file(self, i: int, stem: str = "images/image") -> Path:
        """A file of pair i; the image is written last."""
        return self.folder / f"{stem}_{self.first + i}.png"

    def draw(self) -> None:
        """Draw the missing pairs, batch by batch."""
        settings, missing = self.settings, self.prepare()
        if len(missing) < settings.count:
            print(f"{settings.count - len(missing)} of {settings.count} pairs are there already")
        for left in self.folder.glob(f"*/{UNFINISHED_FILES}"):
            left.unlink()
        steps = sum(self.sampler(network).steps for network in self.networks)
        with tqdm(total=len(missing) * steps, unit="step", unit_scale=True, disable=None) as bar:
            for start in range(0, len(missing), settings.batch_size):
                self._draw_batch(missing[start : start + settings.batch_size], bar)

    def _draw_batch(self, numbers: list[int], bar: tqdm) -> None:
        settings = self.settings
        how = {"precision": settings.precision, "progress": bar.update}
        if self.drawer is None:
            instances = [self._real_instances(i) for i in numbers]
        else:
            seeds = [settings.seed + i for i in numbers]
            instances = self.drawer.draw(seeds, self.sampler(self.drawer), **how)
        seeds = [derived_seed(settings.seed, i, PAINT) for i in numbers]
        structures = np.stack([encode(one) for one in instances])
        images = self.painter.draw(structures, seeds, settings.guidance, self.sampler(self.painter), **how)
        for i, one, image in zip(numbers, instances, images, strict=True):
            write_png(self.file(i, "instances/instance"), one.astype(np.uint16))
            write_png(self.file(i, "labels/label"), (one > 0).astype(np.uint8))
            write_png(self.file(i), image)

    def _real_instances(self, i: int) -> np.ndarray:
        """The instances of a real patch: all in turn, in random order, each time lying in another way."""
        settings = self.settings
        lap, place = divmod(i, len(self.training))
        order = np.random.default_rng(derived_seed(settings.seed, lap)).permutation(len(self.training))
        orientation = derived_seed(settings.seed, i, ORIENT) % len(ORIENTATIONS)
        return pieces(oriented(self.real.instances(self.training[order[place]]), orientation))

    def complete(self) -> None:
        """The real patches beside the pairs, the index of both, and all else that makes it a data set."""
        settings, size = self.settings, self.real.data_set.patch_size
        index = self.real.index[INDEX_COLUMNS]
        copy_labelled(self.real, index, self.folder)
        names = [f"{SOURCE}{i}" for i in range(settings.count)]
        pairs = pd.DataFrame({"patch": self.first + np.arange(settings.count), "source": names})
        index = pd.concat([index.astype({"source": str, "split": str}), pairs.assign(x=0, y=0, split="train")])
        sizes = pd.DataFrame({"source": names, "width": size, "height": size})
        if (self.real.folder / "sources.csv").is_file():  # else ours, if there is one, is of an earlier call
            sizes = pd.concat([read_table(self.folder / "sources.csv", text=("source",)), sizes])
        link_others(self.real.folder.parent, settings.target)
        describe(self.real.data_set, settings.target, settings.target.resolve().name)
        for name, table in (("sources", sizes), ("index", index)):
            with replace_file(self.folder / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)


def write_report(work: Synthesis) -> None:
    """The contact sheet, and tables that tell copies from new structures."""
    settings, target = work.settings, work.settings.target
    pairs = Patches(work.folder, labelled=True)
    numbers = [work.first + i for i in range(settings.count)]
    drawn = [pairs.instances(number) for number in numbers]
    write_png(target / "contact_sheet.png", sheet_of(pairs, numbers[:SHOWN]))
    real = [work.real.instances(patch) for patch in work.training]
    held_out = [int(patch) for patch in work.real.select("val")]
    masks = np.stack(real) > 0
    found = nearest(np.stack(drawn) > 0, masks)
    tables = [table_of("synthetic", numbers, found, work.training)]
    if held_out:
        compared = nearest(np.stack([work.real.instances(patch) for patch in held_out]) > 0, masks)
        tables.append(table_of("real, held out", held_out, compared, work.training))
    overlaps = pd.concat(tables)
    counted = pd.DataFrame({"synthetic": nuclei(drawn), "real": nuclei(real)}).T
    for name, table in (("nearest", overlaps.set_index("structures")), ("nuclei", counted)):
        with replace_file(target / f"{name}.csv") as temporary:
            table.to_csv(temporary)
    likest = np.argsort(-found.overlap, kind="stable")[:SHEET_COLUMNS]
    write_png(target / "nearest.png", nearest_sheet(work, pairs, [(numbers[i], found, i) for i in likest]))
    print("nuclei (nuclei.csv; areas in pixels, of nuclei that no border cuts):")
    print(counted.to_string(float_format="{:.3g}".format))
    print("overlap with the nearest structure that was learnt from, in any of eight orientations (nearest.csv):")
    print(overlaps.groupby("structures").overlap.describe()[["count", "mean", "50%", "max"]].to_string())


def sheet_of(pairs: Patches, numbers: list[int]) -> np.ndarray:
    """Rows of structures, of their images, and of these with the outlines of the label."""
    frames = []
    for start in range(0, len(numbers), SHEET_COLUMNS):
        row = numbers[start : start + SHEET_COLUMNS]
        instances, images = [pairs.instances(n) for n in row], [pairs.image(n) for n in row]
        outlined = [outlined_image(image, one) for image, one in zip(images, instances, strict=True)]
        empty = [np.full_like(images[0], 255)] * (SHEET_COLUMNS - len(row))
        for kind in ([as_picture(encode(one)) for one in instances], images, outlined):
            frames += [*kind, *empty]
    return contact_sheet(frames)


def outlined_image(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) with the outlines of its instances (H, W)."""
    picture = image.copy()
    draw_contours(picture, instances, np.ones(int(instances.max()) + 1, int))
    return picture


def nearest_sheet(work: Synthesis, pairs: Patches, chosen: list[tuple[int, Any, int]]) -> np.ndarray:
    """The pairs that are likest to real ones, a column each: structure, nearest structure, image, nearest image."""
    columns = []
    for number, found, i in chosen:
        patch, orientation = work.training[found.position[i]], found.orientation[i]
        theirs, image = work.real.instances(patch), work.real.image(patch)
        structures = [encode(one) for one in (pairs.instances(number), oriented(theirs, orientation))]
        columns.append([*map(as_picture, structures), pairs.image(number), oriented(image, orientation)])
    return contact_sheet([column[row] for row in range(4) for column in columns], columns=len(columns))


def main(settings: Settings) -> None:
    """Draw what is missing, complete the data set, compare with the real one."""
    settings.check()
    work = Synthesis(settings)
    with write_together(settings.target):
        work.draw()
        work.complete()
        write_report(work)
    print(
        f"{settings.count} synthetic and {len(work.training)} real patches to train on, contact_sheet.png, nearest.png "
        f"and the tables are in {settings.target}"
    )


if __name__ == "__main__":
    run_script(main, Settings)
