"""The same on a GPU; skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import image_generation
from GenSelfDiff import training
from GenSelfDiff.data import to_input
from GenSelfDiff.devices import Devices, InPrecision
from GenSelfDiff.downstream_train import Diff_Seg, pixel_classifier
from GenSelfDiff.keyed_random import keyed_normal, keyed_steps
from GenSelfDiff.methods import monai_networks
from GenSelfDiff.methods.attention import SS_attention
from GenSelfDiff.methods.nudiff import synthesize, train_images, train_structures
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.unet import DiffusionNet, SegNet
from tests.GenSelfDiff.methods.attention.levels import write_levels
from tests.GenSelfDiff.runs import MAINS, history
from tests.GenSelfDiff.test_golden import assert_equal, with_golden_weights
from utils_general import read_rgb

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
GPU = torch.device("cuda")


def network(golden, stage):
    dim, classes, seed = int(golden["dim"]), int(golden["classes"]), int(golden["seed"])
    if stage == "unet":
        return with_golden_weights(DiffusionNet(dim), seed).to(GPU)
    return with_golden_weights(SegNet(dim, classes), seed + 1).to(GPU)


@torch.no_grad()
def output(golden, stage, precision):
    x, t = (torch.as_tensor(golden[name], device=GPU) for name in ("unet_in", "unet_t"))
    model = InPrecision(network(golden, stage), precision)
    return (model(x, t) if stage == "unet" else model(x).softmax(1)).cpu()


@pytest.mark.parametrize("stage", ["unet", "seg"])
def test_float32_gives_the_released_codes_numbers(golden, stage):
    assert_equal(output(golden, stage, "float32"), golden[f"{stage}_out"], tolerance=1e-4)


@pytest.mark.parametrize(("precision", "off"), [("tf32", 1e-2), ("bfloat16", 5e-2)])
def test_rounded_precisions_are_close_and_are_used(golden, precision, off):
    rounded, golden_out = output(golden, "unet", precision), torch.as_tensor(golden["unet_out"])
    distance = (rounded - golden_out).norm() / golden_out.norm()
    assert 1e-6 < distance < off


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_compiled_step(precision):
    """In all precisions: the compiler reads PyTorch's flags of them."""
    plain = InPrecision(DiffusionNet(8).to(GPU), precision)
    x, t = torch.rand(2, 3, 32, 32, device=GPU), torch.tensor([3, 700], device=GPU)
    compiled = torch.compile(plain)(x, t)
    compiled.square().mean().backward()
    assert torch.allclose(compiled, plain(x, t), rtol=0.1, atol=0.05)
    assert all(p.grad.isfinite().all() for p in plain.parameters())


def test_keys_draw_the_same_as_on_a_cpu():
    keys = torch.arange(6) * 7919
    assert torch.equal(keyed_steps(keys.to(GPU), 1000).cpu(), keyed_steps(keys, 1000))
    assert torch.allclose(keyed_normal(keys.to(GPU), 3, 32, 32).cpu(), keyed_normal(keys, 3, 32, 32), atol=1e-4)


def test_images_become_the_same_input_as_on_a_cpu():
    image = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(16, 16, 3)
    for input_range in ((-1.0, 1.0), (0.0, 1.0)):
        assert torch.equal(to_input(image.to(GPU), input_range).cpu(), to_input(image, input_range))


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
def test_an_untrained_network_has_the_loss_that_it_has_on_a_cpu(stage, request, tmp_path):
    settings = replace(request.getfixturevalue(stage), learning_rate=0.0, epochs=1)
    main = SS_diff.main if stage == "pretraining" else Diff_Seg.main
    for device in ("cpu", "cuda:0"):
        main(replace(settings, device=device, run_name=str(tmp_path / device)))
    on_cpu, on_gpu = history(tmp_path / "cpu"), history(tmp_path / "cuda:0")
    assert on_gpu.val_loss[0] == pytest.approx(on_cpu.val_loss[0], rel=1e-3)
    assert on_gpu.train_loss[0] == pytest.approx(on_cpu.train_loss[0], rel=1e-3)


@pytest.fixture
def attention(tmp_path):
    """Settings of a tiny run of attention-based self-supervision."""
    return SS_attention.Settings.of(
        "improved", data=write_levels(tmp_path / "levels"), run_name=str(tmp_path / "attention"), dim=8, tile=16,
        dilations=(1, 2), scale_jitter=0.0, steps=10, validate_every=5, workers=0,
    )  # fmt: skip


def labelled(script, data, run, **own):
    """Settings of a tiny run of another script on labels."""
    shared = {"epochs": 2, "batch_size": 4, "dim": 8, "workers": 0, "initial_weights": "pytorch"}
    return script.Settings(data=data, run_name=str(run), **shared | own)


@pytest.fixture
def features(tiny_data_set, tmp_path):
    own = {"pretrained": "scratch", "noise_levels": (5, 50), "members": 2, "hidden": (4, 4)}
    return labelled(pixel_classifier, tiny_data_set, tmp_path / "features", **own)


@pytest.fixture
def monai(tiny_data_set, tmp_path):
    return labelled(monai_networks, tiny_data_set, tmp_path / "monai", network="attention")


@pytest.mark.parametrize("stage", ["pretraining", "finetuning", "attention", "features", "monai"])
def test_a_step_waits_for_nothing(stage, request, monkeypatch):
    """PyTorch raises where a kernel's result is waited for; in the first step it may, while things are made."""
    settings = replace(request.getfixturevalue(stage), device="cuda:0", ema=0.9, clip=1.0, batch_size=2)
    real_step, steps = training.Trainer._train_step, []

    def step(trainer, batch):
        torch.cuda.set_sync_debug_mode("error" if steps else "default")
        try:
            real_step(trainer, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(1)

    monkeypatch.setattr(training.Trainer, "_train_step", step)
    MAINS[type(settings)](settings)
    assert len(steps) >= 8


def test_a_batch_gets_there_without_waiting():
    batch = {"image": torch.zeros(2, 16, 16, 3, dtype=torch.uint8), "label": torch.zeros(2, 16, 16, dtype=torch.uint8)}
    batch = {name: tensor.pin_memory() for name, tensor in batch.items()} | {"file": ["a", "b"]}
    training.to_device(batch, Devices(GPU), (-1.0, 1.0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = training.to_device(batch, Devices(GPU), (-1.0, 1.0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert moved["image"].shape == (2, 3, 16, 16) and moved["label"].dtype == torch.int64


def test_stopped_and_continued(pretraining, tmp_path):
    settings = replace(pretraining, device="cuda:0", ema=0.9)
    SS_diff.main(settings)
    stopped = replace(settings, run_name=str(tmp_path / "stopped"))
    SS_diff.main(replace(stopped, epochs=1))
    SS_diff.main(stopped)
    assert history(stopped.run_name).val_loss.tolist() == pytest.approx(history(settings.run_name).val_loss, rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_in_one_process_compute_what_one_does(pretraining, tmp_path):
    joint = 2 * torch.cuda.device_count()
    SS_diff.main(replace(pretraining, device="cuda:0", batch_size=joint, run_name=str(tmp_path / "one"), epochs=1))
    SS_diff.main(replace(pretraining, device="cuda", batch_size=2, run_name=str(tmp_path / "all"), epochs=1))
    assert history(tmp_path / "all").val_loss[0] == pytest.approx(history(tmp_path / "one").val_loss[0], rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pretraining_generation_and_finetuning(tiny_data_set, tmp_path, precision):
    small = {"dim": 8, "batch_size": 4, "workers": 1, "initial_weights": "pytorch", "epochs": 2, "precision": precision}
    run = str(tmp_path / "pre")
    SS_diff.main(SS_diff.Settings(data=(tiny_data_set,), run_name=run, timesteps=20, sample_every=2, **small))
    assert pd.read_csv(tmp_path / "pre" / "history.csv").val_loss.notna().all()
    for sampler in ("ancestral", "ddim", "dpm-solver++"):
        folder = Path(tmp_path / sampler)
        image_generation.main(
            image_generation.Settings(
                pretrained=run, data=(tiny_data_set,), output=folder, count=2, sampler=sampler, precision=precision
            )
        )
        assert np.ptp(read_rgb(folder / "image_1.png")) > 0
    tuned = str(tmp_path / "seg")
    Diff_Seg.main(Diff_Seg.Settings(data=tiny_data_set, run_name=tuned, pretrained=run, **small))
    assert pd.read_csv(tmp_path / "seg" / "history.csv").val_loss.notna().all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nudiff(tiny_data_set, tmp_path, precision):
    small = {"dim": 8, "batch_size": 4, "workers": 1, "initial_weights": "pytorch", "epochs": 2, "precision": precision}
    small |= {"data": tiny_data_set, "timesteps": 20, "sample_every": 2, "device": "cuda:0"}
    runs = {name: str(tmp_path / name) for name in ("structures", "images")}
    train_structures.main(train_structures.Settings(run_name=runs["structures"], **small))
    train_images.main(train_images.Settings(run_name=runs["images"], **small))
    for run in runs.values():
        assert pd.read_csv(Path(run) / "history.csv").val_loss.notna().all()
    drawn = {"data": tiny_data_set, "count": 3, "batch_size": 2, "precision": precision, "device": "cuda:0", **runs}
    synthesize.main(synthesize.Settings(output=tmp_path / "pairs", sampler="dpm-solver++", steps=3, **drawn))
    assert np.ptp(read_rgb(tmp_path / "pairs" / "labelled" / "images" / "image_14.png")) > 0
