"""The gradient of distances of chosen pairs: a row gathers what its pairs pull, in a fixed order.

An edge (x, y) brings ``weight (x - y)`` to x and the reverse to y; the formulas are in ``csrc/core/distance.h``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.checks import (
    check_distance,
    check_embeddings,
    check_mined,
    check_parts,
    check_references,
    check_triplet_indices,
)
from fasttriplet.portable.exact import at_once
from fasttriplet.portable.rows import Rows, survey


def edge_weights(slopes: Tensor, distances: Tensor, distance: int) -> Tensor:
    """[E] of slopes of the loss by a distance."""
    name = DISTANCES[distance]
    if name == "euclidean":
        zero = distances == 0
        return torch.where(zero, 0 * slopes, slopes / torch.where(zero, 1, distances))
    return 2 * slopes if name == "squared_euclidean" else slopes


def triplet_distances_backward(
    grad: Tensor,
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    distances: Tensor,
    triplets: Tensor,
    distance: int,
    parts: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The operator: gradients [N, D] and [M, D], ``grad`` [2, T] being that of the distances."""
    check_parts(parts, len(embeddings), 0 if ref_embeddings is None else len(ref_embeddings))
    check_embeddings(embeddings)
    check_mined(grad, distances, triplets, embeddings)
    check_references(ref_embeddings, embeddings)
    candidates = len(embeddings if ref_embeddings is None else ref_embeddings)
    check_triplet_indices(triplets, len(embeddings), candidates)
    check_distance(distance)
    # By triplet, its positive before its negative.
    chosen, slopes, values = (each.T.flatten() for each in (triplets[1:], grad, distances))
    anchors = triplets[0].repeat_interleave(2)
    return parts_of(edge_gradients(embeddings, ref_embeddings, anchors, chosen, slopes, values, distance), parts)


def parts_of(gradients: tuple[Tensor, Tensor], parts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of gradients [N, D] and [M, D] the rows that are wanted: all, or by the first and the number of each."""
    if not parts:
        return gradients
    own, references = gradients
    return own[parts[0] :][: parts[1]], references[parts[2] :][: parts[3]]


def edge_gradients(
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    anchors: Tensor,
    candidates: Tensor,
    slopes: Tensor,
    distances: Tensor,
    distance: int,
) -> tuple[Tensor, Tensor]:
    """Gradients [N, D] and [M, D], [0] without references, of edges [E] from anchors to candidates.

    A candidate of -1 is none. NaN all over where a slope is NaN.
    """
    exists = candidates >= 0
    slopes = torch.where(exists, slopes, 0)
    poison = torch.where(slopes.isnan().any(), torch.nan, 1.0)
    pulls = (slopes != 0).nonzero().squeeze(1)  # mostly a part of them; what does not pull costs nothing
    first, second, distances = anchors[pulls], candidates[pulls], distances[pulls]
    weights = edge_weights(slopes[pulls], distances, distance)
    rows = survey(embeddings, distance)
    others = rows if ref_embeddings is None else survey(ref_embeddings, distance)
    own = torch.zeros_like(rows.wide)
    theirs = own if others is rows else torch.zeros_like(others.wide)
    step = at_once(own)
    for i, j, weight in zip(first.split(step), second.split(step), weights[:, None].split(step), strict=True):
        x, y = rows.wide.index_select(0, i), others.wide.index_select(0, j)
        if DISTANCES[distance] == "inner_product":
            to_own, to_theirs = y.mul_(-weight), x.mul_(-weight)
        else:
            to_own = x.sub_(y).mul_(weight)
            to_theirs = -to_own
        # Float64 on a CPU is added in the order of edges, and elsewhere by a stable sort: the same bits on every run.
        own.index_put_((i,), to_own, accumulate=True)
        theirs.index_put_((j,), to_theirs, accumulate=True)
    if rows.factors is not None and others.factors is not None:
        shrinks = weights * distances
        own_shrink = shrinks.new_zeros(len(own)).index_put_((first,), shrinks, accumulate=True)
        their_shrink = own_shrink if others is rows else shrinks.new_zeros(len(theirs))
        their_shrink.index_put_((second,), shrinks, accumulate=True)
        own = _along_the_sphere(own, own_shrink, rows)
        theirs = own if others is rows else _along_the_sphere(theirs, their_shrink, others)
    own = (own * poison).to(embeddings.dtype)
    if ref_embeddings is None:
        return own, embeddings.new_empty(0)
    return own, (theirs * poison).to(ref_embeddings.dtype)


def _along_the_sphere(pulled: Tensor, shrink: Tensor, rows: Rows) -> Tensor:
    """The gradient of rows from that of the rows at length 1."""
    assert rows.factors is not None
    units = torch.where(shrink[:, None] == 0, 0, rows.wide)  # a row that is not finite is in no pair
    return (pulled - shrink[:, None] * units) * rows.factors[:, None]
