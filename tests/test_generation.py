"""image_generation.py and sample_images.py, and their general twins, on tiny data."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import image_generation
import image_generation_general
import sample_images
import sample_images_general
from GenSelfDiff import checkpoint
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.unet import DiffusionNet
from output_folder import write_together
from utils_general import InputError, list_images, read_json, read_rgb, write_json


@pytest.fixture
def generation(tiny_data_set, tmp_path):
    """Settings for four images from an untrained network of 20 diffusion steps."""
    run = {"epoch": 1, "loss": 1.0, "stage": "pretrain", "settings": {"timesteps": 20}, "patch_size": 16}
    checkpoint.save(tmp_path / "pre.pth", {**run, "model_state_dict": DiffusionNet(8).state_dict()})
    return image_generation.Settings(
        pretrained=str(tmp_path / "pre.pth"), data=(tiny_data_set,), output=tmp_path / "generated", count=4,
        batch_size=3, device="cpu",
    )  # fmt: skip


def pictures(folder):
    return {f.name: f.read_bytes() for f in folder.glob("image_*.png")}


def test_images_table_and_contact_sheet(generation, tmp_path, capsys):
    pretraining = SS_diff.Settings(
        data=generation.data, run_name=str(tmp_path / "pre"), epochs=1, batch_size=4, dim=8, timesteps=20, workers=0,
        initial_weights="pytorch", sample_every=0, device="cpu",
    )  # fmt: skip
    SS_diff.main(pretraining)
    generation = replace(generation, pretrained=pretraining.run_name)
    image_generation.main(generation)
    assert {f.name for f in generation.output.iterdir()} == {
        "image_0.png", "image_1.png", "image_2.png", "image_3.png", "contact_sheet.png", "colours.csv", "distance.csv",
        "settings.json",
    }  # fmt: skip
    assert read_rgb(generation.output / "image_3.png").shape == (16, 16, 3)
    colours = pd.read_csv(generation.output / "colours.csv", index_col=0)
    real = np.concatenate([read_rgb(f).reshape(-1, 3) for f in list_images(generation.data[0] / "unlabelled/images")])
    assert colours.loc["real"].tolist() == pytest.approx([*real.mean(0), *real.std(0)])
    distance = pd.read_csv(generation.output / "distance.csv", index_col=0)
    assert distance.index.tolist() == ["generated", "other real"]
    assert distance.columns.tolist() == ["16 px", "mean", "mean, real scale"]
    assert (distance.loc["generated"] > distance.loc["other real"]).all()  # two steps of training: noise
    printed = capsys.readouterr().out
    assert str(generation.output) in printed.splitlines()[-1] and "note: the network was trained" not in printed
    other = {**read_json(generation.data[0] / "dataset.json"), "name": "other"}
    write_json(generation.data[0] / "dataset.json", other)
    image_generation.main(generation)
    said = "note: the network was trained on tiny (paper), its images are compared with other (paper): --data names"
    assert said in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "dpm-solver++"}, r"made with another sampler \(ddim, now dpm-solver\+\+\)"),
        ({"steps": 6}, r"made with another steps \(5, now 6\)"),
        ({"eta": 0.5}, r"made with another eta \(0.0, now 0.5\)"),
        ({"precision": "bfloat16"}, r"made with another precision \(float32, now bfloat16\)"),
    ],
)
def test_images_of_two_samplers_do_not_mix(generation, change, message):
    generation = replace(generation, sampler="ddim", steps=5, count=1)
    image_generation.main(generation)
    with pytest.raises(InputError, match=message):
        image_generation.main(replace(generation, **change))
    image_generation.main(replace(generation, count=2))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 5), ("dpm-solver++", 5), ("dpm-solver++", None)])
def test_fast_samplers_draw_images_of_their_own(generation, sampler, steps, precision):
    generation = replace(generation, sampler=sampler, steps=steps, precision=precision)
    image_generation.main(generation)
    record = read_json(generation.output / "settings.json")
    assert (record["sampler"], record["steps"], record["eta"]) == (sampler, steps or 20, 0.0)
    assert len(set(pictures(generation.output).values())) == 4


def test_a_folder_from_before_there_was_a_choice_goes_on(generation, capsys):
    image_generation.main(generation)
    record = read_json(generation.output / "settings.json")
    assert record["steps"] == 20
    old = {k: v for k, v in record.items() if k not in ("sampler", "steps", "eta")}
    write_json(generation.output / "settings.json", old)
    image_generation.main(generation)
    assert "4 of 4 images are there already" in capsys.readouterr().out
    write_json(generation.output / "settings.json", old)
    with pytest.raises(InputError, match=r"another sampler \(ancestral, now ddim\)"):
        image_generation.main(replace(generation, sampler="ddim"))


def test_settings_that_cannot_go_together_leave_nothing_behind(generation, tmp_path, write_patches):
    with pytest.raises(InputError, match="--steps is 10: ancestral sampling takes all 20 steps"):
        image_generation.main(replace(generation, steps=10))
    with pytest.raises(InputError, match="--steps is 21: 1 to 20 are possible"):
        image_generation.main(replace(generation, sampler="ddim", steps=21))
    with pytest.raises(InputError, match="tf32 is one of GPUs"):
        image_generation.main(replace(generation, precision="tf32"))
    with pytest.raises(InputError, match="only --sampler ddim has it"):
        image_generation.main(replace(generation, eta=1.0))
    write_patches(tmp_path / "larger" / "unlabelled", ["a"], ["train"], size=24, labelled=False)
    data_set = {**read_json(generation.data[0] / "dataset.json"), "patch_size": 24}
    write_json(tmp_path / "larger" / "dataset.json", data_set)
    with pytest.raises(InputError, match="patches of 24 pixels, the network draws 16"):
        image_generation.main(replace(generation, data=(tmp_path / "larger",)))
    assert not generation.output.exists()


def test_a_folder_of_something_else_is_left_alone(generation):
    generation.output.mkdir()
    (generation.output / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds files of something else"):
        image_generation.main(generation)
    assert [f.name for f in generation.output.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("text", ["[]", "1", '{"run_name": "mine"}'])
@pytest.mark.parametrize("name", ["settings.json", "sources.json"])
def test_a_record_of_something_else_is_left_alone(name, text, generation):
    """The folder of a training, for example, which holds a settings.json too."""
    generation.output.mkdir()
    (generation.output / name).write_text(text)
    sampling = sample_images.Settings(data=generation.data, output=generation.output, count=2)
    main, settings = (image_generation.main, generation) if name[1] == "e" else (sample_images.main, sampling)
    if (name, text) == ("sources.json", "[]"):
        (generation.output / "mine").touch()
    with pytest.raises(InputError, match="holds files of something else"):
        main(settings)
    assert (generation.output / name).read_text() == text and not pictures(generation.output)


def test_a_folder_that_another_run_fills_is_refused(generation):
    generation.output.mkdir()
    context = multiprocessing.get_context("fork")
    filling, enough = context.Event(), context.Event()

    def fill():
        with write_together(generation.output):
            filling.set()
            enough.wait(60)

    process = context.Process(target=fill)
    process.start()
    try:
        assert filling.wait(60)
        sampling = sample_images.Settings(data=generation.data, output=generation.output, count=2)
        for main, settings in ((image_generation.main, generation), (sample_images.main, sampling)):
            with pytest.raises(InputError, match=f"is in use: process {process.pid} on"):
                main(settings)
    finally:
        enough.set()
        process.join()
    assert not list(generation.output.iterdir())
    image_generation.main(generation)
    assert len(pictures(generation.output)) == 4


def test_seeds_of_all_images_are_possible(generation):
    with pytest.raises(InputError, match="--seed 4294967293: with 4 images at most 4294967291"):
        image_generation.main(replace(generation, seed=2**32 - 3))


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


def test_images_of_other_weights_of_the_same_path_are_refused(generation):
    """A run that was started over has the path and the epoch of the one before."""
    image_generation.main(replace(generation, count=1))
    content = checkpoint.load(generation.pretrained)
    content["model_state_dict"] = {name: 2 * value for name, value in content["model_state_dict"].items()}
    checkpoint.save(Path(generation.pretrained), content)
    with pytest.raises(InputError, match="made with another weights"):
        image_generation.main(generation)


def test_a_run_may_be_moved_and_its_device_may_not_change(generation, tmp_path, capsys):
    """Of one seed a GPU draws other noise than a CPU."""
    image_generation.main(replace(generation, count=1))
    moved = Path(generation.pretrained).rename(tmp_path / "moved.pth")
    generation = replace(generation, pretrained=str(moved), count=2)
    image_generation.main(generation)
    assert "1 of 2 images are there already" in capsys.readouterr().out
    record = generation.output / "settings.json"
    assert read_json(record)["checkpoint"] == str(moved)
    write_json(record, {**read_json(record), "kind of device": "cuda"})
    with pytest.raises(InputError, match=r"made with another kind of device \(cuda, now cpu\)"):
        image_generation.main(generation)
