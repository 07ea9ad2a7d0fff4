"""From distances of triplets to the loss and its slopes by the portable engine, and the loss of given triplets.

The formulas are those of ``csrc/core/loss.h`` and ``csrc/core/triplet_margin.h``; sums are in float64, in the order
in which the device adds up a tensor, which is the same on every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES, ON_MISSING, REDUCTIONS
from fasttriplet.portable.checks import (
    check_distance,
    check_mined,
    check_on_missing,
    check_poison,
    check_reduction,
    check_saved,
    check_triplet_weights,
    check_triplets,
    check_upstream,
)
from fasttriplet.portable.edges import edge_weights
from fasttriplet.portable.exact import scores_of_rows
from fasttriplet.portable.rows import pieces, survey


def hinge(difference: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Losses and slopes; NaN where they leave float64's range."""
    loss = difference + margin
    loss = torch.where(loss.isfinite(), loss, torch.nan)
    active = loss > 0
    return torch.where(active | loss.isnan(), loss, 0), torch.where(loss.isnan(), torch.nan, active.double())


def softplus(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise of log(1 + exp(difference)), which is not cut off anywhere."""
    decay = (-difference.abs()).exp()
    loss = difference.clamp_min(0) + decay.log1p()
    slope = torch.where(difference >= 0, 1 / (1 + decay), decay / (1 + decay))
    unknown = ~difference.isfinite()
    return loss.masked_fill(unknown, torch.nan), slope.masked_fill(unknown, torch.nan)


def reduce_losses(
    distances: Tensor, found: Tensor, poison: Tensor, margin: float, soft_margin: bool, reduction: str, on_missing: str
) -> tuple[Tensor, Tensor]:
    """Loss [T] or [], and slopes [T] by the distance to the positive, of distances [2, T] that are ``found`` [2, T].

    ``poison`` [] is NaN where a row is not finite: what counts and every slope are NaN then.
    """
    counts = found[1] & (found[0] if on_missing != "zero" else True)
    difference = torch.where(found[0], distances[0], 0) - distances[1]
    difference = torch.where(counts, difference, 0)
    losses, slopes = softplus(difference) if soft_margin else hinge(difference, margin)
    losses = torch.where(counts, losses * poison, 0)
    slopes = torch.where(counts, slopes, 0) * poison
    if reduction == "none":
        return losses, slopes
    total = losses.sum() * poison
    if reduction == "sum":
        return total, slopes
    number = (counts if reduction == "mean" else losses != 0).sum()  # NaN is not 0
    divisor = number.clamp_min(1)
    return total / divisor, slopes / divisor


def triplet_losses(
    distances: Tensor,
    triplets: Tensor,
    poison: Tensor,
    margin: float,
    soft_margin: bool,
    reduction: int,
    on_missing: int,
) -> tuple[Tensor, Tensor]:
    """The operator: loss [T] or [], slopes [2, T]."""
    check_mined(distances, distances, triplets, distances)
    check_poison(poison, distances)
    check_reduction(reduction)
    check_on_missing(on_missing)
    found = triplets[1:] >= 0
    loss, slopes = reduce_losses(
        distances, found, poison, margin, soft_margin, REDUCTIONS[reduction], ON_MISSING[on_missing]
    )
    return loss, torch.where(found, torch.stack([slopes, -slopes]), 0)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    weights: Tensor | None,
    margin: float,
    distance: int,
    swap: bool,
    soft_margin: bool,
    mining_margin: float | None,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    """The operator: loss [T] or [], and values of the triplets for the backward."""
    check_triplets(anchor, positive, negative)
    check_distance(distance)
    check_reduction(reduction)
    check_triplet_weights(weights, anchor)
    rows = [survey(each.detach(), distance) for each in (anchor, positive, negative)]

    def between(first: int, second: int) -> Tensor:
        return scores_of_rows(rows[first], rows[second], distance)

    to_positive, to_negative = between(0, 1), between(0, 2)
    kept = []
    if swap:
        swapped = between(1, 2)
        nearer = swapped < to_negative
        to_negative = torch.where(nearer, swapped, to_negative)
        kept.append(nearer.double())
    difference = to_positive - to_negative
    unknown = ~difference.isfinite()
    if DISTANCES[distance] == "cosine":  # which hides what is not finite
        kept += [each.factors for each in rows if each.factors is not None]
        unknown = unknown | ~(rows[0].finite & rows[1].finite & rows[2].finite)
    losses, slopes = softplus(difference) if soft_margin else hinge(difference, margin)
    losses, slopes = (each.masked_fill(unknown, torch.nan) for each in (losses, slopes))
    mined = torch.ones_like(unknown)
    if mining_margin is not None:
        mined = unknown | (to_positive > to_negative - mining_margin)
        losses = torch.where(mined, losses, 0)
    name = REDUCTIONS[reduction]
    counts = mined & (losses != 0) if name == "mean_nonzero" else mined
    factors = torch.ones_like(losses) if weights is None else weights.double()
    losses, slopes = factors * losses, torch.where(mined, factors * slopes, 0)
    loss = losses
    if name != "none":
        loss = losses.sum()
        if name != "sum":
            divisor = torch.where(counts, factors, 0).sum()
            nothing = divisor == 0
            loss = torch.where(nothing, loss * 0, loss / torch.where(nothing, 1, divisor))
            slopes = torch.where(nothing, slopes * 0, slopes / torch.where(nothing, 1, divisor))
    return loss.to(anchor.dtype), torch.stack([slopes, to_positive, to_negative, *kept])


def values_kept(distance: int, swap: bool) -> int:
    """How many of a triplet :func:`triplet_margin_loss` returns."""
    return 3 + swap + (3 if DISTANCES[distance] == "cosine" else 0)


def triplet_margin_loss_backward(
    grad_loss: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    values: Tensor,
    distance: int,
    swap: bool,
    *wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: gradients [T, D], [0] of what is not wanted."""
    check_triplets(anchor, positive, negative)
    check_upstream(grad_loss, anchor, "anchor")
    check_distance(distance)
    origin = "triplet_margin_loss returned for these triplets"
    check_saved(values, "values", torch.float64, values_kept(distance, swap), anchor, origin)
    rows = anchor, positive, negative
    results = [each.new_empty(each.shape if wants else (0,)) for each, wants in zip(rows, wanted, strict=True)]
    slopes = values[0] * grad_loss.double()
    still = (slopes == 0)[:, None]  # where rows may hold anything
    factors = values[-3:] if DISTANCES[distance] == "cosine" else None
    for some in pieces(anchor):
        gradients = _gradients(
            [each[some] for each in rows],
            slopes[some],
            values[1, some],
            values[2, some],
            values[3, some] != 0 if swap else None,
            None if factors is None else factors[:, some],
            distance,
        )
        for result, gradient, wants in zip(results, gradients, wanted, strict=True):
            if wants:
                result[some] = gradient.masked_fill_(still[some], 0)
    return results[0], results[1], results[2]


def _gradients(
    rows: list[Tensor],
    slopes: Tensor,
    to_positive: Tensor,
    to_negative: Tensor,
    swapped: Tensor | None,
    factors: Tensor | None,
    distance: int,
) -> list[Tensor]:
    """[T, D] float64 of anchor, positive and negative.

    Two pairs: (anchor, positive), and the negative with the anchor, or with the positive where it was swapped.
    """
    anchor, positive, negative = rows
    if factors is not None:
        anchor, positive, negative = (each * factor[:, None] for each, factor in zip(rows, factors, strict=True))
    partner = anchor if swapped is None else torch.where(swapped[:, None], positive, anchor)
    near = edge_weights(slopes, to_positive, distance)[:, None]
    apart = edge_weights(-slopes, to_negative, distance)[:, None]
    if DISTANCES[distance] == "inner_product":
        of_anchor, of_positive = (each.double() * -near for each in (positive, anchor))
        of_partner, of_negative = (each.double() * -apart for each in (negative, partner))
    else:
        of_anchor, of_partner = (anchor.double() - positive).mul_(near), (partner.double() - negative).mul_(apart)
        of_positive, of_negative = -of_anchor, -of_partner
    if factors is not None:  # along the sphere
        nearby, beyond = near * to_positive[:, None], apart * to_negative[:, None]
        of_anchor, of_positive = of_anchor - nearby * anchor, of_positive - nearby * positive
        of_partner, of_negative = of_partner - beyond * partner, of_negative - beyond * negative
    if swapped is None:
        of_anchor = of_anchor.add_(of_partner)
    else:
        of_anchor = of_anchor + torch.where(swapped[:, None], 0, of_partner)
        of_positive = of_positive + torch.where(swapped[:, None], of_partner, 0)
    results = [of_anchor, of_positive, of_negative]
    if factors is not None:
        results = [each * factor[:, None] for each, factor in zip(results, factors, strict=True)]
    return results
