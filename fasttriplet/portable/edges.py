"""The gradient of distances of chosen pairs: a row gathers what its pairs pull, in a fixed order.

An edge (x, y) brings ``weight (x - y)`` to x and the reverse to y; the formulas are in ``csrc/core/distance.h``. Edges
are sorted by the row they belong to, and each row's are added one after the other in float64: the same bits on every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.rows import survey

#: Entries of edges at a time: 8 MB of float64 each of the two or three that a step holds.
_PIECE_ON_CPU, _PIECE = 2**19, 2**24


def edge_weights(slopes: Tensor, distances: Tensor, distance: int) -> Tensor:
    """[E] of slopes of the loss by a distance."""
    name = DISTANCES[distance]
    if name == "euclidean":
        zero = distances == 0
        return torch.where(zero, 0 * slopes, slopes / torch.where(zero, 1, distances))
    return 2 * slopes if name == "squared_euclidean" else slopes


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
    weights = edge_weights(slopes, distances, distance)
    pulls = ((slopes != 0) & exists).nonzero().squeeze(1)  # mostly a part of them; what does not pull costs nothing
    first, second, weights, shrinks = (each[pulls] for each in (anchors, candidates, weights, weights * distances))
    n = len(embeddings)
    if ref_embeddings is None:
        own = _gathered(
            embeddings,
            embeddings,
            torch.cat([first, second]),
            torch.cat([second, first]),
            weights.repeat(2),
            shrinks.repeat(2),
            distance,
        )
        return (own * poison).to(embeddings.dtype), embeddings.new_empty(0)
    both = (
        _gathered(embeddings, ref_embeddings, first, second, weights, shrinks, distance),
        _gathered(ref_embeddings, embeddings, second, first, weights, shrinks, distance),
    )
    own, references = ((each * poison).to(embeddings.dtype) for each in both)
    assert len(own) == n
    return own, references


def _gathered(
    targets: Tensor, partners: Tensor, target: Tensor, partner: Tensor, weights: Tensor, shrinks: Tensor, distance: int
) -> Tensor:
    """[N, D] float64 of rows ``targets``, from edges [E] to rows of ``partners``."""
    name = DISTANCES[distance]
    order = target.argsort(stable=True)
    own_rows, other_rows = survey(targets, distance), survey(partners, distance)
    total = targets.new_zeros(targets.shape, dtype=torch.float64)
    size = _PIECE_ON_CPU if targets.device.type == "cpu" else _PIECE
    for some in order.split(max(1, size // max(1, targets.shape[1]))):
        at, weight = target[some], weights[some, None]
        other = other_rows.values.index_select(0, partner[some]).double()
        if name == "inner_product":
            pull = other.mul_(-weight)
        else:
            own = own_rows.values.index_select(0, at).double()
            if own_rows.factors is not None and other_rows.factors is not None:
                own, other = own * own_rows.factors[at, None], other * other_rows.factors[partner[some], None]
            pull = own.sub_(other).mul_(weight)
        # Sorted by target, so that whatever adds in the order of edges adds in this one; float64 on a CPU is serial.
        total.index_put_((at,), pull, accumulate=True)
    if own_rows.factors is None:
        return total
    shrink = shrinks.new_zeros(len(targets)).index_put_((target[order],), shrinks[order], accumulate=True)
    units = own_rows.values.double() * own_rows.factors[:, None]
    units = torch.where(own_rows.finite[:, None], units, 0)
    return (total - shrink[:, None] * units) * own_rows.factors[:, None]
