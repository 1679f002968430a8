"""What of the pre-trained network is taken over, how gently it is tuned, and which labelled images it sees."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from GenSelfDiff import checkpoint
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.downstream_train.transfer import LEVELS, rate_groups
from GenSelfDiff.patches import Patches
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.unet import SegNet
from utils_general import InputError


def weights(run, file="last.pth"):
    return checkpoint.load(Path(run) / file)["model_state_dict"]


def moved(before, after):
    """Names of what differs."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.fixture
def pretrained(pretraining):
    SS_diff.main(replace(pretraining, epochs=1))
    return pretraining.run_name


def test_levels_hold_every_parameter_once():
    names = [name for name, _ in SegNet(8, 2).named_parameters()]
    assert all(sum(name.startswith(prefixes) for prefixes in LEVELS) == 1 for name in names)


def test_rates_fall_from_level_to_level():
    model = SegNet(8, 2)
    assert rate_groups(model, 0, 1.0, False) is None
    groups = rate_groups(model, 5, 0.5, True)
    assert [group.scale for group in groups] == [0.5**level for level in range(11)]
    assert [group.waits for group in groups] == [0, *[5] * 10]
    together = rate_groups(model, 0, 0.5, False)  # as published the last block is new, and part of the head
    assert len(together) == 10 and len(together[0].parameters) == len(groups[0].parameters + groups[1].parameters)


@pytest.mark.parametrize(("keep", "head"), [(False, "net.final_conv."), (True, "net.final_conv.1.")])
def test_a_frozen_network_learns_with_its_head_alone(finetuning, pretrained, keep, head):
    Diff_Seg.main(replace(finetuning, pretrained=pretrained, dim=None, layer_decay=0.0, keep_last_block=keep))
    tuned = weights(finetuning.run_name)
    changed = moved(
        {**tuned, **weights(pretrained, "best.pth")}, {k: v for k, v in tuned.items() if "conv.1." not in k}
    )
    assert all(name.startswith(head) for name in changed)
    assert bool(changed) != keep  # the last block: anew as published, or as it was pre-trained


def test_the_head_alone_first(finetuning, pretrained):
    """Two steps an epoch: after one epoch of waiting nothing but the head has moved, after another all has."""
    settings = replace(finetuning, pretrained=pretrained, dim=None, head_steps=2, decay="none")
    Diff_Seg.main(replace(settings, epochs=1))
    first = weights(finetuning.run_name)
    before = {**first, **weights(pretrained, "best.pth")}
    kept = {name: value for name, value in first.items() if not name.startswith("net.final_conv.")}
    assert not moved(before, kept)
    Diff_Seg.main(replace(settings, epochs=2))
    assert len(moved(first, weights(finetuning.run_name))) > 0.9 * len(first)


def test_draws_are_nested_and_written_down(finetuning, tiny_data_set, capsys):
    def drawn(number, seed):
        return Patches(tiny_data_set / "labelled", labelled=True).keep_sources(number, seed)

    assert all(drawn(1, seed) == drawn(2, seed)[:1] for seed in range(6))
    assert {drawn(1, seed)[0] for seed in range(6)} == {"l1", "l2"}
    one, other = (next(seed for seed in range(6) if drawn(1, seed) == [name]) for name in ("l1", "l2"))
    Diff_Seg.main(replace(finetuning, labelled_images=1, draw_seed=one, epochs=1))
    assert "labelled images: l1" in capsys.readouterr().out
    assert json.loads((Path(finetuning.run_name) / "settings.json").read_text())["labelled"] == ["l1"]
    assert checkpoint.load(Path(finetuning.run_name) / "best.pth")["labelled"] == ["l1"]
    with pytest.raises(InputError, match="other patches"):
        Diff_Seg.main(replace(finetuning, labelled_images=1, draw_seed=other, epochs=1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer_decay": 1.5}, "--layer-decay is 1.5: 0 to 1"),
        ({"layer_decay": -0.5}, "--layer-decay is -0.5"),
        ({"head_steps": -1}, "--head-steps is -1"),
        ({"head_steps": 5, "steps": 5, "validate_every": 5}, "--head-steps is 5, of 5 --steps: nothing else"),
        ({"clip": 0.0}, "--clip is 0: nothing would be learnt"),
        ({"draw_seed": 2**32}, "--draw-seed is 4294967296: at most 4294967295"),
        ({"steps": 0}, "--steps is 0"),
        ({"validate_every": 0}, "--validate-every is 0"),
    ],
)
def test_what_cannot_work_is_named(finetuning, changed, message):
    with pytest.raises(InputError, match=message):
        Diff_Seg.main(replace(finetuning, **changed))
    assert not Path(finetuning.run_name).exists()
