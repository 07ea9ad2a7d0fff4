"""The specification of the loss of explicit triplets, in plain PyTorch, written to be read, not to be fast."""

import torch
from torch import Tensor

from fasttriplet.reference.distances import check, paired_distances
from fasttriplet.reference.loss import REDUCTIONS, above_zero, hinge


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    swap: bool = False,
    soft_margin: bool = False,
    mining_margin: float | None = None,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """See :func:`fasttriplet.triplet_margin_loss`.

    A triplet with a NaN or infinite entry, or whose difference of distances overflows, counts and is NaN, its gradient
    too.
    """
    check("reduction", reduction, REDUCTIONS)
    rows = torch.cat([anchor, positive, negative])
    a, p, n = torch.arange(len(rows), device=rows.device).view(3, -1)
    finite = rows.detach().isfinite().all(1)
    finite = finite[a] & finite[p] & finite[n]
    rows = rows * torch.where(finite, 1.0, torch.nan).to(rows.dtype).repeat(3)[:, None]

    to_positive = paired_distances(rows, a, p, distance)
    to_negative = paired_distances(rows, a, n, distance)
    if swap:
        swapped = paired_distances(rows, p, n, distance)
        to_negative = torch.where(swapped < to_negative, swapped, to_negative)
    difference = to_positive - to_negative
    finite = (difference.detach() + (0 if soft_margin else margin)).isfinite()
    difference = difference * torch.where(finite, 1.0, torch.nan).to(rows.dtype)

    kept = torch.ones_like(finite)
    if mining_margin is not None:
        kept = (to_positive > to_negative - mining_margin) | ~finite
    losses = torch.where(kept, hinge(difference, margin, soft_margin), 0)
    above = above_zero(difference, margin, soft_margin) | ~finite
    shares = (kept & above if reduction == "mean_nonzero" else kept).to(rows.dtype)
    if weights is not None:
        losses, shares = losses * weights, torch.where(shares != 0, weights, 0)

    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    divisor = shares.sum()
    return total * 0 if divisor == 0 else total / divisor
