"""Draw the picture of the method that the README shows.

    python3 docs/draw_method.py --overwrite

Every image in it is real: synthetic tissue of pre_process/demo, the noise that the forward process adds to it, and
the labels as the preprocessing draws them. What the networks return is written as a symbol.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")  # a picture is written, no window opened: this works where there is no screen

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Line
from torch import Tensor

from GenSelfDiff.diffusion import GaussianDiffusion
from pre_process.demo.make_demo_data import make_image
from pre_process.MoNuSeg.preprocess import draw_nuclei
from utils_general import ROOT, InputError, replace_file, run_script

# Everything is placed in units of the picture shown 900 pixels wide, y downwards. The file has twice as many pixels,
# so that a pixel of a patch is exactly 2 x 2 of them: it stays sharp at either size, and noise takes little room.
WIDTH, HEIGHT, UNITS_PER_INCH = 900, 506, 75

SIZE = 80  # of the patches, in their pixels and in units
COLUMNS = (128, 212, 296)  # left edges of the patches that go into the network
STEPS = (50, 200, 500)
SEED, UNLABELLED, LABELLED = 2023, (19, 1, 10), (4, 1, 6)  # of the tissue; the last unlabelled patch lies on top

NET_LEFT, SHARED_RIGHT, HEAD_LEFT, NET_RIGHT = 408, 726, 738, 760
# The levels of the U-Net from left to right: channels, and n of the resolution 1 / 2^n
LEVELS = ((64, 0), (128, 1), (256, 2), (512, 3), (512, 3), (256, 3), (128, 2), (64, 1))
MIDDLE, LAST = 4, 7  # the bottleneck, and the last one before the head
LEVEL_HEIGHTS = (96, 72, 52, 34)
OUTPUT, LOSS_LEFT, LOSS_RIGHT = 836, 670, 886

INK, QUIET, ACCENT = "#2f3437", "#858b90", "#4f6f94"
RESNET, LINEAR, FULL, SHARED, LOSS = "#d3dfec", "#a394c6", "#54418a", "#f5f8fb", "#f6f4ef"
HEADS = {"head": "#ecc07f", "new head": "#8cc0ad"}
LABEL_COLOURS = np.array([[232, 235, 238], [62, 120, 108]], np.uint8)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw the picture of the method that the README shows."""

    output: Path = ROOT / "docs" / "method.png"
    """the picture"""
    overwrite: bool = False
    """replace an existing picture"""


def text(axes: Axes, x: float, y: float, content: str, size: float = 11, **options) -> None:
    """Write `content`, centred at (x, y) unless told otherwise; `size` in points."""
    axes.text(x, y, content, **{"size": size, "ha": "center", "va": "center", "color": INK} | options)


def arrow(axes: Axes, *points: tuple[float, float], colour: str = INK, head: float = 9, width: float = 1.2) -> None:
    """An arrow along straight lines between `points`."""
    style = {"arrowstyle": "-|>", "mutation_scale": head, "joinstyle": "miter", "capstyle": "butt"}
    axes.add_patch(FancyArrowPatch(path=Line(points), color=colour, linewidth=width, **style))


def patch(axes: Axes, image: np.ndarray, x: float, y: float) -> None:
    """Show an image (SIZE, SIZE, 3) with its top left corner at (x, y), over what was drawn before."""
    axes.imshow(image, extent=(x, x + SIZE, y + SIZE, y), interpolation="nearest", zorder=2)
    axes.add_patch(Rectangle((x, y), SIZE, SIZE, fill=False, edgecolor="white", linewidth=0.8, zorder=2))


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A part of the network from `x` to `x + width`, around its centre line at the height `y`."""
    axes.add_patch(Rectangle((x, y - height / 2), width, height, facecolor=colour, edgecolor=ACCENT, linewidth=0.7))


def frame(axes: Axes, left: float, top: float, right: float, bottom: float, colour: str, **options) -> None:
    """A rectangle with round corners."""
    shape = {"boxstyle": "round,pad=0,rounding_size=5", "facecolor": colour, "linewidth": 1, "zorder": 0}
    axes.add_patch(FancyBboxPatch((left, top), right - left, bottom - top, **shape, **options))


def draw_unet(axes: Axes, y: float, head: str, time: str) -> None:
    """The attention U-Net around the height `y`, as GenSelfDiff/unet.py builds it: the skip of level 0 is not used.

    The frame holds what fine-tuning takes over: from 56 above `y` to 77 below it.
    """
    block, stripe, gap, bus = 25, 5, 8, y + 57
    frame(axes, NET_LEFT - 8, y - 56, SHARED_RIGHT, y + 77, SHARED, edgecolor=ACCENT, linestyle=(0, (4, 3)))
    x, centres = NET_LEFT, []
    for i, (channels, n) in enumerate(LEVELS):
        height, centre = LEVEL_HEIGHTS[n], x + block / 2
        box(axes, x, y, block, height, RESNET)
        box(axes, x + block, y, stripe, height, FULL if i == MIDDLE else LINEAR)
        if i == MIDDLE:
            box(axes, x + block + stripe, y, 10, height, RESNET)
        text(axes, centre, y, f"{channels}\n{'1' if n == 0 else f'1/{2**n}'}", 9.5, linespacing=1.25)
        arrow(axes, (centre, bus), (centre, y + height / 2), colour=QUIET, head=5, width=0.8)
        centres.append(centre)
        x += block + stripe + 10 * (i == MIDDLE)
        arrow(axes, (x, y), (HEAD_LEFT if i == LAST else x + gap, y), head=5, width=1)
        x += gap
    axes.plot(centres[::LAST], [bus, bus], color=QUIET, linewidth=0.8)
    text(axes, NET_LEFT, bus + 12, time, 10, ha="left", color="#666c70")
    box(axes, HEAD_LEFT, y, NET_RIGHT - HEAD_LEFT, LEVEL_HEIGHTS[0], HEADS[head])
    text(axes, (HEAD_LEFT + NET_RIGHT) / 2, y, head, 10, rotation=90)
    for n in (1, 2, 3):
        start, end, top = centres[n], centres[-n], y - LEVEL_HEIGHTS[n] / 2
        arrow(axes, (start, top), (start, top - 7), (end, top - 7), (end, top), colour=LINEAR, head=5, width=1.1)


def draw_pretraining(axes: Axes) -> None:
    """Panel (a): x_0 and noise make x_t, from which the network predicts the noise."""
    deck = [make_image(np.random.default_rng([SEED, i]), SIZE)[0] for i in UNLABELLED]
    x_0 = torch.from_numpy(deck[-1]).movedim(-1, 0)[None] / 127.5 - 1
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(SEED))

    def show(x: Tensor, left: float, top: float) -> None:
        patch(axes, ((x[0].movedim(0, -1) + 1) / 2).clamp(0, 1).numpy(), left, top)

    row, middle, above, across, captions = 132, 172, 36, COLUMNS[1] + SIZE / 2, 222
    text(axes, 14, 15, "(a)  Self-supervised pre-training on unlabelled patches", 13, ha="left", weight="bold")
    for i, image in enumerate(deck):
        patch(axes, image, 26 - 6 * i, row - 12 + 6 * i)
    diffusion = GaussianDiffusion()
    for t, left in zip(STEPS, COLUMNS, strict=True):
        show(diffusion.q_sample(x_0, torch.tensor([t]), noise), left, row)
        text(axes, left + SIZE / 2, captions, f"$t = {t}$")
    show(noise / 2, COLUMNS[1], above)  # black to white is -2 to 2 deviations
    text(axes, 14 + SIZE / 2, captions, "patch $x_0$")
    text(axes, COLUMNS[1] - 8, above + SIZE / 2, r"noise $\epsilon \sim \mathcal{N}(0, I)$", ha="right")
    text(axes, across, captions + 22, r"$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\;\epsilon$")
    arrow(axes, (106, middle), (COLUMNS[0], middle))
    arrow(axes, (across, above + SIZE), (across, row))
    arrow(axes, (COLUMNS[2] + SIZE, middle), (NET_LEFT, middle))
    draw_unet(axes, middle, "head", "time embedding of $t$, into each of these ResNet blocks")
    arrow(axes, (NET_RIGHT, middle), (OUTPUT - 40, middle))
    text(axes, OUTPUT, middle, r"$\epsilon_\theta(x_t, t)$", 13)
    frame(axes, LOSS_LEFT, 24, LOSS_RIGHT, 104, LOSS, edgecolor=INK)
    text(axes, (LOSS_LEFT + LOSS_RIGHT) / 2, 41, "P2-weighted loss", weight="bold")
    weighted = r"$\dfrac{1}{(k + \mathrm{SNR}_t)^{\gamma}}\;\Vert\epsilon - \epsilon_\theta(x_t, t)\Vert^2$"
    text(axes, (LOSS_LEFT + LOSS_RIGHT) / 2, 76, weighted, 11.5)
    arrow(axes, (COLUMNS[1] + SIZE, above + SIZE / 2), (LOSS_LEFT, above + SIZE / 2))
    arrow(axes, (OUTPUT, middle - 14), (OUTPUT, 104))


def draw_finetuning(axes: Axes) -> None:
    """Panel (b): the same network at t = 0, with a new head, trained on images and their labels."""
    row, middle, below, loss = 302, 342, 386, 450
    text(axes, 14, 272, "(b)  Fine-tuning for segmentation on few labelled patches", 13, ha="left", weight="bold")
    for i, left in zip(LABELLED, COLUMNS, strict=True):
        image, outlines = make_image(np.random.default_rng([SEED, i]), SIZE)
        patch(axes, image, left, row)
        patch(axes, LABEL_COLOURS[draw_nuclei(outlines, (SIZE, SIZE))[0]], left, below)
    text(axes, COLUMNS[0] - 10, middle, "patches $x$", ha="right")
    text(axes, COLUMNS[0] - 10, below + SIZE / 2, "labels $y$", ha="right")
    arrow(axes, (COLUMNS[2] + SIZE, middle), (NET_LEFT, middle))
    draw_unet(axes, middle, "new head", "$t = 0$")
    arrow(axes, (NET_RIGHT, middle), (OUTPUT - 49, middle))
    text(axes, OUTPUT, middle, "class map $\\hat{y}$")
    frame(axes, LOSS_LEFT, loss - 23, LOSS_RIGHT, loss + 23, LOSS, edgecolor=INK)
    text(axes, (LOSS_LEFT + LOSS_RIGHT) / 2, loss - 9, "Segmentation loss", weight="bold")
    text(axes, (LOSS_LEFT + LOSS_RIGHT) / 2, loss + 10, "structural similarity + focal", 10.5)
    arrow(axes, (COLUMNS[2] + SIZE, loss), (LOSS_LEFT, loss))
    arrow(axes, (OUTPUT, middle + 12), (OUTPUT, loss - 23))
    across = (NET_LEFT - 8 + SHARED_RIGHT) / 2
    arrow(axes, (across, 249), (across, 286), colour=ACCENT, head=16, width=3)
    text(axes, across + 12, 268, "all weights but the head", ha="left", color=ACCENT, weight="bold")


def draw_legend(axes: Axes, y: float) -> None:
    """What the parts of the network mean, in one line."""
    parts = ((128, RESNET, "ResNet blocks"), (248, LINEAR, "linear attention"), (378, FULL, "full attention"))
    for x, colour, meaning in parts:
        box(axes, x, y, 11, 11, colour)
        text(axes, x + 18, y, meaning, 10, ha="left")
    arrow(axes, (496, y), (516, y), colour=LINEAR, head=5, width=1.1)
    text(axes, 523, y, "skip connection", 10, ha="left")
    text(axes, LOSS_RIGHT, y, "in the boxes: channels, resolution", 10, ha="right")


def main(settings: Settings) -> None:
    """Draw both panels and write the picture."""
    if settings.output.is_dir():
        raise InputError(f"{settings.output} is a folder: --output is the picture's file, for example method.png")
    if settings.output.exists() and not settings.overwrite:
        raise InputError(f"{settings.output} exists; --overwrite replaces it, or choose another --output")
    plt.rcParams.update({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"})
    figure = plt.figure(figsize=(WIDTH / UNITS_PER_INCH, HEIGHT / UNITS_PER_INCH), dpi=2 * UNITS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    draw_pretraining(axes)
    draw_finetuning(axes)
    draw_legend(axes, 492)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    with replace_file(settings.output) as temporary:
        figure.savefig(temporary, format="png", pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"the picture is in {settings.output}")


if __name__ == "__main__":
    run_script(main, Settings)
