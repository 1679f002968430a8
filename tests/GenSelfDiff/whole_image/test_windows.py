import numpy as np
import pytest
import torch
from torch import nn

from GenSelfDiff.whole_image.slides import Picture, View
from GenSelfDiff.whole_image.windows import Blocks, Windows, averaged, predict_box


def view_of(pixels):
    return View.scaled(Picture(None, pixels, None), 1)


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


def stitched(predict, view, windows, block, classes=3, wanted=everything):
    whole, seen = np.zeros((classes, view.height, view.width), np.float32), []
    blocks = Blocks(None, view.height, view.width, block)
    for i in range(len(blocks)):
        left, top, right, bottom = blocks.box(i)
        box = predict_box(predict, classes, view, windows, blocks.box(i), 5, wanted, seen.append)
        whole[:, top:bottom, left:right] = box
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


def test_averaging_turns_back_what_it_turned():
    images = picture(24, 24)[None]

    def same(x):
        return x.transpose(0, 3, 1, 2) / np.float32(255)

    for averaging in ("none", "flips", "all"):
        assert np.allclose(averaged(same, averaging)(images), same(images), atol=1e-6)


def test_averaging_is_the_mean_over_all_ways_to_see():
    """A predictor that marks the upper left corner: all 8 ways mark each corner twice."""
    mark = np.zeros((1, 1, 6, 6), np.float32)
    mark[..., 0, 0] = 1
    image = np.zeros((1, 6, 6, 3), np.uint8)
    corners = {name: averaged(lambda _: mark, name)(image)[0, 0] for name in ("flips", "all")}
    for marked in corners.values():
        assert marked[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0.25] * 4 and marked.sum() == 1
    mark[..., 0, 1] = 1  # beside it: now turns are told from flips
    assert averaged(lambda _: mark, "flips")(image)[0, 0, 1, 0] == 0
    assert averaged(lambda _: mark, "all")(image)[0, 0, 1, 0] == 1 / 8


def test_blocks_are_one_map(tmp_path):
    whole = np.random.default_rng(0).integers(0, 99, (37, 53)).astype(np.int32)
    blocks = Blocks(tmp_path, 37, 53, 16)
    assert (blocks.rows, blocks.columns, len(blocks)) == (3, 4, 12) and not blocks.has("map", 0)
    for i in range(len(blocks)):
        left, top, right, bottom = blocks.box(i)
        blocks.write("map", i, a=whole[top:bottom, left:right])
    assert blocks.has("map", 11)
    for ys, xs in ((np.arange(37), np.arange(53)), (np.arange(3, 37, 5), np.arange(20, 30)), (np.array([36]), [0, 52])):
        assert (blocks.gather("map", "a", np.asarray(ys), np.asarray(xs)) == whole[np.ix_(ys, xs)]).all()
    doubled = np.arange(74) // 2
    assert (blocks.gather("map", "a", doubled, np.arange(53)) == whole[doubled]).all()


def test_the_neighbours_of_a_block():
    blocks = Blocks(None, 30, 30, 10)
    assert [blocks.before(i) for i in (0, 2, 4, 8)] == [[], [1], [3, 0, 1, 2], [7, 4, 5]]
    assert blocks.box(4, 3) == (7, 7, 23, 23) and blocks.box(8, 3) == (17, 17, 30, 30)


def test_a_map_that_is_the_same_everywhere_takes_no_room(tmp_path):
    blocks = Blocks(tmp_path, 1000, 1000, 1000)
    maps = {"a": np.full((1000, 900), 7, np.uint8), "b": np.zeros((0, 3), np.int32), "c": np.full(5, 0.5, np.float32)}
    blocks.write("map", 0, **maps, d=np.arange(4))
    assert next(tmp_path.iterdir()).stat().st_size < 3000
    for name, wanted in {**maps, "d": np.arange(4)}.items():
        found = blocks.read("map", 0, name)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape and (found == wanted).all()
