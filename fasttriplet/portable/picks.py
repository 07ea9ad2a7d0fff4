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
_LONG = 1024


class Pick(NamedTuple):
    """Of each of Q questions, which mostly are the anchors of a chunk."""

    columns: Tensor  # [Q] int64, -1 where there is none
    scores: Tensor  # [Q] float64, NaN where there is none


class Found(NamedTuple):
    """Pairs that may be the answer."""

    rows: Tensor  # [K] int64, of the chunk, ascending
    columns: Tensor  # [K] int64


def smallest(lower: Tensor, level: Level, anchors: slice, first_column: int) -> Found:
    """All that may have the smallest key of their row of ``lower`` [C, W], whose columns count from ``first_column``.

    A row's bound is the upper one of the pair with the smallest lower one.
    """
    c, w = lower.shape
    rows = torch.arange(c, device=lower.device)
    if w < _LONG or w % LINES:
        best = lower.argmin(1, keepdim=True) if w else rows.new_zeros((c, 0))
        hits = lower <= _bound(lower.gather(1, best), best + first_column, level, anchors)
        found = hits.nonzero()
        return Found(found[:, 0], found[:, 1] + first_column)
    lines = lower.view(c, LINES, w // LINES)
    least = lines.amin(1)  # [C, W / LINES]
    best = _members(least.argmin(1, keepdim=True), w)  # [C, LINES]
    bound = _bound(lower.gather(1, best), best + first_column, level, anchors)
    hits = (least <= bound).nonzero()
    row, members = hits[:, 0], _members(hits[:, 1:], w)
    within = (lower[row[:, None], members] <= bound[row]).nonzero()
    return Found(row[within[:, 0]], members[within[:, 0], within[:, 1]] + first_column)


def _members(places: Tensor, w: int) -> Tensor:
    """[K, LINES] columns at one of ``places`` [K, 1] in each line."""
    return places + torch.arange(0, w, w // LINES, device=places.device)


def _bound(lower: Tensor, columns: Tensor, level: Level, anchors: slice) -> Tensor:
    """[C, 1] of the dtype of ``lower`` [C, R]: the smallest upper bound of the given pairs, -inf where all are none."""
    rows = torch.arange(anchors.start, anchors.stop, device=lower.device)[:, None]
    upper = lower.double() + level.slack(rows, columns)
    upper = torch.where(lower < NONE / 2, upper, torch.inf)
    if upper.shape[1] == 0:
        return lower.new_full((len(lower), 1), -torch.inf)
    least = upper.amin(1, keepdim=True).to(lower.dtype)
    least = torch.nextafter(least, torch.full_like(least, torch.inf))  # it may have been rounded down
    return torch.where(least < NONE / 2, least, -torch.inf)


class Picker:
    """Scores pairs of a batch and chooses among them."""

    def __init__(self, pairs: Pairs, distance: int) -> None:
        self.pairs, self.distance = pairs, distance

    def scores(self, anchors: slice, found: Found) -> Tensor:
        """[K] float64."""
        rows, candidates = self.pairs.rows, self.pairs.candidates
        first = found.rows + anchors.start
        return scores_of(
            rows.values, candidates.values, first, found.columns, self.distance, rows.factors, candidates.factors
        )

    def best(self, anchors: slice, found: Found, sign: int) -> Pick:
        """Of each anchor of the chunk the pair with the smallest score, or of ``sign`` -1 the largest."""
        scores = self.scores(anchors, found)
        return self.pick(found.rows, anchors.stop - anchors.start, found.columns, scores, sign)

    def pick(self, questions: Tensor, count: int, columns: Tensor, scores: Tensor, sign: int) -> Pick:
        """Of each of ``count`` questions the best of its pairs [K]: NaN first, then the least, then the lowest index."""
        k, m = len(questions), len(self.pairs.columns)
        unknown = scores.isnan()
        keys = torch.where(unknown, -torch.inf, scores * sign)
        least = keys.new_full((count,), torch.inf).scatter_reduce_(0, questions, keys, "amin")
        # Indices of candidates, behind all of them where the score is a number.
        indices = self.pairs.columns[columns] + torch.where(unknown, 0, m)
        indices = torch.where(keys == least[questions], indices, 3 * m)
        lowest = indices.new_full((count,), 3 * m).scatter_reduce_(0, questions, indices, "amin")
        places = torch.where(indices == lowest[questions], torch.arange(k, device=questions.device), k)
        place = places.new_full((count,), k).scatter_reduce_(0, questions, places, "amin")
        nothing = torch.nn.functional.pad  # what stands at k
        return Pick(nothing(columns, (0, 1), value=-1)[place], nothing(scores, (0, 1), value=torch.nan)[place])
