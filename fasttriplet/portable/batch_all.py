"""Batch-all by the portable engine: positive after positive, each with all negatives of its anchor at once.

Losses that lie as near to zero as the error of their distances are made of scores, so that active triplets are counted
exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.portable.checks import check_anchor_values
from fasttriplet.portable.losses import softplus
from fasttriplet.portable.pairs import Given
from fasttriplet.portable.walk import Gradients, Some, Walk, placed
from fasttriplet.reduction import SOFTPLUS_VANISHES


class _Sums(NamedTuple):
    """Of the triplets of some anchors."""

    sums: Tensor  # [C]
    active: Tensor  # [C] int64
    of_negatives: Tensor  # [C, M] slopes, not yet negated
    of_positives: Tensor  # [C, P] slopes
    counts: Tensor  # [M] int64, active triplets a candidate is the negative of
    doubtful: Tensor  # [C] bool, some loss is about as far from zero as the error of its distance


def _triplets(some: Some, thresholds: Tensor, errors: Tensor, margin: float, soft_margin: bool) -> _Sums:
    """Positive after positive, at distances ``thresholds`` [C, P], each with all negatives.

    ``errors`` [C, P] are those of a negative's distance where a loss vanishes.
    """
    distances = some.distances
    c, slots = thresholds.shape
    sums, active = distances.new_zeros(c), distances.new_zeros(c, dtype=torch.int64)
    of_negatives, of_positives = torch.zeros_like(distances), torch.zeros_like(thresholds)
    often = torch.zeros_like(distances) if soft_margin else of_negatives
    doubtful = torch.zeros_like(active, dtype=torch.bool)
    for slot in range(slots):
        difference = thresholds[:, slot, None] - distances
        if soft_margin:
            missing = difference.isneginf()
            beyond = (difference - SOFTPLUS_VANISHES).abs_()
            doubtful |= beyond.amin(1) <= errors[:, slot] if beyond.shape[1] else doubtful
            losses, slopes = softplus(difference.masked_fill_(missing, 0))
            losses, slopes = losses.masked_fill_(missing, 0), slopes.masked_fill_(missing, 0)
            is_active = (difference > SOFTPLUS_VANISHES) & ~missing
            often += is_active
        else:
            losses = difference.add_(margin)
            doubtful |= losses.abs().amin(1) <= errors[:, slot] if losses.shape[1] else doubtful
            is_active = losses > 0
            slopes = is_active
            losses = losses.clamp_min_(0)
        of_negatives += slopes
        of_positives[:, slot] = slopes.sum(1)
        sums += losses.sum(1)
        active += is_active.sum(1) if soft_margin else of_positives[:, slot].long()
    return _Sums(sums, active, of_negatives, of_positives, often.sum(0).long(), doubtful)


def _overflows(some: Some, thresholds: Tensor, margin: float) -> Tensor:
    """[C] bool: whether a difference of distances leaves float64's range."""
    found = torch.zeros_like(thresholds[:, 0] if thresholds.shape[1] else some.slack[:, 0], dtype=torch.bool)
    for threshold in thresholds.unbind(1):
        there = ~some.absent & ~threshold.isneginf()[:, None]
        found |= (~(threshold[:, None] - some.distances + margin).isfinite() & there).any(1)
    return found


def _certain(walk: Walk, some: Some, margin: float, soft_margin: bool) -> _Sums:
    """The sums, with what is doubtful scored first; a wait for whether anything is."""
    thresholds = some.positives.in_slots(-torch.inf)
    vanishing = thresholds + (-SOFTPLUS_VANISHES if soft_margin else margin)  # where a negative's loss vanishes
    errors = walk.error_at(some, vanishing)
    found = _triplets(some, thresholds, errors, margin, soft_margin)
    if walk.extreme:  # all is scored
        beyond = _overflows(some, thresholds, 0 if soft_margin else margin)
        return found._replace(sums=torch.where(beyond, torch.nan, found.sums))
    if not found.doubtful.any():
        return found
    where = torch.zeros_like(some.absent)
    for distance, error in zip(vanishing.unbind(1), errors.unbind(1), strict=True):
        where |= (distance[:, None] - some.distances).abs() <= 2 * error[:, None]
    walk.score(some, where & ~some.absent)
    return _triplets(some, thresholds, errors, margin, soft_margin)


def batch_all(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator: sums [N], counts [2, N], negative counts [M], gradients."""
    given, (margin, soft_margin, with_gradient) = Given.checked(arguments)
    return _batch_all(given, margin, soft_margin, None, with_gradient)


def batch_all_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator: gradients, ``grad`` [N] being that of the sums."""
    given, (margin, soft_margin) = Given.checked(arguments)
    check_anchor_values(grad, "grad", 0, given.embeddings)
    *_, own, references = _batch_all(given, margin, soft_margin, grad, True)
    return own, references


def _batch_all(
    given: Given, margin: float, soft_margin: bool, upstream: Tensor | None, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Without ``upstream`` the gradients are those of the sums' sum divided by the number of triplets."""
    walk = Walk(given)
    pairs = walk.pairs
    gradients = Gradients(walk) if with_gradient else None
    n, m = len(pairs), len(pairs.columns)
    sums = pairs.rows.wide.new_zeros(n)
    counts, often = (sums.new_zeros(shape, dtype=torch.int64) for shape in ((2, n), (m,)))
    for some in walk.chunks():
        found, at = _certain(walk, some, margin, soft_margin), some.chunk.anchors
        sums[at], counts[0, at] = found.sums, found.active
        counts[1, at] = some.positives.often * (~some.absent).sum(1)
        often += found.counts
        if gradients is not None:
            share = torch.ones_like(found.sums) if upstream is None else upstream[pairs.order[at]]
            share = torch.where(found.sums.isnan(), torch.nan, share)[:, None]  # of an overflow
            listed = some.positives
            of_positives = (found.of_positives * share)[listed.rows, listed.slot]
            gradients.add(some, found.of_negatives * -share, of_positives)
    # Float64, since the quotient of a float32 and an integer would be float32.
    poison = torch.where(pairs.finite & ~sums.isnan().any(), 1.0, torch.nan).double()
    sums = placed(torch.where(pairs.finite, sums, torch.nan), pairs.order)
    counts, often = placed(counts.T, pairs.order).T.contiguous(), placed(often, pairs.columns)
    if gradients is None:
        nothing = given.embeddings.new_empty(0)
        return sums, counts, often, nothing, nothing.clone()
    if upstream is None:
        factor = poison / counts[1].sum().clamp_min(1)
    else:
        factor = torch.where(upstream.isnan().any(), torch.nan, poison)
    return sums, counts, often, *gradients.results(factor)
