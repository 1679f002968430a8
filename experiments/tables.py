"""What experiments/paper_tables.py runs: its sizes, the ways to a segmentation network, and the tables of them.

A way is the same at both sizes and on all data sets. Runs that several tables ask for are one: they are known by what
is asked, not by the name of a row.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from experiments.questions import CLASSIFIER, FEW, RATES
from GenSelfDiff.diffusion import ScheduleName
from GenSelfDiff.settings import RecipeName

TableName = Literal["methods", "losses", "schedules", "few-labels", "data-sets", "recipe"]
SizeName = Literal["small", "paper"]
DataSetName = Literal["MoNuSeg", "GlaS", "HN"]
DIFFUSION = "GenSelfDiff/pretrain/SS_diff.py"
FINE_TUNING = "GenSelfDiff/downstream_train/Diff_Seg.py"
BASELINES = "GenSelfDiff/test/baselines.py"
MONAI = "GenSelfDiff/methods/monai_networks.py"
CONTEXT = "GenSelfDiff/methods/context_restoration.py"
MASKED = "GenSelfDiff/methods/masked_images.py"
AUTOENCODER = "GenSelfDiff/methods/variational_autoencoder.py"
STAIN = "GenSelfDiff/methods/stain_prediction.py"
SIMCLR = "GenSelfDiff/methods/simclr.py"
TARGETS = "--targets"  # beside the class map: wants data with instances
ALL = "all"  # in place of a data set: all that the table is made of, together
CHOICE_SEED = 101  # of the runs that learning rates are chosen by


@dataclass(frozen=True)
class Length:
    """How long is trained: in steps, or in passes over the training patches."""

    steps: int = 0
    epochs: int = 0

    def in_steps(self, patches: int, batch: int) -> int:
        """The length in steps where a pass is over so many patches."""
        return self.steps or self.epochs * max(1, patches // batch)

    def in_words(self) -> str:
        """As a table says it."""
        return f"{self.steps:,} steps" if self.steps else f"{self.epochs} epochs"


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    data: dict[str, str]
    """folder of each data set, as docs/tables.md makes it"""
    dim: int
    recipe: RecipeName
    pretraining: Length
    training: Length
    rates: tuple[float, ...]
    """learning rates that are chosen among on development images; none: the recipe's own is taken"""
    labels: tuple[int, ...]
    """numbers of labelled images in the table of few labels; 0: all"""
    workers: int
    """processes that read patches, for each training"""
    of_script: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """options of single scripts that the size of patches asks for"""


@dataclass(frozen=True)
class SelfSupervised:
    """A way to pre-train."""

    script: str = DIFFUSION
    options: tuple[object, ...] = ()
    on: str = ""
    """data set; that which is fine-tuned if not given"""


@dataclass(frozen=True)
class Way:
    """A way to a segmentation network."""

    start: SelfSupervised | None = None
    """None: from scratch"""
    script: str = FINE_TUNING
    options: tuple[object, ...] = ()
    recipe: RecipeName | None = None
    """of both trainings; the size's if not given"""
    rate_of: "Way | None" = None
    """whose learning rate is taken; its own is chosen if not given"""


@dataclass(frozen=True)
class Table:
    """Rows by their names."""

    title: str
    ways: dict[str, Way]
    few_labels: bool = False
    """over the size's numbers of labelled images"""
    across: bool = False
    """tested on the other data sets of the same classes, too"""


SIZES: dict[SizeName, Size] = {
    "small": Size(
        data={"MoNuSeg": "MoNuSeg_2", "GlaS": "GlaS_4"},
        dim=16,
        recipe="improved",
        pretraining=Length(steps=4000),
        training=Length(steps=600),
        rates=RATES,
        labels=(2, 4, 8, 16, 0),
        workers=0,
        of_script={CLASSIFIER: FEW, CONTEXT: ("--part", 8), MASKED: ("--block", 8)},
    ),
    "paper": Size(
        data={"MoNuSeg": "MoNuSeg_official", "GlaS": "GlaS_official", "HN": "HN"},
        dim=64,
        recipe="paper",
        pretraining=Length(epochs=100),
        training=Length(epochs=150),
        rates=(),
        labels=(2, 4, 8, 16, 0),
        workers=8,
    ),
}
OURS = Way(SelfSupervised())
SCRATCH = Way()
TRIVIAL = Way(script=BASELINES, options=("--method", "otsu"))


def _losses(*names: str) -> Way:
    return Way(SelfSupervised(), options=("--losses", *names), rate_of=OURS)


def _schedule(name: str, gamma: int) -> Way:
    if (name, gamma) == ("quadratic", 1):  # as published
        return OURS
    return Way(SelfSupervised(options=("--schedule", name, "--p2-gamma", gamma)), rate_of=OURS)


TABLES: dict[TableName, Table] = {
    "methods": Table(
        "Methods",
        {
            "Otsu, watershed": TRIVIAL,
            "U-Net": Way(script=MONAI),
            "Attention U-Net": Way(script=MONAI, options=("--network", "attention")),
            "our U-Net, PyTorch's initial weights": Way(options=("--initial-weights", "pytorch")),
            "our U-Net, published initial weights": Way(options=("--initial-weights", "published")),
            "context restoration": Way(SelfSupervised(CONTEXT)),
            "variational auto-encoder": Way(SelfSupervised(AUTOENCODER)),
            "SimCLR": Way(SelfSupervised(SIMCLR)),
            "masked images": Way(SelfSupervised(MASKED)),
            "stain prediction": Way(SelfSupervised(STAIN)),
            "diffusion features": Way(SelfSupervised(), script=CLASSIFIER),
            "GenSelfDiff-HIS": OURS,
            "GenSelfDiff-HIS, all data sets": Way(SelfSupervised(on=ALL)),
            "GenSelfDiff-HIS, border class": Way(SelfSupervised(), options=(TARGETS, "border"), rate_of=OURS),
            "GenSelfDiff-HIS, distance maps": Way(SelfSupervised(), options=(TARGETS, "hv"), rate_of=OURS),
        },
    ),
    "losses": Table(
        "Losses of fine-tuning",
        {
            "cross-entropy": _losses("ce"),
            "focal": _losses("focal"),
            "structural similarity, published": _losses("ss"),
            "structural similarity, per pixel": _losses("ss_per_pixel"),
            "structural similarity, published + focal": OURS,
            "structural similarity, per pixel + focal": _losses("ss_per_pixel", "focal"),
            "structural similarity, published + cross-entropy": _losses("ss", "ce"),
            "structural similarity, per pixel + cross-entropy": _losses("ss_per_pixel", "ce"),
            "Tversky": _losses("tversky"),
            "cosine": _losses("cosine"),
            "focal, log": _losses("focal_log"),
            "log, max": _losses("log_max"),
            "poly, log": _losses("poly_log"),
        },
    ),
    "schedules": Table(
        "Noise schedules and weights of the steps",
        {
            f"{schedule}, {weights}": _schedule(schedule, gamma)
            for schedule in get_args(ScheduleName)
            for weights, gamma in (("P2", 1), ("plain", 0))
        },
    ),
    "few-labels": Table("Few labels", {"from scratch": SCRATCH, "GenSelfDiff-HIS": OURS}, few_labels=True),
    "data-sets": Table(
        "Across data sets",
        {
            "from scratch": SCRATCH,
            **{f"pre-trained on {on}": Way(SelfSupervised(on=on), rate_of=OURS) for on in get_args(DataSetName)},
            "pre-trained on all": Way(SelfSupervised(on=ALL), rate_of=OURS),
        },
        across=True,
    ),
    "recipe": Table(
        "Recipes, of the same length",
        {
            f"{name}, recipe {recipe}": Way(start, recipe=recipe)
            for name, start in (("from scratch", None), ("GenSelfDiff-HIS", SelfSupervised()))
            for recipe in get_args(RecipeName)
        },
    ),
}
