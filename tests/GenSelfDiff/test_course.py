"""The course of a training by hand, and runs whose length is given in steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from GenSelfDiff import checkpoint, training
from GenSelfDiff.course import Course, RateGroup, Rates
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.pretrain import SS_diff
from tests.GenSelfDiff.runs import assert_same_run, history
from utils_general import InputError


def test_epochs_and_their_steps():
    by_steps = Course(steps=10, epoch_steps=4, warm_up=0, decays=False)
    assert by_steps.epochs == 3 and [by_steps.span(epoch) for epoch in range(3)] == [(0, 4), (4, 8), (8, 10)]
    settings = SS_diff.Settings(epochs=3)
    assert Course.of(settings, 7) == Course(21, 7, 0, False)
    assert Course.of(replace(settings, steps=10), 7) == Course(10, 7, 0, False)
    assert Course.of(replace(settings, validate_every=4), 7) == Course(12, 4, 0, False)
    assert Course.of(replace(settings, steps=10, validate_every=4, decay="cosine"), 7) == Course(10, 4, 0, True)


def test_groups_learn_at_a_part_of_the_rate_or_wait():
    """Adam's first step is the learning rate, whatever the gradient; what waits stays, and gathers no moments."""
    fast, slow, late = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    rates = Rates([RateGroup([fast]), RateGroup([slow], 0.1), RateGroup([late], 1.0, waits=1)], 0.5, (0.9, 0.999))
    for step in range(2):
        (3 * (fast + slow + late)).sum().backward()
        rates.prepare(step, 1.0)
        rates.optimizer.step()
        rates.optimizer.zero_grad()
        if not step:
            assert [fast.item(), slow.item(), late.item()] == pytest.approx([-0.5, -0.05, 0.0])
            assert late not in rates.optimizer.state
    assert late.item() == pytest.approx(-0.5)


def test_length_in_steps_and_validation_every_so_many(pretraining):
    """8 patches in batches of 4: two steps a pass; seven steps are three passes and a half."""
    SS_diff.main(replace(pretraining, steps=7, validate_every=3))
    table = history(pretraining.run_name)
    assert table.epoch.tolist() == [1, 2, 3] and table.steps.tolist() == [3, 3, 1] and table.val_loss.notna().all()


def test_how_often_is_validated_does_not_change_what_is_trained(pretraining, tmp_path):
    rare = replace(pretraining, steps=6, validate_every=6, run_name=str(tmp_path / "rare"))
    often = replace(pretraining, steps=6, validate_every=1, run_name=str(tmp_path / "often"))
    by_epochs = replace(pretraining, epochs=3)
    for settings in (rare, often, by_epochs):
        SS_diff.main(settings)
    states = [checkpoint.load(Path(s.run_name) / "last.pth")["model_state_dict"] for s in (rare, often, by_epochs)]
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


def test_a_run_of_steps_goes_on_exactly(pretraining, tmp_path, monkeypatch):
    settings = replace(pretraining, steps=7, validate_every=3, decay="cosine")
    SS_diff.main(replace(settings, run_name=str(tmp_path / "whole")))
    real, done = training.Trainer._train_step, []

    def step(trainer, batch):
        real(trainer, batch)
        done.append(1)
        if len(done) == 5:
            trainer.stop.signal = 15

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_train_step", step)
        with pytest.raises(SystemExit):
            SS_diff.main(settings)
    SS_diff.main(settings)
    assert_same_run(Path(settings.run_name), tmp_path / "whole")


def test_more_steps_are_more_of_the_same_only_after_a_whole_epoch(pretraining, tmp_path):
    SS_diff.main(replace(pretraining, steps=6, validate_every=3, run_name=str(tmp_path / "whole")))
    SS_diff.main(replace(pretraining, steps=3, validate_every=3))
    SS_diff.main(replace(pretraining, steps=6, validate_every=3))
    assert_same_run(Path(pretraining.run_name), tmp_path / "whole")
    SS_diff.main(replace(pretraining, steps=8, validate_every=3))
    with pytest.raises(InputError, match=r"ended after 8 steps, in the middle of an epoch of 3: .*--fresh"):
        SS_diff.main(replace(pretraining, steps=9, validate_every=3))


def test_an_old_last_checkpoint_hands_its_averaged_weights_on(finetuning):
    """last.pth can be tested: by its averaged weights, as best.pth, here of the same epoch."""
    from GenSelfDiff.networks import load_segmentation

    Diff_Seg.main(replace(finetuning, ema=0.9, steps=2, validate_every=2))
    folder, cpu = Path(finetuning.run_name), torch.device("cpu")
    best, last = (load_segmentation(folder / name, cpu)[0].state_dict() for name in ("best.pth", "last.pth"))
    trained = checkpoint.load(folder / "last.pth")["model_state_dict"]
    assert all(torch.equal(value, last[name]) for name, value in best.items())
    assert not all(torch.equal(value, trained[name]) for name, value in best.items())
