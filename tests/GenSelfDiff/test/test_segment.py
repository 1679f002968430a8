"""segment.py on whole images: what it writes, how it goes on, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from shapely.geometry import shape

from GenSelfDiff import checkpoint
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.instances import to_instances
from GenSelfDiff.test import segment
from GenSelfDiff.unet import SegNet
from GenSelfDiff.whole_image import map_files as maps
from GenSelfDiff.whole_image import pipeline as whole_image
from GenSelfDiff.whole_image.slides import open_source
from tests.GenSelfDiff.whole_image.test_slides import BROKEN
from utils_general import InputError, read_index_map, read_rgb

CONTENT = {
    "epoch": 3, "loss": 0.5, "stage": "finetune", "classes": ["background", "nucleus"], "patch_size": 16,
    "settings": {"input_range": [0.0, 1.0]},
}  # fmt: skip


def tissue(height, width, seed=0, number=None, radius=6):
    """Dark discs on a pink ground, uint8 (H, W, 3), and where they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for row, column in rng.uniform(0, 1, (number or height * width // 900, 2)) * (height, width):
        mask |= (y - row) ** 2 + (x - column) ** 2 < radius**2
    return np.where(mask[..., None], [90, 50, 140], [230, 180, 215]).astype(np.uint8), mask


def write_slide(path, pixels, mpp=0.25):
    """A pyramid of three levels."""
    with tifffile.TiffWriter(path) as file:
        for factor in (1, 4, 16):
            file.write(
                np.asarray(Image.fromarray(pixels).reduce(factor)), tile=(64, 64), photometric="rgb",
                compression="zlib", subfiletype=int(factor > 1), resolution=(1e4 / mpp,) * 2,
                resolutionunit="CENTIMETER",
            )  # fmt: skip


def dark(images):
    """A network that sees a nucleus in every dark pixel."""
    p = np.where(images[..., 1] < 110, 0.8, 0.2).astype(np.float32)
    return np.stack([1 - p, p], axis=1)


@pytest.fixture
def run(tmp_path):
    """A checkpoint of an untrained network."""
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "run" / "best.pth", {**CONTENT, "model_state_dict": SegNet(8, 2).state_dict()})
    return tmp_path / "run"


@pytest.fixture
def settings(run, tmp_path, monkeypatch):
    """Two images, and the network above in place of the untrained one."""
    real = segment.load_network
    monkeypatch.setattr(segment, "load_network", lambda *a: replace(real(*a), predict=dark))
    (tmp_path / "images").mkdir()
    for i, name in enumerate(("b.png", "a.tif")):
        Image.fromarray(tissue(90, 110, i)[0]).save(tmp_path / "images" / name)
    return segment.Settings(
        images=tmp_path / "images", run=str(run), output=tmp_path / "out", device="cpu", block_size=64
    )  # fmt: skip


def failing(settings):
    """Run; the exit code must be that for images that failed."""
    with pytest.raises(SystemExit) as stopped:
        segment.main(settings)
    assert stopped.value.code == 3
    return pd.read_csv(settings.output / "summary.csv", index_col="image")


def test_as_a_user_does_it(run_script_file, run, tmp_path):
    """An image that is whole, and one that is not: exit code 3, and no traceback."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    Image.fromarray(tissue(40, 50)[0]).save(images / "one.png")
    (images / "two.jpg").write_text("no image")
    done = run_script_file(
        "GenSelfDiff/test/segment.py", "--run", run, "--images", images, "--output", out, "--tta", "flips",
        "--device", "cpu", check=False,
    )  # fmt: skip
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.splitlines()[-1] == f"maps, overlays, tables and GeoJSON are in {out}"
    assert "two.jpg" in done.stdout + done.stderr
    names = {"one_classes.png", "one_instances.png", "one_overlay.png", "one_objects.csv", "one.geojson"}
    assert {f.name for f in out.iterdir()} == {*names, "settings.json", "summary.csv"}


def test_one_image_and_once_more(settings, capsys):
    one = replace(settings, images=settings.images / "b.png", tta="all")
    segment.main(one)
    written = (settings.output / "b.geojson").stat().st_mtime_ns
    segment.main(one)
    assert "1 images" in capsys.readouterr().out.splitlines()[-2]
    assert (settings.output / "b.geojson").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="other settings: images"):
        segment.main(replace(one, images=settings.images))


def test_maps_tables_and_outlines_agree(settings):
    segment.main(replace(settings, probabilities=True))
    out = settings.output
    pixels, mask = tissue(90, 110, 0)
    assert (read_index_map(out / "b_classes.png") == mask).all()
    numbers = read_index_map(out / "b_instances.png")
    whole = to_instances(mask.astype(int), "watershed", settings)
    assert ((numbers > 0) == (whole > 0)).all() and numbers.max() == whole.max() > 5
    assert set(np.unique(read_index_map(out / "b_probability_nucleus.png"))) == {51, 204}
    rows = pd.read_csv(out / "b_objects.csv")
    assert rows.area_px.tolist() == np.bincount(numbers.ravel())[1:].tolist()
    assert np.allclose(rows.mean_probability, 0.8) and (rows["class"] == "nucleus").all()
    features = json.loads((out / "b.geojson").read_text())["features"]
    assert [shape(f["geometry"]).area for f in features] == rows.area_px.tolist()
    assert {f["properties"]["objectType"] for f in features} == {"detection"}
    overlay = read_rgb(out / "b_overlay.png")
    drawn = (overlay == [255, 69, 0]).all(-1)
    assert (overlay[~drawn] == pixels[~drawn]).all() and 0 < drawn.sum() < mask.sum() and not drawn[~mask].any()
    summary = pd.read_csv(out / "summary.csv", index_col="image")
    assert summary.index.tolist() == ["a.tif", "b.png"] and summary.objects["b.png"] == len(rows)
    assert summary["area share: nucleus"]["b.png"] == pytest.approx(mask.mean(), rel=1e-5)
    assert summary.error.isna().all() and (summary.seconds >= 0).all() and not (out / ".unfinished").exists()


def test_blocks_make_no_difference(settings):
    results = []
    for size in (64, 500):
        out = settings.output.with_name(f"out{size}")
        segment.main(replace(settings, output=out, block_size=size))
        rows = pd.read_csv(out / "b_objects.csv").drop(columns="object")
        results.append(rows.sort_values(["x_px", "y_px"], ignore_index=True))
    pd.testing.assert_frame_equal(*results)


def test_broken_images_are_named_and_the_others_done(settings, capsys):
    for name, (make, _) in BROKEN.items():
        make(settings.images / name)
    (settings.images / "nowhere.png").symlink_to(settings.images / "gone.png")
    summary = failing(settings)
    assert "No such file" in summary.error["nowhere.png"]
    (settings.images / "nowhere.png").unlink()
    (settings.output / "summary.csv").unlink()
    capsys.readouterr()
    summary = failing(settings)
    assert len(summary) == len(BROKEN) + 2 and summary.error.notna().sum() == len(BROKEN)
    for name, (_, message) in BROKEN.items():
        assert message in summary.error[name] and name in summary.error[name]
    assert summary.error[["a.tif", "b.png"]].isna().all() and (settings.output / "b_overlay.png").is_file()
    printed = capsys.readouterr()
    assert f"2 images, {summary.objects.sum():.0f} objects; 0 were done before, {len(BROKEN)} failed" in printed.out
    assert printed.out.count("failed: ") + printed.err.count("failed: ") == len(BROKEN)
    for name in BROKEN:  # mended, they are done, and only they
        path = settings.images / name
        path.rmdir() if path.is_dir() else path.unlink()
    Image.fromarray(tissue(30, 30)[0]).save(settings.images / "zip.tif")
    segment.main(settings)
    printed = capsys.readouterr().out
    assert "3 images" in printed and "2 were done before, 0 failed" in printed


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (15, 17), (16, 16)])
def test_an_image_smaller_than_a_patch(settings, height, width):
    pixels, mask = tissue(height, width, 1, number=3, radius=3)
    Image.fromarray(pixels).save(settings.images / "small.png")
    segment.main(settings)
    assert (read_index_map(settings.output / "small_classes.png") == mask).all()


def test_converted_images_are_noted_once(settings, capsys):
    for i in range(2):
        Image.fromarray(tissue(30, 30)[0]).convert("L").save(settings.images / f"grey{i}.png")
    segment.main(settings)
    assert "note: grey0.png and 1 more: grey" in capsys.readouterr().out


def test_killed_it_goes_on_where_it_was(settings, monkeypatch, capsys):
    class Killed(BaseException):
        pass

    seen = []

    def until(limit):
        def predict(images):
            seen.append(len(images))
            if len(seen) > limit:
                raise Killed
            return dark(images)

        return predict

    real = segment.load_network
    segment.main(replace(settings, output=settings.output.with_name("whole")))
    monkeypatch.setattr(segment, "load_network", lambda *a: replace(real(*a), predict=until(math_limit)))
    math_limit = 35  # batches: in the second image
    with pytest.raises(Killed):
        segment.main(settings)
    first = len(seen)
    assert (settings.output / "a.geojson").is_file() and not (settings.output / "b.geojson").is_file()
    kept = list((settings.output / ".unfinished").glob("b_*/*"))
    math_limit = 10**6
    segment.main(settings)
    assert "1 were done before" in capsys.readouterr().out and kept
    assert len(seen) - first < first + 10
    for name in ("b_classes.png", "b_objects.csv", "b.geojson", "a.geojson"):
        assert (settings.output / name).read_bytes() == (settings.output.with_name("whole") / name).read_bytes()


def test_other_settings_are_refused_by_name(settings):
    segment.main(settings)
    with pytest.raises(InputError, match=r"other settings: overlap \(overlap was 0.5, now 0.25\).*--overwrite"):
        segment.main(replace(settings, overlap=0.25))
    segment.main(replace(settings, batch_size=3))  # changes nothing that is computed
    (settings.output / "a_classes_corrected.png").touch()  # by the user
    (settings.output / "project.qpproj").touch()
    segment.main(replace(settings, overlap=0.25, overwrite=True))
    assert {"a_classes_corrected.png", "project.qpproj"} <= {f.name for f in settings.output.iterdir()}
    assert json.loads((settings.output / "settings.json").read_text())["overlap"] == 0.25


def test_another_network_is_refused(settings, run):
    segment.main(settings)
    checkpoint.save(run / "best.pth", {**CONTENT, "epoch": 4, "model_state_dict": SegNet(8, 2).state_dict()})
    with pytest.raises(InputError, match="other settings: checkpoint"):
        segment.main(settings)


def test_a_folder_of_others_is_left_alone(settings):
    with pytest.raises(InputError, match="did not write"):
        segment.main(replace(settings, output=settings.images, overwrite=True))
    assert len(list(settings.images.iterdir())) == 2
    (settings.images / "settings.json").write_text('{"dim": 16}')  # as in the folder of a training run
    with pytest.raises(InputError, match="did not write"):
        segment.main(replace(settings, output=settings.images, overwrite=True))
    assert len(list(settings.images.iterdir())) == 3
    with pytest.raises(InputError, match="is a file"):
        segment.main(replace(settings, output=settings.images / "b.png"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": Path("/no/where")}, "/no/where does not exist"),
        ({"overlap": 0.95}, "--overlap 0.95: 0 to 0.9"),
        ({"overlap": -1}, "--overlap is -1"),
        ({"mpp": 0}, "--mpp is 0"),
        ({"window": 20}, "--window 20: the network wants a multiple of 8"),
        ({"block_size": 4}, "--block-size is 4"),
        ({"run": "nothing"}, "no run 'nothing'"),
        ({"batch_size": 0}, "--batch-size is 0"),
    ],
)
def test_settings_that_cannot_work(settings, change, message):
    with pytest.raises(InputError, match=message):
        segment.main(replace(settings, **change))
    assert not settings.output.exists()


def test_images_of_one_name_do_not_overwrite_each_other(settings):
    Image.fromarray(tissue(30, 30)[0]).save(settings.images / "b.bmp")
    segment.main(settings)
    assert {"b.bmp_classes.png", "b.png_classes.png", "a_classes.png"} <= {f.name for f in settings.output.iterdir()}
    Image.fromarray(tissue(30, 30)[0]).save(settings.images / "b.png.bmp")
    assert sorted(segment.find_images(settings.images)) == ["a.tif", "b.bmp", "b.png", "b.png.bmp"]


def test_an_image_that_was_replaced_is_done_again(settings, capsys):
    segment.main(settings)
    Image.fromarray(tissue(40, 50)[0]).save(settings.images / "b.png")
    capsys.readouterr()
    segment.main(settings)
    assert "2 images" in (said := capsys.readouterr().out) and "1 were done before" in said
    summary = pd.read_csv(settings.output / "summary.csv", index_col="image")
    assert summary.width["b.png"] == 50 and read_index_map(settings.output / "b_classes.png").shape == (40, 50)


def test_results_that_were_moved_go_on(settings, capsys):
    segment.main(settings)
    moved = settings.output.rename(settings.output.with_name("moved"))
    segment.main(replace(settings, output=moved))
    assert "2 were done before" in capsys.readouterr().out


def test_where_no_tissue_is_seen_it_is_said(settings, monkeypatch, capsys):
    monkeypatch.setattr(whole_image, "LARGE", 100)
    grey = tissue(64, 64)[0].mean(-1).astype(np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(settings.images / "b.png")
    segment.main(settings)
    assert "b.png: no tissue was found, nothing was looked at: lower --tissue" in capsys.readouterr().out
    looked_at = pd.read_csv(settings.output / "summary.csv", index_col="image")["share looked at"]
    assert looked_at["b.png"] == 0 and looked_at["a.tif"] > 0.9


def trained_at(settings, monkeypatch, mpp):
    real = segment.load_network
    monkeypatch.setattr(segment, "load_network", lambda *a: replace(real(*a), mpp=mpp))


def test_an_image_is_brought_to_the_resolution_of_the_training(settings, monkeypatch):
    """Scanned twice as fine as the training's: worked on at half, reported in its own pixels and micrometres."""
    pixels, mask = tissue(200, 240, number=12, radius=15)
    for name, mpp in (("fine", 0.25), ("same", 0.51), ("unknown", None)):
        size = {} if mpp is None else {"dpi": (25_400 / mpp,) * 2}
        Image.fromarray(pixels).save(settings.images / f"{name}.png", **size)
    trained_at(settings, monkeypatch, 0.5)
    sizes = []
    real = whole_image.Blocks
    monkeypatch.setattr(
        whole_image, "Blocks", lambda f, h, w, s: sizes.append((f.name.split("_")[0], h, w)) or real(f, h, w, s)
    )
    segment.main(settings)
    assert {("fine", 100, 120), ("same", 200, 240), ("unknown", 200, 240)} < set(sizes)
    fine, unknown = (pd.read_csv(settings.output / f"{n}_objects.csv") for n in ("fine", "unknown"))
    classes = read_index_map(settings.output / "fine_classes.png")
    assert classes.shape == mask.shape and (classes != mask).mean() < 0.02
    assert fine.area_px.sum() == pytest.approx(mask.sum(), rel=0.03) and unknown.area_um2.isna().all()
    assert np.allclose(fine.area_um2, fine.area_px / 16, rtol=0.01) and fine.x_px.max() > 150
    features = json.loads((settings.output / "fine.geojson").read_text())["features"]
    assert sum(shape(f["geometry"]).area for f in features) == pytest.approx(fine.area_px.sum())


def test_images_of_unknown_resolution_are_reduced_as_the_training_was(settings, monkeypatch):
    pixels, mask = tissue(200, 240, number=12, radius=15)
    Image.fromarray(pixels).save(settings.images / "unknown.png")
    Image.fromarray(pixels).save(settings.images / "known.png", dpi=(25_400 / 0.5,) * 2)
    real, sizes = segment.load_network, []
    monkeypatch.setattr(segment, "load_network", lambda *a: replace(real(*a), mpp=0.5, downscale=2.0))
    blocks = whole_image.Blocks
    monkeypatch.setattr(
        whole_image, "Blocks", lambda f, h, w, s: sizes.append((f.name.split("_")[0], h, w)) or blocks(f, h, w, s)
    )
    segment.main(settings)
    assert {("unknown", 100, 120), ("known", 200, 240)} < set(sizes)
    classes = read_index_map(settings.output / "unknown_classes.png")
    assert classes.shape == mask.shape and (classes != mask).mean() < 0.02


def test_the_resolution_of_images_that_do_not_say_it(settings, monkeypatch):
    trained_at(settings, monkeypatch, 0.5)
    segment.main(replace(settings, image_mpp=0.5))
    assert pd.read_csv(settings.output / "b_objects.csv").area_um2.notna().all()
    summary = failing(replace(settings, mpp=0.5, overwrite=True))
    assert "b.png does not say its resolution, which --mpp needs: say it with --image-mpp" in summary.error["b.png"]


def test_a_resolution_that_the_network_was_not_trained_for_is_warned_of(settings, run, capsys):
    network = {**CONTENT, "model_state_dict": SegNet(8, 2).state_dict()}
    for trained, mpp, warned in ((0.25, 0.5, True), (0.25, 0.26, False), (None, 0.5, False)):
        checkpoint.save(run / "best.pth", {**network, "mpp": trained})
        segment.main(replace(settings, mpp=mpp, image_mpp=mpp, overwrite=True))
        assert ("warning: --mpp 0.5, but the network was trained at 0.25" in capsys.readouterr().out) == warned


def test_objects_are_made_as_the_run_says(settings, run, capsys):
    network = {**CONTENT, "model_state_dict": SegNet(8, 2).state_dict()}
    gland = {"classes": ["background", "gland"]}
    for about, asked, method in (
        ({}, "auto", "watershed"), (gland, "auto", "components"), ({}, "components", "components"),
        ({**gland, "instances": "watershed"}, "auto", "watershed"),
    ):  # fmt: skip
        checkpoint.save(run / "best.pth", {**network, **about})
        settings = replace(settings, instances=asked)
        found = whole_image.instance_method(segment.load_network(settings), settings)
        assert found == method and method in capsys.readouterr().out


def test_fine_tuning_says_resolution_and_objects_in_the_checkpoint(finetuning, tiny_data_set):
    description = tiny_data_set / "dataset.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "mpp": 0.25, "downscale": 2.0}))
    Diff_Seg.main(replace(finetuning, epochs=1))
    written = checkpoint.load(Path(finetuning.run_name) / "best.pth")
    assert written["mpp"] == 0.25 and written["downscale"] == 2 and written["instances"] == "watershed"
    description.write_text(description.read_text().replace('"mpp": 0.25', '"mpp": null'))
    Diff_Seg.main(replace(finetuning, epochs=2))  # a run from before the question goes on


@pytest.fixture
def slide(settings, monkeypatch):
    """A slide of 700 x 600 pixels, glass with one piece of tissue, which is taken for a large one."""
    monkeypatch.setattr(maps, "LARGE", 10_000)
    monkeypatch.setattr(whole_image, "LARGE", 10_000)
    monkeypatch.setattr(whole_image, "MASK", 100)
    pixels = np.full((600, 700, 3), 243, np.uint8)
    pixels[200:400, 300:520], mask = tissue(200, 220)
    write_slide(settings.images / "s.tif", pixels)
    for other in ("a.tif", "b.png"):
        (settings.images / other).unlink()
    whole = np.zeros((600, 700), bool)
    whole[200:400, 300:520] = mask
    return replace(settings, block_size=256, window=32), whole


def test_a_slide(slide, monkeypatch):
    settings, mask = slide
    seen = []
    real = segment.load_network

    def predict(images):
        seen.append(len(images))
        return dark(images)

    monkeypatch.setattr(segment, "load_network", lambda *a: replace(real(*a), predict=predict))
    segment.main(replace(settings, probabilities=True))
    out = settings.output
    names = {"s_classes.tif", "s_instances.tif", "s_probability_nucleus.tif", "s_overlay.png", "s_objects.csv"}
    assert {f.name for f in out.iterdir()} == {*names, "s.geojson", "settings.json", "summary.csv"}
    assert (tifffile.imread(out / "s_classes.tif") == mask).all()
    numbers = tifffile.imread(out / "s_instances.tif")
    rows = pd.read_csv(out / "s_objects.csv")
    assert numbers.dtype == np.uint32 and np.bincount(numbers.ravel())[1:].tolist() == rows.area_px.tolist()
    assert np.allclose(rows.area_um2, rows.area_px / 16)
    everywhere = 38 * 44  # windows, 16 pixels apart
    assert 0.1 * everywhere < sum(seen) < 0.5 * everywhere  # glass was left out; blocks share some windows
    nothing_left_out = replace(settings, tissue=0, output=out.with_name("all"))
    segment.main(nothing_left_out)
    assert (tifffile.imread(nothing_left_out.output / "s_classes.tif") == mask).all()


def test_the_class_map_of_a_slide_is_a_slide(slide, monkeypatch):
    """A tiled pyramid with the resolution in it, which OpenSlide opens, in the classes' colours."""
    settings, mask = slide
    monkeypatch.setattr(maps, "TILE", 64)
    segment.main(settings)
    source = open_source(settings.output / "s_classes.tif")
    assert source.downsamples == pytest.approx((1, 4, 16), rel=0.05) and source.mpp == pytest.approx(0.25)
    assert ((source.region(0, 0, 0, 700, 600) == [255, 69, 0]).all(-1) == mask).all()
    with tifffile.TiffFile(settings.output / "s_instances.tif") as file:
        assert [page.shape for page in file.pages] == [(600, 700), (150, 175), (38, 44)]
        assert all(page.is_tiled and page.compression == 8 for page in file.pages)
        whole, small = file.pages[0].asarray(), file.pages[1].asarray()
        assert (small == whole[2::4, 2::4]).all()


def test_the_overview_of_a_slide(slide, monkeypatch):
    settings, _ = slide
    monkeypatch.setattr(maps, "OVERVIEW", 350)
    segment.main(settings)
    overview = read_rgb(settings.output / "s_overlay.png")
    assert overview.shape == (300, 350, 3)
    drawn = np.argwhere((overview == [255, 69, 0]).all(-1))
    assert len(drawn) > 100 and (drawn.min(0) >= (99, 149)).all() and (drawn.max(0) <= (201, 261)).all()


def test_more_objects_than_a_png_holds(settings, monkeypatch):
    monkeypatch.setattr(maps, "LARGEST_NUMBER", 3)
    segment.main(settings)
    assert tifffile.imread(settings.output / "b_instances.tif").max() > 3


def test_real_images_have_no_seam(real_data, settings):
    """The same objects with blocks of 256 pixels as in one piece, on real tissue, but for a few where many touch."""
    file = sorted((real_data / "MoNuSeg" / "MoNuSegTestData").glob("*.tif"))[0]
    maps_ = []
    for size in (256, 2048):
        out = settings.output.with_name(f"real{size}")
        segment.main(replace(settings, images=file, output=out, block_size=size))
        maps_.append(read_index_map(out / f"{file.stem}_instances.png"))
    blocked, whole = maps_
    assert ((blocked > 0) != (whole > 0)).mean() < 1e-4
    pairs = np.unique(np.stack([blocked.ravel(), whole.ravel()]), axis=1)
    assert pairs.shape[1] < 1.02 * (whole.max() + 1)
