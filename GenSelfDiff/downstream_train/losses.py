"""The eight segmentation losses of the released code, from logits: finite, with finite gradients, for any logits.

Each takes logits (B, C, H, W) and labels (B, H, W), class indices, and returns a scalar. p is the softmax of the
logits over the classes, p_y the probability of a pixel's true class. The paper sums two: structural similarity and
focal.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["ss", "ss_per_pixel", "focal", "ce", "tversky", "cosine", "focal_log", "log_max", "poly_log"]


def _true_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Which class is a pixel's true one: bool (B, C, H, W). (`F.one_hot` looks at the labels, and waits for them.)"""
    return labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None]


def _log_p_true(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y of every pixel, (B, H, W)."""
    return -F.cross_entropy(logits, labels, reduction="none")


def _log_p_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 - p_y) of every pixel, (B, H, W), exact also where p_y rounds to 1."""
    return logits.masked_fill(_true_class(logits, labels), -torch.inf).logsumexp(1) - logits.logsumexp(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p_y over the pixels."""
    return F.cross_entropy(logits, labels)


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean of -(1 - p_y)^gamma log p_y over the pixels (Lin et al., 2017, equation 4)."""
    log_p = _log_p_true(logits, labels)
    return -((1 - log_p.exp()) ** gamma * log_p).mean()


def structural_similarity(
    logits: Tensor, labels: Tensor, per_pixel: bool = False, beta: float = 0.1, stability: float = 0.01
) -> Tensor:
    """Structural-similarity loss (Zhao et al., 2019, arXiv 1910.08711).

    Truth and prediction are normalised by their mean and deviation over the pixels, image and class by image and
    class; e is the absolute difference. Pixels with e > beta max(e) count, weighted by e times a cross-entropy:
    as published (default) the mean over the batch, one number; with `per_pixel` that of the pixel, as in the cited
    paper. The result is the mean over the pixels that count.
    """
    truth = _true_class(logits, labels).to(logits.dtype)
    error = (_normalised(truth, stability) - _normalised(logits.softmax(1), stability)).abs()
    counts = error > beta * error.amax(dim=(2, 3), keepdim=True)
    entropy = F.cross_entropy(logits, labels, reduction="none")
    entropy = entropy[:, None] if per_pixel else entropy.mean()
    return (error * counts * entropy).sum() / counts.sum().clamp(min=1)


def _normalised(values: Tensor, stability: float) -> Tensor:
    """(x - mean + C) / (deviation + C) over the pixels of each image and class, (B, C, H, W)."""
    variance, mean = torch.var_mean(values, dim=(2, 3), keepdim=True)
    # A constant map has deviation 0, where the square root's gradient is infinite: the floor makes it 0.
    return (values - mean + stability) / (variance.clamp(min=1e-12).sqrt() + stability)


def tversky(logits: Tensor, labels: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Tversky index (Salehi et al., 2017), over classes and pixels together, mean over the images.

    The index weighs false positives against false negatives. Over all classes together the two are the same number,
    what a pixel's true class lacks is in the others: the released weights of 0.75 and 0.25 come to 1.
    """
    p = logits.softmax(1)
    truth = _true_class(logits, labels).to(logits.dtype)
    over = (1, 2, 3)
    both, wrong = (truth * p).sum(over) + smooth, ((1 - truth) * p).sum(over)
    return (1 - both / (both + wrong)).mean()


def cosine(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of cos(p_y pi / 2) over the pixels."""
    return torch.cos(_log_p_true(logits, labels).exp() * (math.pi / 2)).mean()


def focal_log(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """15 times the mean over classes and pixels of: focal term for the true class, p^2 for every other class."""
    p = logits.softmax(1)
    log_p = _log_p_true(logits, labels)
    wrong = p.masked_fill(_true_class(logits, labels), 0).square().sum(1)
    return 15 * (wrong - (1 - log_p.exp()) ** gamma * log_p).mean() / logits.shape[1]


def log_max(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """5 times the mean over the pixels of the larger of (1 - p_y)^2 and the focal term."""
    log_p, wrong = _log_p_true(logits, labels), _log_p_wrong(logits, labels).exp()
    return 5 * torch.maximum(wrong**2, -((1 - log_p.exp()) ** gamma) * log_p).mean()


def poly_log(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over the pixels of |(1 - p_y)^gamma log p_y - (1 - p_y)^gamma log(1 - p_y)|.

    As published: it is zero at p_y = 1, but at p_y = 1/2 too.
    """
    log_p, log_wrong = _log_p_true(logits, labels), _log_p_wrong(logits, labels)
    return (log_wrong.exp() ** gamma * (log_wrong - log_p)).abs().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ss": structural_similarity,
    "ss_per_pixel": lambda logits, labels: structural_similarity(logits, labels, per_pixel=True),
    "focal": focal,
    "ce": cross_entropy,
    "tversky": tversky,
    "cosine": cosine,
    "focal_log": focal_log,
    "log_max": log_max,
    "poly_log": poly_log,
}


def distance_map_loss(maps: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Loss of horizontal and vertical distance maps (Graham et al., 2019), in float32.

    Maps and truth (B, 2, H, W), `inside`: bool (B, H, W), where an object is. The mean squared error of all pixels,
    plus that of the derivatives (Sobel's) of each map along its own axis, over the pixels inside.
    """
    error = maps.float() - truth
    h, v = F.pad(error, (1, 1, 1, 1)).unbind(1)
    squares = (_sobel(h).square() + _sobel(v.mT).mT.square()) / 2
    return error.square().mean() + (squares * inside).sum() / inside.sum().clamp(min=1)


def _sobel(padded: Tensor) -> Tensor:
    """8 times the derivative to the right: (B, H + 2, W + 2) to (B, H, W)."""
    rise = padded[:, :, 2:] - padded[:, :, :-2]
    return rise[:, :-2] + 2 * rise[:, 1:-1] + rise[:, 2:]


def segmentation_loss(names: Sequence[LossName], logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the named losses, in float32 whatever the precision of the logits."""
    logits = logits.float()
    return torch.stack([LOSSES[name](logits, labels) for name in names]).sum()
