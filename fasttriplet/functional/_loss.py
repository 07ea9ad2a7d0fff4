"""From distances to the loss: margin, what counts, weights, reduction.

In one operator where there are no weights and no statistics, else in plain PyTorch on [T] float64 tensors.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fasttriplet.autograd import MinedDistances
from fasttriplet.check import (
    DISTANCES,
    MINERS,
    ON_MISSING,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_margin,
    check_weights,
)
from fasttriplet.miners import Triplets
from fasttriplet.pairing import Batch
from fasttriplet.stats import stats_of

#: A loss, or (loss, :class:`fasttriplet.TripletStats`) with ``return_stats=True``.
LossResult: TypeAlias = Tensor | Any

#: The tail of the operator's arguments: miner, otherwise, within_margin, margin, k, kth_only, skip_fraction.
Miner: TypeAlias = tuple[int, int, bool, float, int, bool, float]


#: A softplus is above zero down to this difference of distances, exclusively: ln 2^-1075, as in ``csrc/core/loss.h``.
SOFTPLUS_VANISHES = -745.1332191019412

#: The farthest positive and the nearest negative.
HARDEST: Miner = (MINERS.index("batch_hard"), 0, False, 0.0, 1, False, 0.0)


class Options(NamedTuple):
    """What a loss is told beside its batch, checked."""

    margin: float
    distance: int
    soft_margin: bool
    reduction: str
    on_missing: str
    return_stats: bool


class Losses(NamedTuple):
    """What a reduction needs, of each triplet or of each anchor."""

    values: Tensor  # float64, before weights, 0 for what does not count
    counted: Tensor  # how many triplets count
    active: Tensor  # how many of those have a loss above zero


def checked_options(
    margin: float, distance: str, soft_margin: bool, reduction: str, on_missing: str, return_stats: bool
) -> Options:
    code = check_choice("distance", distance, DISTANCES)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("on_missing", on_missing, ON_MISSING)
    soft_margin, return_stats = check_bool("soft_margin", soft_margin), check_bool("return_stats", return_stats)
    return Options(check_margin(margin), code, soft_margin, reduction, on_missing, return_stats)


def loss_of_mined(batch: Batch, miner: Miner, options: Options, weights: Tensor | None) -> LossResult:
    """The loss of what ``miner`` chooses."""
    check_weights(weights, batch.embeddings)
    distances, triplets, poison = MinedDistances.apply(*batch.arguments, options.distance, *miner)
    if options.on_missing == "error":
        complete = (triplets[1:] >= 0).all(0).long()
        refuse_missing(batch, triplets.new_zeros(len(batch.embeddings)).index_add(0, triplets[0], complete) > 0, poison)
    if weights is None and not options.return_stats:  # in one operator: plain PyTorch's many take longer than mining
        codes = REDUCTIONS.index(options.reduction), ON_MISSING.index(options.on_missing)
        loss = _TripletLosses.apply(distances, triplets, poison, options.margin, options.soft_margin, *codes)
        return loss.to(batch.embeddings.dtype)
    losses = losses_of(distances, triplets[1:] >= 0, poison, options)
    of_triplets = None if weights is None else weights.double().index_select(0, triplets[0])
    loss = reduced(losses, of_triplets, poison, options.reduction).to(batch.embeddings.dtype)
    if not options.return_stats:
        return loss
    return loss, stats_of(batch, distances.detach(), triplets, poison, losses.counted, losses.active, options.distance)


class _TripletLosses(torch.autograd.Function):
    """The loss of mined triplets; the second derivative goes through :func:`losses_of` and :func:`reduced`."""

    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        triplets: Tensor,
        poison: Tensor,
        margin: float,
        soft_margin: bool,
        reduction: int,
        on_missing: int,
    ) -> Tensor:
        loss, slopes = torch.ops.fasttriplet.triplet_losses(
            distances, triplets, poison, margin, soft_margin, reduction, on_missing
        )
        ctx.save_for_backward(distances, triplets, poison, slopes)
        ctx.options = Options(margin, 0, soft_margin, REDUCTIONS[reduction], ON_MISSING[on_missing], False)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        distances, triplets, poison, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            losses = losses_of(distances, triplets[1:] >= 0, poison, ctx.options)
            loss = reduced(losses, None, poison, ctx.options.reduction)
            (gradient,) = torch.autograd.grad(loss, distances, grad, create_graph=True)
        else:
            gradient = torch.where(slopes == 0, 0, slopes * grad)  # also where the gradient that comes back is infinite
        return gradient, None, None, None, None, None, None


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


def refuse_missing(batch: Batch, complete: Tensor, poison: Tensor) -> None:
    """ValueError where an anchor that is not ignored is not ``complete`` [N]; a batch that is not finite passes."""
    takes_part = batch.takes_part()
    missing = ~complete if takes_part is None else takes_part & ~complete
    missing = missing & (poison == 1)
    if missing.any():
        raise ValueError(
            f"labels must give every anchor a positive and a negative (on_missing='error'); got {int(missing.sum())} "
            f"of {len(missing)} anchors without, the first at index {int(missing.int().argmax())}"
        )


@torch.no_grad()
def mined_triplets(batch: Batch, miner: Miner, distance: int) -> Triplets:
    """What ``miner`` chooses, without a graph."""
    distances, triplets = torch.ops.fasttriplet.mine_triplets(*batch.arguments, distance, *miner)
    return Triplets(*triplets.unbind(0), *distances.to(batch.embeddings.dtype).unbind(0))
