"""What experiments/attention.py compares: ways to segment nuclei that no label was drawn for, and their controls.

Nothing is chosen between the arms on test images: all settings stand here, before any test.
"""

from dataclasses import dataclass

from experiments.questions import LOW

OTSU, SCRATCH = "otsu", "scratch"
DIFFUSION = "diffusion"
STEPS, DYE_STEPS, UNTRAINED_STEPS = 3000, 500, 50
DIFFUSION_STEPS, SEGMENTATION_STEPS = 4000, 600
RATE = 1e-3  # of Diff_Seg.py: the improved recipe's
LABELS = ("--downscale", 2, "--patch-size", 64, "--stride", 32)  # what Diff_Seg.py sees of pseudo-labels, as MoNuSeg_2
SEEN = ("--tta", "flips", "--window", 256, "--overlap", 0.25)  # how attention sees whole images; all 8 views take twice
ANOTHER_SCALE = ("TCGA-HE-7128", "TCGA-HE-7129", "TCGA-HE-7130")  # of MoNuSeg, scanned at 20x
ATTENTION = ("--recipe", "improved", "--workers", 0, "--leave-out", *ANOTHER_SCALE)
PRETRAINING = (*LOW, "--steps", DIFFUSION_STEPS, "--validate-every", DIFFUSION_STEPS // 4, "--sample-every", 0)


@dataclass(frozen=True)
class Attention:
    """A run of SS_attention.py."""

    options: tuple[object, ...] = ()
    steps: int = STEPS
    start: str = ""
    """the run in `RUNS` whose attention network is begun with, of the same seed"""


@dataclass(frozen=True)
class Arm:
    """A way to a segmentation."""

    said_by: str
    """a run in `RUNS`, or `OTSU`"""
    start: str = ""
    """what Diff_Seg.py starts from, `SCRATCH` or `DIFFUSION`, to learn what is said; if not given, that is tested"""
    controls: tuple[str, ...] = ()
    """arms that each differ from it in one thing, and so tell what that is worth"""


RUNS = {
    "attention": Attention(),
    "shuffled": Attention(("--shuffle-levels",)),
    "untrained": Attention(("--learning-rate", 0), steps=UNTRAINED_STEPS),
    "dye": Attention(("--task", "haematoxylin"), steps=DYE_STEPS),
    "warm": Attention(start="dye"),
    "warm shuffled": Attention(("--shuffle-levels",), start="dye"),
}
ARMS = {
    "Otsu, watershed": Arm(OTSU),
    "attention": Arm("attention", controls=("attention, shuffled levels", "attention, untrained")),
    "attention, shuffled levels": Arm("shuffled"),
    "attention, untrained": Arm("untrained"),
    "haematoxylin learnt, no pretext": Arm("dye"),
    "attention, begun with haematoxylin": Arm("warm", controls=("haematoxylin learnt, no pretext", "attention")),
    "labels of Otsu": Arm(OTSU, SCRATCH),
    "labels of Otsu, diffusion": Arm(OTSU, DIFFUSION, ("labels of Otsu",)),
    "labels of haematoxylin": Arm("dye", SCRATCH),
    "labels of attention": Arm("attention", SCRATCH, ("labels of Otsu",)),
    "labels of attention, diffusion": Arm("attention", DIFFUSION, ("labels of Otsu, diffusion", "labels of attention")),
    "labels of attention begun with haematoxylin": Arm(
        "warm",
        SCRATCH,
        ("labels of attention begun with haematoxylin, shuffled levels", "labels of haematoxylin", "labels of Otsu"),
    ),
    "labels of attention begun with haematoxylin, shuffled levels": Arm("warm shuffled", SCRATCH),
    "labels of attention begun with haematoxylin, diffusion": Arm(
        "warm", DIFFUSION, ("labels of attention begun with haematoxylin",)
    ),
}
"""By their names in the table; the first is what all others are compared with"""
FLOOR = next(iter(ARMS))
JUDGED = "labels of attention begun with haematoxylin"
"""The arm that was named before any test, since without that beginning F drifts to white gaps, as `dye` tells without
labels"""
PRETEXT = ARMS[JUDGED].controls[0]
"""As many steps from the same beginning, with nothing to learn of levels; what is judged has to beat it, too"""
PLANNED = (
    "attention",
    "attention, begun with haematoxylin",
    "labels of Otsu",
    "labels of attention",
    "labels of attention begun with haematoxylin, diffusion",
)
"""Arms whose differences from the floor are called a gain or none beside that of `JUDGED`, adjusted for their number,
however many of them there are yet; of all others only the interval is told"""
PAYS = 0.02
"""more than the floor, in Dice and in AJI"""
FEWER = 3
"""seeds, the first of all, of arms that are neither `JUDGED` nor controls of it"""


def seeds_of(name: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Those that an arm is trained with; what learns nothing has one, 0."""
    if ARMS[name].said_by == OTSU and not ARMS[name].start:
        return (0,)
    return seeds if name in (JUDGED, *ARMS[JUDGED].controls) else seeds[:FEWER]
