"""The miners by the portable engine: chunks of anchors against all candidates, in memory O(N * D) and that of a chunk.

Each waits for the device for how large classes are, and several times in each chunk: for how many pairs are left to be
scored, and whether anything is left to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import MINERS, OTHERWISE
from fasttriplet.portable.checks import check_code, check_ranks
from fasttriplet.portable.pairs import Chunk, Class, Given, Pairs
from fasttriplet.portable.picks import Found, Pick, Picker, places_of, smallest
from fasttriplet.portable.rows import Frame, frame_of
from fasttriplet.portable.screen import NONE, Level, coarse_error, level_of
from fasttriplet.portable.windows import SortedKeys, UnsortedKeys

#: So many candidates an anchor on average cost more to score than finer keys to multiply.
_MANY = 16

#: Of rows so long that sums of coarse products say little, keys are fine from the start.
_COARSEST = 0.25

#: Thresholds of an anchor for which as many passes over its keys cost less than sorting them.
_FEW = 16

#: Keys beyond the k-th that are sorted with them, for what may be as near.
_MORE = 8


class Options(NamedTuple):
    """What a miner is told."""

    miner: str
    otherwise: str
    within_margin: bool
    margin: float
    k: int
    kth_only: bool
    skip_fraction: float

    @classmethod
    def of_codes(cls, miner: int, otherwise: int, *others: Any) -> Options:
        """As the operator takes them, checked."""
        check_code(miner, MINERS, "miner")
        check_code(otherwise, OTHERWISE, "otherwise")
        options = cls(MINERS[miner], OTHERWISE[otherwise], *others)
        check_ranks(options.k, options.skip_fraction)
        return options


class Batch:
    """What mining knows of a batch: its pairs, and its keys at either level."""

    def __init__(self, pairs: Pairs, distance: int) -> None:
        self.pairs, self.distance = pairs, distance
        self.frame: Frame = frame_of(pairs.rows, pairs.candidates)
        self.picker = Picker(pairs, distance)
        self._buffer: dict[bool, Tensor] = {}

    def _level(self, coarse: bool) -> Level:
        pairs = self.pairs
        return level_of(self.frame, pairs.rows, pairs.candidates, self.distance, coarse)

    @cached_property
    def coarse(self) -> Level:
        return self._level(True)

    @cached_property
    def fine(self) -> Level:
        return self._level(False)

    def keys(self, level: Level, chunk: Chunk) -> Tensor:
        """[C, M] lower bounds, in memory that the next chunk writes over."""
        coarse = level.candidates.matrix.dtype == torch.float32
        buffer = self._buffer.get(coarse)
        if buffer is None:  # the first chunk is the longest
            shape = chunk.anchors.stop - chunk.anchors.start, len(level.candidates.matrix)
            buffer = self._buffer[coarse] = level.candidates.matrix.new_empty(shape)
        return level.lower(chunk.anchors, buffer)


def farthest_positive(level: Level, chunk: Chunk, lower: Tensor, classes: Class) -> Found:
    """All that may be, of keys [C, M] before those of what is no negative are left out."""
    rows = torch.arange(chunk.anchors.start, chunk.anchors.stop, device=lower.device)[:, None]
    upper = lower.gather(1, classes.columns).double() + level.slack(rows, classes.columns)
    return smallest(torch.where(classes.positive, -upper, NONE), level, chunk.anchors, classes.columns)


def nearest_positive(level: Level, chunk: Chunk, lower: Tensor, classes: Class) -> Found:
    keys = torch.where(classes.positive, lower.gather(1, classes.columns), NONE)
    return smallest(keys, level, chunk.anchors, classes.columns)


Candidates = Callable[[Level, Chunk, Tensor, Class], Found]


def extremes(batch: Batch, positives: Candidates, sign: int) -> Iterator[tuple[Chunk, Pick, Pick]]:
    """Of each chunk a positive of every anchor, ``sign`` -1 the farthest of ``positives``, and its nearest negative.

    Coarse keys do for nearly every batch. Where they leave many candidates, finer ones take over to the end.
    """
    pairs = batch.pairs
    fine = coarse_error(pairs.rows.wide.shape[1]) > _COARSEST
    for chunk in pairs.chunks():
        classes = pairs.of_class(chunk)
        while True:
            level = batch.fine if fine else batch.coarse
            lower = batch.keys(level, chunk)
            to_positive = positives(level, chunk, lower, classes)
            pairs.leave_negatives(chunk, classes, lower, NONE)
            to_negative = smallest(lower, level, chunk.anchors)
            if fine or len(to_positive.rows) + len(to_negative.rows) <= 2 * _MANY * len(lower):
                break
            fine = True
        yield chunk, *batch.picker.best_of_both(chunk.anchors, to_positive, sign, to_negative)


def farthest_negative(batch: Batch, chunk: Chunk, lower: Tensor) -> Pick:
    """Of every anchor, of fine keys of negatives alone."""
    keys = torch.where(lower < NONE / 2, -batch.fine.upper(chunk.anchors, lower), NONE)
    return batch.picker.best(chunk.anchors, smallest(keys, batch.fine, chunk.anchors), -1)


def nearest_beyond(
    batch: Batch, chunk: Chunk, lower: Tensor, thresholds: Tensor, asked: Tensor, options: Options
) -> Pick:
    """[C * P] for each of ``thresholds`` [C, P] that is ``asked`` [C, P] for the nearest negative above it.

    Within the margin where that is an option; else the farthest, or none. Nothing is above NaN.
    """
    limits = thresholds.flatten()
    if len(limits) == 0:
        return Pick(limits.long(), limits)
    known = lower, batch.fine, batch.frame, chunk, batch.distance
    few = thresholds.shape[1] <= _FEW
    keys = UnsortedKeys(*known) if few else SortedKeys(*known, lower.shape[1])
    asking = keys.beyond(thresholds, lower.numel())
    if asking is None:  # nearly all are as near as each other: each is scored once, not for each threshold
        pick = _beyond_by_scores(batch, chunk, lower, thresholds)
    else:
        questions, found = asking
        scores = batch.picker.scores(chunk.anchors, found)
        some = (scores > limits[questions]).nonzero().squeeze(1)
        columns, scores, questions = found.columns[some], scores[some], questions[some]
        pick = batch.picker.pick(questions, thresholds.numel(), columns, scores, scores)
    if options.within_margin:
        inside = (pick.scores < limits + options.margin) | limits.isneginf()
        pick = Pick(torch.where(inside, pick.columns, -1), torch.where(inside, pick.scores, torch.nan))
    missing = (pick.columns < 0) & asked.flatten()
    if options.otherwise == "skip" or not missing.any():
        return pick
    rows = torch.arange(len(thresholds), device=limits.device).repeat_interleave(thresholds.shape[1])
    other = Pick(*(each[rows] for each in farthest_negative(batch, chunk, lower)))
    return Pick(*(torch.where(missing, *both) for both in zip(other, pick, strict=True)))


def _beyond_by_scores(batch: Batch, chunk: Chunk, lower: Tensor, thresholds: Tensor) -> Pick:
    """[C * P]: the nearest above each threshold, by the scores of all negatives of the chunk."""
    rows, columns = (lower < NONE / 2).nonzero().unbind(1)
    scores = torch.full_like(lower, torch.inf)
    scores[rows, columns] = batch.picker.scores(chunk.anchors, Found(rows, columns))
    by_index = batch.pairs.columns.argsort()  # equal scores stay in the order of their candidates
    scores, order = torch.sort(scores[:, by_index], stable=True)
    place = torch.searchsorted(scores, thresholds, right=True)
    there = (place < scores.shape[1]) & ~thresholds.isnan()
    place = place.clamp_max(scores.shape[1] - 1)
    found = scores.gather(1, place)
    there &= found < torch.inf
    chosen = by_index[order.gather(1, place)]
    return Pick(torch.where(there, chosen, -1).flatten(), torch.where(there, found, torch.nan).flatten())


class Mined(NamedTuple):
    """Triplets, of places and columns."""

    anchors: Tensor  # [T]
    positives: Pick
    negatives: Pick


def _range(chunk: Chunk, pairs: Pairs) -> Tensor:
    return torch.arange(chunk.anchors.start, chunk.anchors.stop, device=pairs.order.device)


def hardest(batch: Batch, options: Options) -> Iterator[Mined]:
    """Batch-hard, and easy positives with the nearest negative."""
    easy = options.miner == "easy_positive"
    which = (nearest_positive, 1) if easy else (farthest_positive, -1)
    for chunk, positives, negatives in extremes(batch, *which):
        yield Mined(_range(chunk, batch.pairs), positives, negatives)


def easy_semi_hard(batch: Batch, options: Options) -> Iterator[Mined]:
    """The nearest positive, and the nearest negative beyond it; every one is beyond a positive that is missing."""
    pairs = batch.pairs
    for chunk in pairs.chunks():
        lower = batch.keys(batch.fine, chunk)
        classes = pairs.of_class(chunk)
        positives = batch.picker.best(chunk.anchors, nearest_positive(batch.fine, chunk, lower, classes), 1)
        pairs.leave_negatives(chunk, classes, lower, NONE)
        thresholds = torch.where(positives.columns < 0, -torch.inf, positives.scores)[:, None]
        asked = torch.ones_like(thresholds, dtype=torch.bool)
        yield Mined(_range(chunk, pairs), positives, nearest_beyond(batch, chunk, lower, thresholds, asked, options))


def semi_hard(batch: Batch, options: Options) -> Iterator[Mined]:
    """Every positive pair, with the nearest negative beyond the positive."""
    pairs = batch.pairs
    for chunk in pairs.chunks():
        lower = batch.keys(batch.fine, chunk)
        classes = pairs.of_class(chunk)
        listed = positive_pairs(batch, chunk, classes)
        pairs.leave_negatives(chunk, classes, lower, NONE)
        picks = nearest_beyond(batch, chunk, lower, listed.in_slots(torch.nan), listed.taken, options)
        at = listed.rows * listed.slots + listed.slot
        yield Mined(
            listed.rows + chunk.anchors.start, Pick(listed.columns, listed.scores), Pick(*(e[at] for e in picks))
        )


class PositivePairs(NamedTuple):
    """All of a chunk, by anchor and then by candidate."""

    rows: Tensor  # [Q] of the chunk
    columns: Tensor  # [Q]
    scores: Tensor  # [Q]
    slot: Tensor  # [Q] its place among those of its anchor
    slots: int  # the most that an anchor has
    often: Tensor  # [C] int64, how many each anchor has

    @property
    def taken(self) -> Tensor:
        """[C, slots] bool: whether an anchor has so many."""
        return torch.arange(self.slots, device=self.rows.device) < self.often[:, None]

    def in_slots(self, fill: float) -> Tensor:
        """[C, slots] scores."""
        table = self.scores.new_full((len(self.often), self.slots), fill)
        table[self.rows, self.slot] = self.scores
        return table


def positive_pairs(batch: Batch, chunk: Chunk, classes: Class) -> PositivePairs:
    rows, places = classes.positive.nonzero().unbind(1)
    columns = classes.columns[rows, places]
    count = chunk.anchors.stop - chunk.anchors.start
    slot, often = places_of(rows, count)
    scores = batch.picker.scores(chunk.anchors, Found(rows, columns))
    return PositivePairs(rows, columns, scores, slot, int(often.amax()), often)


def k_hardest(batch: Batch, options: Options) -> Iterator[Mined]:
    """The farthest positive with each of k negatives, from a rank on, or with the last of those alone."""
    pairs, k = batch.pairs, options.k
    m = len(pairs.columns)
    for chunk in pairs.chunks():
        lower = batch.keys(batch.fine, chunk)
        classes = pairs.of_class(chunk)
        positives = batch.picker.best(chunk.anchors, farthest_positive(batch.fine, chunk, lower, classes), -1)
        pairs.leave_negatives(chunk, classes, lower, NONE)
        c = len(lower)
        first = lower.new_zeros((c, 1), dtype=torch.long)
        if options.skip_fraction:
            there = (lower < NONE / 2).sum(1)
            first = (options.skip_fraction * there.double()).floor().long()[:, None]
        # Behind as many as there are candidates there is none: the k-th of more is that.
        table = _ranked(batch, chunk, lower, first, min(k, m + 1), bool(options.skip_fraction))
        negatives = Pick(*(each[:, -1:] if options.kth_only else each[:, :m] for each in table))
        width = negatives.columns.shape[1]
        yield Mined(
            _range(chunk, pairs).repeat_interleave(width),
            Pick(*(each.repeat_interleave(width) for each in positives)),
            Pick(*(each.flatten() for each in negatives)),
        )


def _ranked(batch: Batch, chunk: Chunk, lower: Tensor, first: Tensor, count: int, amid: bool) -> Pick:
    """[C, count] the negatives of ranks from ``first`` [C, 1] on."""
    known, width = (lower, batch.fine, batch.frame, chunk, batch.distance), lower.shape[1]
    count_there = min(count, width)
    for some in (width if amid else count_there + _MORE, width):
        keys = SortedKeys(*known, some)
        begin, end = keys.ranks(first, count_there)
        if keys.reaches(end):
            break
    rows, found = keys.found(begin, end)
    scores, indices = batch.picker.scores(chunk.anchors, found), batch.pairs.columns[found.columns]
    order = indices.argsort(stable=True)
    order = order[scores[order].argsort(stable=True)]
    order = order[(~scores.isnan()).long()[order].argsort(stable=True)]  # a NaN is the nearest of all
    order = order[rows[order].argsort(stable=True)]
    rows, columns, scores = rows[order], found.columns[order], scores[order]
    at = begin[rows, 0] + places_of(rows, len(lower))[0] - first[rows, 0]
    table = Pick(rows.new_full((len(lower), count), -1), scores.new_full((len(lower), count), torch.nan))
    inside = ((at >= 0) & (at < count)).nonzero().squeeze(1)
    for filled, values in zip(table, (columns, scores), strict=True):
        filled[rows[inside], at[inside]] = values[inside]
    return table


_MINERS: dict[str, Callable[[Batch, Options], Iterator[Mined]]] = {
    "batch_hard": hardest,
    "semi_hard": semi_hard,
    "easy_positive": hardest,
    "easy_positive_semi_hard": easy_semi_hard,
    "k_hardest": k_hardest,
}


def mine_triplets(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator: distances [2, T] and triplets [3, T], by anchor."""
    given, others = Given.checked(arguments)
    options, pairs = Options.of_codes(*others), Pairs(given)
    if len(pairs) == 0:
        return pairs.rows.wide.new_empty((2, 0)), pairs.order.new_empty((3, 0))
    found = list(_MINERS[options.miner](Batch(pairs, given.distance), options))
    anchors = torch.cat([pairs.order[mined.anchors] for mined in found])
    picks = [[mined.positives for mined in found], [mined.negatives for mined in found]]
    order = anchors.argsort(stable=True)
    indices = [candidates_of(pairs, torch.cat([pick.columns for pick in side])) for side in picks]
    distances = torch.stack([torch.cat([pick.scores for pick in side]) for side in picks])
    distances = torch.where(pairs.finite, distances, torch.nan)
    return distances[:, order], torch.stack([anchors, *indices])[:, order]


def candidates_of(pairs: Pairs, columns: Tensor) -> Tensor:
    """Indices of candidates by their columns, -1 where there is none."""
    padded = torch.nn.functional.pad(pairs.columns, (0, 1), value=-1)
    return padded[columns]  # -1 is the last
