"""Every setting of the training scripts changes something: one base run a script, then a short run a setting.

A setting that is new needs a row in the table of its script, or the test of completeness fails.
"""

import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import HE_diff_general
from GenSelfDiff import checkpoint, data, run_folder, training, unet
from GenSelfDiff.downstream_train import Diff_Seg, pixel_classifier
from GenSelfDiff.methods import monai_networks
from GenSelfDiff.methods.attention import SS_attention, network
from GenSelfDiff.methods.nudiff import train_images, train_structures
from GenSelfDiff.pretrain import SS_diff
from tests.conftest import write_tiny_data_set
from tests.GenSelfDiff.methods.attention.levels import write_levels
from tests.GenSelfDiff.methods.pretrainings import CHANGES, PRETRAININGS
from tests.GenSelfDiff.runs import history
from utils_general import InputError

# What a run is observed by:
#   weights   of last.pth: all that is computed           handed on  the weights of best.pth
#   initial   the weights before the first step           order      the files of each training batch
#   images    each training image as the network gets it  draws      the seeds that steps and noise come from
#   held out  the same of the validation's images         rates      the learning rate of each step
#   history   its rows, and so the losses                 recipe     the name that the script prints
#   files     in the run's folder                         readers    the processes of each data loader
#   copy      whether patches were decoded once           saves      how often last.pth was written
#   compiled  how often torch.compile was asked           recomputed how often activations were computed again
#   folder    where the run is                            refused    the message, where the script refuses
SHARED = {
    "epochs": (3, {"history", "order"}),
    "steps": (3, {"weights", "order"}),
    "validate_every": (3, {"weights", "history", "order"}),  # an epoch of more steps
    "batch_size": (2, {"weights", "order"}),
    "learning_rate": (1e-2, {"weights", "rates"}),
    "betas": ((0.3, 0.99), {"weights"}),
    "dim": (16, {"initial"}),
    "input_range": ((-0.5, 2.0), {"weights", "images"}),
    "initial_weights": ("published", {"initial"}),
    "recipe": ("improved", {"recipe"}),  # on the command line it decides the defaults: test_settings.py
    "warm_up": (2, {"weights", "rates"}),
    "decay": ("cosine", {"weights", "rates"}),
    "clip": (1e-3, {"weights"}),
    "ema": (0.5, {"handed on", "history"}),
    "quarter_turns": (True, {"weights", "images"}),
    "precision": ("bfloat16", {"weights"}),
    "checkpoint_activations": (True, {"recomputed"}),
    "compile": (True, {"compiled"}),
    "tensorboard": (True, {"files"}),
    "device": ("tpu", {"refused"}),
    "workers": (1, {"readers"}),
    "cache": (True, {"copy"}),
    "seed": (1, {"initial", "order", "images", "draws", "held out", "weights"}),
    "save_minutes": (0.0, {"saves"}),
    "run_name": ("another", {"folder"}),
    "data": ("other", {"images", "weights"}),
}
NOISE = {
    "timesteps": (40, {"weights", "history"}),
    "schedule": ("linear", {"weights", "history"}),
    "p2_k": (2.0, {"weights", "history"}),
    "p2_gamma": (0.0, {"weights", "history"}),
    "sample_every": (1, {"files"}),
}
PRETRAINING = SHARED | NOISE | {"t_below": (10, {"weights", "history"})}
FINETUNING = SHARED | {
    "seed": (1, {"initial", "order", "images", "weights"}),  # nothing is drawn but the augmentation
    "pretrained": ("pretraining", {"initial", "weights"}),
    "targets": ("border", {"initial", "weights", "history"}),
    "losses": (("focal",), {"weights", "history"}),
    "timestep": (40, {"weights", "history"}),
    "stain_jitter": (0.5, {"weights", "images"}),
    "labelled_images": (2, {"weights", "order"}),
    "draw_seed": (2, {"weights", "order"}),
    "keep_last_block": (True, {"weights"}),
    "head_steps": (1, {"weights"}),
    "layer_decay": (0.5, {"weights"}),
}
FEATURES = SHARED | {
    "seed": (1, {"initial", "order", "images", "weights"}),
    "pretrained": ("pretraining", {"initial", "weights"}),
    "stain_jitter": (0.5, {"weights", "images"}),
    "labelled_images": (2, {"weights", "order"}),
    "draw_seed": (2, {"weights", "order"}),
    "checkpoint_activations": (True, {"refused"}),  # nothing is kept that could be left out
    "noise_levels": ((5,), {"initial", "weights"}),
    "blocks": (("mid",), {"initial", "weights"}),
    "members": (3, {"initial", "weights"}),
    "hidden": ((4, 6), {"initial", "weights"}),
    "noise_seed": (1, {"weights"}),
}
METHODS = {
    **{stage: pretraining.rows for stage, pretraining in PRETRAININGS.items()},
    "attention": {
        "checkpoint_activations": (True, {"refused"}),
        "leave_out": (("u1",), {"weights"}),
        "dilations": ((1, 1), {"initial", "weights"}),
        "tile": (16, {"images", "weights"}),
        "classifier": ("resnet34", {"initial", "weights"}),
        "share": (0.4, CHANGES),
        "steepness": (5.0, CHANGES),
        "threshold_by_level": (True, CHANGES),
        "threshold": ("image", set()),  # in use: attention/test_SS_attention.py
        "smoothness": (9.0, CHANGES),
        "equivariance": (9.0, CHANGES),
        "scale_equivariance": (9.0, CHANGES),
        "stain_normalise": (False, {"images", "weights"}),
        "stain_deviation": (0.5, {"images", "weights"}),
        "scale_jitter": (0.3, {"images", "weights"}),
        "spoil": (True, {"images", "weights"}),
        "weight_decay": (9.0, {"weights"}),
        "rate_drops": ((1,), {"weights", "rates"}),
        "task": ("haematoxylin", CHANGES),
        "start": ("attention", {"initial", "weights"}),
        "shuffle_levels": (True, CHANGES),
        "sample_every": (1, {"files"}),
    },
    "monai": {
        "network": ("attention", {"initial", "weights"}),
        "losses": (("focal",), {"weights", "history"}),
        "stain_jitter": (0.5, {"weights", "images"}),
        "labelled_images": (2, {"weights", "order"}),
        "draw_seed": (2, {"weights", "order"}),
        "checkpoint_activations": (True, {"refused"}),
    },
    "structures": {"sample_every": (1, {"files"}), "quarter_turns": (False, {"weights", "images"})},
    "images": {
        "sample_every": (1, {"files"}),
        "quarter_turns": (False, {"weights", "images"}),
        "pretrained": ("pretraining", {"initial", "weights"}),
        "drop": (0.9, {"weights", "history"}),
        "unlabelled": (True, {"weights", "images"}),
    },
}  # fmt: skip
"""What is their own: the settings that they share with the others go the same way, and are looked at there."""
TABLES = {"pretraining": PRETRAINING, "finetuning": FINETUNING, "features": FEATURES}
TABLES |= {stage: SHARED | own for stage, own in METHODS.items()}
TABLES |= {stage: SHARED | NOISE | METHODS[stage] for stage in ("structures", "images")}
SCRIPTS = {
    "pretraining": SS_diff, "finetuning": Diff_Seg, "features": pixel_classifier, "monai": monai_networks,
    "attention": SS_attention, "structures": train_structures, "images": train_images,
    **{stage: pretraining.script for stage, pretraining in PRETRAININGS.items()},
}  # fmt: skip
MAINS = {stage: script.main for stage, script in SCRIPTS.items()}
STARTS = {"pretrained": "pretraining", "start": "attention"}  # settings that name the run of a stage
APART = {"fresh"}  # it needs a run that is there: see below
COMPUTED = {"weights", "handed on", "history"}
# Settings that may change though they compute something else, since the run looks at what they lead to.
GUARDED = {"batch_size": "started with a joint batch of 4 patches", "data": "was started on other patches"}
CASES = [(stage, name) for stage, table in TABLES.items() for name in METHODS.get(stage, table)]
CONTINUED = [(stage, name) for stage, name in CASES if name not in ("run_name", "device")]


def digest(state):
    """16 digits of the tensors of a network."""
    content = hashlib.sha256()
    for name, value in state.items():
        content.update(name.encode() + value.float().numpy().tobytes())
    return content.hexdigest()[:16]


class Watch:
    """Takes down what a run does, while it is patched into the loop."""

    def __init__(self, patch):
        self.seen = {"order": [], "images": {}, "draws": {}, "held out": {}, "rates": []}
        self.seen |= {"readers": [], "saves": 0, "compiled": 0, "recomputed": 0}
        self.patch = patch
        self._around(training.Trainer, "__init__", self._make)
        self._around(training.Trainer, "_train_step", self._step)
        self._around(training.Trainer, "_save_last", self._save)
        self._around(data, "DataLoader", self._reader)
        self._around(unet, "checkpoint", self._recompute)
        self._around(torch, "compile", self._compile)
        patch.setattr(run_folder, "draw_curves", lambda *_: None)  # takes longer than the run
        another = lambda levels, imagenet: network.small_classifier(16, levels)  # noqa: E731
        patch.setattr(network, "resnet34", another)  # 21 million weights take seconds

    def _around(self, owner, name, watcher):
        real = getattr(owner, name)
        self.patch.setattr(owner, name, lambda *given, **named: watcher(real, *given, **named))

    def _note(self, batch, images, seeds):
        names = [Path(file).name for file in batch["file"]]
        self.seen[images] |= {n: hash(x.numpy().tobytes()) for n, x in zip(names, batch["image"], strict=True)}
        self.seen[seeds] |= dict(zip(names, batch["seed"].tolist(), strict=True))
        return names

    def _make(self, real, trainer, stage, *given, **named):
        self._around(stage, "validation_metrics", self._validate)
        real(trainer, stage, *given, **named)

    def _step(self, real, trainer, batch):
        self.seen.setdefault("initial", digest(trainer.model.state_dict()))
        self.seen["order"].append(self._note(batch, "images", "draws"))
        real(trainer, batch)
        self.seen["rates"].append(trainer.optimizer.param_groups[0]["lr"])

    def _validate(self, real, model, batch):
        self._note(batch, "held out", "held out")
        return real(model, batch)

    def _save(self, real, trainer):
        self.seen["saves"] += 1
        real(trainer)

    def _reader(self, real, *given, **named):
        self.seen["readers"].append(named["num_workers"])
        return real(*given, **named)

    def _recompute(self, real, *given, **named):
        self.seen["recomputed"] += 1
        return real(*given, **named)

    def _compile(self, _real, network):
        self.seen["compiled"] += 1
        return network


def observe(stage, settings, capsys):
    """What a run of these settings does and leaves."""
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch)
        capsys.readouterr()
        try:
            MAINS[stage](settings)
        except InputError as error:
            return {"refused": str(error)}
    folder = Path(settings.run_name)
    root = settings.data if isinstance(settings.data, Path) else settings.data[0]
    last, best = (checkpoint.load(folder / name) for name in ("last.pth", "best.pth"))
    return watch.seen | {
        "weights": digest(last["model_state_dict"]),
        "handed on": digest(best["model_state_dict"]),
        "history": history(folder).drop(columns="learning_rate").to_csv(),
        "recipe": re.findall(r", recipe (\w+),", capsys.readouterr().out),
        "files": sorted(f.name.partition(".tfevents")[0] for f in folder.iterdir()),
        "copy": bool(list(root.glob("*/.cache"))),
        "folder": str(folder),
        "refused": None,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A function of the stage: the settings of its base run and what it did; made once."""
    root = tmp_path_factory.mktemp("base")
    tiny, done = write_tiny_data_set(root / "tiny"), {}
    shared = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "dim": 8, "initial_weights": "pytorch"}
    shared |= {"workers": 0, "device": "cpu"}

    def make(stage, capsys):
        if stage not in done:
            run = {"run_name": str(root / stage), **shared}
            if stage == "pretraining":
                settings = SS_diff.Settings(data=(tiny,), sample_every=0, timesteps=20, **run)
            elif stage == "features":
                small = {"labelled_images": 1, "epochs": 2, "noise_levels": (5, 9), "members": 2, "hidden": (6, 4)}
                settings = pixel_classifier.Settings(data=tiny, pretrained="scratch", **run | small)
            elif stage == "attention":
                small = {"data": write_levels(root / "levels"), "epochs": 1, "validate_every": 2, "batch_size": 6}
                small |= {"classifier": "small", "dilations": (1,), "tile": 8, "sample_every": 0}
                settings = SS_attention.Settings(**run | small)
            elif stage == "monai":
                settings = monai_networks.Settings(data=tiny, labelled_images=1, **run | {"epochs": 2})
            elif stage in ("structures", "images"):  # the noise is that of the pre-training, from which images begin
                noise = {"schedule": "quadratic", "timesteps": 20, "p2_gamma": 1.0, "sample_every": 0}
                noise |= {"drop": 0.5} if stage == "images" else {}
                settings = SCRIPTS[stage].Settings(data=tiny, **run | noise)
            elif stage in PRETRAININGS:
                pretraining = PRETRAININGS[stage]
                small = pretraining.small | ({"sample_every": 0} if pretraining.restores else {})
                settings = pretraining.script.Settings(data=(tiny,), **run | small)
            else:
                few = {"labelled_images": 1, "layer_decay": 0.9, "epochs": 2}  # an epoch is one step
                settings = Diff_Seg.Settings(data=tiny, pretrained="scratch", **run | few)
            done[stage] = settings, observe(stage, settings, capsys)
        return done[stage]

    return make


def changed_to(settings, name, value, tmp_path, pretrained):
    """The settings with another value of one of them, for a run of its own."""
    changes = {"run_name": str(tmp_path / "run"), name: value}
    if name == "data":
        root = write_tiny_data_set(tmp_path / value, seed=50, prefix="new ")
        changes["data"] = root if isinstance(settings.data, Path) else (root,)
    if name == "cache":  # in a copy of the same patches
        root = write_tiny_data_set(tmp_path / "same")
        changes["data"] = root if isinstance(settings.data, Path) else (root,)
    if name == "run_name":
        changes["run_name"] = str(tmp_path / value)
    if name in STARTS:
        changes[name] = pretrained
    return replace(settings, **changes)


@pytest.mark.parametrize("stage", TABLES)
def test_every_setting_is_in_the_table(stage, base, capsys):
    assert {f.name for f in fields(base(stage, capsys)[0])} == {*TABLES[stage], *APART}


def test_the_general_script_has_the_settings_of_the_other():
    """It is the same script with other defaults: what is shown of one holds for both."""
    general, single = HE_diff_general.Settings(), SS_diff.Settings()
    assert [f.name for f in fields(general)] == [f.name for f in fields(single)]
    differ = {f.name for f in fields(single) if getattr(general, f.name) != getattr(single, f.name)}
    assert differ == {"data", "run_name", "batch_size"} and HE_diff_general.SS_diff.main is SS_diff.main


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_a_setting_changes_what_it_should(stage, name, base, tmp_path, capsys):
    """What must differ does; and what changes nothing that is computed leaves it as it was, bit by bit."""
    settings, before = base(stage, capsys)
    value, must_differ = TABLES[stage][name]
    pretrained = base(STARTS[name], capsys)[0].run_name if name in STARTS else None
    after = observe(stage, changed_to(settings, name, value, tmp_path, pretrained), capsys)
    differ = {what for what in after if after[what] != before[what]}
    assert must_differ <= differ
    if not must_differ & {*COMPUTED, "initial", "refused"}:
        assert not differ & COMPUTED


@pytest.mark.parametrize(("stage", "name"), CONTINUED)
def test_what_computes_something_else_may_not_change_in_a_run(stage, name, base, tmp_path, capsys):
    """A run is continued with another value of one setting: refused by its name, unless it changes no result."""
    settings, _ = base(stage, capsys)
    value, must_differ = TABLES[stage][name]
    more = name in ("epochs", "steps")  # of the same
    harmless = more or not must_differ & {*COMPUTED, "initial"}
    assert (name in run_folder.MAY_CHANGE) == (harmless or name in GUARDED)
    if not harmless:
        pretrained = base(STARTS[name], capsys)[0].run_name if name in STARTS else None
        other = changed_to(settings, name, value, tmp_path, pretrained)
        message = (
            GUARDED["data"] if name in ("labelled_images", "draw_seed", "leave_out") else rf"other settings: {name} \("
        )
        with pytest.raises(InputError, match=GUARDED.get(name, message)):
            MAINS[stage](replace(other, run_name=settings.run_name))


def test_steps_and_noise_of_validation_are_others_than_those_of_training(base, capsys):
    _, seen = base("pretraining", capsys)
    assert len({*seen["draws"].values(), *seen["held out"].values()}) == 8 + 4


@pytest.mark.parametrize("stage", [stage for stage in TABLES if stage not in METHODS])
def test_fresh_does_again_what_was_finished(stage, base, capsys):
    settings, _ = base(stage, capsys)
    before = (Path(settings.run_name) / "last.pth").stat().st_mtime_ns
    MAINS[stage](settings)
    assert (Path(settings.run_name) / "last.pth").stat().st_mtime_ns == before
    MAINS[stage](replace(settings, fresh=True))
    assert (Path(settings.run_name) / "last.pth").stat().st_mtime_ns != before
