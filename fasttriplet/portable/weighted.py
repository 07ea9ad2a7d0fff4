"""Softly weighted distances by the portable engine; the formulas are in ``csrc/cpu/dense/weighted.h``."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.portable.checks import check_anchor_values
from fasttriplet.portable.pairs import Given
from fasttriplet.portable.walk import Gradients, Walk, placed

#: Lines of what :func:`weighted_distances` returns.
VALUES = 8


class _Side(NamedTuple):
    """Of the softly weighted distances of some anchors to their positives, or to their negatives."""

    pivot: Tensor  # [C]
    log_total: Tensor  # [C]
    above_pivot: Tensor  # [C]

    @property
    def mean(self) -> Tensor:
        return self.pivot + self.above_pivot


def _soft(distances: Tensor, absent: Tensor, sign: int) -> _Side:
    """Weights are softmax(sign d); NaN where an anchor has none. What is absent is at distance ``-sign`` infinity."""
    if distances.shape[1] == 0:
        nothing = distances.new_full((len(distances),), torch.nan)
        return _Side(nothing, nothing, nothing)
    none = absent.all(1)
    pivot = distances.amax(1) if sign > 0 else distances.amin(1)
    above = distances - pivot[:, None]  # NaN where all are absent
    weights = (above * sign).exp_()
    total = weights.sum(1)
    shift = weights.mul_(above.masked_fill_(absent, 0)).sum(1) / total
    # With a distance beyond float64's range the mean is infinite: the loss is NaN, as it is not without a pair.
    beyond = shift.isnan() & ~none
    pivot = torch.where(none, torch.nan, torch.where(beyond, torch.inf, pivot))
    return _Side(pivot, total.log(), torch.where(beyond, 0, shift))


def weighted_distances(*arguments: Any) -> Tensor:
    """The operator: values [8, N], of the lines of ``csrc/cpu/dense/weighted.h``."""
    given, _ = Given.checked(arguments)
    walk = Walk(given)
    pairs = walk.pairs
    values = pairs.rows.wide.new_full((VALUES, len(pairs)), torch.nan)
    for some in walk.chunks():
        near = _soft(some.positives.in_slots(-torch.inf), ~some.positives.taken, 1)
        apart = _soft(some.distances, some.absent, -1)
        lines = [(a, b) for a, b in zip((near.mean, *near), (apart.mean, *apart), strict=True)]
        values[:, some.chunk.anchors] = torch.stack([each for line in lines for each in line])
    return placed(torch.where(pairs.finite, values, torch.nan).T, pairs.order).T.contiguous()


def weighted_distances_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator: gradients, ``grad`` [2, N] being that of the distances."""
    given, (values,) = Given.checked(arguments)
    check_anchor_values(grad, "grad", 2, given.embeddings)
    check_anchor_values(values, "values", VALUES, given.embeddings)
    walk = Walk(given)
    pairs, gradients = walk.pairs, Gradients(walk)
    upstream, values = grad[:, pairs.order], values[:, pairs.order]
    for some in walk.chunks():
        at, listed = some.chunk.anchors, some.positives
        near, apart = (_Side(*values[2 + side :: 2, at]) for side in (0, 1))
        above = listed.scores - near.pivot[listed.rows]
        weights = (above - near.log_total[listed.rows]).exp()
        of_positives = weights * (1 + above - near.above_pivot[listed.rows]) * upstream[0, at][listed.rows]
        above = some.distances - apart.pivot[:, None]
        weights = above.neg().sub_(apart.log_total[:, None]).exp_().mul_(upstream[1, at, None])
        of_negatives = above.neg_().add_(1 + apart.above_pivot[:, None]).mul_(weights)
        still = upstream[:, at] == 0  # where distances may be infinite
        of_positives.masked_fill_(still[0][listed.rows], 0)
        gradients.add(some, of_negatives.masked_fill_(some.absent | still[1][:, None], 0), of_positives)
    unknown = (upstream.isnan() & ~values[:2].isnan()).any()  # of a mean that there is
    return gradients.results(torch.where(pairs.finite & ~unknown, 1.0, torch.nan))
