"""The metrics on objects of one pair of maps, which several tests look at."""

from GenSelfDiff.evaluation.instance_metrics import instance_counts, instance_metrics
from GenSelfDiff.metrics import STANDARD

OF_OBJECTS = [name for name, metric in STANDARD.items() if metric.level == "objects"]


def metrics_of(truth, prediction):
    """Of two instance maps (H, W), by name."""
    counts = instance_counts(truth, prediction)[None]
    return {name: float(value[0]) for name, value in instance_metrics(counts).items()}
