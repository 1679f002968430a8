"""Maps in blocks on disk: written by block, read as one."""

import numpy as np

from GenSelfDiff.whole_image.blocks import Blocks


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


def test_a_broken_file_is_none(tmp_path):
    """As a power loss leaves it: empty, cut off, or with zeros in it."""
    blocks = Blocks(tmp_path, 60, 60, 60)
    blocks.write("map", 0, a=np.random.default_rng(0).integers(0, 99, (60, 60)))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for broken in (b"", whole[:-30], whole[:200], whole[:100] + bytes(50) + whole[150:], bytes(len(whole))):
        assert blocks.has("map", 0)
        file.write_bytes(broken)
        assert not blocks.has("map", 0)
        file.write_bytes(whole)
