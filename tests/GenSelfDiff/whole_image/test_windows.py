from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from GenSelfDiff.predictor import TrainedPredictor
from GenSelfDiff.whole_image import windows as windows_module
from GenSelfDiff.whole_image.blocks import Blocks
from GenSelfDiff.whole_image.slides import DecodedImage, View
from GenSelfDiff.whole_image.windows import Windows, predict_box, predict_image


def view_of(pixels):
    return View.scaled(DecodedImage(None, pixels, None), 1)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def everything(xs, ys, _size):
    return np.ones((len(ys), len(xs)), bool)


def network(layers, classes=3):
    """A convolutional network that sees `layers` pixels to each side."""
    torch.manual_seed(0)
    steps = [nn.Conv2d(3, 8, 3, padding=1), nn.Tanh()]
    for _ in range(layers - 2):
        steps += [nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]
    model = nn.Sequential(*steps, nn.Conv2d(8, classes, 3, padding=1))

    def predict(images):
        with torch.inference_mode():
            return model(torch.from_numpy(images).movedim(-1, 1).float() / 40).softmax(1).numpy()

    return predict


def predictor_of(predict, classes):
    """What is known of a predictor that no checkpoint holds."""
    return TrainedPredictor(
        predict=predict, batch_size=5, classes=[str(c) for c in range(classes)], patch_size=None, mpp=None,
        downscale=1.0,
        instances="components", path=Path("none.pth"), epoch=0, loss=0.0, training={}, about={},
    )  # fmt: skip


def stitched(predict, view, windows, block, classes=3, wanted=everything):
    network = predictor_of(predict, classes)
    whole, seen = np.zeros((classes, view.height, view.width), np.float32), []
    blocks = Blocks(None, view.height, view.width, block)
    for i in range(len(blocks)):
        left, top, right, bottom = blocks.box(i)
        whole[:, top:bottom, left:right] = predict_box(network, view, windows, blocks.box(i), wanted, seen.append)
    return whole, sum(seen)


@pytest.mark.parametrize(("height", "width", "block"), [(75, 101, 32), (75, 101, 500), (32, 20, 16), (7, 3, 16)])
def test_stitched_equals_one_pass_where_the_receptive_field_fits_the_overlap(height, width, block):
    predict, windows, view = network(4), Windows(32, 0.5), view_of(picture(height, width))
    assert windows.border == 4
    margin = 16  # more than the network sees
    once = predict(view.read(-margin, -margin, width + margin, height + margin)[None])[0]
    whole, _ = stitched(predict, view, windows, block)
    assert np.abs(whole - once[:, margin:-margin, margin:-margin]).max() < 1e-5


def test_it_does_not_where_it_does_not_fit():
    predict, view = network(12), view_of(picture(64, 64))
    once = predict(view.read(-16, -16, 80, 80)[None])[0][:, 16:-16, 16:-16]
    assert np.abs(stitched(predict, view, Windows(32, 0.5), 64)[0] - once).max() > 1e-4


@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9])
def test_every_pixel_is_covered_and_blocks_make_no_difference(overlap):
    """Also for a predictor that sees its whole window."""
    view, windows = view_of(picture(50, 70)), Windows(16, overlap)

    def predict(images):
        p = images.mean((1, 2, 3), keepdims=True)[:, 0] / 255 * np.ones((len(images), 16, 16), np.float32)
        return np.stack([p, 1 - p], axis=1).astype(np.float32)

    (one, count), (many, again) = (stitched(predict, view, windows, b, 2) for b in (100, 16))
    assert np.allclose(one, many, atol=1e-6) and again >= count
    assert np.allclose(one.sum(0), 1, atol=1e-6) and one[0].min() > 0.3


def test_windows_that_are_not_wanted_are_background():
    view, windows = view_of(picture(64, 64)), Windows(16, 0.5)
    foreground = np.zeros((1, 3, 16, 16), np.float32)
    foreground[:, 2] = 1
    seen = []

    def predict(images):
        seen.append(len(images))
        return np.repeat(foreground, len(images), 0)

    whole, done = stitched(
        predict, view, windows, 64, wanted=lambda xs, ys, size: (ys[:, None] < 20) & (xs[None] < 300)
    )
    assert sum(seen) == done == 3 * 8  # rows at -2, 6 and 14
    assert (whole[2, : 14 + 16 - 2] == 1).all() and (whole[0, 28:] == 1).all()


def test_a_whole_image_is_what_its_blocks_are(monkeypatch):
    """To the last bit: a test and segment.py must not differ, however large the image is."""
    monkeypatch.setattr(windows_module, "BLOCK_SIZE", 32)
    predict, windows, pixels = network(4), Windows(16, 0.5), picture(75, 101)
    expected, _ = stitched(predict, view_of(pixels), windows, 32)
    assert (predict_image(predictor_of(predict, 3), pixels, windows) == expected).all()
