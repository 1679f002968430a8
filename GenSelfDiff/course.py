"""The course of a training: how many steps, in which epochs, at which learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from GenSelfDiff.settings import TrainingSettings


@dataclass(frozen=True)
class Course:
    """How long a run trains. Steps are counted from its beginning; an epoch ends with a look at the validation."""

    steps: int
    """of the whole run"""
    epoch_steps: int
    """of each epoch but the last, which has what is left"""
    warm_up: int
    decays: bool

    @classmethod
    def of(cls, settings: TrainingSettings, pass_steps: int) -> "Course":
        """The course that the settings mean, where a pass over the patches takes so many steps."""
        epoch_steps = settings.validate_every or pass_steps
        steps = settings.steps or settings.epochs * epoch_steps
        return cls(steps, epoch_steps, settings.warm_up, settings.decay == "cosine")

    @property
    def epochs(self) -> int:
        """How many there are, the last one perhaps shorter."""
        return -(-self.steps // self.epoch_steps)

    def span(self, epoch: int) -> tuple[int, int]:
        """First step of an epoch, counted from 0, and the one after its last."""
        return epoch * self.epoch_steps, min(self.steps, (epoch + 1) * self.epoch_steps)

    def rate_factor(self, step: int) -> float:
        """Of the learning rate at a step: warm-up is linear, the decay half a cosine over all steps."""
        factor = min(1, (step + 1) / self.warm_up) if self.warm_up else 1.0
        return factor * (1 + math.cos(math.pi * step / self.steps)) / 2 if self.decays else factor


@dataclass(frozen=True)
class RateGroup:
    """Parameters that learn at a rate of their own."""

    parameters: list[nn.Parameter]
    scale: float = 1.0
    """of the learning rate"""
    waits: int = 0
    """steps in which they are not trained yet"""
    weight_decay: float = 0.0
    """Adam's: so many times the parameter is added to its gradient"""
    drops: tuple[int, ...] = ()
    """steps from which on the rate is a tenth of what it was"""


class Rates:
    """The learning rate of each group at each step; what waits has no gradient, and so gathers no moments in Adam."""

    def __init__(self, groups: Sequence[RateGroup], learning_rate: float, betas: tuple[float, float]):
        self.groups, self.learning_rate = groups, learning_rate
        parameters = [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups]
        self.optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=betas, fused=True)

    def prepare(self, step: int, factor: float) -> None:
        """Set those of a step, after its backward pass and before what follows."""
        for group, adams in zip(self.groups, self.optimizer.param_groups, strict=True):
            drops = sum(step >= drop for drop in group.drops)
            adams["lr"] = self.learning_rate * factor * group.scale * 0.1**drops
            if step < group.waits:
                for parameter in group.parameters:
                    parameter.grad = None
