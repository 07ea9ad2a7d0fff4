"""k-reciprocal encoding of rows, from lists of neighbours: sparse weights of whom each row has in its neighbourhood.

Each of T rows has a list of its nearest, with itself first. Those of the k1 nearest in whose k1 nearest it is too are
its k-reciprocal neighbours R; those of a member's half as long list join them where more than two thirds of that are in
R. The weight of each is exp(-d), d being the squared distance over that of the row farthest from it, and they sum to 1.
Then the mean over the k2 nearest rows takes the place of each row's weights. Nothing of size T x T is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.engines import operator
from fasttriplet.retrieval.pairs import pair_scores
from fasttriplet.retrieval.sparse import SparseRows, joined, offsets_of, summed

#: Entries of what is made of some rows at a time, 8 bytes each.
_ENTRIES = 2**21


class Encoded(NamedTuple):
    """Of each of T rows."""

    weights: SparseRows  # [T, T]
    farthest: Tensor  # [T] squared distance of the row farthest from it, 0 where all coincide


def encoded(rows: Tensor, distance: int, k1: int, k2: int) -> Encoded:
    """Of rows [T, D], finite, by the code of a distance that is a square."""
    distances, near = _lists(rows, distance, max(k1, k2 - 1))
    labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    farthest = operator("mine_batch_hard", rows.device)(rows, labels, distance)[0][0].nan_to_num(0.0)  # of one class
    whole, half = near[:, : k1 + 1], near[:, : round(k1 / 2) + 1]  # a half goes to the even one, as NumPy's
    of_whole, of_half = _reciprocal(whole), _reciprocal(half)
    step = max(1, _ENTRIES // (whole.shape[1] * (half.shape[1] + 1)))
    parts = []
    for some in torch.arange(len(rows), device=rows.device).split(step):
        members, own = _members(whole, half, of_whole, of_half, some)
        parts.append(_weights(rows, distance, members, own, distances, whole, farthest, some))
    weights = joined(parts) if parts else summed(labels, labels, distances[:, 0], (0, 0))
    return Encoded(weights if k2 == 1 else _means(weights, near[:, :k2]), farthest)


def split(costs: Tensor) -> Iterator[tuple[int, int]]:
    """First and last of runs of what has these ``costs`` [N] in entries, that a run may be made at a time."""
    blocks = (costs.cumsum(0) - costs) // _ENTRIES
    start = 0
    for size in blocks.unique_consecutive(return_counts=True)[1].tolist():
        yield start, start + size
        start += size


def _lists(rows: Tensor, distance: int, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices [T, count + 1] of each row itself and its nearest others, NaN and -1 where there are fewer.

    A row comes before its duplicates, which the published implementations leave to the sort.
    """
    count = max(1, min(count, len(rows) - 1))
    distances, indices = operator("nearest", rows.device)(rows, None, [], distance, count)
    own = torch.arange(len(rows), device=rows.device)
    return torch.nn.functional.pad(distances, (1, 0)), torch.cat([own[:, None], indices], 1)


def _reciprocal(near: Tensor) -> Tensor:
    """[T, K] bool: which members of the lists [T, K] have the row in theirs."""
    own = torch.arange(len(near), device=near.device)
    step = max(1, _ENTRIES // near.shape[1] ** 2)
    found = [(near[near[some]] == some[:, None, None]).any(2) for some in own.split(step)]
    return torch.cat(found) & (near >= 0) if found else near >= 0


def _members(whole: Tensor, half: Tensor, of_whole: Tensor, of_half: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """The expanded neighbourhoods [t, W] of ``some`` rows, ascending, and which entries are meant, each row once."""
    none = len(whole)
    own, theirs = whole[some], half[whole[some]]
    reciprocal = of_whole[some]
    own = own.masked_fill(~reciprocal, none).sort(1).values
    meant = of_half[whole[some]] & reciprocal[:, :, None]
    inside = _is_in(theirs.flatten(1), own)[0].view_as(meant) & meant
    joins = 3 * inside.sum(2) > 2 * meant.sum(2)
    theirs = theirs.masked_fill(~(meant & joins[:, :, None]), none)
    members = torch.cat([own, theirs.flatten(1)], 1).sort(1).values
    fresh = members < none
    fresh[:, 1:] &= members[:, 1:] != members[:, :-1]
    return members, fresh


def _is_in(values: Tensor, ascending: Tensor) -> tuple[Tensor, Tensor]:
    """Which of values [t, W] are among those of the same row of [t, K], and where there."""
    places = torch.searchsorted(ascending, values).clamp_max_(ascending.shape[1] - 1)
    return ascending.gather(1, places) == values, places


def _weights(
    rows: Tensor,
    distance: int,
    members: Tensor,
    meant: Tensor,
    distances: Tensor,
    near: Tensor,
    farthest: Tensor,
    some: Tensor,
) -> SparseRows:
    """Of ``some`` rows; the distances of most members are in the rows' own lists."""
    known, order = near[some].sort(1)
    found, places = _is_in(members, known)
    apart = distances[some].gather(1, order.gather(1, places))
    at, place = (meant & ~found).nonzero(as_tuple=True)
    apart[at, place] = pair_scores(rows, rows, some[at], members[at, place], distance)
    weights = torch.exp(-over(apart, farthest[some][:, None])).masked_fill(~meant, 0)
    weights /= weights.sum(1, keepdim=True)
    return SparseRows(offsets_of(meant.sum(1)), members[meant], weights[meant])


def over(scores: Tensor, farthest: Tensor) -> Tensor:
    """Scores as shares of the farthest row's; 0 where all rows coincide."""
    return torch.where(farthest > 0, scores / farthest, 0)


def _means(weights: SparseRows, near: Tensor) -> SparseRows:
    """Of each row the mean over the rows of its list [T, k2]."""
    total, parts = len(near), []
    sizes = torch.where(near >= 0, weights.sizes()[near], 0).sum(1)
    for first, last in split(sizes):
        lists = near[first:last]
        row, place = (lists >= 0).nonzero(as_tuple=True)
        which, columns, values = weights.of(lists[row, place])
        row = row[which]
        mean = values / (lists >= 0).sum(1)[row]
        parts.append(summed(row, columns, mean, (last - first, total)))
    return joined(parts) if parts else weights
