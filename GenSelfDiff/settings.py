"""The settings that all training scripts share, and the recipes: named sets of defaults.

`paper` is what each script's settings have as defaults: the published values. `improved` replaces those that they name
under `improved`; each can still be overridden. What they are worth: docs/experiments.md.
"""

import argparse
import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import tyro

from file_contents import check_fields
from GenSelfDiff import checkpoint
from GenSelfDiff.devices import Precision
from GenSelfDiff.unet import InitialWeights
from utils_general import SPLIT_SEED, InputError, at_least, plain

RecipeName = Literal["paper", "improved"]
THESE = "the command line"  # as a place for `check_fields`: what no checkpoint may hold is not begun with
SCRATCH = "scratch"  # in place of the name of a pre-training run: there is none


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings that all stages share; the first seven get their defaults in each stage's script."""

    stage: ClassVar[str]
    improved: ClassVar[dict[str, Any]] = {}
    """what the recipe "improved" has as defaults instead"""

    run_name: str
    """name of the run: its folder under snapshots/; or an absolute path"""
    # (a plain --run would be taken by torchrun for an abbreviation of its own options)
    epochs: int
    """passes over the training patches; with validate_every, epochs of so many steps"""
    batch_size: int
    """patches a step, for each GPU or process"""
    learning_rate: float
    """of Adam, after `warm_up` and before `decay`"""
    betas: tuple[float, float]
    """of Adam"""
    dim: int | None
    """width of the network, a multiple of 8; 16 to 32 for small runs, 8 for tests of the code"""
    input_range: tuple[float, float]
    """what black and white become"""
    initial_weights: InitialWeights = "published"
    """what the network starts from: "published" (deviation 0.01, needs long training) or "pytorch" (small runs)"""
    steps: int | None = None
    """length of the training in steps, in place of epochs"""
    validate_every: int | None = None
    """steps of an epoch, after which is validated and saved; if not given, as many as a pass over the patches takes"""
    recipe: RecipeName = "paper"
    """set of defaults: "paper", or "improved" (fewer steps for the same loss; --recipe improved --help shows them)"""
    warm_up: int = 0
    """steps in which the learning rate rises to its value"""
    decay: Literal["none", "cosine"] = "none"
    """how the learning rate falls to zero by the last epoch"""
    clip: float | None = None
    """largest norm of the gradient; not clipped if not given"""
    ema: float = 0.0
    """decay a step of the running mean of the weights, which is validated and handed on; 0: no mean, the weights"""
    quarter_turns: bool = False
    """rotate patches by multiples of 90 degrees, beside the flips"""
    precision: Precision = "float32"
    """float32, tf32 (on GPUs: products rounded to 10 bits), or bfloat16 (autocast: faster, rounded to 8)"""
    checkpoint_activations: bool = False
    """less memory for more time: keep only what goes in and out of each block, compute the rest again"""
    compile: bool = False
    """torch.compile the network: minutes to start, for long runs on a GPU"""
    tensorboard: bool = False
    """write the history for TensorBoard too, into the run's folder"""
    device: str = "auto"
    """auto, cpu, cuda (all visible GPUs) or cuda:N"""
    workers: int = 4
    """processes that read patches to train on, and as many for validation, for each training process; 0: none"""
    cache: bool = False
    """decode all patches once, into .cache beside them, and read that (200 KB for one of 256 pixels): for fast GPUs"""
    seed: int = SPLIT_SEED
    """of initial weights, order, augmentation, steps and noise"""
    save_minutes: float = 10.0
    """minutes between checkpoints at most; there is one after every epoch, too, unless writing them would take over a
    tenth of the time"""
    fresh: bool = False
    """start over: an existing run of this name is replaced instead of continued"""

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot work."""
        at_least(
            self,
            epochs=1,
            steps=1,
            validate_every=1,
            batch_size=1,
            learning_rate=0,
            workers=0,
            seed=0,
            save_minutes=0,
            warm_up=0,
            clip=0,
        )
        if not 0 <= self.ema < 1:
            raise InputError(f"--ema is {self.ema}: 0 to below 1 is needed")
        if not self.run_name.strip():
            raise InputError("--run-name is empty: a run needs a name")
        if self.clip == 0:
            raise InputError("--clip is 0: nothing would be learnt; leave it out, or clip to more than 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"--betas are {self.betas}: Adam wants two numbers from 0 to below 1")
        check_fields(plain(self), checkpoint.SETTINGS, THESE)
        if self.dim is not None and (self.dim < 8 or self.dim % 8):
            raise InputError(f"--dim is {self.dim}: a multiple of 8 is needed")

        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise InputError("--tensorboard needs a package: pip install tensorboard, or leave it out")

    @classmethod
    def of(cls, recipe: RecipeName, **changes: Any) -> Self:
        """The settings of a recipe, some of them changed."""
        return cls(**{"recipe": recipe, **(cls.improved if recipe == "improved" else {}), **changes})


def read_command_line(settings: type) -> Any:
    """The settings of a training script: `--recipe` decides the defaults of the others, in `--help` too."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default=settings.recipe)
    recipe = parser.parse_known_args()[0].recipe
    known = recipe if recipe in get_args(RecipeName) else "paper"  # tyro explains what is wrong with another name
    return tyro.cli(settings, default=settings.of(known))
