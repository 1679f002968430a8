"""Overlapping windows over an image of any size, and what a predictor says of it by them.

A pixel's class probabilities, and maps of targets, are the mean over all windows that see it, weighted by a Gaussian
around each window's centre. The windows lie on one grid over the whole image, so the result does not depend on the
blocks it is computed in.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from GenSelfDiff.predictor import TrainedPredictor
from GenSelfDiff.whole_image.blocks import Blocks, Box
from GenSelfDiff.whole_image.slides import DecodedImage, View
from utils_general import PATCH_SIZE, SIDE_MULTIPLE, InputError, at_least

Wanted = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Left sides (n,) and tops (m,) of windows of so many pixels to whether there is something in each, bool (m, n)"""
BLOCK_SIZE = 2048  # pixels of the side of what is predicted at once
LOOKS = 64  # windows by which a predictor that fits itself to an image is shown it
MOST_OVERLAP = 0.9  # of windows: the more, the slower


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """By which windows whole images are looked at: in a test and in use the same."""

    window: int | None = None
    """pixels of a window's side, a multiple of 8; that of the training's patches if not given (256 where unknown)"""
    overlap: float = 0.5
    """part of a window that it shares with the next: every pixel is then seen by four; 0 to 0.9, more is slower"""

    def check_windows(self) -> None:
        """Raise `InputError` for windows that cannot work."""
        at_least(self, overlap=0, window=SIDE_MULTIPLE)
        if self.overlap > MOST_OVERLAP:
            raise InputError(f"--overlap {self.overlap}: 0 to {MOST_OVERLAP} is wanted")
        if self.window is not None and self.window % SIDE_MULTIPLE:
            raise InputError(f"--window {self.window}: the network wants a multiple of {SIDE_MULTIPLE}")


@dataclass(frozen=True)
class Windows:
    """A grid of square windows of `size` pixels, each of which shares the part `overlap` (0 to below 1) with the next.

    A quarter of the overlap at each side of a window has the weight 0. So a network that looks no further than
    `border` pixels gives exactly what it would give for the whole image (mirrored at its border) at once.
    """

    size: int
    overlap: float

    @property
    def step(self) -> int:
        """Pixels from one window to the next."""
        return max(1, round(self.size * (1 - self.overlap)))

    @property
    def border(self) -> int:
        """Pixels at each side of a window that do not count."""
        return (self.size - self.step) // 4

    def starts(self, first: int, last: int, length: int) -> np.ndarray:
        """Where the windows begin that count in pixels first..last-1 of an axis of `length` pixels."""
        low = max(0, (first - (self.size - 2 * self.border)) // self.step + 1)
        high = min(-(-length // self.step) - 1, (last - 1) // self.step)
        return np.arange(low, high + 1) * self.step - self.border

    def over(self, box: Box, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Left sides and tops of the windows that count in a region."""
        left, top, right, bottom = box
        return self.starts(left, right, view.width), self.starts(top, bottom, view.height)

    def weights(self) -> np.ndarray:
        """A Gaussian of deviation size / 4 around the centre, float32 (size, size).

        It is lowered so that it reaches 0 where the border begins: a weight that jumped would be seen as a seam where
        two windows disagree, and so would a narrow Gaussian, between whose windows the change is sudden.
        """
        distance = np.arange(self.size) - (self.size - 1) / 2
        end = self.size / 2 - self.border
        # exp(-d^2 / (2 deviation^2)) with deviation = size / 4
        axis = np.exp(-8 * (distance / self.size) ** 2) - np.exp(-8 * (end / self.size) ** 2)
        axis[np.abs(distance) >= end] = 0
        return np.outer(axis, axis).astype(np.float32)


def windows_of(network: TrainedPredictor, settings: WindowSettings) -> Windows:
    """The windows that the settings mean: if they do not say it, of the size of the training's patches."""
    return Windows(settings.window or network.patch_size or PATCH_SIZE, settings.overlap)


def everywhere(xs: np.ndarray, ys: np.ndarray, _size: int) -> np.ndarray:
    """Every window is `Wanted`."""
    return np.ones((len(ys), len(xs)), bool)


def fitted(network: TrainedPredictor, view: View, windows: Windows, wanted: Wanted) -> TrainedPredictor:
    """The predictor for one image: where it fits itself to an image, it is shown some windows of it, always the same"""
    if network.for_image is None:
        return network
    xs, ys = windows.over((0, 0, view.width, view.height), view)
    corners = np.argwhere(wanted(xs, ys, windows.size))
    if not len(corners):
        return network
    chosen = corners[np.random.default_rng(0).permutation(len(corners))[:LOOKS]]
    boxes = [(xs[j], ys[i], xs[j] + windows.size, ys[i] + windows.size) for i, j in chosen]
    return replace(network, predict=network.for_image(np.stack([view.read(*box) for box in boxes])))


def predict_image(network: TrainedPredictor, pixels: np.ndarray, windows: Windows) -> np.ndarray:
    """Class probabilities and maps float32 (C + K, H, W) of a whole image uint8 (H, W, 3) in memory.

    They are those by which `segment.py` makes its class map of the same pixels, to the last bit: windows and batches
    are the same, block by block.
    """
    height, width = pixels.shape[:2]
    view, blocks = View.scaled(DecodedImage(Path(), pixels, None), 1), Blocks(Path(), height, width, BLOCK_SIZE)
    whole, network = np.empty((network.channels, height, width), np.float32), fitted(network, view, windows, everywhere)
    for block in range(len(blocks)):
        left, top, right, bottom = box = blocks.box(block)
        whole[:, top:bottom, left:right] = predict_box(network, view, windows, box, everywhere, lambda _: None)
    return whole


def predict_box(
    network: TrainedPredictor, view: View, windows: Windows, box: Box, wanted: Wanted, done: Callable[[int], None]
) -> np.ndarray:
    """Class probabilities and maps of a region, float32 (C + K, H, W).

    Windows in which nothing is `wanted` are left out; where none is left, it is background, and maps are 0. `done` is
    told how many windows were looked at.
    """
    left, top, right, bottom = box
    xs, ys = windows.over(box, view)
    corners = [(xs[j], ys[i]) for i, j in np.argwhere(wanted(xs, ys, windows.size))]
    total = np.zeros((network.channels, bottom - top, right - left), np.float32)
    covered = np.zeros(total.shape[1:], np.float32)
    if corners:
        pixels = view.read(xs[0], ys[0], xs[-1] + windows.size, ys[-1] + windows.size)
        views = np.lib.stride_tricks.sliding_window_view(pixels, (windows.size, windows.size), axis=(0, 1))
        weights = windows.weights()
    for start in range(0, len(corners), network.batch_size):
        batch = corners[start : start + network.batch_size]
        images = np.stack([views[y - ys[0], x - xs[0]] for x, y in batch]).transpose(0, 2, 3, 1)
        for (x, y), of_pixels in zip(batch, network.predict(images), strict=True):
            # What window and region share, in pixels of the region and of the window
            x0, x1, y0, y1 = max(x, left), min(x + windows.size, right), max(y, top), min(y + windows.size, bottom)
            of_region = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            of_window = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
            covered[of_region] += weights[of_window]
            total[:, *of_region] += weights[of_window] * of_pixels[:, *of_window]
        done(len(batch))
    total[0, covered == 0] = 1
    return total / np.where(covered == 0, 1, covered)
