"""From distances of triplets to a loss in plain PyTorch: margin, what counts, weights, reduction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: A softplus is above zero down to this difference of distances, exclusively: ln 2^-1075, as in ``csrc/core/loss.h``.
SOFTPLUS_VANISHES = -745.1332191019412


class Options(NamedTuple):
    """What a loss is told beside its batch, checked."""

    margin: float
    distance: int
    soft_margin: bool
    reduction: str
    on_missing: str


class Losses(NamedTuple):
    """What a reduction needs, of each triplet or of each anchor."""

    values: Tensor  # float64, before weights, 0 for what does not count
    counted: Tensor  # how many triplets count
    active: Tensor  # how many of those have a loss above zero


def losses_of(distances: Tensor, found: Tensor, poison: Tensor, options: Options) -> Losses:
    """Of ``distances`` [2, T] to positives and negatives, of which those ``found`` [2, T] are there."""
    counted = found[1] if options.on_missing == "zero" else found.all(0)
    positive, negative = torch.where(found & counted, distances, 0).unbind(0)
    difference = positive - negative if options.soft_margin else positive - negative + options.margin
    difference = difference * (poison + 0 * difference.detach())  # NaN, as is its slope, also where it overflows
    if options.soft_margin:
        values = torch.logaddexp(difference, torch.zeros_like(difference))  # softplus is cut off at 20
        active = difference > SOFTPLUS_VANISHES  # vectorised exponentials lose the last numbers before zero
    else:
        values, active = torch.relu(difference), difference > 0
    return Losses(torch.where(counted, values, 0), counted, counted & active)


def reduced(losses: Losses, weights: Tensor | None, poison: Tensor, reduction: str) -> Tensor:
    """``weights`` are those of ``losses.values``, entry by entry."""
    if weights is not None:
        losses = Losses(weights * losses.values, weights * losses.counted, weights * losses.active)
    if reduction == "none":
        return losses.values
    total = losses.values.sum() * poison
    if reduction == "sum":
        return total
    number = (losses.counted if reduction == "mean" else losses.active).sum()
    return torch.where(number == 0, 0 * total, total / torch.where(number == 0, 1, number))
