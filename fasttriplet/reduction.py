"""From distances of triplets to a loss in plain PyTorch: margin, what counts, weights, reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: A softplus is above zero down to this difference of distances, exclusively: ln 2^-1075, as in ``csrc/core/loss.h``.
SOFTPLUS_VANISHES = -745.1332191019412

#: Elements up to which PyTorch computes elementwise functions in one thread.
_ONE_THREAD = 1 << 14


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
        values = _one_thread_at_a_time(_softplus, difference)
        active = difference > SOFTPLUS_VANISHES  # vectorised exponentials lose the last numbers before zero
    else:
        values, active = torch.relu(difference), difference > 0
    return Losses(torch.where(counted, values, 0), counted, counted & active)


def _has_no_order(values: Tensor) -> bool:
    """Whether it is nothing to compute with in one thread: on another device, traced, or a fake of unknown length."""
    return values.device.type != "cpu" or torch.compiler.is_compiling() or not isinstance(values.shape[0], int)


def ordered_sum(values: Tensor) -> Tensor:
    """[] of ``values`` [T] float64, added one after the other on a CPU, as its kernels do: the same bits whatever the
    number of threads, which ``sum`` divides a tensor among. Other devices' ``sum`` goes by the shape alone, and what is
    compiled sums as its compiler has it.
    """
    if _has_no_order(values):
        return values.sum()
    return torch.nn.functional.pad(values, (1, 0)).cumsum(0)[-1]


def _softplus(difference: Tensor) -> Tensor:
    """log(1 + exp(difference)); not PyTorch's softplus, which is cut off at 20."""
    return torch.logaddexp(difference, torch.zeros_like(difference))


def _one_thread_at_a_time(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """An elementwise function of ``values`` [T], piece by piece: what of a long tensor is computed in vectors and what
    is left to the end of one, by another exponential, else follows from the number of threads.
    """
    if _has_no_order(values):
        return function(values)
    return torch.cat([function(piece) for piece in values.split(_ONE_THREAD)])


def reduced(losses: Losses, weights: Tensor | None, poison: Tensor, reduction: str) -> Tensor:
    """``weights`` are those of ``losses.values``, entry by entry."""
    if weights is not None:
        losses = Losses(weights * losses.values, weights * losses.counted, weights * losses.active)
    if reduction == "none":
        return losses.values
    total = ordered_sum(losses.values) * poison
    if reduction == "sum":
        return total
    numbers = losses.counted if reduction == "mean" else losses.active
    number = ordered_sum(numbers) if numbers.is_floating_point() else numbers.sum()
    return torch.where(number == 0, 0 * total, total / torch.where(number == 0, 1, number))
