"""What is picked of a chunk's keys: for each anchor the candidate with the smallest or the largest score, exactly.

Keys leave a few candidates, and those are scored. Ties go to the lowest index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.portable.exact import scores_of
from fasttriplet.portable.pairs import Pairs
from fasttriplet.portable.screen import LINES, NONE, Level

#: Beyond it a bound from a line of keys is cheaper than one from all of them.
_LONG = 256


class Pick(NamedTuple):
    """Of each of Q questions, which mostly are the anchors of a chunk."""

    columns: Tensor  # [Q] int64, -1 where there is none
    scores: Tensor  # [Q] float64, NaN where there is none


class Found(NamedTuple):
    """Pairs that may be the answer."""

    rows: Tensor  # [K] int64, of the chunk, ascending
    columns: Tensor  # [K] int64


def smallest(lower: Tensor, level: Level, anchors: slice, columns: Tensor | None = None) -> Found:
    """All that may have the smallest key of their row of ``lower`` [C, W], NONE where there is none.

    A row's bound is the upper one of the pair with the smallest lower one. Columns count from 0, unless they are given.
    """
    w = lower.shape[1]
    if w == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=lower.device)
        return Found(nothing, nothing)
    if w < _LONG or w % LINES:
        best = lower.argmin(1, keepdim=True)
        hits = lower <= _bound(lower, best, level, anchors, columns)
        rows, places = hits.nonzero().unbind(1)
        return Found(rows, places if columns is None else columns[rows, places])
    lines = least_of_lines(lower)
    bound = _bound(lower, members_of(lines.argmin(1, keepdim=True), w), level, anchors, columns)
    found = within(lower, lines, bound)
    return found if columns is None else Found(found.rows, columns[found.rows, found.columns])


def places_of(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[K] of ``rows`` [K], ascending and below ``count``, the how-many-th each is of its row from 0 on; and [count]
    how often each row stands there."""
    often = torch.bincount(rows, minlength=count)
    return torch.arange(len(rows), device=rows.device) - (often.cumsum(0) - often)[rows], often


def least_of_lines(keys: Tensor) -> Tensor:
    """[C, W / LINES]: the least of what stands at one place in each of LINES lines of a row of ``keys`` [C, W]."""
    return keys.view(len(keys), LINES, -1).amin(1)


def members_of(places: Tensor, w: int) -> Tensor:
    """[K, LINES] columns at one of ``places`` [K, 1] in each line."""
    return places + torch.arange(0, w, w // LINES, device=places.device)


def within(keys: Tensor, lines: Tensor, bound: Tensor) -> Found:
    """All ``keys`` [C, W] not above ``bound`` [C, 1], by the least of their ``lines``. A wait, for their number."""
    row, line = (lines <= bound).nonzero().unbind(1)
    members = members_of(line[:, None], keys.shape[1])
    at, which = (keys[row[:, None], members] <= bound[row]).nonzero().unbind(1)
    return Found(row[at], members[at, which])


def _bound(lower: Tensor, places: Tensor, level: Level, anchors: slice, columns: Tensor | None) -> Tensor:
    """[C, 1] of the dtype of ``lower``: the smallest upper bound at ``places`` [C, R], -inf where all are none."""
    keys = lower.gather(1, places)
    rows = torch.arange(anchors.start, anchors.stop, device=lower.device)[:, None]
    upper = keys.double() + level.slack(rows, places if columns is None else columns.gather(1, places))
    least = torch.where(keys < NONE / 2, upper, torch.inf).amin(1, keepdim=True).to(lower.dtype)
    least = torch.nextafter(least, torch.full_like(least, torch.inf))  # it may have been rounded down
    return torch.where(least < NONE / 2, least, -torch.inf)


class Picker:
    """Scores pairs of a batch and chooses among them."""

    def __init__(self, pairs: Pairs, distance: int) -> None:
        self.pairs, self.distance = pairs, distance

    def scores(self, anchors: slice, found: Found) -> Tensor:
        """[K] float64."""
        rows, candidates = self.pairs.rows, self.pairs.candidates
        return scores_of(rows, candidates, found.rows + anchors.start, found.columns, self.distance)

    def best(self, anchors: slice, found: Found, sign: int) -> Pick:
        """Of each anchor of the chunk the pair with the smallest score, or of ``sign`` -1 the largest."""
        scores = self.scores(anchors, found)
        return self.pick(found.rows, anchors.stop - anchors.start, found.columns, scores, scores * sign)

    def best_of_both(self, anchors: slice, positives: Found, sign: int, negatives: Found) -> tuple[Pick, Pick]:
        """Likewise of positives, by ``sign``, and of negatives, the nearest, in half as many steps."""
        count = anchors.stop - anchors.start
        both = Found(*(torch.cat(each) for each in zip(positives, negatives, strict=True)))
        scores = self.scores(anchors, both)
        keys, questions = scores.clone(), both.rows.clone()
        keys[: len(positives.rows)] *= sign
        questions[len(positives.rows) :] += count
        columns, values = self.pick(questions, 2 * count, both.columns, scores, keys)
        return Pick(columns[:count], values[:count]), Pick(columns[count:], values[count:])

    def pick(self, questions: Tensor, count: int, columns: Tensor, scores: Tensor, keys: Tensor) -> Pick:
        """Of each of ``count`` questions the best of its pairs [K].

        A NaN goes first, then the smallest of ``keys``, then the lowest index.
        """
        k, m = len(questions), len(self.pairs.columns)
        unknown = scores.isnan()
        keys = torch.where(unknown, -torch.inf, keys)
        least = keys.new_full((count,), torch.inf).scatter_reduce_(0, questions, keys, "amin")
        # Indices of candidates, behind all of them where the score is a number.
        indices = torch.where(unknown, 0, m).add_(self.pairs.columns[columns])
        indices = torch.where(keys == least[questions], indices, 3 * m)
        lowest = indices.new_full((count,), 3 * m).scatter_reduce_(0, questions, indices, "amin")
        places = torch.where(indices == lowest[questions], torch.arange(k, device=questions.device), k)
        place = places.new_full((count,), k).scatter_reduce_(0, questions, places, "amin")
        nothing = torch.nn.functional.pad  # what stands at k
        return Pick(nothing(columns, (0, 1), value=-1)[place], nothing(scores, (0, 1), value=torch.nan)[place])
