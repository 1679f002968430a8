"""Nothing on the way of a training step looks at a number on the device: on a GPU that would be a wait.

The meta device has shapes and no numbers: whoever asks it for one gets an error.
"""

import typing
from functools import partial
from unittest import mock

import pytest
import torch

from GenSelfDiff.averaged_weights import AveragedWeights
from GenSelfDiff.downstream_train import Diff_Seg, pixel_classifier
from GenSelfDiff.downstream_train.losses import LossName
from GenSelfDiff.feature_net import FeatureNet
from GenSelfDiff.history import MetricMeans
from GenSelfDiff.methods import monai_networks
from GenSelfDiff.methods.attention import SS_attention
from GenSelfDiff.methods.attention.pretext import Haematoxylin, Magnification
from GenSelfDiff.methods.nudiff import train_images, train_structures
from GenSelfDiff.methods.nudiff.conditioned import ConditionedNet
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.unet import DiffusionNet, SegNet
from tests.GenSelfDiff.methods.pretrainings import PRETRAININGS

META = torch.device("meta")
PICTURES = {"input_range": (0.0, 1.0), "sample_every": 0}
ALL_LOSSES = typing.get_args(LossName)


def batch():
    return {
        "maps": torch.zeros(4, 2, 16, 16, device=META),
        "image": torch.zeros(4, 3, 16, 16, device=META),
        "label": torch.zeros(4, 16, 16, dtype=torch.long, device=META),
        "seed": torch.zeros(4, dtype=torch.long, device=META),
        "level": torch.zeros(4, dtype=torch.long, device=META),
        "told": torch.zeros(4, dtype=torch.long, device=META),
    }


def attention(**changes):
    return SS_attention.build_network(SS_attention.Settings(dim=8, classifier="small", **changes), 0.2, None).to(META)


def of_pretraining(method):
    """Stage and network as a script's `main` hands them to `pretrain`."""
    script, small = PRETRAININGS[method].script, PRETRAININGS[method].small
    with mock.patch.object(script, "pretrain") as pretrain:
        script.main(script.Settings(dim=8, **small))
    build, stage = pretrain.call_args.args[1:3]
    return stage(16, META), build().to(META)


def monai(name):
    return monai_networks.MonaiSegmentation(("ss", "focal")), monai_networks.MonaiNet(name, 8, 3).to(META)


STAGES = {
    **{method: partial(of_pretraining, method) for method in PRETRAININGS},
    "attention": lambda: (
        Magnification(3, dict.fromkeys(("smoothness", "equivariance", "scale"), 1.0), **PICTURES),
        attention(threshold_by_level=True),
    ),
    "haematoxylin": lambda: (Haematoxylin(**PICTURES), attention()),
    "pretrain": lambda: (SS_diff.NoisePrediction(SS_diff.Settings(), 16, META), DiffusionNet(8).to(META)),
    "border": lambda: (Diff_Seg.Segmentation(("ss", "focal"), "border"), SegNet(8, 4).to(META)),
    "hv": lambda: (Diff_Seg.Segmentation(("ss", "focal"), "hv"), SegNet(8, 5).to(META)),
    "finetune": lambda: (Diff_Seg.Segmentation(ALL_LOSSES), SegNet(8, 3).to(META)),
    "features": lambda: (
        pixel_classifier.PixelClassification(),
        FeatureNet(DiffusionNet(8).net, 3, (5, 50), ("mid", "last"), 2, (4, 4)).to(META),
    ),
    **{f"monai {name}": partial(monai, name) for name in typing.get_args(monai_networks.NetworkName)},
    "structures": lambda: (
        train_structures.StructurePrediction(train_structures.Settings(), 16, META, 9.0),
        DiffusionNet(8).to(META),
    ),
    "images": lambda: (
        train_images.ImagePrediction(train_images.Settings(), 16, META, {}),
        ConditionedNet(8).to(META),
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_step_waits_for_nothing(name):
    stage, model = STAGES[name]()
    mean, means = AveragedWeights(model, 0.9), MetricMeans()
    seen = batch()
    if name == "simclr":  # two views
        seen["image"] = seen["image"].repeat(1, 2, 1, 1)
    loss, figures = stage.training_loss(model, seen)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    mean.update(3)
    means.add(figures)
    means.add(stage.validation_metrics(model.eval(), seen))
    assert loss.device == META and {pair.device for pair in means.pairs.values()} == {META}


def test_the_test_notices():
    with pytest.raises(RuntimeError):
        float(torch.zeros((), device=META))
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device=META)[torch.zeros(3, dtype=torch.bool, device=META)]
