"""The running mean of a network's weights, which is validated and handed on."""

import copy

import torch
from torch import nn


class AveragedWeights:
    """An exponential moving average (EMA) of a network's weights, as a network: smoother than the last of them.

    After n steps the mean is taken with min(decay, (1 + n) / (10 + n)), so that it forgets the initial weights soon.
    Buffers, such as the statistics of a BatchNorm, are means already, or no numbers to average: the latest are taken.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay
        self.ours, self.theirs = list(self.model.parameters()), list(model.parameters())
        self.buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after so many steps."""
        torch._foreach_lerp_(self.ours, self.theirs, 1 - min(self.decay, (1 + steps) / (10 + steps)))
        for ours, theirs in self.buffers:
            ours.copy_(theirs)
