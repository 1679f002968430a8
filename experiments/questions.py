"""What experiments/pretraining.py asks: on which data, which ways to fine-tune, with how many labels and draws.

An arm is a way to come to a segmentation network. Its learning rate is chosen on development images (the held-out ones
of the labelled folder), of the same rates and with as many trials for each arm; the test images are looked at once,
with the rate that was chosen.
"""

from dataclasses import dataclass, field
from typing import Literal

Start = Literal["scratch", "pre-trained", "shuffled"]
DIM = 16
CHOICE_DRAWS = (101, 102, 103)
SMALL = ("--recipe", "improved", "--dim", DIM, "--workers", 0)


@dataclass(frozen=True)
class PreTraining:
    """A way to pre-train, on the images that may be trained on."""

    options: tuple[object, ...]
    """of SS_diff.py"""
    steps: int = 4000


@dataclass(frozen=True)
class Arm:
    """A way to come to a segmentation network."""

    start: Start
    """"shuffled": pre-trained weights, the numbers of each tensor in random order: what their sizes alone are worth"""
    pretraining: str = ""
    """its name in `PRETRAININGS`, where there is one"""
    options: tuple[object, ...] = ()
    """of `script`, beside those of all"""
    script: str = "GenSelfDiff/downstream_train/Diff_Seg.py"
    more_steps: int = 0
    """of fine-tuning, beside those of the others"""
    rate_of: str = ""
    """the arm whose learning rate is taken; its own is chosen if not given"""


@dataclass(frozen=True)
class Question:
    """A table of figures over arms and numbers of labelled images."""

    data: str
    """folder under data/, see docs/experiments.md"""
    records: str
    """beginning of the names of its tables of finished runs, which questions of the same data share"""
    draws: dict[int, int]
    """how many draws of each number of labelled images are tested; none where a question is for development images"""
    steps: dict[int, int]
    """of fine-tuning, by the number of labelled images"""
    arms: tuple[str, ...]
    """names in `ARMS`; the first is what the others are compared with"""
    chosen_with: int
    """labelled images when learning rates are chosen"""
    pays: float
    """the smallest gain in Dice that is called one"""
    choice_draws: tuple[int, ...] = CHOICE_DRAWS
    """draws of the runs that learning rates are chosen by"""
    only: dict[str, dict[int, int]] = field(default_factory=dict)
    """how many draws of each number of labelled images, for arms that are not run with all"""
    parts: tuple[str, ...] = ()
    """beginnings of the names of test images that come from elsewhere, each told apart"""
    continued: str = ""
    """the question of the same test images whose numbers of labelled images the curves show, too"""
    judged: str = ""
    """the arm whose difference from the first, with `chosen_with` labelled images, the question is about, as said
    before any test; all other differences are adjusted for their number"""

    def draws_of(self, arm: str) -> dict[int, int]:
        """How many draws of each number of labelled images of an arm are tested."""
        return self.only.get(arm, self.draws)

    @property
    def compared(self) -> list[tuple[str, int]]:
        """Arm and number of labelled images of all comparisons with the first arm."""
        return [
            (arm, n) for arm in self.arms[1:] for n, draws in self.draws_of(arm).items() if draws and n in self.draws
        ]

    @property
    def primary(self) -> tuple[str, int]:
        """The arm and the number of labelled images of the primary figure."""
        return self.judged, self.chosen_with


LOW = (*SMALL, "--p2-gamma", 0, "--t-below", 250)
PRETRAININGS = {
    "low": PreTraining(LOW),
    "P2": PreTraining(SMALL),
    "plain": PreTraining((*SMALL, "--p2-gamma", 0)),
    "low, 1,000 steps": PreTraining(LOW, steps=1000),
}
KEPT = ("--keep-last-block",)
CLASSIFIER = "GenSelfDiff/downstream_train/pixel_classifier.py"
FEW = ("--members", 5, "--hidden", 64, 32)  # of the paper's 10 members of widths 128 and 32: a third of the time
LENGTHS = (75, 150, 300, 1200)  # steps of fine-tuning, where 600 are the rule
ARMS = {
    "scratch": Arm("scratch"),
    "scratch, whole compute": Arm("scratch", more_steps=4000, rate_of="scratch"),
    "scratch, 4,600 steps": Arm("scratch", more_steps=4000, rate_of="scratch, 1200 steps"),
    "P2": Arm("pre-trained", "P2"),
    "P2, t = 0": Arm("pre-trained", "P2", ("--timestep", 0)),
    "P2, block kept": Arm("pre-trained", "P2", KEPT),
    "plain": Arm("pre-trained", "plain", KEPT),
    "low noise": Arm("pre-trained", "low", KEPT),
    "low noise, 4,600 steps": Arm("pre-trained", "low", KEPT, more_steps=4000, rate_of="low noise"),
    "low noise, 1,000 steps": Arm("pre-trained", "low, 1,000 steps", KEPT),
    "low noise, shuffled": Arm("shuffled", "low", KEPT),
    "low noise, shuffled, 4,600 steps": Arm("shuffled", "low", KEPT, more_steps=4000, rate_of="low noise, shuffled"),
    "low noise, block dropped": Arm("pre-trained", "low"),
    "low noise, head first": Arm("pre-trained", "low", (*KEPT, "--head-steps", 50)),
    "low noise, rates by depth": Arm("pre-trained", "low", (*KEPT, "--layer-decay", 0.75)),
    "scratch, rates by depth": Arm("scratch", options=("--layer-decay", 0.75)),
    "features, untrained": Arm("scratch", options=(*FEW, "--noise-levels", 20, 53, 117), script=CLASSIFIER),
    "features, low noise": Arm("pre-trained", "low", (*FEW, "--noise-levels", 20, 53, 117), CLASSIFIER),
}
for n in LENGTHS:  # warm-up is the same part of each length
    ARMS[f"scratch, {n} steps"] = Arm("scratch", options=("--warm-up", n // 12), more_steps=n - 600)
    ARMS[f"low noise, {n} steps"] = Arm("pre-trained", "low", (*KEPT, "--warm-up", n // 12), more_steps=n - 600)
ARMS["low noise, shuffled, 1200 steps"] = Arm("shuffled", "low", (*KEPT, "--warm-up", 100), more_steps=600)
LONGEST = (
    "scratch, whole compute",
    "scratch, 4,600 steps",
    "low noise, 4,600 steps",
    "low noise, shuffled, 4,600 steps",
)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
RATES_OF = {
    **{name: (1e-3,) for name in ARMS if name.startswith("features")},  # Baranchuk et al.'s
    **{f"{start}, {n} steps": (3e-4, 1e-3, 3e-3) for start in ("scratch", "low noise") for n in LENGTHS},
    "low noise, shuffled, 1200 steps": (3e-4, 1e-3, 3e-3),
    "P2": (3e-4, 1e-3),
    "P2, t = 0": (3e-4, 1e-3),
    "plain": (3e-4, 1e-3),
    "low noise, 1,000 steps": (3e-4, 1e-3),
    "low noise, block dropped": (1e-3,),
    "low noise, head first": (1e-3,),
    "low noise, rates by depth": (1e-3, 3e-3),
    "scratch, rates by depth": (3e-4, 1e-3),
}
"""Learning rates that an arm is tried with, where not with all: about those that were best in 600 steps"""
GLAS = {"data": "GlaS_4", "records": "glas", "chosen_with": 4, "pays": 0.02}
GLAS_ALL = {"data": "GlaS_4", "records": "glas_all", "chosen_with": 75, "pays": 0.02, "steps": {75: 600}}
GLAS_ALL["choice_draws"] = (101,)  # all draws are of the same images
MONUSEG = {"data": "MoNuSeg_2", "records": "monuseg", "chosen_with": 9, "pays": 0.01, "choice_draws": (101, 102)}
QUESTIONS = {
    "GlaS": Question(
        **GLAS,
        draws={4: 10, 8: 3, 16: 3},
        steps={4: 300, 8: 300, 16: 300},
        arms=("scratch", "low noise", "low noise, shuffled"),
        only={"low noise, shuffled": {4: 10}},
        parts=("testA", "testB"),
        continued="GlaS-all",
        judged="low noise",
    ),
    "GlaS-all": Question(
        **GLAS_ALL,
        draws={75: 6},
        arms=(
            "scratch",
            "low noise",
            "low noise, shuffled",
            "scratch, 1200 steps",
            "low noise, 1200 steps",
            "low noise, shuffled, 1200 steps",
            *LONGEST,
        ),
        only=dict.fromkeys(LONGEST, {75: 2}),
        parts=("testA", "testB"),
        judged="low noise",
    ),
    "GlaS-features": Question(
        **GLAS,
        draws={},
        steps={4: 300},
        arms=("scratch", "features, untrained", "features, low noise"),
    ),
    "GlaS-budgets": Question(
        **GLAS_ALL,
        draws={},
        arms=(
            "scratch",
            *(f"scratch, {n} steps" for n in LENGTHS),
            "low noise",
            *(f"low noise, {n} steps" for n in LENGTHS),
        ),
    ),
    "GlaS-transfer": Question(
        **GLAS_ALL,
        draws={},
        arms=(
            "scratch",
            "scratch, rates by depth",
            "low noise",
            "low noise, block dropped",
            "low noise, head first",
            "low noise, rates by depth",
        ),
    ),
    "GlaS-noise": Question(
        **GLAS_ALL,
        draws={},
        arms=("scratch", "P2", "P2, t = 0", "P2, block kept", "plain", "low noise", "low noise, 1,000 steps"),
    ),
    "MoNuSeg": Question(
        **MONUSEG,
        draws={1: 10, 3: 3, 9: 6, 20: 2},
        steps={1: 300, 3: 300, 9: 600, 20: 600},
        arms=("scratch", "low noise", "low noise, shuffled"),
        only={"low noise, shuffled": {9: 6}},
        judged="low noise",
    ),
    "MoNuSeg-features": Question(
        **MONUSEG,
        draws={},
        steps={9: 600},
        arms=("scratch", "features, untrained", "features, low noise"),
    ),
}
