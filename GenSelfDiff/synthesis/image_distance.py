"""How far generated images are from real ones: colours, and sliced Wasserstein distance on Laplacian pyramids.

The distance is that of Karras et al., 2018 (progressive growing of GANs, arXiv 1710.10196), section 5. No other network
judges the images, so nothing is downloaded, and every scale has a distance of its own: the coarsest tells of layout,
the finest of texture and noise. Two sets of real images are not at distance 0 from each other, the less so the fewer
they are: a distance says something beside that of as many other real images.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from GenSelfDiff.data import pretraining_folder
from GenSelfDiff.patches import Patches
from utils_general import SPLIT_SEED, InputError, read_rgb

SMALLEST = 16  # pixels, the side of the coarsest level
PATCH = 7  # pixels, the side of a patch
PATCHES = 128  # an image, at each level
DIRECTIONS = 512  # on which the patches are projected
AT_ONCE = 128  # directions: what bounds the memory
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16  # the filter of the pyramid (Burt and Adelson, 1983)


def _blur(images: np.ndarray, gain: float = 1) -> np.ndarray:
    for axis in (1, 2):
        images = ndimage.correlate1d(images, gain * BINOMIAL, axis=axis, mode="mirror")
    return images


def laplacian_pyramid(images: np.ndarray) -> Iterator[np.ndarray]:
    """The levels of images (N, H, W, C), from the finest: what each halving loses, and at last what is left.

    Levels are float32; sides are halved while the result is 16 pixels or more.
    """
    rest = images.astype(np.float32)
    while min(rest.shape[1:3]) >= 2 * SMALLEST and not any(side % 2 for side in rest.shape[1:3]):
        halved = _blur(rest)[:, ::2, ::2]
        enlarged = np.zeros_like(rest)
        enlarged[:, ::2, ::2] = halved
        yield rest - _blur(enlarged, gain=2)
        rest = halved
    yield rest


def _patches(level: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """128 patches of 7x7 pixels an image, at random places: (N * 128, 7, 7, C)."""
    number, height, width = level.shape[:3]
    image = np.arange(number).repeat(PATCHES)[:, None, None]
    top = random.integers(height - PATCH + 1, size=len(image))[:, None, None]
    left = random.integers(width - PATCH + 1, size=len(image))[:, None, None]
    inside = np.arange(PATCH)
    return level[image, top + inside[:, None], left + inside]


def _scaled(patches: np.ndarray, by: np.ndarray) -> np.ndarray:
    """As points (N, D), after each channel was shifted and scaled by the mean and deviation of the patches `by`."""
    deviation = np.maximum(by.std((0, 1, 2)), 1e-6)  # a level can be empty: flat images
    return ((patches - by.mean((0, 1, 2))) / deviation).reshape(len(patches), -1)


def _directions(dimensions: int, random: np.random.Generator) -> np.ndarray:
    """512 unit vectors (512, D), evenly spread."""
    directions = random.standard_normal((DIRECTIONS, dimensions), np.float32)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, directions: np.ndarray) -> float:
    """Mean over `directions` (P, D) of the Wasserstein-1 distance of the projections of two sets of points (N, D).

    In one dimension that is the mean difference of the sorted values.
    """
    total = 0.0
    for some in np.array_split(directions, -(-len(directions) // AT_ONCE)):
        differences = np.abs(np.sort(some @ a.T) - np.sort(some @ b.T))
        total += differences.mean(axis=1, dtype=np.float64).sum()
    return float(total / len(directions))


def image_distance(real: np.ndarray, images: np.ndarray, seed: int = SPLIT_SEED) -> dict[str, float]:
    """Distances x 1000 of `images` from `real`: of each level ("128 px", "64 px", ...), "mean", "mean, real scale".

    Both are as many images of one size, uint8 (N, H, W, 3). The patches of a level are brought to mean 0 and deviation
    1, channel by channel, before they are compared: as published, each set by its own mean and deviation, so that a
    colour cast and a lack of contrast that all images share are not seen. "mean, real scale" brings both sets there by
    those of `real`, and sees them. Patches lie at the same places in both sets: a set has distance 0 from itself.

    Raises `InputError` where the sets do not go together.
    """
    if real.shape != images.shape or real.ndim != 4 or real.shape[3] != 3:
        raise InputError(f"image sets {real.shape} and {images.shape}: as many images of one size are needed in both")
    if not len(real) or min(real.shape[1:3]) < PATCH:
        raise InputError(f"image sets of {real.shape}: at least one image, of {PATCH} pixels or more, is needed")
    own, common = {}, []
    for levels in zip(laplacian_pyramid(real), laplacian_pyramid(images), strict=True):
        side = levels[0].shape[1]
        a, b = (_patches(level, np.random.default_rng((seed, side))) for level in levels)
        directions = _directions(a[0].size, np.random.default_rng(seed))
        own[f"{side} px"] = 1000 * sliced_wasserstein(_scaled(a, a), _scaled(b, b), directions)
        common.append(1000 * sliced_wasserstein(_scaled(a, a), _scaled(b, a), directions))
    return {**own, "mean": float(np.mean(list(own.values()))), "mean, real scale": float(np.mean(common))}


def channel_statistics(images: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation of each channel over all pixels, 0 to 255, of images uint8 (N, H, W, 3)."""
    pixels = images.reshape(-1, 3)
    names = [f"{kind} {channel}" for kind in ("mean", "deviation") for channel in ("red", "green", "blue")]
    return dict(zip(names, [*pixels.mean(0), *pixels.std(0)], strict=True))


def real_patches(roots: tuple[Path, ...], size: int) -> list[Path]:
    """The files of all real patches, in the order of the paper's seed; `InputError` where they cannot be compared."""
    folders = [Patches(pretraining_folder(root)) for root in roots]
    if not folders:
        raise InputError("--data names no data set")
    for folder in folders:
        if (found := folder.data_set.patch_size) != size:
            raise InputError(
                f"{folder.folder} holds patches of {found} pixels, the network draws {size}: "
                "name the data set it was trained on, --data"
            )
    files = [f for folder in folders for f in folder.files.values()]
    if len(files) < 2:
        raise InputError(f"{folders[0].folder} holds one patch: two or more are needed to compare images with")
    return [files[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(files))]


def read_images(files: list[Path], size: int) -> np.ndarray:
    """Images uint8 (N, size, size, 3); `InputError` names one of another size."""
    images = [read_rgb(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != (size, size, 3):
            raise InputError(f"{file} is {image.shape[1]}x{image.shape[0]} pixels, not {size}x{size}")
    return np.stack(images)


def compare(generated: np.ndarray, real: np.ndarray) -> dict[str, pd.DataFrame]:
    """Tables of the colours, and of the distance from real patches beside the distance that other real ones have.

    Both are uint8 (N, H, W, 3); twice as many real ones are needed, or the distance is of fewer generated ones.
    """
    colours = {"generated": channel_statistics(generated), "real": channel_statistics(real)}
    number = min(len(generated), len(real) // 2)
    first, other = real[:number], real[number : 2 * number]
    distances = {"generated": image_distance(first, generated[:number]), "other real": image_distance(first, other)}
    return {"colours": pd.DataFrame(colours).T, "distance": pd.DataFrame(distances).T}
