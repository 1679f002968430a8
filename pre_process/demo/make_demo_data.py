"""Make a small synthetic H&E data set in the folders and file formats of MoNuSeg, so that all scripts run at once.

    python3 pre_process/demo/make_demo_data.py
    python3 pre_process/MoNuSeg/preprocess.py --raw demo/raw --output demo/data

The images are cartoons of tissue at 20x (0.5 um a pixel): nests of epithelium with large pale nuclei that have a rim
and nucleoli, fibrous stroma with spindle nuclei, small dark lymphocytes in clusters, some nuclei touching, a few
overlapping. Red cells, debris and blurred basophilic smears, which are no nuclei, and a stain strength that differs
between images see to it that no single threshold finds the nuclei. Stains mix by optical density (Beer-Lambert).
They are for trying the scripts: figures measured on them say nothing about real tissue.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.special import expit
from tqdm import tqdm

from output_folder import replace_folder
from pre_process.patches import polygon_pixels
from utils_general import ROOT, InputError, at_least, run_script, write_json

# Optical density of haematoxylin and eosin in red, green, blue (Ruifrok & Johnston 2001), each of length 1
STAINS = np.array([[0.65, 0.704, 0.286], [0.072, 0.99, 0.105]])
MICRONS_PER_PIXEL = 0.5
MARGIN = 32  # pixels drawn around the image and cut off, so that nuclei cross its border

RNG = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Make a small synthetic H&E data set in the folders and file formats of MoNuSeg."""

    output: Path = ROOT / "demo" / "raw"
    """folder for the images and annotations"""
    training_images: int = 12
    """number of images in "MoNuSeg 2018 Training Data" """
    test_images: int = 10
    """number of images in "MoNuSegTestData" """
    size: int = 256
    """height and width of an image in pixels"""
    seed: int = 2023
    """the same seed makes the same files"""
    overwrite: bool = False
    """replace the data of an earlier run"""


@dataclass
class Tissue:
    """What lies under the nuclei of one image: maps (H, W), margin included."""

    nest: np.ndarray
    """1 in epithelium, 0 in stroma"""
    gap: np.ndarray
    """1 where there is nothing: lumina and clefts"""
    direction: np.ndarray
    """of the fibres, radians"""
    haematoxylin: np.ndarray
    eosin: np.ndarray


@dataclass(frozen=True)
class Kind:
    """How the nuclei of one kind look; lengths in pixels, haematoxylin in optical density."""

    radius: tuple[float, float]
    elongation: tuple[float, float]
    roughness: float
    haematoxylin: tuple[float, float]
    rim: float
    """additional haematoxylin along the membrane"""
    chromatin: float
    """contrast of the texture"""
    nucleoli: int
    """at most"""


EPITHELIAL = Kind((8.5, 13), (1.05, 1.5), 0.035, (0.16, 0.44), 0.3, 0.3, 3)
LYMPHOCYTE = Kind((5.2, 6.6), (1, 1.2), 0.03, (0.75, 1), 0.1, 0.2, 0)
SPINDLE = Kind((5.2, 7.5), (2.4, 4), 0.03, (0.45, 0.75), 0.12, 0.2, 0)


def noise(rng: RNG, shape: tuple[int, int], sigma: float | tuple[float, float]) -> np.ndarray:
    """Smooth Gaussian noise (H, W) of mean 0 and standard deviation 1; `sigma` in pixels."""
    field = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def grow_tissue(rng: RNG, side: int) -> Tissue:
    """Epithelial nests in wavy fibrous stroma, `side` pixels high and wide."""
    shape = side, side
    y, x = np.mgrid[:side, :side] + 0.5
    angle = rng.uniform(0, np.pi)
    across = (
        y * np.cos(angle) - x * np.sin(angle) + rng.uniform(6, 13) * noise(rng, shape, 26) + 1.2 * noise(rng, shape, 7)
    )
    along = x * np.cos(angle) + y * np.sin(angle)
    down, right = np.gradient(across)
    fibre, bundle = (
        map_coordinates(noise(rng, (2 * side, 2 * side), sigma), [across, along], order=1, mode="grid-wrap")
        for sigma in ((1, 12), (3.5, 40))
    )
    edge = noise(rng, shape, 26) + rng.uniform(-0.5, 0.6)
    nest = expit(edge / 0.07)
    lumen = nest * expit((noise(rng, shape, 9) - 1.9) / 0.08)
    cleft = (1 - nest) * expit((bundle - rng.uniform(1.4, 2.1)) / 0.2)
    retraction = np.exp(-(((edge + 0.1) / 0.06) ** 2)) * expit(noise(rng, shape, 18) / 0.2)
    gap = np.clip(lumen + cleft + 0.7 * retraction, 0, 1)
    grain = noise(rng, shape, 1.1) + noise(rng, shape, 3.5)
    stroma = np.clip(0.2 + 0.055 * fibre + 0.045 * bundle + 0.02 * grain, 0.03, None)
    cytoplasm = 0.2 + 0.025 * grain + 0.03 * noise(rng, shape, 12)
    eosin = (nest * cytoplasm + (1 - nest) * stroma) * (1 - 0.96 * gap)
    haematoxylin = (
        nest * (0.13 + 0.02 * grain + 0.035 * noise(rng, shape, 14)).clip(0.03) + (1 - nest) * (0.06 + 0.02 * fibre)
    ) * (1 - 0.97 * gap)
    return Tissue(nest, gap, np.arctan2(-right, down), haematoxylin, eosin)


def add_distractors(rng: RNG, tissue: Tissue) -> None:
    """Add what is stained but no nucleus: basophilic smears, debris, red cells."""
    shape = tissue.nest.shape
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    smear = expit((noise(rng, shape, 9) - 1.05) / 0.3) * (1 + 0.25 * noise(rng, shape, 1.5))
    tissue.haematoxylin += rng.uniform(0.25, 0.5) * smear * (1 - tissue.gap)
    per_area = shape[0] * shape[1] / 256**2
    for _ in range(int(per_area * rng.uniform(10, 40))):  # fragments of dead nuclei, too small to be counted as one
        row, column = rng.uniform(0, shape)
        spot = np.exp(-(((y - row) ** 2 + (x - column) ** 2) / (2 * rng.uniform(0.7, 1.5) ** 2)))
        tissue.haematoxylin += rng.uniform(0.4, 0.9) * spot
    for _ in range(int(per_area * rng.uniform(0, 16))):  # red cells: bright discs, paler in the middle
        row, column = rng.uniform(0, shape)
        distance = np.hypot(y - row, x - column) / rng.uniform(5, 6.5)
        inside = expit((1 - distance) / 0.08) * (1 - tissue.nest[int(row), int(column)])
        tissue.eosin += inside * (0.3 + 0.15 * distance**2 - tissue.eosin)


def outline_of(rng: RNG, kind: Kind, centre: np.ndarray, direction: float) -> np.ndarray:
    """A nucleus's outline: x, y (N, 2), an ellipse that low frequencies deform, bent if it is long."""
    radius, elongation = rng.uniform(*kind.radius), rng.uniform(*kind.elongation)
    long, short = radius * np.sqrt(elongation), radius / np.sqrt(elongation)
    t = np.linspace(0, 2 * np.pi, int(4 * long), endpoint=False)
    frequencies = np.arange(2, 6)[:, None]
    waves = np.cos(frequencies * t + rng.uniform(0, 2 * np.pi, (4, 1))) * rng.normal(0, kind.roughness, (4, 1))
    scale = 1 + waves.sum(0)
    u, v = long * scale * np.cos(t), short * scale * np.sin(t)
    v += rng.normal(0, 0.06) * (elongation - 1) * u**2 / long
    turned = np.stack([u * np.cos(direction) - v * np.sin(direction), u * np.sin(direction) + v * np.cos(direction)])
    return turned.T + centre


def propose(rng: RNG, tissue: Tissue, crowd: np.ndarray) -> tuple[Kind, np.ndarray] | None:
    """A kind of nucleus and an outline at a random place, or None where the place suits none."""
    side = len(tissue.nest)
    centre = rng.uniform(0, side, 2)
    column, row = centre.astype(int)
    if tissue.gap[row, column] > 0.3:
        return None
    if tissue.nest[row, column] > 0.5:
        kind, direction = (EPITHELIAL if rng.uniform() < 0.93 else LYMPHOCYTE), rng.uniform(0, np.pi)
    elif crowd[row, column] > 0.9:
        kind, direction = LYMPHOCYTE, rng.uniform(0, np.pi)
    elif rng.uniform() < 0.16:
        kind, direction = SPINDLE, tissue.direction[row, column] + rng.normal(0, 0.15)
    else:
        return None
    return kind, outline_of(rng, kind, centre, direction)


def place_nuclei(rng: RNG, tissue: Tissue) -> list[tuple[Kind, np.ndarray]]:
    """Kind and outline of every nucleus. Most keep apart, some touch, a few overlap by up to a quarter."""
    side = len(tissue.nest)
    crowd = noise(rng, tissue.nest.shape, 22)
    taken = np.zeros((side, side), bool)
    nuclei = []
    for _ in range(int(rng.uniform(0.005, 0.009) * side**2)):
        if (proposed := propose(rng, tissue, crowd)) is None:
            continue
        pixels = polygon_pixels(proposed[1], (side, side))
        if not len(pixels[0]):
            continue
        overlap = taken[pixels].mean()
        if overlap <= rng.choice([0, 0.04, 0.25], p=[0.72, 0.24, 0.04]):
            taken[pixels] = True
            nuclei.append(proposed)
    return nuclei


def draw_nucleus(rng: RNG, tissue: Tissue, kind: Kind, outline: np.ndarray, chromatin: np.ndarray) -> None:
    """Add one nucleus to the stains: membrane, chromatin texture and nucleoli. Absorption of overlapping ones adds."""
    rows, columns = polygon_pixels(outline, tissue.nest.shape)
    mask = np.pad(np.zeros((np.ptp(rows) + 1, np.ptp(columns) + 1), bool), 1)
    inside = rows - rows.min() + 1, columns - columns.min() + 1
    mask[inside] = True
    depth = distance_transform_edt(mask)[inside]
    texture = 1 + kind.chromatin * chromatin[rows, columns]
    haematoxylin = rng.uniform(*kind.haematoxylin) * np.clip(texture, 0.3, None)
    haematoxylin += kind.rim * np.exp(-(((depth - 1) / 1.1) ** 2)) * rng.uniform(0.6, 1.1)
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        i = rng.integers(len(rows))
        spot = np.exp(-((rows - rows[i]) ** 2 + (columns - columns[i]) ** 2) / (2 * rng.uniform(1, 1.7) ** 2))
        haematoxylin += rng.uniform(0.3, 0.5) * spot * (depth > 2.5)
    haematoxylin *= np.clip(depth - 0.4, 0, 1)  # the outermost pixels are covered in part
    tissue.haematoxylin[rows, columns] += haematoxylin - 0.8 * np.clip(tissue.haematoxylin[rows, columns], 0, 0.15)
    tissue.eosin[rows, columns] += 0.05


def stain(rng: RNG, tissue: Tissue) -> np.ndarray:
    """The image uint8 (H, W, 3) that light leaves, I = I0 * 10 ** -OD (Beer-Lambert), with blur and sensor noise."""
    strength = rng.uniform([0.7, 0.65], [1.15, 1.3])
    vectors = STAINS + rng.normal(0, 0.025, STAINS.shape)
    thickness = 1 + 0.06 * noise(rng, tissue.nest.shape, 50)
    amounts = np.stack([tissue.haematoxylin, tissue.eosin], -1).clip(0) * strength * thickness[..., None]
    light = rng.uniform(236, 248, 3) * 10 ** -(amounts @ vectors.clip(0))
    light = gaussian_filter(light, (0.8, 0.8, 0)) + gaussian_filter(rng.normal(0, 3, light.shape), (0.4, 0.4, 0))
    return light.clip(0, 255).round().astype(np.uint8)


def make_image(rng: RNG, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """One image uint8 (H, W, 3) and the outlines x, y (N, 2) of its nuclei, which may reach over the border."""
    side = size + 2 * MARGIN
    tissue = grow_tissue(rng, side)
    nuclei = place_nuclei(rng, tissue)
    add_distractors(rng, tissue)
    chromatin = 0.7 * noise(rng, (side, side), 1.0) + 0.7 * noise(rng, (side, side), 2.0)
    for kind, outline in nuclei:
        draw_nucleus(rng, tissue, kind, outline, chromatin)
    image = stain(rng, tissue)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    outlines = [outline - MARGIN for _, outline in nuclei]
    return image, [outline for outline in outlines if len(polygon_pixels(outline, (size, size))[0])]


def write_xml(file: Path, outlines: list[np.ndarray]) -> None:
    """Write outlines as Aperio ImageScope does: one region a nucleus."""
    annotations = ElementTree.Element("Annotations", MicronsPerPixel=f"{MICRONS_PER_PIXEL:.6f}")
    regions = ElementTree.SubElement(ElementTree.SubElement(annotations, "Annotation", Id="1"), "Regions")
    for number, outline in enumerate(outlines, start=1):
        region = ElementTree.SubElement(regions, "Region", Id=str(number))
        vertices = ElementTree.SubElement(region, "Vertices")
        for x, y in outline:
            ElementTree.SubElement(vertices, "Vertex", X=f"{x:.6f}", Y=f"{y:.6f}")
    ElementTree.indent(annotations, "\t")
    ElementTree.ElementTree(annotations).write(file)


def places(root: Path, settings: Settings) -> Iterator[tuple[Path, Path]]:
    """Where each image and its annotation go: the folders of the official downloads."""
    training, test = root / "MoNuSeg 2018 Training Data", root / "MoNuSegTestData"
    for folder in (training / "Tissue Images", training / "Annotations", test):
        folder.mkdir(parents=True)
    for i in range(1, settings.training_images + 1):
        yield (
            training / "Tissue Images" / f"demo-training-{i:02}.tif",
            training / "Annotations" / f"demo-training-{i:02}.xml",
        )
    for i in range(1, settings.test_images + 1):
        yield test / f"demo-test-{i:02}.tif", test / f"demo-test-{i:02}.xml"


def main(settings: Settings) -> None:
    """Draw every image from its own random numbers and write it."""
    if settings.training_images < 1 or settings.test_images < 2 or settings.size < 64:
        raise InputError("at least 1 training image, 2 test images and a size of 64 pixels are wanted")
    at_least(settings, seed=0)
    nuclei = 0
    with replace_folder(settings.output, "demo.json", settings.overwrite) as root:
        for i, (tif, xml) in enumerate(tqdm(list(places(root, settings)), unit="image", disable=None)):
            image, outlines = make_image(np.random.default_rng([settings.seed, i]), settings.size)
            Image.fromarray(image).save(tif)
            write_xml(xml, outlines)
            nuclei += len(outlines)
        about = {name: value for name, value in asdict(settings).items() if name not in ("output", "overwrite")}
        write_json(root / "demo.json", about)
    print(f"{settings.training_images} training and {settings.test_images} test images with {nuclei} nuclei")
    print(f"synthetic images and annotations are in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
