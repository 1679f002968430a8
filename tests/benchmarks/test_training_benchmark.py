"""What benchmarks/training.py trains and times, and the whole script."""

import copy
import json
import sys

import pandas as pd
import pytest
import torch

from benchmarks import training, training_networks, training_step
from benchmarks.plain import KERNELS, make_plain
from benchmarks.training_cases import CEILINGS, COPY, GRAPH, OFF, OURS, PEERS, all_cases
from benchmarks.training_networks import Job, work
from GenSelfDiff import unet
from GenSelfDiff.unet import DiffusionNet
from output_folder import replace_folder
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
        loss = training_networks.ours(Job(network=OURS, **TINY, switches=switches))[1]
        return loss(torch.rand(2, 3, 16, 16), torch.tensor([3, 700]), torch.randn(2, 3, 16, 16)).item()

    assert loss(*KERNELS, "checkpointing") == pytest.approx(loss(), rel=1e-5) and loss() > 0


def test_operations_at_paper_size_are_those_known():
    one, four = (work(Job(network=OURS, dim=64, size=256, batch=batch, switches=("compile",))) for batch in (1, 4))
    assert one["gflop"] == pytest.approx(455, abs=1) and one["parameters"] == 31.267083
    assert four["gflop"] == pytest.approx(one["gflop"], rel=1e-3)
    assert four["numbers"] < one["numbers"]  # a larger batch reads the weights as often: less often an image


def test_the_traffic_of_a_convolution_is_its_operands_and_results():
    layer = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)  # 54 weights
    x = torch.zeros(1, 2, 4, 4, requires_grad=True)  # 32 numbers in, 48 out
    with training_networks.ConvolutionTraffic() as traffic:
        layer(x).relu().sum().backward()
    assert traffic.numbers == (32 + 54 + 48) + (48 + 32 + 54 + 32 + 54)


def test_the_ceiling_counts_what_the_counter_would():
    with training_networks.FlopCounterMode(display=False) as counter:
        training_step.convolution(Job(network="convolution", dim=16, size=8, batch=3))()
    counted = work(Job(network="convolution", dim=16, size=8, batch=3))["gflop"]
    assert 3e9 * counted == pytest.approx(counter.get_total_flops())


def test_the_copy_counts_what_it_reads_and_what_it_writes():
    result = training_step.measure(Job(network="copy", dim=2, size=8, batch=1, count=True))
    assert result["numbers"] == 2 * 2 * 8 * 8 and result["seconds"] > 0


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


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("CUDA out of memory.", "RuntimeError: CUDA out of memory."),
        ("'inductor' raised:\nNo C++ compiler\n\nSet X=1", "RuntimeError: 'inductor' raised: No C++ compiler"),
        ("", "RuntimeError"),
    ],
)
def test_a_step_that_fails_says_why_in_one_line(monkeypatch, capsys, message, said):
    def fail(_job):
        raise RuntimeError(message)

    monkeypatch.setattr(training_step, "measure", fail)
    training_step.main(Job(network=OURS, **TINY))
    assert json.loads(capsys.readouterr().out) == {"failure": said}


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it works")
def test_a_cuda_graph_without_cuda_is_a_row_with_its_reason(capsys):
    training_step.main(Job(network=OURS, **TINY, switches=(GRAPH,)))
    assert json.loads(capsys.readouterr().out)["failure"].startswith("RuntimeError: ")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("case", all_cases(on_gpu=True, compiled=True), ids=lambda case: case.name)
def test_every_case_runs_on_a_gpu(case):
    if case.network in PEERS:
        pytest.importorskip(case.network.replace("-", "_"))
    result = training_step.measure(Job(network=case.network, **TINY, switches=case.switches, device="cuda", count=True))
    assert result["seconds"] > 0 and result["peak"] > 0


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_trains_as_single_kernels_do():
    def trained(graph):
        weight = torch.nn.Parameter(torch.ones(4, device="cuda"))
        optimizer = torch.optim.Adam([weight], 0.1, fused=True, capturable=True)
        drawn = iter(torch.arange(1.0, 7.0, device="cuda"))

        def compute(x):
            (weight * x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        if graph:
            step = training_step.captured(compute, lambda: (next(drawn),))
        else:
            first = next(drawn)
            for _ in range(training_step.WARM_UP):
                compute(first)

            def step():
                compute(next(drawn))

        for _ in range(5):
            step()
        return weight.detach().cpu()

    torch.testing.assert_close(trained(graph=True), trained(graph=False))


def test_the_script_from_end_to_end(run_script_file, tmp_path):
    output = tmp_path / "results"
    words = ["--quick", "--cases", "all float32", "--output", output, "--loader-seconds", 0]
    done = run_script_file("benchmarks/training.py", *words)
    assert done.stdout.splitlines()[-1].startswith(f"tables and picture are in {output}")
    table = pd.read_csv(output / "training.csv").set_index("case")
    assert list(table.index) == [OFF, "all float32", CEILINGS["float32"], COPY]
    figures = ["seconds", "images", "gflop", "rate", "gib", "gigabytes", "copied"]
    assert table["failure"].isna().all() and (table.loc[[OFF, "all float32"], figures] > 0).all(axis=None)
    assert table.loc[COPY, "bandwidth"] > 0 and table.loc[CEILINGS["float32"], "rate"] > 0
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
        ({"minutes": 0.0}, "--minutes is 0"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_mistakes_are_named_before_anything_starts(settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "run_job", lambda job, limit: pytest.fail("measured"))
    monkeypatch.setattr("GenSelfDiff.devices.keep_freed_memory", lambda: None)
    with pytest.raises(InputError, match=message):
        training.main(training.Settings(**{"device": "cpu", "output": tmp_path / "new", **settings}))


def test_results_are_replaced_only_when_asked(tmp_path, monkeypatch):
    with replace_folder(tmp_path, "measurements.csv", overwrite=False) as folder:
        (folder / "measurements.csv").write_text("old")
    result = {"seconds": 1.0, "peak": 1, "gflop": 1.0, "parameters": 1.0, "numbers": 1.0}
    monkeypatch.setattr(training, "run_job", lambda job, limit: result)
    monkeypatch.setattr("GenSelfDiff.devices.keep_freed_memory", lambda: None)
    settings = {"device": "cpu", "output": tmp_path, "quick": True, "loader_seconds": 0.0}
    with pytest.raises(InputError, match="already holds files"):
        training.main(training.Settings(**settings))
    training.main(training.Settings(**settings, overwrite=True))
    assert (tmp_path / "measurements.csv").read_text().startswith("dim,")
