"""image_generation.py and sample_images.py, and their general twins, on tiny data."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import image_generation
import image_generation_general
import sample_images
import sample_images_general
from GenSelfDiff.pretrain import SS_diff
from utils_general import InputError, list_images, read_rgb


@pytest.fixture
def generation(tiny_data_set, tmp_path):
    """Settings for four images from a run that was trained for two steps and has 20 diffusion steps."""
    pretraining = SS_diff.Settings(
        data=(tiny_data_set,), run_name=str(tmp_path / "pre"), epochs=1, batch_size=4, dim=8, timesteps=20, workers=0,
        initial_weights="pytorch", sample_every=0, device="cpu",
    )  # fmt: skip
    SS_diff.main(pretraining)
    return image_generation.Settings(
        pretrained=pretraining.run_name, data=(tiny_data_set,), output=tmp_path / "generated", count=4, batch_size=3,
        device="cpu",
    )  # fmt: skip


def pictures(folder):
    return {f.name: f.read_bytes() for f in folder.glob("image_*.png")}


def test_images_table_and_contact_sheet(generation, capsys):
    image_generation.main(generation)
    assert {f.name for f in generation.output.iterdir()} == {
        "image_0.png", "image_1.png", "image_2.png", "image_3.png", "contact_sheet.png", "colours.csv", "settings.json",
    }  # fmt: skip
    assert read_rgb(generation.output / "image_3.png").shape == (16, 16, 3)
    colours = pd.read_csv(generation.output / "colours.csv", index_col=0)
    real = np.concatenate([read_rgb(f).reshape(-1, 3) for f in list_images(generation.data[0] / "unlabelled/images")])
    assert colours.loc["real"].tolist() == pytest.approx([*real.mean(0), *real.std(0)])
    assert str(generation.output) in capsys.readouterr().out.splitlines()[-1]


def test_going_on_gives_what_one_go_gives(generation, tmp_path, capsys):
    image_generation.main(generation)
    other = replace(generation, output=tmp_path / "other", batch_size=1)
    image_generation.main(replace(other, count=2))
    (other.output / "image_0.png").unlink()
    before = (other.output / "image_1.png").stat().st_mtime_ns
    image_generation.main(other)
    assert "1 of 4 images are there already" in capsys.readouterr().out
    assert (other.output / "image_1.png").stat().st_mtime_ns == before
    ours, theirs = pictures(generation.output), pictures(other.output)
    assert ours.keys() == theirs.keys()
    images = [(read_rgb(generation.output / n), read_rgb(other.output / n)) for n in ours]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in images)  # other batch, other rounding


def test_images_of_two_runs_do_not_mix(generation):
    image_generation.main(generation)
    with pytest.raises(InputError, match=r"made with another seed \(2023, now 1\): choose another --output"):
        image_generation.main(replace(generation, seed=1))


def test_a_folder_of_something_else_is_left_alone(generation):
    generation.output.mkdir()
    (generation.output / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds files of something else"):
        image_generation.main(generation)
    assert [f.name for f in generation.output.iterdir()] == ["holiday.jpg"]


def test_missing_data_are_found_before_any_work(generation, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        image_generation.main(replace(generation, data=(tmp_path / "nowhere",)))
    assert not generation.output.exists()


def test_real_patches_are_the_first_of_the_permutation(tiny_data_set, tmp_path):
    settings = sample_images.Settings(data=(tiny_data_set,), output=tmp_path / "real", count=5)
    sample_images.main(settings)
    files = list_images(tiny_data_set / "unlabelled" / "images")
    for i, j in enumerate(np.random.RandomState(2023).permutation(12)[:5]):
        assert (read_rgb(settings.output / f"image_{i}.png") == read_rgb(files[j])).all()
    assert (settings.output / "contact_sheet.png").is_file()
    sample_images.main(replace(settings, count=20))  # goes on, and takes all there are
    assert len(pictures(settings.output)) == 12
    with pytest.raises(InputError, match="another choice of patches"):
        sample_images.main(replace(settings, seed=1))


def test_general_scripts_take_all_data_sets():
    assert [p.name for p in image_generation_general.Settings().data] == ["MoNuSeg", "GlaS", "HN"]
    assert sample_images_general.Settings().data == image_generation_general.Settings().data
