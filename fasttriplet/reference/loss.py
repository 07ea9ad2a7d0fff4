"""From the distances of triplets to the loss: margin, what counts, weights, reduction, statistics."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.reference.distances import check, paired_distances, unit_rows
from fasttriplet.reference.pairs import Batch

REDUCTIONS = ("none", "sum", "mean", "mean_nonzero")
ON_MISSING = ("skip", "zero", "error")


class TripletStats(NamedTuple):
    """Like :class:`fasttriplet.TripletStats`, field by field."""

    active_fraction: Tensor
    missing_positive: Tensor
    missing_negative: Tensor
    mean_positive_distance: Tensor
    mean_negative_distance: Tensor
    collapse: Tensor
    negative_counts: Tensor


class Chosen(NamedTuple):
    """T triplets by index; -1 where there is none."""

    anchors: Tensor  # [T] int64
    positives: Tensor  # [T] int64
    negatives: Tensor  # [T] int64


class Losses(NamedTuple):
    """What a reduction needs, of each triplet or of each anchor."""

    values: Tensor  # losses before weights, 0 for what does not count
    counted: Tensor  # how many triplets count: 0 or 1 where there is one triplet
    active: Tensor  # how many of those have a loss above zero


def distances_of(batch: Batch, chosen: Chosen, distance: str) -> tuple[Tensor, Tensor]:
    """Differentiable distances [T] to the positives and to the negatives, NaN where there is none."""

    def of(indices: Tensor) -> Tensor:
        if batch.positive.shape[1] == 0:  # nobody to choose from
            return (0 * batch.rows[chosen.anchors]).sum(1) + torch.nan
        found = paired_distances(batch.rows, chosen.anchors, indices.clamp_min(0), distance, batch.references)
        return torch.where(indices >= 0, found, torch.nan)

    return of(chosen.positives), of(chosen.negatives)


def hinge(difference: Tensor, margin: float, soft_margin: bool) -> Tensor:
    """The loss of ``difference`` = d_ap - d_an; the hinge has no slope where it is zero."""
    if soft_margin:
        return torch.logaddexp(difference, torch.zeros_like(difference))
    return torch.relu(difference + margin)


def above_zero(difference: Tensor, margin: float, soft_margin: bool) -> Tensor:
    """Which losses are above zero once rounded: a softplus is down to a difference of -745.13 in float64.

    Its exponential is compared before it is rounded, for vectorised ones lose the last numbers before zero.
    """
    if not soft_margin:
        return difference + margin > 0
    numbers = torch.finfo(difference.dtype)  # half of the smallest, smallest_normal * eps, and less is rounded to zero
    return difference > math.log(numbers.smallest_normal) + math.log(numbers.eps / 2)


def unless_overflowed(batch: Batch, difference: Tensor, counted: Tensor, margin: float) -> Tensor:
    """``difference`` where d_ap - d_an + margin is finite or does not count, else NaN, and so is the whole gradient."""
    overflowed = counted & ~(difference.detach() + margin).isfinite()
    if not overflowed.any():
        return difference
    everything = (torch.nan * batch.rows).sum()
    if batch.references is not None:
        everything = everything + (torch.nan * batch.references).sum()
    return torch.where(overflowed, everything, difference)


def refuse_missing(complete: Tensor, must: Tensor, on_missing: str) -> None:
    """``on_missing="error"``: every anchor of ``must`` [N] needs a triplet of which it is told that it is complete."""
    check("on_missing", on_missing, ON_MISSING)
    missing = must & ~complete
    if on_missing == "error" and missing.any():
        raise ValueError(
            f"{int(missing.sum())} anchors miss a positive or a negative, first {int(missing.int().argmax())}"
        )


def losses_of(
    batch: Batch,
    distances: tuple[Tensor, Tensor],
    has: tuple[Tensor, Tensor],
    *,
    margin: float,
    soft_margin: bool,
    on_missing: str,
) -> Losses:
    """A triplet counts when it has a negative and, unless a missing positive is at distance zero, a positive.

    ``distances`` and ``has`` are those of the positives [T] and of the negatives [T].
    """
    counted = has[1] if on_missing == "zero" else has[0] & has[1]
    nearby, apart = (torch.where(exists, d, 0 * batch.poison) for d, exists in zip(distances, has, strict=True))
    difference = unless_overflowed(batch, nearby - apart, counted, 0 if soft_margin else margin)
    values = torch.where(counted, hinge(difference, margin, soft_margin), 0)
    return Losses(values, counted, counted & above_zero(difference, margin, soft_margin))


def reduced(batch: Batch, losses: Losses, weights: Tensor | None, reduction: str) -> Tensor:
    """``weights`` are those of ``losses.values``, entry by entry."""
    check("reduction", reduction, REDUCTIONS)
    if weights is not None:
        losses = Losses(*(weights * entry for entry in losses))
    if reduction == "none":
        return losses.values
    total = losses.values.sum()
    for rows in (batch.rows, batch.references):  # joined to the graph, and poisoned, even where nothing counts
        total = total + (0 * rows).sum() if rows is not None else total
    if reduction == "sum":
        return total
    number = (losses.counted if reduction == "mean" else losses.active).sum()
    return torch.where(number == 0, 0 * total, total / torch.where(number == 0, 1, number))


def loss_of_triplets(
    batch: Batch,
    chosen: Chosen,
    *,
    distance: str,
    margin: float,
    soft_margin: bool,
    reduction: str,
    on_missing: str,
    weights: Tensor | None = None,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, TripletStats]:
    """The loss of triplets already chosen; gradients flow through their distances alone.

    With ``on_missing="error"`` every anchor that takes part needs a complete triplet, but in a batch with a row that is
    not finite, whose loss is NaN.
    """
    batch = batch.poisoned()
    has = chosen.positives >= 0, chosen.negatives >= 0
    complete = torch.zeros_like(batch.takes_part)
    complete[chosen.anchors[has[0] & has[1]]] = True
    refuse_missing(complete, batch.takes_part & (batch.poison == 1), on_missing)
    distances = distances_of(batch, chosen, distance)
    losses = losses_of(batch, distances, has, margin=margin, soft_margin=soft_margin, on_missing=on_missing)
    of_triplets = None if weights is None else weights[chosen.anchors].to(losses.values.dtype)
    loss = reduced(batch, losses, of_triplets, reduction)
    if weights is not None and reduction != "none":  # what is not finite is seen, also of an anchor without triplets
        loss = loss + 0 * weights.to(loss.dtype).sum()
    if not return_stats:
        return loss
    return loss, statistics(batch, chosen, losses, distance)


@torch.no_grad()
def statistics(
    batch: Batch, chosen: Chosen, losses: Losses, distance: str, negative_counts: Tensor | None = None
) -> TripletStats:
    """Of the triplets chosen; ``losses`` and ``negative_counts`` may be those of another choice."""
    ap, an = distances_of(batch, chosen, distance)
    missing = []
    for indices in (chosen.positives, chosen.negatives):
        found = torch.zeros_like(batch.takes_part)
        found[chosen.anchors[indices >= 0]] = True
        missing.append((batch.takes_part & ~found).sum())
    if negative_counts is None:
        chosen_ones = chosen.negatives[chosen.negatives >= 0]
        negative_counts = torch.bincount(chosen_ones, minlength=batch.negative.shape[1])
    return TripletStats(
        active_fraction=losses.active.sum() / losses.counted.sum().clamp_min(1) * batch.poison,
        missing_positive=missing[0],
        missing_negative=missing[1],
        mean_positive_distance=ap[chosen.positives >= 0].mean(),
        mean_negative_distance=an[chosen.negatives >= 0].mean(),
        collapse=collapse(batch, chosen, distance),
        negative_counts=negative_counts,
    )


def collapse(batch: Batch, chosen: Chosen, distance: str) -> Tensor:
    """Mean euclidean distance of anchors and negatives, divided by the root mean square norm of the anchors' rows.

    Under ``"cosine"`` of unit rows, of which a zero row is none and stays zero. 1.41 where anchors and negatives are at
    right angles, 0 where they coincide, zero rows too.
    """
    exists = chosen.negatives >= 0
    only = Chosen(*(indices[exists] for indices in chosen))
    if distance == "cosine":
        unit, zero = unit_rows(batch.rows)
        references = batch.references
        if references is not None:
            unit_references, zero_references = unit_rows(references)
            references = torch.where(zero_references[:, None], 0 * references, unit_references)
        batch = batch._replace(rows=torch.where(zero[:, None], 0 * batch.rows, unit), references=references)
    _, apart = distances_of(batch, only, "euclidean")
    mean, rows = apart.mean(), batch.rows[batch.takes_part]
    return torch.where(mean == 0, mean, mean / rows.square().sum(1).mean().sqrt())
