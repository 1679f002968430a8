"""Pixel classifiers on the activations of a frozen noise network (Baranchuk et al., 2022, section 4)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from file_contents import Wanted, check_fields, one_of, whole
from GenSelfDiff.diffusion import GaussianDiffusion, ScheduleName
from GenSelfDiff.keyed_random import keyed_normal
from GenSelfDiff.unet import BLOCKS, Unet
from GenSelfDiff.unet_checkpoint import LAST_CONVOLUTION, dim_of, fill, matrix
from utils_general import MOST_CLASSES, InputError

LARGEST = 4096  # members, widths
DESCRIBED = {
    "noise_levels": Wanted("a list of steps t", lambda v: _numbers(v, 0, 10**6)),
    "blocks": Wanted(f"a list of {', '.join(BLOCKS)}", lambda v: _are_blocks(v)),
    "members": whole(1, LARGEST),
    "hidden": Wanted(f"two widths from 1 to {LARGEST}", lambda v: _numbers(v, 1, LARGEST) and len(v) == 2),
    "schedule": one_of(*get_args(ScheduleName)),
    "timesteps": whole(1, 10**6),
    "noise_seed": whole(0),
}
"""What a checkpoint says of its classifiers, under "features"."""


def _are_blocks(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(value in BLOCKS for value in values)


def _numbers(values: Any, lowest: int, highest: int) -> bool:
    return isinstance(values, list) and bool(values) and all(whole(lowest, highest).holds(v) for v in values)


class FeatureNet(nn.Module):
    """A frozen `Unet`, and an ensemble of classifiers of each pixel's activations.

    An image is given the noise of each level t, the same for all images of its size, so that what is said of it is
    always the same. The activations of the chosen blocks, enlarged to the image's size, are the pixel's features. A
    member is the paper's classifier for few classes: two hidden layers with ReLU and BatchNorm. Members share no
    parameter: their layers are grouped 1x1 convolutions. The first is applied before the activations are enlarged,
    which is the same (both are linear, and bilinear weights add up to 1) and takes a part of the memory.
    """

    def __init__(
        self,
        net: Unet,
        classes: int,
        noise_levels: Sequence[int],
        blocks: Sequence[str],
        members: int,
        hidden: tuple[int, int],
        schedule: ScheduleName = "quadratic",
        timesteps: int = 1000,
        noise_seed: int = 0,
    ):
        super().__init__()
        self.net = net.requires_grad_(False)
        with torch.device("cpu"):  # also where the parameters get no memory
            self.diffusion = GaussianDiffusion(schedule, timesteps)
        self.noise_levels, self.blocks, self.members, self.hidden = tuple(noise_levels), tuple(blocks), members, hidden
        self.schedule, self.timesteps, self.noise_seed = schedule, timesteps, noise_seed
        first, second = hidden
        channels = self._channels()
        self.first = nn.ModuleDict({
            f"{block}_{t}": nn.Conv2d(channels[block], members * first, 1, bias=False)
            for t in self.noise_levels for block in self.blocks
        })  # fmt: skip
        self.bias = nn.Parameter(torch.zeros(members * first))
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm2d(members * first),
            nn.Conv2d(members * first, members * second, 1, groups=members),
            nn.ReLU(),
            nn.BatchNorm2d(members * second),
            nn.Conv2d(members * second, members * classes, 1, groups=members),
        )
        self.classes = classes

    def _channels(self) -> dict[str, int]:
        """Of each block's activations, found out without computing anything."""
        with torch.device("meta"):
            kept: dict[str, Tensor] = {}
            copy = Unet(self.net.final_conv[1].in_channels, self.net.final_conv[1].out_channels)
            copy(torch.zeros(1, 3, 16, 16), torch.zeros(1), kept)
        return {name: activations.shape[1] for name, activations in kept.items()}

    def described(self) -> dict[str, Any]:
        """What a checkpoint has to say to build it again."""
        names = ("noise_levels", "blocks", "members", "hidden", "schedule", "timesteps", "noise_seed")
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @torch.no_grad()
    def activations(self, x: Tensor, level: int) -> dict[str, Tensor]:
        """Images `x` (B, 3, H, W) to the activations of all `BLOCKS` by name, with the noise of step `level` added."""
        seed = torch.full((1,), self.noise_seed, device=x.device)
        noise = keyed_normal(seed, *x.shape[1:]).expand_as(x)
        t = torch.full((len(x),), level, device=x.device)
        kept: dict[str, Tensor] = {}
        self.net(self.diffusion.q_sample(x, t, noise), t, kept)
        return kept

    def forward(self, x: Tensor) -> Tensor:
        """Images `x` (B, 3, H, W) -> each member's logits (B, members, classes, H, W)."""
        parts: dict[torch.Size, Tensor] = {}  # by resolution, added up: enlarging is what takes the time
        for t in self.noise_levels:
            kept = self.activations(x, t)
            for block in self.blocks:
                part = self.first[f"{block}_{t}"](kept[block])
                parts[part.shape] = parts[part.shape] + part if part.shape in parts else part
        total = self.bias[:, None, None]
        for part in parts.values():
            total = total + F.interpolate(part, x.shape[2:], mode="bilinear", align_corners=False)
        return self.rest(total).unflatten(1, (self.members, self.classes))


class Agreed(nn.Module):
    """What the members of a `FeatureNet` say together: images (B, 3, H, W) to logits (B, classes, H, W)."""

    def __init__(self, network: FeatureNet):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return agreed(self.network(x))


def agreed(votes: Tensor) -> Tensor:
    """Logits of members (B, members, classes, H, W) to the logarithm of their mean probability (B, classes, H, W)."""
    return votes.float().log_softmax(2).logsumexp(1) - math.log(votes.shape[1])


def segmenting_features(loaded: dict[str, Any], path: Path) -> Agreed:
    """The segmentation network of a checkpoint of pixel_classifier.py; see `networks.TrainedMethod`."""
    state, described = loaded["model_state_dict"], loaded.get("features")
    if not isinstance(described, dict) or set(described) != set(DESCRIBED):
        raise InputError(f"{path} does not say which features its classifiers look at: it is not whole")
    check_fields(described, DESCRIBED, f"{path}, features,")
    classes = len(loaded["classes"])
    if not 2 <= classes <= MOST_CLASSES:
        raise InputError(f"{path} tells {classes} classes apart; 2 to {MOST_CLASSES} are possible")
    dim, outputs = dim_of(state, path), matrix(state, LAST_CONVOLUTION, path).shape[0]
    options = {**described, "hidden": tuple(described["hidden"])}
    if max(options["noise_levels"]) >= options["timesteps"]:
        raise InputError(f"{path} looks at a noise level beyond its {options['timesteps']} steps: it is not whole")
    return Agreed(fill(lambda: FeatureNet(Unet(dim, outputs), classes, **options), state, path))
