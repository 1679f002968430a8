import copy
import json
import subprocess
import sys

import pandas as pd
import pytest
import torch

from benchmarks import training, training_step
from benchmarks.plain import KERNELS, make_plain
from benchmarks.report import cells, summarise
from benchmarks.training_cases import CEILINGS, OFF, OURS, PEERS, all_cases
from benchmarks.training_step import Job
from GenSelfDiff import unet
from GenSelfDiff.unet import DiffusionNet
from utils_general import InputError

TINY = {"dim": 8, "size": 16, "batch": 2}


def outputs_and_gradients(model, x, t):
    """What a training step computes: the output and each parameter's gradient."""
    model.zero_grad()
    output = model(x, t)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return {"output": output.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.fixture(scope="module")
def parity():
    """Largest difference of output and gradients to the plain network, relative to the largest value of each tensor."""
    torch.manual_seed(0)
    fast = DiffusionNet(16)
    x, t = torch.randn(2, 3, 32, 24), torch.tensor([3, 700])
    plain = copy.deepcopy(fast)
    make_plain(plain)
    expected = outputs_and_gradients(plain, x, t)

    def largest_difference(kernels=KERNELS, checkpointing=False):
        model = copy.deepcopy(fast)
        make_plain(model, kernels)
        model.net.checkpoint_activations = checkpointing
        found = outputs_and_gradients(model, x, t)
        return max(((found[k] - v).abs().max() / v.abs().max()).item() for k, v in expected.items())

    return largest_difference


@pytest.mark.parametrize("kernels", [*[(kernel,) for kernel in KERNELS], KERNELS])
def test_fast_kernels_give_the_plain_outputs_and_gradients(parity, kernels):
    assert parity(kernels) < 1e-5


def test_checkpointing_gives_the_same_outputs_and_gradients(parity):
    assert parity(checkpointing=True) < 1e-5


def layouts(fast):
    """Whether the outputs of the convolutions are channels_last."""
    model, found = DiffusionNet(8), set()
    make_plain(model, fast)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(lambda m, i, out: found.add(out.is_contiguous()))
    model(torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last), torch.tensor([0, 1]))
    return found


def test_plain_is_contiguous_throughout_and_fast_is_channels_last():
    assert layouts(()) == {True} and layouts(KERNELS) == {False}


def test_plain_keeps_every_activation_and_fast_not_those_of_a_large_attention(monkeypatch):
    monkeypatch.setattr(unet, "LARGE", 0)

    def kept(fast):
        model, sizes = DiffusionNet(8), []
        make_plain(model, fast)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
        return sum(sizes)

    assert kept(("attention",)) < kept(())


def test_the_loss_does_not_depend_on_the_settings():
    def loss(*switches):
        torch.manual_seed(0)
        return training_step.ours(Job(network=OURS, **TINY, switches=switches))[1](torch.rand(2, 3, 16, 16)).item()

    assert loss(*KERNELS, "checkpointing") == pytest.approx(loss(), rel=1e-5) and loss() > 0


def test_operations_at_paper_size_are_those_known():
    work = training_step.work(Job(network=OURS, dim=64, size=256, batch=1))
    assert work["gflop"] == pytest.approx(455, abs=1) and work["parameters"] == 31.267083


def test_the_ceiling_counts_what_the_counter_would():
    with training_step.FlopCounterMode(display=False) as counter:
        training_step.convolution(Job(network="convolution", dim=16, size=8, batch=3))()
    counted = training_step.work(Job(network="convolution", dim=16, size=8, batch=3))["gflop"]
    assert 3e9 * counted == pytest.approx(counter.get_total_flops())


@pytest.mark.parametrize("network", PEERS)
def test_peers_take_the_same_step(network):
    pytest.importorskip(network.replace("-", "_"))
    result = training_step.measure(Job(network=network, **TINY, switches=("bfloat16",), count=True))
    assert result["seconds"] > 0 and result["gflop"] > 0


def test_a_peer_that_is_not_installed_is_a_row_of_its_own(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    training_step.main(Job(network="diffusers", **TINY))
    assert json.loads(capsys.readouterr().out) == {
        "failure": "no module diffusers: pip install -r requirements-bench.txt"
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("switches", [(), (*KERNELS, "fused", "bfloat16"), ("tf32", "compile")])
def test_steps_on_a_gpu(switches):
    result = training_step.measure(Job(network=OURS, **TINY, switches=switches, device="cuda"))
    assert result["seconds"] > 0 and result["peak"] > 0


@pytest.mark.parametrize(("on_gpu", "compiled"), [(False, False), (False, True), (True, True)])
def test_every_setting_is_measured_alone_and_with_all(on_gpu, compiled):
    everything = all_cases(on_gpu, compiled)
    ours, cases = [c for c in everything if c.network == OURS], {c.name: set(c.switches) for c in everything}
    assert len(cases) == len(everything) and cases[OFF] == set()
    alone = {"fused", "bfloat16", "checkpointing", "tf32" if on_gpu else "allocator", *KERNELS}
    assert {c.switches[0] for c in ours if len(c.switches) == 1} == alone | ({"compile"} if compiled else set())
    assert cases["all float32"] == {*KERNELS, "fused", *(() if on_gpu else ("allocator",))}
    assert cases["all bfloat16 + checkpointing"] == cases["all float32"] | {"bfloat16", "checkpointing"}
    assert {CEILINGS[c.precision] for c in ours} <= set(cases)


def measurements(*rows):
    columns = ["round", "case", "precision", "gflop", "parameters", "seconds", "peak", "failure"]
    return pd.DataFrame(rows, columns=columns).assign(dim=8, size=16, batch=2)


def test_ratios_are_to_everything_off_in_the_same_round():
    off, peer, ceiling = OFF, PEERS[0], CEILINGS["bfloat16"]
    table = summarise(
        measurements(
            (0, off, "float32", 12, 1, 4.0, 2**31, None),
            (0, "all", "bfloat16", 12, 1, 2.0, 2**30, None),
            (0, peer, "float32", None, None, None, None, "no module"),
            (0, ceiling, "bfloat16", 10, 0, 0.5, 2**29, None),
            (1, off, "float32", 12, 1, 9.0, 2**31, None),
            (1, "all", "bfloat16", 12, 1, 3.0, 2**30, None),
            (1, ceiling, "bfloat16", 10, 0, 0.5, 2**29, None),
        )
    ).set_index("case")
    ours = table.loc["all"]
    assert ours[["seconds", "faster", "faster_lowest", "faster_highest"]].tolist() == [2.5, 2.5, 2.0, 3.0]
    assert ours[["gib", "less", "rate", "share", "rounds"]].tolist() == [1.0, 2.0, 4.8, 0.24, 2]
    assert table.loc[off, "faster"] == 1 and pd.isna(table.loc[off, "share"])  # no float32 ceiling in this run
    shown = cells({"case": "all", **ours})
    assert shown == ["all", "2.5", "2.50 (2.00-3.00)", "12", "5", "24%", "1.00", "2.00"]
    assert cells({"case": OFF, **table.loc[off]})[4:6] == ["2", ""]
    assert cells({"case": peer, **table.loc[peer]})[:2] == [peer, "no module"]


def test_a_process_that_fails_is_a_row_too_and_gets_no_allocator_of_ours(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    ends = [(0, '{"seconds": 1}\n', ""), (1, "", "Traceback\nRuntimeError: no memory\n"), (-9, "", "")]
    environments = []

    def run(command, env, **_):
        environments.append(env)
        return subprocess.CompletedProcess(command, *ends.pop(0))

    monkeypatch.setattr(subprocess, "run", run)
    found = [training.run_job(Job(network=OURS, **TINY)) for _ in range(3)]
    assert found == [{"seconds": 1}, {"failure": "RuntimeError: no memory"}, {"failure": "ended with code -9"}]
    assert all("PATH" in environment and "MALLOC_TOP_PAD_" not in environment for environment in environments)


def test_the_script_from_end_to_end(run_script_file, tmp_path):
    output = tmp_path / "results"
    done = run_script_file("benchmarks/training.py", "--quick", "--cases", "all float32", "--output", output)
    assert done.stdout.splitlines()[-1].startswith(f"tables and picture are in {output}")
    table = pd.read_csv(output / "training.csv").set_index("case")
    assert list(table.index) == [OFF, "all float32", CEILINGS["float32"]]
    assert table["failure"].isna().all() and (table[["seconds", "gflop", "rate", "gib"]] > 0).all(axis=None)
    assert table.loc["all float32", "gflop"] == table.loc[OFF, "gflop"]
    assert "| all float32 |" in (output / "training.md").read_text() and "| all float32 |" in done.stdout
    assert (output / "training.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ("64-256-2",)}, "'64-256-2' is not dim:pixels:batch"),
        ({"sizes": ("12:64:2",)}, "multiples of 8"),
        ({"memory_sizes": ("16:64:0",)}, "the batch is 1 or more"),
        ({"cases": ("fast",)}, "no 'fast' on cpu; there are: everything off"),
        ({"rounds": 0}, "--rounds is 0"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_mistakes_are_named_before_anything_starts(settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "run_job", lambda job: pytest.fail("measured"))
    monkeypatch.setattr("GenSelfDiff.devices.keep_freed_memory", lambda: None)
    with pytest.raises(InputError, match=message):
        training.main(training.Settings(**{"device": "cpu", "output": tmp_path / "new", **settings}))


def test_results_are_replaced_only_when_asked(tmp_path, monkeypatch):
    (tmp_path / "measurements.csv").write_text("old")
    monkeypatch.setattr(training, "run_job", lambda job: {"seconds": 1.0, "peak": 1, "gflop": 1.0, "parameters": 1.0})
    monkeypatch.setattr("GenSelfDiff.devices.keep_freed_memory", lambda: None)
    settings = {"device": "cpu", "output": tmp_path, "quick": True}
    with pytest.raises(InputError, match="already holds files"):
        training.main(training.Settings(**settings))
    training.main(training.Settings(**settings, overwrite=True))
    assert (tmp_path / "measurements.csv").read_text().startswith("dim,")
