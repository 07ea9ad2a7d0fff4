"""The specification: batch-hard triplet loss in plain PyTorch, written to be read, not to be fast.

Everything in this package is tested against these functions, run in float64. They materialise the [N, N] distance
matrix, which the kernels never do, and compute in the dtype of ``embeddings``.

Source of the method: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
2017, https://arxiv.org/abs/1703.07737.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class MinedTriplets(NamedTuple):
    """Like :class:`fasttriplet.MinedTriplets`, field by field."""

    positives: Tensor  # [N] int64, -1 where the anchor has none
    negatives: Tensor  # [N] int64, -1 where the anchor has none
    positive_distances: Tensor  # [N], NaN where the anchor has none
    negative_distances: Tensor  # [N], NaN where the anchor has none


DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")
REDUCTIONS = ("none", "sum", "mean", "mean_nonzero")
ON_MISSING = ("skip", "zero", "error")


def check(name: str, value: str, choices: tuple[str, ...]) -> None:
    """A specification must not take a misspelt name for another."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their norm [N, D], and which rows are zero [N]; those are returned as rows of equal entries.

    A row whose norm is below the smallest normal number counts as zero. Dividing by the largest entry first keeps the
    squares of huge and tiny rows inside the range of the dtype.
    """
    tiny = torch.finfo(embeddings.dtype).tiny
    magnitudes = torch.nn.functional.pad(embeddings.detach().abs(), (1, 0))  # a zero more, for D = 0
    scaled = embeddings / magnitudes.amax(1, keepdim=True).clamp_min(tiny)
    zero = scaled.detach().norm(dim=1) < 1
    scaled = torch.where(zero[:, None], torch.ones_like(scaled), scaled)  # nothing flows back through a constant
    return scaled / scaled.norm(dim=1, keepdim=True), zero


def paired_distances(embeddings: Tensor, first: Tensor, second: Tensor, distance: str) -> Tensor:
    """Differentiable distances [K] of the pairs of rows ``(first[k], second[k])``; zero gradient at distance zero."""
    check("distance", distance, DISTANCES)
    if distance == "inner_product":
        return -(embeddings[first] * embeddings[second]).sum(1)
    if distance == "cosine":
        unit, zero = unit_rows(embeddings)
        # 1 - cos of unit rows is half the squared difference, without cancellation; the cosine of a zero row is 0.
        halves = (unit[first] - unit[second]).square().sum(1) / 2
        return torch.where(zero[first] | zero[second], torch.ones_like(halves), halves)
    squared = (embeddings[first] - embeddings[second]).square().sum(1)
    if distance == "squared_euclidean":
        return squared
    same = squared == 0
    return torch.where(same, squared, torch.where(same, torch.ones_like(squared), squared).sqrt())


def pairwise_distances(embeddings: Tensor, distance: str = "euclidean") -> Tensor:
    """Distance matrix [N, N]; a row with a NaN or infinite entry is at distance NaN from every row."""
    check("distance", distance, DISTANCES)
    if distance == "euclidean":
        matrix = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    else:  # row by row: a matrix product, or the square of a root, would tie or part what should not
        everyone = torch.arange(len(embeddings), device=embeddings.device)
        rows = [paired_distances(embeddings, anchor.expand_as(everyone), everyone, distance) for anchor in everyone]
        matrix = torch.stack(rows) if rows else embeddings.new_empty(0, 0)
    finite = embeddings.isfinite().all(1)
    return torch.where(finite[:, None] & finite, matrix, torch.nan)


@torch.no_grad()
def mine_batch_hard(embeddings: Tensor, labels: Tensor, *, distance: str = "euclidean") -> MinedTriplets:
    """For each anchor the farthest positive and the nearest negative; equal distances go to the lowest index.

    A NaN distance is the hardest of all, among positives and among negatives, as in ``torch.max`` and ``torch.min``.
    """
    n = len(embeddings)
    if n == 0:
        nothing = labels.new_empty(0, dtype=torch.int64)
        return MinedTriplets(nothing, nothing, embeddings.new_empty(0), embeddings.new_empty(0))
    largest = torch.finfo(embeddings.dtype).max
    matrix = pairwise_distances(embeddings, distance).clamp(-largest, largest)  # infinity is left to mark exclusion
    same = labels[:, None] == labels
    is_positive = same & ~torch.eye(n, dtype=torch.bool, device=labels.device)
    positives = torch.where(is_positive, matrix, -torch.inf).argmax(1)
    negatives = torch.where(same, torch.inf, matrix).argmin(1)

    def present(indices: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        distances = matrix.gather(1, indices[:, None])[:, 0]
        return torch.where(exists, indices, -1), torch.where(exists, distances, torch.nan)

    positives, positive_distances = present(positives, is_positive.any(1))
    negatives, negative_distances = present(negatives, ~same.all(1))
    return MinedTriplets(positives, negatives, positive_distances, negative_distances)


def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    reduction: str = "mean",
    on_missing: str = "skip",
) -> Tensor:
    """See :func:`fasttriplet.batch_hard_triplet_loss`: mine without a graph, then differentiate the chosen pairs.

    A single NaN or infinite entry makes every counted loss, each reduction and the whole gradient NaN.
    """
    check("reduction", reduction, REDUCTIONS)
    check("on_missing", on_missing, ON_MISSING)
    mined = mine_batch_hard(embeddings.detach(), labels, distance=distance)
    missing = (mined.positives < 0) | (mined.negatives < 0)
    if on_missing == "error" and missing.any():
        raise ValueError(
            f"{int(missing.sum())} anchors miss a positive or a negative, first {int(missing.int().argmax())}"
        )
    counted = mined.negatives >= 0 if on_missing == "zero" else ~missing
    poison = torch.where(embeddings.detach().isfinite().all(), 1.0, torch.nan).to(embeddings.dtype)
    embeddings = embeddings * poison

    anchors = torch.arange(len(labels), device=labels.device)
    ap = paired_distances(embeddings, anchors, torch.where(mined.positives < 0, anchors, mined.positives), distance)
    an = paired_distances(embeddings, anchors, torch.where(mined.negatives < 0, anchors, mined.negatives), distance)
    difference = torch.where(mined.positives < 0, 0 * poison, ap) - an
    if soft_margin:
        losses = torch.logaddexp(difference, torch.zeros_like(difference))
    else:
        losses = torch.relu(difference + margin)  # zero gradient where the loss is zero
    losses = torch.where(counted, losses, 0)

    if reduction == "none":
        return losses
    total = losses.sum() + (0 * embeddings).sum()  # joined to the graph, and poisoned, even where nothing counts
    if reduction == "sum":
        return total
    number = counted.sum() if reduction == "mean" else (losses != 0).sum()
    return total / number.clamp_min(1)
