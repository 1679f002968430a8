"""Images of any kind: what is read, what is converted, what is refused."""

import zipfile

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from GenSelfDiff.whole_image import slides
from GenSelfDiff.whole_image.slides import Slide, Tissue, View, mirrored, open_source, thumbnail
from utils_general import InputError


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width):
    """A picture without sharp edges, so that levels of a pyramid agree."""
    y, x = np.mgrid[:height, :width]
    channels = [127 + 100 * np.sin(x / 40 + i) * np.cos(y / 30) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write_pyramid(path, pixels, factors=(1, 4), **options):
    with tifffile.TiffWriter(path) as file:
        for i, factor in enumerate(factors):
            level = np.asarray(Image.fromarray(pixels).reduce(factor))
            file.write(level, tile=(32, 32), photometric="rgb", compression="zlib", subfiletype=int(i > 0), **options)


def test_an_ordinary_image_is_itself(tmp_path):
    pixels = noise(20, 30)
    for name in ("a.png", "a.bmp", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        source = open_source(tmp_path / name)
        assert (source.width, source.height, source.mpp, source.note) == (30, 20, None, "")
        assert (View.scaled(source, 1).read(3, 2, 9, 7) == pixels[2:7, 3:9]).all()


@pytest.mark.parametrize(
    ("mode", "colour", "read", "note"),
    [
        ("L", 90, (90, 90, 90), "grey"),
        ("1", 1, (255, 255, 255), "black and white"),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255), "transparent"),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30), "opacity"),
        ("LA", (100, 0), (255, 255, 255), "transparent"),
        ("P", 0, (0, 0, 0), ""),
    ],
)
def test_other_kinds_of_pixels_are_converted_and_it_is_said(tmp_path, mode, colour, read, note):
    image = Image.new(mode, (8, 8), colour)
    if mode == "P":
        image.putpalette([0, 0, 0])
    image.save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    assert (View.scaled(source, 1).read(0, 0, 8, 8) == read).all()
    assert note in source.note and bool(note) == bool(source.note)


def test_cmyk_is_converted_and_it_is_said(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    source = open_source(tmp_path / "a.jpg")
    red, green, _ = View.scaled(source, 1).read(0, 0, 8, 8)[4, 4]
    assert red > 200 and green < 60 and "CMYK" in source.note


def make_truncated(path):
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def make_truncated_slide(path):
    write_pyramid(path, noise(256, 256))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def make_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b" * 100)


BROKEN = {
    "truncated.tif": (make_truncated, "is the file complete"),
    "truncated.png": (make_truncated, "is the file complete"),
    "slide.tif": (make_truncated_slide, "is the file complete"),
    "slide.svs": (make_truncated_slide, "is the file complete"),
    "zip.tif": (make_zip, "cannot"),
    "zip.svs": (make_zip, "no slide that OpenSlide can read"),
    "empty.png": (lambda path: path.write_bytes(b""), "is empty"),
    "folder.png": (lambda path: path.mkdir(), "is a folder"),
    "text.jpg": (lambda path: path.write_text("not an image"), "cannot read"),
    "rgb16.tif": (lambda path: tifffile.imwrite(path, noise(9, 9).astype(np.uint16)), "16 bits a channel"),
    "grey16.png": (lambda path: Image.fromarray(noise(9, 9)[..., 0].astype(np.uint16)).save(path), "more than 8 bits"),
    "float.tif": (
        lambda path: tifffile.imwrite(path, noise(9, 9).astype(np.float32), photometric="rgb"),
        "32 bits a channel",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, name):
    make, message = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as error:
        open_source(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(noise(9, 9)).save(path)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refused)
    with pytest.raises(InputError, match=r"cannot read .*a\.png: Permission denied"):
        open_source(path)


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}, 0.5),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.3, "PhysicalSizeXUnit": "µm"}}, 0.3),
        ({}, None),
    ],
)
def test_a_tif_says_its_resolution_where_it_is_one_of_a_microscope(tmp_path, options, mpp):
    tifffile.imwrite(tmp_path / "a.tif", noise(40, 40), photometric="rgb", **options)
    assert open_source(tmp_path / "a.tif").mpp == (None if mpp is None else pytest.approx(mpp))


def test_a_png_says_its_resolution_too(tmp_path):
    for dpi, mpp in ((300, None), (50_800, pytest.approx(0.5, rel=1e-3))):
        Image.fromarray(noise(9, 9)).save(tmp_path / "a.png", dpi=(dpi, dpi))
        assert open_source(tmp_path / "a.png").mpp == mpp


def test_a_slide_is_read_by_regions(tmp_path):
    pixels = smooth(200, 300)
    write_pyramid(tmp_path / "a.tif", pixels, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, Slide) and len(source.downsamples) == 2 and source.mpp == pytest.approx(0.5)
    assert (View.scaled(source, 1).read(33, 20, 233, 180) == pixels[20:180, 33:233]).all()
    quarter = View.scaled(source, 4)
    expected = np.asarray(Image.fromarray(pixels).reduce(4)).astype(int)
    assert np.abs(quarter.read(0, 0, quarter.width, quarter.height) - expected).max() <= 2


def test_a_slide_as_aperio_writes_it(tmp_path):
    """Level, thumbnail without tiles, smaller level; the resolution in the description."""
    pixels = smooth(200, 300)
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        about = "Aperio Image Library v11.2.1 \r\n300x200 [0,0 300x200] (32x32) JPEG/RGB Q=70|AppMag = 40|MPP = 0.2520"
        tiled = {"tile": (32, 32), "photometric": "rgb", "compression": "zlib", "metadata": None}
        file.write(pixels, description=about, **tiled)
        file.write(pixels[::8, ::8], photometric="rgb", metadata=None)
        file.write(np.asarray(Image.fromarray(pixels).reduce(4)), description=about, **tiled)
    source = open_source(tmp_path / "a.svs")
    assert source.mpp == pytest.approx(0.252) and len(source.downsamples) == 2
    assert (View.scaled(source, 1).read(33, 20, 233, 180) == pixels[20:180, 33:233]).all()


def test_a_slide_without_its_smaller_levels_is_read_from_the_largest(tmp_path):
    write_pyramid(tmp_path / "whole.tif", smooth(512, 640), (1, 4))
    write_pyramid(tmp_path / "alone.tif", smooth(512, 640), (1,))
    whole, alone = (thumbnail(open_source(tmp_path / f"{n}.tif"), 80).astype(int) for n in ("whole", "alone"))
    assert whole.shape == (64, 80, 3) and np.abs(whole - alone).max() <= 4


def test_a_slide_in_an_empty_surround_is_what_qupath_opens(tmp_path, monkeypatch):
    pixels = smooth(200, 300)
    write_pyramid(tmp_path / "a.tif", pixels)
    bounds = {"x": "40", "y": "64", "width": "128", "height": "96"}
    properties = {f"openslide.bounds-{name}": value for name, value in bounds.items()}
    monkeypatch.setattr(openslide.OpenSlide, "properties", properties)
    source = open_source(tmp_path / "a.tif")
    assert (source.width, source.height) == (128, 96)
    assert (source.region(0, 8, 16, 30, 20) == pixels[80:100, 48:78]).all()
    assert source.level_size(1) == (32, 24) and source.region(1, 0, 0, 32, 24).shape == (24, 32, 3)
    assert np.abs(source.region(1, 0, 0, 32, 24).mean() - pixels[64:160, 40:168].mean()) < 3


def test_more_pixels_than_pillow_dares_to_is_one_clear_line(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(InputError, match=r"a.png has too many pixels .* vips"):
        open_source(tmp_path / "a.png")


def test_a_broken_tile_is_one_clear_line(tmp_path):
    path = tmp_path / "a.tif"
    write_pyramid(path, noise(256, 256))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[-1]
    content = bytearray(path.read_bytes())
    content[offset : offset + 200] = bytes(200)
    path.write_bytes(content)
    source = open_source(path)
    with pytest.raises(InputError, match="cannot read slide .*level 0 at x 200, y 200"):
        source.region(0, 200, 200, 56, 56)


def test_a_large_tif_without_tiles_needs_no_memory(tmp_path, monkeypatch):
    pixels = noise(50, 60)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", rowsperstrip=7, compression="zlib")
    monkeypatch.setattr(slides, "DECODED_WHOLE", 100)
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source.pixels, np.memmap) and (source.region(0, 5, 6, 20, 30) == pixels[6:36, 5:25]).all()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="60x50 pixels, too many at once: convert it"):
        open_source(tmp_path / "a.png")


@pytest.mark.parametrize("scale", [1, 2.5, 4, 0.6])
def test_a_region_is_the_same_whatever_it_is_read_with(tmp_path, scale):
    Image.fromarray(noise(101, 83)).save(tmp_path / "a.png")
    view = View.scaled(open_source(tmp_path / "a.png"), scale)
    whole = view.read(0, 0, view.width, view.height)
    assert whole.shape[:2] == (max(1, round(101 / scale)), max(1, round(83 / scale)))
    for left, top, right, bottom in ((0, 0, 9, 7), (3, 5, 20, 19), (11, 9, view.width, view.height)):
        part = view.read(left, top, right, bottom).astype(int)
        assert np.abs(part - whole[top:bottom, left:right]).max() <= 2


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_beyond_its_border_an_image_is_mirrored(size):
    assert (mirrored(-40, size + 40, size) == np.pad(np.arange(size), 40, mode="reflect")).all()


def test_a_region_beyond_the_border(tmp_path):
    pixels = noise(3, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    padded = np.pad(pixels, ((8, 8), (8, 8), (0, 0)), mode="reflect")
    assert (View.scaled(open_source(tmp_path / "a.png"), 1).read(-8, -8, 13, 11) == padded).all()


def test_tissue_has_a_colour_and_glass_none(tmp_path):
    picture = np.full((100, 100, 3), 243, np.uint8)
    picture[:20] = 0  # not scanned
    picture[60:80, 40:70] = (200, 120, 190)
    Image.fromarray(picture).resize((1000, 1000)).save(tmp_path / "a.png")
    view = View.scaled(open_source(tmp_path / "a.png"), 1)
    tissue = Tissue(view, picture, 0.04)
    ys = np.arange(0, 1000, 100)
    there = tissue.inside(ys, ys, 100)
    expected = np.zeros((10, 10), bool)
    expected[5:9, 3:8] = True  # with the rim
    assert (there == expected).all()
    assert tissue.inside(np.array([-500, 990]), np.array([700]), 600).tolist() == [[False, False]]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "large.tif"])
def test_a_turned_image_is_read_as_stored_and_it_is_said(tmp_path, monkeypatch, name, orientation):
    pixels = smooth(20, 30)
    exif = Image.Exif()
    exif[slides.ORIENTATION] = orientation
    if name == "large.tif":  # of those that tifffile unpacks
        monkeypatch.setattr(slides, "DECODED_WHOLE", 100)
    options = {"tiffinfo": {slides.ORIENTATION: orientation}} if name.endswith("tif") else {"exif": exif}
    Image.fromarray(pixels).save(tmp_path / name, **options)
    source = open_source(tmp_path / name)
    read = source.region(0, 0, 0, source.width, source.height).astype(int)
    assert read.shape == pixels.shape and np.abs(read - pixels).max() <= 40 * (name == "a.jpg")
    assert "want it turned: it is read as stored" in source.note


@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_a_slide_that_openslide_would_turn_tile_by_tile_is_refused(tmp_path, orientation):
    tag = (slides.ORIENTATION, 3, 1, orientation, True)
    write_pyramid(tmp_path / "a.tif", smooth(80, 90), (1,), extratags=[tag])
    if orientation == 1:
        assert open_source(tmp_path / "a.tif").note == ""
        return
    with pytest.raises(InputError, match=r"a\.tif wants to be turned .* write it upright, e\.g\. with: vips autorot"):
        open_source(tmp_path / "a.tif")


@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_further_pages_are_said_and_a_pyramid_has_none(tmp_path, tile):
    pixels = smooth(200, 300)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([pixels, 255 - pixels, pixels]), photometric="rgb", tile=tile)
    source = open_source(tmp_path / "a.tif")
    assert source.note == "has 3 pages: the first is read" and isinstance(source, Slide) == bool(tile)
    assert (source.region(0, 0, 0, 300, 200) == pixels).all()
    write_pyramid(tmp_path / "b.tif", pixels)
    assert open_source(tmp_path / "b.tif").note == ""


def test_an_eps_called_png_starts_nothing(tmp_path):
    Image.fromarray(noise(9, 9)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot read image"):
        open_source(tmp_path / "a.png")


def test_room_for_a_large_tif_is_made_before_it_is_unpacked(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(50, 60), photometric="rgb", rowsperstrip=7, compression="zlib")
    reserved, reserve = [], slides.os.posix_fallocate
    monkeypatch.setattr(slides, "DECODED_WHOLE", 100)
    monkeypatch.setattr(slides.os, "posix_fallocate", lambda *a: reserved.append(a[1:]) or reserve(*a))
    assert isinstance(open_source(tmp_path / "a.tif").pixels, np.memmap) and reserved == [(0, 50 * 60 * 3)]
