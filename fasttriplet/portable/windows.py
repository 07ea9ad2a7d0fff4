"""Questions amid the keys of a row: the nearest negatives above a threshold, or from a rank on. A row is sorted once.

Bounds are those of :mod:`fasttriplet.portable.screen` at its fine level, with the largest slack of a row for all of it,
so that what may be the answer is a window of the sorted keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.pairs import Chunk
from fasttriplet.portable.picks import Found
from fasttriplet.portable.rows import Frame
from fasttriplet.portable.screen import NONE, Level

#: Of the terms that a threshold's key is made of: its roundings.
_ROUNDINGS = 2.0**-45


class SortedKeys:
    """Rows of keys [C, M] in ascending order, or as many of their first ones as were asked for."""

    def __init__(
        self, lower: Tensor, level: Level, frame: Frame, chunk: Chunk, distance: int, first: int | None
    ) -> None:
        self._level, self._frame, self._anchors, self._distance = level, frame, chunk.anchors, distance
        m = lower.shape[1]
        self.whole = first is None or first >= m
        keys = lower.sort(1) if first is None or first >= m else lower.topk(first, 1, largest=False)
        self._keys, self._columns = keys.values.contiguous(), keys.indices
        anchors = level.anchors
        widest = torch.nn.functional.pad(level.candidates.reach, (1, 0)).amax()
        own = torch.nn.functional.pad(level.candidates.own, (1, 0)).amax()
        #: [C, 1] how far an upper bound is above the lower one at most
        self._slack = 2 * (anchors.reach[chunk.anchors] * widest + own + anchors.rounding[chunk.anchors])[:, None]
        limit = self._keys.new_full((len(lower), 1), NONE / 2)
        self._count = torch.searchsorted(self._keys, limit)  # [C, 1] keys of candidates

    def beyond(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Windows [C, P] that hold the candidate with the least score above ``thresholds`` [C, P], and begin above
        what is surely not; NaN asks for nothing, minus infinity for the least of all."""
        keys = self._key_of(thresholds)
        terms = self._level.anchors.term[self._anchors, None]
        exact = keys - terms
        rounding = torch.where(exact.isfinite(), (keys.abs() + terms.abs()) * _ROUNDINGS, 0)
        begin = torch.searchsorted(self._keys, exact - rounding - self._slack, right=True)
        sure = torch.searchsorted(self._keys, exact + rounding, right=True)
        end = self._end(sure)
        return torch.where(thresholds.isnan(), end, begin).minimum(end), end

    def ranks(self, first: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Windows [C, 1] that hold the candidates from rank ``first`` [C, 1] on, ``count`` of them.

        All before a window rank before its candidates.
        """
        at = first.clamp_max(self._keys.shape[1] - 1) if self._keys.shape[1] else first
        begin = torch.searchsorted(self._keys, self._keys.gather(1, at) - self._slack)
        return torch.where(first < self._count, begin, self._count).minimum(first), self._end(first + (count - 1))

    def reaches(self, end: Tensor) -> Tensor:
        """[] bool: whether windows end before what was left out does."""
        return (end < self._keys.shape[1]).all()

    def found(self, begin: Tensor, end: Tensor) -> tuple[Tensor, Found]:
        """The windows' questions [K], counted row by row, and their pairs. A wait, for how many there are."""
        lengths = (end - begin).clamp_min(0).flatten()
        questions = torch.repeat_interleave(torch.arange(lengths.numel(), device=lengths.device), lengths)
        offsets = lengths.cumsum(0) - lengths
        places = begin.flatten()[questions] + torch.arange(len(questions), device=lengths.device) - offsets[questions]
        rows = torch.div(questions, begin.shape[1], rounding_mode="floor")
        return questions, Found(rows, self._columns[rows, places])

    def _end(self, sure: Tensor) -> Tensor:
        """Behind all that may be as near as the key at ``sure``; behind all where there is no such key."""
        width = self._keys.shape[1]
        if width == 0:
            return sure
        keys = self._keys.gather(1, sure.clamp_max(width - 1)) + self._slack
        end = torch.searchsorted(self._keys, keys, right=True).minimum(self._count)
        return torch.where(sure < self._count, end, self._count)

    def _key_of(self, scores: Tensor) -> Tensor:
        """The whole keys of scores, in the units of prepared rows (``key_of_score`` in core/bound.h)."""
        scale, name = self._frame.scale, DISTANCES[self._distance]
        if name == "euclidean":
            keys = (scores * scale).square() / 2 * scores.sign()
        elif name == "squared_euclidean":
            keys = scores * scale * scale / 2
        else:
            keys = scores * scale * scale
            if name == "inner_product":
                keys = keys + self._frame.centre_norm().square()
        return torch.where(keys.isnan() & ~scores.isnan(), 0, keys)
