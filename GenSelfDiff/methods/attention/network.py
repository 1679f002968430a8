"""The networks of attention-based self-supervision (Sahasrabudhe et al., MICCAI 2020, arXiv 2007.08373).

F says of each pixel how much it is worth a look; what is above a threshold tau is left visible; G tells from that at
which magnification a tile is seen. Formulas are those of the authors' released code. Levels are numbered from the
finest, 0, each half as large as the one before.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from GenSelfDiff.keyed_random import keyed_places
from GenSelfDiff.methods.attention.losses import (
    SYMMETRIES,
    halved,
    smoothness,
    squared_difference,
    turned,
    turned_back,
)
from utils_general import InputError

ClassifierName = Literal["imagenet", "resnet34", "small"]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, 0 to 1
RESNET_FEATURES = 512
MOMENTUM = 0.1  # of the running threshold


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions of one dilation with BatchNorm, around which what came in is added."""

    def __init__(self, dim: int, dilation: int):
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(dim, dim, dilation), nn.ReLU(inplace=True), *_convolution(dim, dim, dilation)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) to the same."""
        return F.relu(x + self.body(x))


def _convolution(inputs: int, outputs: int, dilation: int) -> tuple[nn.Module, nn.Module]:
    """Zeros are added at the border; BatchNorm has the bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False), nn.BatchNorm2d(outputs)


class AttentionNet(nn.Module):
    """F: images to one logit a pixel, at full resolution.

    As published `dim` is 64 and the dilations are 1, 2, 3, 5, 10, 20: 445,825 parameters, which see 167 pixels.
    """

    def __init__(self, dim: int, dilations: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, dim, 1), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(ResidualBlock(dim, dilation) for dilation in dilations))
        self.score = nn.Conv2d(dim, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits float32 (B, 1, H, W), also under autocast."""
        x = self.blocks(self.stem(x))
        with in_full(x):  # what is rounded here, the steep sigmoid would magnify
            return self.score(x.float())


def in_full(x: Tensor) -> contextlib.AbstractContextManager:
    """No autocast in here, on devices that have it."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()


def small_classifier(dim: int, levels: int) -> nn.Module:
    """G for few images and no GPU: four convolutions of stride 2, the mean over the pixels, a linear layer."""
    widths = (3, dim, 2 * dim, 4 * dim, 4 * dim)
    stages = [
        layer
        for i in range(4)
        for layer in (
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[i + 1]),
            nn.ReLU(inplace=True),
        )
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], levels))


def resnet34(levels: int, imagenet: bool) -> nn.Module:
    """G as published: a ResNet-34 (He et al., 2016), with the weights for ImageNet or new.

    `InputError` where the weights are not on this machine and cannot be fetched.
    """
    from GenSelfDiff.transforms import models  # tests and whole images do without

    weights = models.ResNet34_Weights.IMAGENET1K_V1 if imagenet else None
    try:
        network = models.resnet34(weights=weights, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the ImageNet weights of ResNet-34 cannot be had from {weights.url} ({str(error)[:100]}): put that file "
            f"into {torch.hub.get_dir()}/checkpoints, or use --classifier resnet34 (untrained) or small"
        ) from None
    network.fc = nn.Linear(RESNET_FEATURES, levels)
    return network


def make_classifier(name: ClassifierName, dim: int, levels: int) -> nn.Module:
    """G of the settings: images (B, 3, H, W) -> a score for each level (B, levels)."""
    return small_classifier(dim, levels) if name == "small" else resnet34(levels, imagenet=name == "imagenet")


class Threshold(nn.Module):
    """tau: how sparse attention is, not by a loss but by where it is cut.

    Of each image the value at place floor(share N) of its N logits, the largest first; tau is their mean over the
    batch. A running one, the first batch's and then 0.9 of the old and 0.1 of the new, serves evaluation. With several
    `buckets` each level has a tau of its own. The buffers are changed in place: `DataParallel` keeps no others.
    """

    def __init__(self, buckets: int):
        super().__init__()
        self.register_buffer("running", torch.zeros(buckets))
        self.register_buffer("updates", torch.zeros(buckets, dtype=torch.int64))

    def bucket(self, level: Tensor) -> Tensor:
        """Whose tau the images of these levels (B,) have, (B,)."""
        return level.clamp(max=len(self.running) - 1)

    @torch.no_grad()
    def update(self, logits: Tensor, level: Tensor, share: float) -> Tensor:
        """The taus (buckets,) of a batch of logits (B, 1, H, W) at levels (B,); they enter the running ones.

        With several processes those of the joint batch; a bucket of which the batch has no image keeps its running one.
        """
        own = values_above(logits, share)
        inside = self.bucket(level)[:, None] == torch.arange(len(self.running), device=level.device)
        sums = torch.stack([(inside * own[:, None]).sum(0), inside.sum(0).to(own.dtype)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        total, count = sums
        taus = torch.where(count > 0, total / count.clamp(min=1), self.running)
        weight = torch.where(self.updates == 0, 1.0, MOMENTUM)
        self.running.lerp_(taus, torch.where(count > 0, weight, 0.0))
        self.updates.add_(count > 0)
        return taus


def values_above(logits: Tensor, share: float) -> Tensor:
    """Of each image's N logits (B, 1, H, W) the one at place floor(share N), the largest first: (B,)."""
    values = logits.flatten(1).float()
    place = math.floor(round(share * values.shape[1], 6))  # 0.29 * 100 is 28.999..., and 29 is meant
    if not 0 <= share < 1 or place >= values.shape[1]:
        raise ValueError(f"a share from 0 to below 1 is needed, not {share}")
    return values.sort(dim=1, descending=True).values[:, place]


class Attending(nn.Module):
    """F with what surrounds it: normalisation of images before, threshold and sigmoid behind it."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        dim: int,
        dilations: tuple[int, ...],
        buckets: int,
        steepness: float,
        input_range: tuple[float, float],
        stain: bool,
    ):
        """`stain`: whether there is a target, mean and deviation in CIELAB (2, 3), whose colours images are given."""
        super().__init__()
        self.net = AttentionNet(dim, dilations)
        self.threshold, self.steepness, self.input_range = Threshold(buckets), steepness, input_range
        low, high = input_range
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            in_range = torch.tensor(values).mul(high - low).add(low if name == "mean" else 0.0)
            self.register_buffer(name, in_range.view(1, 3, 1, 1))
        if stain:
            self.register_buffer("stain", torch.zeros(2, 3))

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in the input range, with mean 0 and deviation 1 over ImageNet."""
        return (images - self.mean) / self.deviation

    def attention(self, logits: Tensor, tau: Tensor) -> Tensor:
        """A = sigmoid(r (a - tau)) of logits a (B, 1, H, W) and tau, a number or one for each image (B,)."""
        return (self.steepness * (logits - tau.view(-1, 1, 1, 1))).sigmoid()


class SelfAttention(Attending):
    """F and G as they are trained."""

    def __init__(self, classifier: nn.Module, levels: int, share: float, **attending: object):
        super().__init__(**attending)
        self.classifier, self.levels, self.share = classifier, levels, share

    def forward(self, images: Tensor, level: Tensor, seed: Tensor | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W) of levels (B,) to logits and attention, (B, 1, H, W) each.

        With seeds (B,), which decide how each image is turned, also: scores (B, levels) and, of each image (B,), the
        losses "smoothness", "equivariance", and "scale" (meaningless at the coarsest level, whose half nobody knows);
        and in evaluation what the mask alone scores, with nothing behind it but one colour, that of the image's mean.
        """
        x = self.normalised(images)
        logits = self.net(x)
        taus = self.threshold.update(logits, level, self.share) if self.training else self.threshold.running
        attention = self.attention(logits, taus[self.threshold.bucket(level)])
        said = {"logits": logits, "attention": attention}
        if seed is None:
            return said
        which = keyed_places(seed, 1, len(SYMMETRIES))[:, 0]
        of_turned = self._again(turned(x, which), taus[self.threshold.bucket(level)])
        of_halves = self._again(halved(x), taus[self.threshold.bucket(level + 1)])
        said |= {
            "scores": self.classifier(x * attention),
            "smoothness": smoothness(attention),
            "equivariance": squared_difference(attention, turned_back(of_turned, which)),
            "scale": squared_difference(halved(attention), of_halves),
        }
        if not self.training:
            colour = (x * attention).sum((2, 3), keepdim=True) / attention.sum((2, 3), keepdim=True).clamp(min=1e-6)
            said["scores of the mask"] = self.classifier(colour * attention)
        return said

    @torch.no_grad()
    def _again(self, x: Tensor, tau: Tensor) -> Tensor:
        """What F makes of changed images: a target, so without gradient, and no running mean notices it.

        The threshold is the batch's own, as it was found on the images as they are. BatchNorm in training normalises by
        the changed batch: of halves, those of the coarsest level, too, which count in no loss; which to leave out the
        device would have to be asked.
        """
        with statistics_kept(self.net):
            return self.attention(self.net(x), tau)


@contextlib.contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """BatchNorm in training normalises as always in here, and its running statistics stay as they are."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = not norm.training
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
