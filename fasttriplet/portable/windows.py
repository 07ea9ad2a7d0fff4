"""Questions amid the keys of a row: the nearest negatives above a threshold, or from a rank on.

A row is sorted once, or passed over for each of a few thresholds. Bounds are those of
:mod:`fasttriplet.portable.screen` at its fine level, with the largest slack of a row for all of it, so that what may be
the answer is a window of keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.pairs import Chunk
from fasttriplet.portable.picks import Found, least_of_lines, members_of, within
from fasttriplet.portable.rows import Frame
from fasttriplet.portable.screen import NONE, Level

#: Of the terms that a threshold's key is made of: its roundings.
_ROUNDINGS = 2.0**-45


class _Keys:
    """What both ways of asking know of the keys [C, M] of a chunk."""

    def __init__(self, level: Level, frame: Frame, chunk: Chunk, distance: int) -> None:
        self._level, self._frame, self._chunk, self._distance = level, frame, chunk, distance
        #: [C, 1] how far an upper bound is above the lower one at most
        self.slack = level.widest(chunk.anchors)

    def window_of(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [C, P]: up to the first a score is not above its threshold, beyond the second it surely is."""
        scale, name = self._frame.scale, DISTANCES[self._distance]
        if name == "euclidean":
            keys = (thresholds * scale).square() / 2 * thresholds.sign()
        elif name == "squared_euclidean":
            keys = thresholds * scale * scale / 2
        else:
            keys = thresholds * scale * scale
            if name == "inner_product":
                keys = keys + self._frame.centre_norm().square()
        keys = torch.where(keys.isnan() & ~thresholds.isnan(), 0, keys)
        terms = self._level.anchors.term[self._chunk.anchors, None]
        exact = keys - terms
        share = _ROUNDINGS + (self._level.depth + 8) * 2.0**-50  # of the threshold's own key, and of scores
        rounding = torch.where(exact.isfinite(), (keys.abs() + terms.abs()) * share, 0)
        return exact - rounding - self.slack, exact + rounding + self.slack


class UnsortedKeys(_Keys):
    """For few thresholds: a pass over the row for each."""

    def __init__(self, lower: Tensor, level: Level, frame: Frame, chunk: Chunk, distance: int) -> None:
        super().__init__(level, frame, chunk, distance)
        self._lower = lower

    def beyond(self, thresholds: Tensor, most: int) -> tuple[Tensor, Found] | None:
        """Questions [K], counted row by row, and pairs: for each of ``thresholds`` [C, P] those that may have the least
        score above it. NaN asks for nothing, minus infinity for the least of all. None where they are more than
        ``most``. A wait for how many there are."""
        begin, sure = self.window_of(thresholds)
        asked: list[Found] = []
        for each in zip(begin.unbind(1), sure.unbind(1), strict=True):
            asked.append(self._beyond(*each))
            most -= len(asked[-1].rows)
            if most < 0:
                return None
        slots = thresholds.shape[1]
        questions = [found.rows * slots + slot for slot, found in enumerate(asked)]
        both = (torch.cat(each) for each in zip(*asked, strict=True))
        return torch.cat(questions), Found(*both)

    def _beyond(self, begin: Tensor, sure: Tensor) -> Found:
        above = torch.where(self._lower > begin[:, None], self._lower, NONE)
        lines = least_of_lines(above)
        members = above.gather(1, members_of(lines.argmin(1, keepdim=True), above.shape[1]))
        surely = torch.where(members > sure[:, None], members, NONE).amin(1, keepdim=True)
        if ((surely >= NONE / 2) & (lines < NONE / 2).any(1, keepdim=True)).any():  # another line has the first
            surely = torch.where(above > sure[:, None], above, NONE).amin(1, keepdim=True)
        end = torch.where(surely < NONE / 2, surely + self.slack, NONE / 2)
        return within(above, lines, end)


class SortedKeys(_Keys):
    """Rows of keys in ascending order, or their ``first`` ones."""

    def __init__(self, lower: Tensor, level: Level, frame: Frame, chunk: Chunk, distance: int, first: int) -> None:
        super().__init__(level, frame, chunk, distance)
        self._whole = first >= lower.shape[1]
        keys = lower.sort(1) if self._whole else lower.topk(first, 1, largest=False)
        self._keys, self._columns = keys.values.contiguous(), keys.indices
        limit = self._keys.new_full((len(lower), 1), NONE / 2)
        self._count = torch.searchsorted(self._keys, limit)  # [C, 1] keys of candidates

    def beyond(self, thresholds: Tensor, most: int) -> tuple[Tensor, Found] | None:
        """As :meth:`UnsortedKeys.beyond`."""
        begin, sure = self.window_of(thresholds)
        begin = torch.searchsorted(self._keys, begin, right=True)
        end = self._end(torch.searchsorted(self._keys, sure, right=True))
        begin = torch.where(thresholds.isnan(), end, begin).minimum(end)
        return self.found(begin, end) if (end - begin).sum() <= most else None

    def ranks(self, first: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Windows [C, 1] that hold the candidates from rank ``first`` [C, 1] on, ``count`` of them.

        All before a window rank before its candidates.
        """
        at = first.clamp_max(self._keys.shape[1] - 1)
        begin = torch.searchsorted(self._keys, self._keys.gather(1, at) - self.slack)
        return torch.where(first < self._count, begin, self._count).minimum(first), self._end(first + (count - 1))

    def reaches(self, end: Tensor) -> bool:
        """Whether windows end before what was left out begins; a wait where anything was."""
        return self._whole or bool((end < self._keys.shape[1]).all())

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
        keys = self._keys.gather(1, sure.clamp_max(self._keys.shape[1] - 1)) + self.slack
        end = torch.searchsorted(self._keys, keys, right=True).minimum(self._count)
        return torch.where(sure < self._count, end, self._count)
