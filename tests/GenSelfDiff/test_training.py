"""The loop that both stages share, run for real: stopping, going on, several processes, what is refused."""

import json
import math
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from GenSelfDiff import checkpoint, networks, run_folder, training, unet_checkpoint
from GenSelfDiff.augmentation import finetuning_augmentation
from GenSelfDiff.data import PatchDataset
from GenSelfDiff.devices import Devices
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.downstream_train.labelled import dice_sums
from GenSelfDiff.history import MetricMeans, draw_curves
from GenSelfDiff.patches import Patches
from GenSelfDiff.pretrain import SS_diff, unlabelled
from tests.GenSelfDiff.runs import assert_same_run, command, history, start
from utils_general import InputError

ROOT = Path(__file__).resolve().parents[2]
VAL = [(0, i) for i in range(4)]  # the held-out patches of the tiny data set


def test_a_run_leaves_everything_it_should(pretraining, capsys, monkeypatch):
    monkeypatch.setattr(run_folder, "draw_curves", draw_curves)  # as it is outside of the tests
    SS_diff.main(replace(pretraining, sample_every=3, timesteps=100))
    folder = Path(pretraining.run_name)
    names = {"best.pth", "last.pth", "settings.json", "history.csv", "curves.png", "sample_epoch_3.png"}
    assert {f.name for f in folder.iterdir()} == names
    table = pd.read_csv(folder / "history.csv")
    assert table.epoch.tolist() == [1, 2, 3]
    assert table.val_published.tolist() == pytest.approx((8 * table.val_loss).tolist())
    assert {f"{part}_quarter_{q}" for part in ("train", "val") for q in (1, 2, 3, 4)} <= set(table.columns)
    best = checkpoint.load(folder / "best.pth")
    assert best["loss"] == pytest.approx(table.val_loss.min()) and best["epoch"] == table.val_loss.idxmin() + 1
    assert json.loads((folder / "settings.json").read_text())["dim"] == best["settings"]["dim"] == 8
    assert str(folder) in capsys.readouterr().out.splitlines()[-1]


def test_pretraining_learns(pretraining):
    SS_diff.main(replace(pretraining, epochs=15, learning_rate=5e-3))
    table = history(pretraining.run_name)
    assert table.val_loss.min() < 0.92 * table.val_loss.iloc[0]


def test_finetuning_learns(finetuning):
    """Dark discs on a pale ground: after 40 steps of cross-entropy the held-out image is segmented."""
    Diff_Seg.main(replace(finetuning, epochs=20, learning_rate=5e-3, losses=("ce",)))
    assert history(finetuning.run_name).val_dice.max() > 0.9


def test_validation_is_the_same_in_every_epoch(pretraining):
    """With a learning rate of zero nothing changes, so neither may the validation figures."""
    SS_diff.main(replace(pretraining, learning_rate=0.0))
    assert history(pretraining.run_name).val_loss.nunique() == 1


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
def test_validation_does_not_depend_on_the_batch_size(stage, request, tmp_path):
    settings = replace(request.getfixturevalue(stage), learning_rate=0.0, epochs=1)
    main = SS_diff.main if stage == "pretraining" else Diff_Seg.main
    figures = []
    for batch_size in (1, 3):
        run = str(tmp_path / f"batch_{batch_size}")
        main(replace(settings, batch_size=batch_size, run_name=run))
        figures.append(history(run).val_loss[0])
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)


def test_of_equal_epochs_the_first_is_the_best(pretraining, capsys):
    SS_diff.main(replace(pretraining, learning_rate=0.0))
    assert checkpoint.load(Path(pretraining.run_name) / "best.pth")["epoch"] == 1
    assert ["(best)" in line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")] == [
        True, False, False,
    ]  # fmt: skip


def with_losses(monkeypatch, *losses):
    """Let the epochs of a run have these validation losses; the look before the first is none of them."""
    real, epochs = training.Trainer._validate, iter(losses)

    def validate(trainer, batches=None):
        return {**real(trainer, batches), **({} if batches else {"loss": next(epochs)})}

    monkeypatch.setattr(training.Trainer, "_validate", validate)


def test_a_later_epoch_has_to_beat_all_before_it(pretraining, monkeypatch):
    with_losses(monkeypatch, 3.0, 1.0, 2.0, 1.5, 1.0)
    SS_diff.main(replace(pretraining, epochs=5))
    best = checkpoint.load(Path(pretraining.run_name) / "best.pth")
    assert (best["epoch"], best["loss"]) == (2, 1.0)


def test_also_those_before_it_was_interrupted(pretraining, monkeypatch):
    with_losses(monkeypatch, 1.0, 2.0)
    SS_diff.main(replace(pretraining, epochs=1))
    SS_diff.main(replace(pretraining, epochs=2))
    assert checkpoint.load(Path(pretraining.run_name) / "best.pth")["epoch"] == 1


def test_held_out_patches_are_looked_at_before_an_epoch_is_spent(pretraining):
    for i in range(8, 12):
        file = pretraining.data[0] / "unlabelled" / "images" / f"image_{i}.png"
        file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(InputError, match="cannot read image"):
        SS_diff.main(pretraining)
    assert not (Path(pretraining.run_name) / "last.pth").exists()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only training steps move, 40 seconds each."""
    now, real_step = [0.0], training.Trainer._train_step

    def step(trainer, batch):
        real_step(trainer, batch)
        now[0] += 40

    monkeypatch.setattr(training.Trainer, "_train_step", step)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_minutes_between_checkpoints(pretraining, clock, monkeypatch):
    """Steps of 40 seconds, a checkpoint a minute: after every second step of an epoch of 8."""
    saved, real_save = [], training.Trainer._save_last
    monkeypatch.setattr(training.Trainer, "_save_last", lambda t: saved.append((t.epoch, t.step)) or real_save(t))
    SS_diff.main(replace(pretraining, batch_size=1, epochs=1, save_minutes=1.0))
    assert saved == [(0, 0), (0, 2), (0, 4), (0, 6), (0, 8), (1, 0)]


def test_an_interrupted_epoch_took_the_seconds_of_both_parts(pretraining, clock, monkeypatch):
    real_step, steps = training.Trainer._train_step, []

    def step_with_signal(trainer, batch):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        real_step(trainer, batch)

    monkeypatch.setattr(training.Trainer, "_train_step", step_with_signal)
    with pytest.raises(SystemExit):
        SS_diff.main(pretraining)
    clock[0] += 10_000  # the night in between
    SS_diff.main(pretraining)
    assert pd.read_csv(Path(pretraining.run_name) / "history.csv").seconds.tolist() == [80, 80, 80]


@pytest.mark.usefixtures("clock")
def test_curves_are_drawn_now_and_then_and_at_the_end(pretraining, monkeypatch):
    """Epochs of 80 seconds, curves every 100 seconds: drawing takes longer than a short epoch."""
    drawn = []
    monkeypatch.setattr(training, "DRAW_EVERY", 100)
    monkeypatch.setattr(run_folder, "draw_curves", lambda table, *_: drawn.append(len(table)))
    SS_diff.main(replace(pretraining, epochs=6))
    assert drawn == [1, 3, 5, 6]


def test_pictures_show_the_network_that_is_handed_on(pretraining, monkeypatch):
    shown = []
    monkeypatch.setattr(SS_diff.NoisePrediction, "after_epoch", lambda _s, model, *_: shown.append(model))
    SS_diff.main(replace(pretraining, ema=0.9, epochs=1, learning_rate=0.01))
    best = checkpoint.load(Path(pretraining.run_name) / "best.pth")["model_state_dict"]
    assert all(torch.equal(v, best[k]) for k, v in shown[0].state_dict().items()) and not shown[0].training


def test_the_mean_of_the_weights_counts_the_steps_of_all_epochs(pretraining, monkeypatch):
    counted = []
    monkeypatch.setattr(training.AveragedWeights, "update", lambda _mean, steps: counted.append(steps))
    SS_diff.main(replace(pretraining, epochs=2, ema=0.5))
    assert counted == [0, 1, 2, 3]


def test_losses_are_told_by_quarter_of_the_steps(pretraining):
    stage = SS_diff.NoisePrediction(replace(pretraining, timesteps=8), 16, torch.device("cpu"))
    sums = stage._metrics(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([0, 1, 3, 4, 7]))
    assert [(float(total), int(count)) for total, count in sums.values()] == [
        (15, 5), (8 * 15, 5), (1 + 2, 2), (3, 1), (4, 1), (5, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("weight", [{"p2_gamma": 1e300}, {"p2_k": 0.0, "p2_gamma": 1e3}])
def test_weights_of_which_nothing_is_learnt_are_refused(pretraining, weight):
    """All of them 0; some of them without bound, where there is more noise than signal."""
    with pytest.raises(InputError, match="the weights of the steps lie between 0 and (0|inf); 1 and 1 are published"):
        SS_diff.main(replace(pretraining, **weight))


def test_nothing_is_said_before_all_processes_but_one_are_silent(pretraining, monkeypatch, capsys):
    def stop(_device):
        raise InputError("here they become so")

    monkeypatch.setattr(unlabelled, "set_up", stop)
    with pytest.raises(InputError, match="here they become so"):
        SS_diff.main(pretraining)
    assert not capsys.readouterr().out


def test_the_low_noise_alone(pretraining, capsys):
    """Of 40 steps those below 15: the first two quarters; nothing is sampled, and no images are drawn from it later."""
    settings = replace(pretraining, timesteps=40, t_below=15, p2_gamma=0.0, epochs=1, sample_every=1)
    stage = SS_diff.NoisePrediction(settings, 16, torch.device("cpu"))
    batch = {"image": torch.zeros(500, 3, 2, 2), "seed": torch.arange(500)}
    _, t = stage._losses(lambda x, t: x, batch)
    assert sorted(set(t.tolist())) == [*range(15)]
    SS_diff.main(settings)
    table = history(settings.run_name)
    assert [f"val_quarter_{q}" in table for q in (1, 2, 3, 4)] == [True, True, False, False]
    said = capsys.readouterr().out
    assert "no images are sampled" in said and "--dim 8 can draw nothing but noise" in said
    assert not list(Path(settings.run_name).glob("sample_*"))
    with pytest.raises(InputError, match="trained at the steps below 15 only, and cannot draw images"):
        unet_checkpoint.load_diffusion(Path(settings.run_name) / "best.pth", torch.device("cpu"))
    with pytest.raises(InputError, match="--t-below is 15: there are 10 --timesteps"):
        SS_diff.main(replace(settings, timesteps=10))


def test_dice_by_hand():
    """Of three true pixels of two classes two are found, one as the other class; one more is invented."""
    predicted, labels = torch.tensor([[[1, 1, 2, 0, 0]]]), torch.tensor([[[1, 2, 2, 0, 0]]])
    predicted[0, 0, 3] = 1
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    assert [int(part) for part in dice_sums(logits, labels)] == [2 * 2, 4 + 3]


def test_what_was_not_counted_has_no_mean():
    """As a quarter of the steps that no patch of the epoch has drawn."""
    means = MetricMeans({"loss": [6.0, 3.0], "quarter_1": [0.0, 0.0]}).means(Devices(torch.device("cpu")))
    assert means["loss"] == 2 and math.isnan(means["quarter_1"])


def test_a_killed_runs_half_files_are_removed(pretraining):
    left = Path(pretraining.run_name) / ".last.pth.77-0123abcd.unfinished"
    left.parent.mkdir()
    left.write_bytes(b"half")
    SS_diff.main(replace(pretraining, epochs=1))
    assert not left.exists()


def test_another_stage_is_refused(pretraining, finetuning):
    SS_diff.main(replace(pretraining, epochs=1))
    with pytest.raises(InputError, match="is of another stage; choose another --run-name"):
        Diff_Seg.main(replace(finetuning, run_name=pretraining.run_name))


def test_stopping_after_an_epoch_and_going_on_changes_nothing(pretraining, tmp_path, capsys):
    SS_diff.main(pretraining)
    first = tmp_path / "first"
    SS_diff.main(replace(pretraining, run_name=str(first), epochs=1))
    stopped = replace(pretraining, run_name=str(tmp_path / "stopped"))
    first.rename(stopped.run_name)  # a folder may be moved
    SS_diff.main(stopped)
    assert "going on with run" in capsys.readouterr().out
    assert_same_run(pretraining.run_name, stopped.run_name)


def test_a_finished_run_does_nothing(pretraining, capsys):
    SS_diff.main(pretraining)
    before = {f: f.stat().st_mtime_ns for f in Path(pretraining.run_name).iterdir()}
    capsys.readouterr()
    SS_diff.main(pretraining)
    assert "is finished after 3 epochs; --epochs N goes on, --fresh starts over" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in Path(pretraining.run_name).iterdir()} == before


def test_a_run_with_workers_ends_by_itself(finetuning):
    process = start(command(replace(finetuning, workers=2)))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0 and output.splitlines()[-1].startswith("done: ")


def test_changed_settings_are_refused_by_name(pretraining):
    SS_diff.main(replace(pretraining, epochs=1))
    with pytest.raises(InputError, match=r"other settings: learning_rate, schedule \(learning_rate was 0.001, now 1\)"):
        SS_diff.main(replace(pretraining, learning_rate=1, schedule="linear"))
    SS_diff.main(replace(pretraining, epochs=2, workers=1, save_minutes=1.0))  # these may change


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0: 1 or more is needed"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"timesteps": 0}, "--timesteps is 0"),
        ({"learning_rate": math.nan}, "--learning-rate is nan"),
        ({"workers": -1}, "--workers is -1"),
        ({"dim": 12}, "--dim is 12: a multiple of 8 is needed"),
        ({"dim": 0}, "--dim is 0: a multiple of 8 is needed"),
        ({"save_minutes": -1.0}, "--save-minutes is -1.0: 0 or more is needed"),
        ({"betas": (0.9, 1.0)}, r"--betas are \(0.9, 1.0\)"),
        ({"betas": (0.9, 1.5)}, r"--betas are \(0.9, 1.5\)"),
        ({"input_range": (1.0, 1.0)}, "the command line holds input_range"),
        ({"run_name": ""}, "--run-name is empty"),
        ({"data": ()}, "--data names no data set"),
        ({"device": "tpu"}, "there is no device 'tpu'"),
        ({"ema": 1.0}, "--ema is 1.0: 0 to below 1 is needed"),
        ({"clip": -1.0}, "--clip is -1.0: 0 or more is needed"),
        ({"warm_up": -1}, "--warm-up is -1"),
        ({"precision": "tf32"}, "--precision tf32 is one of GPUs"),
    ],
)
def test_settings_that_cannot_work_are_named(pretraining, changed, message):
    with pytest.raises(InputError, match=message):
        SS_diff.main(replace(pretraining, **changed))
    assert not Path(pretraining.run_name).exists()


def test_learning_rate_warms_up_and_decays(pretraining):
    """2 epochs of 4 steps; by hand: warm-up 1/4, 2/4, 3/4, 1, ..., times half a cosine over 8 steps."""
    rates = []
    settings = replace(pretraining, batch_size=2, epochs=2, learning_rate=0.1, warm_up=4, decay="cosine")
    with pytest.MonkeyPatch.context() as patch:
        real_step = training.Trainer._train_step

        def step(trainer, batch):
            real_step(trainer, batch)
            rates.append(trainer.optimizer.param_groups[0]["lr"])

        patch.setattr(training.Trainer, "_train_step", step)
        SS_diff.main(settings)
    expected = [0.1 * min(1, (n + 1) / 4) * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    assert rates == pytest.approx(expected)
    assert history(settings.run_name).learning_rate.tolist() == pytest.approx([expected[3], expected[7]])


def test_with_a_decay_the_length_is_fixed(pretraining):
    settings = replace(pretraining, epochs=1, decay="cosine")
    SS_diff.main(settings)
    with pytest.raises(InputError, match=r"other settings: epochs \(epochs was 1, now 2\)"):
        SS_diff.main(replace(settings, epochs=2))


def test_running_mean_by_hand():
    """Decay min(0.5, (1 + n) / (10 + n)): 0.1 before the first step, 0.5 from the eighth on."""
    model = torch.nn.Linear(1, 1, bias=False)
    mean = training.AveragedWeights(model.requires_grad_(False), 0.5)
    start = mean.model.weight.item()
    model.weight.fill_(start + 1)
    mean.update(0)
    assert mean.model.weight.item() == pytest.approx(start + 0.9)
    mean.update(100)
    assert mean.model.weight.item() == pytest.approx(start + 0.95)


def test_the_mean_of_the_weights_is_validated_and_handed_on(pretraining, finetuning, tmp_path):
    settings = replace(pretraining, ema=0.9, epochs=1, learning_rate=0.01)
    SS_diff.main(settings)
    folder = Path(settings.run_name)
    last, best = checkpoint.load(folder / "last.pth"), checkpoint.load(folder / "best.pth")
    mean, raw = last["ema_state_dict"], last["model_state_dict"]
    assert all(torch.equal(v, mean[k]) for k, v in best["model_state_dict"].items())
    assert any(not torch.equal(v, mean[k]) for k, v in raw.items())
    model, _ = unet_checkpoint.load_diffusion(folder / "best.pth", torch.device("cpu"))
    patches = PatchDataset([Patches(settings.data[0] / "unlabelled")], "val", settings.seed + 1)
    stage = SS_diff.NoisePrediction(settings, 16, torch.device("cpu"))
    batch = next(iter(DataLoader(patches, batch_sampler=[VAL])))
    batch = training.to_device(batch, Devices(torch.device("cpu")), settings.input_range)
    with torch.no_grad():
        total, count = stage.validation_metrics(model, batch)["loss"]
    assert float(total / count) == pytest.approx(best["loss"], rel=1e-5)
    Diff_Seg.main(replace(finetuning, pretrained=settings.run_name, dim=None, epochs=1))


def test_clipping_bounds_the_gradient(pretraining, monkeypatch):
    norms = []
    real_step = torch.optim.Adam.step

    def step(optimizer, *arguments, **options):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        return real_step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    SS_diff.main(replace(pretraining, epochs=1))
    largest = max(norms)
    norms.clear()
    SS_diff.main(replace(pretraining, epochs=1, clip=largest / 10, run_name=pretraining.run_name + "_clipped"))
    assert max(norms) <= largest / 10 * 1.0001


def test_checkpointed_activations_change_nothing(pretraining, tmp_path):
    SS_diff.main(replace(pretraining, epochs=1))
    saving = replace(pretraining, epochs=1, checkpoint_activations=True, run_name=str(tmp_path / "saving"))
    SS_diff.main(saving)
    assert_same_run(pretraining.run_name, saving.run_name)


def test_history_for_tensorboard(pretraining):
    """Stopped after one epoch and continued: every epoch's figures once, and the sampled picture."""
    settings = replace(pretraining, tensorboard=True, timesteps=20, sample_every=2)
    SS_diff.main(replace(settings, epochs=1))
    SS_diff.main(settings)
    events = EventAccumulator(settings.run_name).Reload()
    losses = [(e.step, e.value) for e in events.Scalars("loss/val")]
    table = history(settings.run_name)
    assert losses == [(n, pytest.approx(v)) for n, v in zip(table.epoch, table.val_loss, strict=True)]
    assert [e.step for e in events.Images("sample")] == [2]
    SS_diff.main(replace(settings, fresh=True, epochs=1))
    assert len(list(Path(settings.run_name).glob("events.out.tfevents.*"))) == 1


def test_a_run_of_the_earlier_version_goes_on(pretraining):
    """Its settings do not name what came later: the defaults hold there."""
    SS_diff.main(replace(pretraining, epochs=1))
    path = Path(pretraining.run_name) / "last.pth"
    content = checkpoint.load(path)
    for name in ("recipe", "warm_up", "decay", "clip", "ema", "quarter_turns"):
        del content["settings"][name]
    checkpoint.save(path, content)
    SS_diff.main(pretraining)
    assert len(history(pretraining.run_name)) == 3


def test_the_network_is_told_the_step_it_was_fine_tuned_with(finetuning):
    settings = replace(finetuning, timestep=40, epochs=1)
    Diff_Seg.main(settings)
    model, _ = networks.load_segmentation(Path(settings.run_name) / "best.pth", torch.device("cpu"))
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x), model.net(x, torch.tensor([40])))
        assert not torch.equal(model(x), model.net(x, torch.tensor([0])))


def test_finetuning_needs_a_loss(finetuning):
    with pytest.raises(InputError, match="--losses names no loss"):
        Diff_Seg.main(replace(finetuning, losses=()))


@pytest.mark.parametrize("size", [1, 99, 5000, 20_000])
def test_a_last_checkpoint_that_is_cut_is_one_line(pretraining, size):
    """At some sizes PyTorch's reader looks for a place that is not there: an OSError, as of a broken disk."""
    SS_diff.main(replace(pretraining, epochs=1))
    last = Path(pretraining.run_name) / "last.pth"
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(InputError, match="last.pth is not a whole checkpoint: PyTorch cannot read it"):
        SS_diff.main(pretraining)


def test_steps_that_an_epoch_does_not_have(pretraining):
    SS_diff.main(replace(pretraining, epochs=1))
    last = Path(pretraining.run_name) / "last.pth"
    torch.save({**torch.load(last, weights_only=False), "step": 9}, last)
    with pytest.raises(InputError, match="says that 9 steps of epoch 2 are done, which has 2: it is damaged"):
        SS_diff.main(pretraining)


@pytest.mark.parametrize("damage", ["missing", "another network", "no optimiser"])
def test_a_last_checkpoint_that_does_not_fit_is_one_line(pretraining, damage):
    SS_diff.main(replace(pretraining, epochs=1))
    path = Path(pretraining.run_name) / "last.pth"
    last = checkpoint.load(path)
    if damage == "missing":
        del last["step"]
    elif damage == "another network":
        last["model_state_dict"].popitem()
    else:
        last["optimizer_state_dict"] = {"state": {}, "param_groups": "none"}
    checkpoint.save(path, last)
    with pytest.raises(
        InputError, match=r"last.pth (holds no 'step'|does not fit).* start over with --fresh"
    ) as raised:
        SS_diff.main(pretraining)
    assert "\n" not in str(raised.value)


def test_fresh_starts_over(pretraining):
    SS_diff.main(replace(pretraining, sample_every=3, timesteps=20))
    SS_diff.main(replace(pretraining, fresh=True, epochs=1, learning_rate=0.5e-3))
    assert len(history(pretraining.run_name)) == 1
    assert not list(Path(pretraining.run_name).glob("sample_epoch_*"))


def test_fresh_that_cannot_start_leaves_the_old_run(pretraining, tiny_data_set):
    SS_diff.main(pretraining)
    before = {f.name: f.read_bytes() for f in Path(pretraining.run_name).glob("*.pth")}
    for file in (tiny_data_set / "unlabelled" / "images").iterdir():
        file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(InputError, match="cannot read image"):
        SS_diff.main(replace(pretraining, fresh=True))
    assert {f.name: f.read_bytes() for f in Path(pretraining.run_name).glob("*.pth")} == before


def test_other_patches_are_refused(pretraining, finetuning, tmp_path, write_patches):
    SS_diff.main(replace(pretraining, epochs=1))
    write_patches(tmp_path / "b" / "unlabelled", ["v1", "v2", "v3"], ["train", "train", "val"], labelled=False)
    (tmp_path / "b" / "dataset.json").write_text((pretraining.data[0] / "dataset.json").read_text())
    with pytest.raises(InputError, match="was started on other patches"):
        SS_diff.main(replace(pretraining, data=(tmp_path / "b",)))
    moved = pretraining.data[0].rename(tmp_path / "moved")  # the same patches elsewhere are fine
    SS_diff.main(replace(pretraining, data=(moved,)))
    Diff_Seg.main(replace(finetuning, data=moved, epochs=1))
    description = moved / "dataset.json"
    description.write_text(description.read_text().replace('"nucleus"', '"nucleus", "gland"'))
    with pytest.raises(InputError, match="other settings: classes"):
        Diff_Seg.main(replace(finetuning, data=moved))


def test_corrected_labels_and_other_images_are_other_patches(finetuning):
    """Of the same index.csv: the run that is there, finished, was trained on what they were."""
    Diff_Seg.main(replace(finetuning, epochs=1))
    label, image = (finetuning.data / "labelled" / name for name in ("labels/label_3.png", "images/image_3.png"))
    for file in (label, image):
        before, pixels = file.read_bytes(), np.asarray(Image.open(file)).copy()
        Image.fromarray(pixels).save(file, compress_level=1)
        assert file.read_bytes() != before
        Diff_Seg.main(replace(finetuning, epochs=1))  # the same pixels, written by another program
        pixels[0, 0] = 1 - np.minimum(pixels[0, 0], 1)
        Image.fromarray(pixels).save(file)
        with pytest.raises(InputError, match=r"other patches \(of the same names: their images or labels differ\)"):
            Diff_Seg.main(replace(finetuning, epochs=1))
        file.write_bytes(before)
    last = checkpoint.load(Path(finetuning.run_name) / "last.pth")
    del last["contents"]
    checkpoint.save(Path(finetuning.run_name) / "last.pth", last)  # as earlier versions left it
    Image.fromarray(pixels).save(image)
    Diff_Seg.main(finetuning)
    assert len(history(finetuning.run_name)) == 2


def test_corrected_instances_are_other_patches_where_they_are_learnt(finetuning):
    for targets, run in (("classes", "a"), ("border", "b")):
        Diff_Seg.main(replace(finetuning, epochs=1, targets=targets, run_name=f"{finetuning.run_name}_{run}"))
    file = finetuning.data / "labelled" / "instances" / "instance_3.png"
    numbers = np.asarray(Image.open(file)).copy()
    numbers[0, 0] += 1
    Image.fromarray(numbers).save(file)
    Diff_Seg.main(replace(finetuning, epochs=1, run_name=f"{finetuning.run_name}_a"))
    with pytest.raises(InputError, match="their images or labels differ"):
        Diff_Seg.main(replace(finetuning, epochs=1, targets="border", run_name=f"{finetuning.run_name}_b"))


def test_a_foreign_checkpoint_is_not_overwritten(pretraining):
    Path(pretraining.run_name).mkdir()
    (Path(pretraining.run_name) / "best.pth").write_bytes(b"precious")
    with pytest.raises(InputError, match="holds a best.pth that no run left there"):
        SS_diff.main(pretraining)
    assert (Path(pretraining.run_name) / "best.pth").read_bytes() == b"precious"


def test_a_loss_that_is_not_finite_stops_the_run(pretraining, monkeypatch):
    SS_diff.main(replace(pretraining, epochs=1))
    good = (Path(pretraining.run_name) / "last.pth").read_bytes()
    real_loss = SS_diff.NoisePrediction.training_loss

    def poisoned(stage, model, batch):
        loss, figures = real_loss(stage, model, batch)
        return loss * math.nan, figures

    monkeypatch.setattr(SS_diff.NoisePrediction, "training_loss", poisoned)
    with pytest.raises(InputError, match=r"loss is nan at step 1 of epoch 2 .*image_\d+.png.*last good checkpoint is"):
        SS_diff.main(pretraining)
    assert (Path(pretraining.run_name) / "last.pth").read_bytes() == good


def test_a_network_that_is_not_finite_is_never_saved(pretraining, monkeypatch):
    SS_diff.main(replace(pretraining, epochs=1))
    files = [Path(pretraining.run_name) / name for name in ("last.pth", "best.pth", "history.csv")]
    good = [f.read_bytes() for f in files]
    real_step = training.Trainer._train_step

    def spoil(trainer, batch):
        real_step(trainer, batch)
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(math.nan)

    monkeypatch.setattr(training.Trainer, "_train_step", spoil)
    monkeypatch.setattr(training.Trainer, "_check_finite", lambda t: 0.0)  # the losses before the step were fine
    with pytest.raises(InputError, match="a weight is not finite after step .* last good checkpoint is"):
        SS_diff.main(pretraining)
    assert [f.read_bytes() for f in files] == good


def test_workers_that_are_not_forked(finetuning):
    """macOS and Python 3.14 start workers anew: everything that goes to them must be picklable."""
    patches = Patches(finetuning.data / "labelled", labelled=True)
    dataset = PatchDataset([patches], "train", 0, finetuning_augmentation())
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[1, 2]["image"], dataset[1, 2]["image"])


def test_a_truncated_image_ends_in_one_line(pretraining, tiny_data_set):
    for file in (tiny_data_set / "unlabelled" / "images").iterdir():
        file.write_bytes(file.read_bytes()[:150])
    process = start(command(replace(pretraining, workers=1)))
    output, _ = process.communicate()
    assert process.returncode == 1
    assert output.strip().splitlines()[-1].startswith("error: cannot read image") and "Traceback" not in output


def test_one_source_image_trains_without_validation(finetuning, capsys):
    index = finetuning.data / "labelled" / "index.csv"
    index.write_text(index.read_text().replace("val", "train"))
    Diff_Seg.main(finetuning)
    assert "nothing is held out" in capsys.readouterr().out
    assert checkpoint.load(Path(finetuning.run_name) / "best.pth")["epoch"] == 2


def test_finetuning_starts_from_pretraining(pretraining, finetuning, tmp_path, capsys):
    SS_diff.main(replace(pretraining, epochs=1))
    Diff_Seg.main(replace(finetuning, pretrained=pretraining.run_name, dim=None, learning_rate=0.0))
    assert "246 tensors loaded" in capsys.readouterr().out
    best = checkpoint.load(Path(pretraining.run_name) / "best.pth")["model_state_dict"]
    tuned = checkpoint.load(Path(finetuning.run_name) / "best.pth")
    body = [k for k in best if not k.startswith(unet_checkpoint.HEAD)]
    assert body and all(torch.equal(best[k], tuned["model_state_dict"][k]) for k in body)
    assert tuned["classes"] == ["background", "nucleus"] and tuned["settings"]["input_range"] == [0.0, 1.0]
    with pytest.raises(InputError, match="is of a segmentation network; one of pre-training is needed"):
        Diff_Seg.main(replace(finetuning, pretrained=finetuning.run_name, dim=None, run_name=str(tmp_path / "again")))
    with pytest.raises(InputError, match="has dim 8, but --dim 16 was asked for"):
        Diff_Seg.main(replace(finetuning, pretrained=pretraining.run_name, dim=16, run_name=str(tmp_path / "other")))


def test_bfloat16_trains(finetuning):
    Diff_Seg.main(replace(finetuning, precision="bfloat16"))
    assert history(finetuning.run_name).train_loss.notna().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"timestep": 2 * 10**6}, "the command line holds timestep = 2000000; wanted: a whole number from 0"),
        ({"input_range": (0.0, 1e7)}, "the command line holds input_range"),
        ({"input_range": (1.0, 0.0)}, "wanted: two numbers, the lower first"),
    ],
)
def test_what_no_checkpoint_may_hold_is_not_begun_with(finetuning, changed, message):
    with pytest.raises(InputError, match=message):
        Diff_Seg.main(replace(finetuning, **changed))
