"""How gently the parts of a pre-trained network are tuned: the head first, or the deeper the slower."""

from collections.abc import Sequence

from torch import nn

from GenSelfDiff.course import RateGroup
from GenSelfDiff.unet_checkpoint import CONVOLUTION, HEAD

LEVELS = (
    (CONVOLUTION,),
    (f"{HEAD}0.",),
    *((f"net.ups.{level}.",) for level in (2, 1, 0)),
    ("net.mid_",),
    *((f"net.downs.{level}.",) for level in (3, 2, 1, 0)),
    ("net.init_conv.", "net.time_mlp."),
)
"""Beginnings of the names of `SegNet`'s parameters, from its output to its input."""


def rate_groups(
    model: nn.Module, head_steps: int, layer_decay: float, keep_last_block: bool
) -> Sequence[RateGroup] | None:
    """What learns how fast, from the head on; None where all parameters learn alike from the first step.

    A parameter learns at `layer_decay` to the power of its level of the learning rate (discriminative fine-tuning,
    Howard and Ruder, 2018); where that is 0 it is frozen. What starts anew is the head, of level 0; all else waits
    `head_steps` (linear probing, then fine-tuning: Kumar et al., 2022).
    """
    if not head_steps and layer_decay == 1:
        return None
    levels = LEVELS if keep_last_block else ((*LEVELS[0], *LEVELS[1]), *LEVELS[2:])
    named = dict(model.named_parameters())
    groups = []
    for level, prefixes in enumerate(levels):
        parameters = [named.pop(name) for name in list(named) if name.startswith(prefixes)]
        groups.append(RateGroup(parameters, layer_decay**level, head_steps if level else 0))
        if not groups[-1].scale:
            for parameter in parameters:
                parameter.requires_grad_(False)
    if named:
        raise ValueError(f"no level is known of {min(named)}")
    return [group for group in groups if group.scale]
