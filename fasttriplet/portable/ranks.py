"""What the ranking of every query says, without a ranking: the rank of a positive is one more than what is before it.

The positives of a query are scored. Their scores are thresholds of keys, among which fine keys place nearly every
negative; those that may be on either side of one are scored, too. Each chunk waits for the device for how many
positives and how many of those there are. Columns are named in :mod:`fasttriplet.retrieval.ranks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.portable.checks import check_count
from fasttriplet.portable.miners import Batch, positive_pairs
from fasttriplet.portable.order import Table
from fasttriplet.portable.pairs import Chunk, Class, Given, Pairs
from fasttriplet.portable.picks import Found, places_of
from fasttriplet.portable.screen import NONE
from fasttriplet.portable.windows import UnsortedKeys

#: Of the result, beside two for each rank asked about.
COLUMNS = 7


class _Ranked(NamedTuple):
    """The positives of some queries by rank."""

    chunk: Chunk
    ranks: Tensor  # [C, P] float64, from 1 on and ascending, infinite where there are fewer
    positives: Tensor  # [C] int64
    candidates: Tensor  # [C] int64


def retrieval_ranks(*arguments: Any) -> Tensor:
    """The operator: [N, COLUMNS + 2 A]."""
    given, (at, count_missing) = Given.checked(arguments)
    for k in at:
        check_count(k, "at")
    pairs = Pairs(given)
    result = pairs.rows.wide.new_zeros((len(pairs), COLUMNS + 2 * len(at)))
    everyone = Pairs(_all_finite(given)) if count_missing and not pairs.finite else None
    for some in _ranked(Batch(pairs, given.distance)):
        relevant = some.positives if everyone is None else everyone.of_class(some.chunk).positive.sum(1)
        result[pairs.order[some.chunk.anchors]] = _summary(some, relevant, at)
    return result


def _all_finite(given: Given) -> Given:
    """The same batch of rows without an entry, of which none is missing."""
    rows = (None if each is None else each[:, :0] for each in (given.embeddings, given.ref_embeddings))
    embeddings, ref_embeddings = rows
    assert embeddings is not None
    return given._replace(embeddings=embeddings, ref_embeddings=ref_embeddings)


def _ranked(batch: Batch) -> Iterator[_Ranked]:
    pairs = batch.pairs
    for chunk in pairs.chunks():
        lower = batch.keys(batch.fine, chunk)
        classes = pairs.of_class(chunk)
        positives, often = _positives(batch, chunk, classes)
        pairs.leave_negatives(chunk, classes, lower, NONE)
        negatives = (lower < NONE / 2).sum(1)
        ranks = (_places(batch, chunk, lower, positives) + 1).double()
        yield _Ranked(chunk, torch.where(positives.taken, ranks, torch.inf), often, often + negatives)


def _positives(batch: Batch, chunk: Chunk, classes: Class) -> tuple[Table, Tensor]:
    """In order, and how many there are of each query [C]."""
    listed = positive_pairs(batch, chunk, classes)
    shape = len(listed.often), listed.slots
    indices = batch.pairs.columns[listed.columns]
    return Table.of_pairs(listed.rows, listed.slot, shape, listed.scores, indices).sorted(), listed.often


def _places(batch: Batch, chunk: Chunk, lower: Tensor, positives: Table) -> Tensor:
    """[C, P] how many candidates are before each positive; something where there is none."""
    c, p = positives.scores.shape
    if p == 0:
        return positives.indices
    keys = UnsortedKeys(lower, batch.fine, batch.frame, chunk, batch.distance)
    begin, sure = keys.window_of(positives.scores)
    # Ascending as the scores are, in spite of roundings. Of keys that say nothing all are between.
    begin = torch.where(batch.frame.scale == 0, -torch.inf, begin.flip(1).cummin(1).values.flip(1))
    sure = torch.where(batch.frame.scale == 0, torch.inf, sure.cummax(1).values)
    # Behind so many positives a negative surely is, and it is before the next, unless that is where it may be.
    behind, none = torch.searchsorted(sure, lower), lower >= NONE / 2
    unsure = (torch.nn.functional.pad(begin, (0, 1), value=torch.inf).gather(1, behind) <= lower) & ~none
    numbers = behind.masked_fill_(none | unsure, p) + (p + 1) * torch.arange(c, device=lower.device)[:, None]
    often = torch.bincount(numbers.flatten(), minlength=c * (p + 1)).view(c, p + 1)
    before = often[:, :p].cumsum(1)

    found = Found(*unsure.nonzero().unbind(1))
    slots, counts = places_of(found.rows, c)
    shape = c, int(counts.amax())
    scores, indices = batch.picker.scores(chunk.anchors, found), batch.pairs.columns[found.columns]
    order = positives.beside(Table.of_pairs(found.rows, slots, shape, scores, indices)).order()
    at = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return before + torch.empty_like(order).scatter_(1, order, at)[:, :p]


def _summary(some: _Ranked, relevant: Tensor, at: Sequence[int]) -> Tensor:
    """[C, COLUMNS + 2 A]; ``relevant`` [C] is how many positives count."""
    ranks = torch.nn.functional.pad(some.ranks, (0, 1), value=torch.inf)
    found = torch.arange(1, ranks.shape[1] + 1, dtype=ranks.dtype, device=ranks.device)
    gains = torch.nn.functional.pad(_running_sums(found / ranks), (1, 0))
    last = some.positives[:, None]

    def up_to(limit: Tensor) -> Tensor:
        """[C, A] how many positives have ranks up to ``limit`` [C, A]."""
        return torch.searchsorted(ranks, limit.to(ranks.dtype).contiguous(), right=True)

    limits = ranks.new_tensor(list(at)).expand(len(ranks), len(at))
    at_r, asked = up_to(relevant[:, None]), up_to(limits)
    first = ranks[:, :1]
    farthest = torch.nn.functional.pad(ranks, (1, 0)).gather(1, last)  # behind a rank 0, of a query without any
    columns = (
        relevant[:, None],
        torch.where(last > 0, first, 0),
        farthest,
        gains.gather(1, last),
        gains.gather(1, at_r),
        at_r,
        some.candidates[:, None],
        asked,
        gains.gather(1, asked),
    )
    return torch.cat([column.to(ranks.dtype) for column in columns], 1)


def _running_sums(values: Tensor) -> Tensor:
    """[C, P]. On a CPU one term after the other, as the kernels add them; elsewhere deterministic mode refuses that."""
    if values.device.type == "cpu":
        return values.cumsum(1)
    step = 1
    while step < values.shape[1]:
        values = values + torch.nn.functional.pad(values[:, :-step], (step, 0))
        step *= 2
    return values
