"""From the distances of triplets to the loss: margin, what counts, weights, reduction, statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.reference.distances import check, paired_distances
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
    values = torch.where(counted, hinge(nearby - apart, margin, soft_margin), 0)
    return Losses(values, counted, counted & (values > 0))


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
    must: Tensor | None = None,
) -> Tensor | tuple[Tensor, TripletStats]:
    """The loss of triplets already chosen; gradients flow through their distances alone.

    ``must`` [N]: anchors that need a complete triplet under ``on_missing="error"``; by default those that take part,
    as long as every row is finite.
    """
    batch = batch.poisoned()
    has = chosen.positives >= 0, chosen.negatives >= 0
    complete = torch.zeros_like(batch.takes_part)
    complete[chosen.anchors[has[0] & has[1]]] = True
    refuse_missing(complete, batch.takes_part & (batch.poison == 1) if must is None else must, on_missing)
    distances = distances_of(batch, chosen, distance)
    losses = losses_of(batch, distances, has, margin=margin, soft_margin=soft_margin, on_missing=on_missing)
    of_triplets = None if weights is None else weights[chosen.anchors].to(losses.values.dtype)
    loss = reduced(batch, losses, of_triplets, reduction)
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

    Under ``"cosine"`` of unit rows. 1.41 where anchors and negatives are at right angles, 0 where they coincide.
    """
    exists = chosen.negatives >= 0
    only = Chosen(*(indices[exists] for indices in chosen))
    rows = batch.rows[batch.takes_part]
    if distance == "cosine":
        _, squared = distances_of(batch, only, "cosine")
        return (2 * squared).sqrt().mean()
    _, apart = distances_of(batch, only, "euclidean")
    return apart.mean() / rows.square().sum(1).mean().sqrt()
