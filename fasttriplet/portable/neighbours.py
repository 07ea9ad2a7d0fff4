"""The k nearest candidates of every query, and all within a radius: chunks of queries against all candidates.

Fine keys leave those that may be among the answer, and these are scored and put in order. Of rows that are as near as
each other, as copies of one, all are scored, in memory of a chunk. Each chunk waits for the device for how many are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.portable.checks import NeighbourRules, check_count, check_distance, check_neighbours, check_radius
from fasttriplet.portable.exact import scores_of
from fasttriplet.portable.order import Table
from fasttriplet.portable.pairs import Chunk, chunk_length
from fasttriplet.portable.picks import Found, places_of
from fasttriplet.portable.rows import Rows, frame_of, survey
from fasttriplet.portable.screen import NONE, level_of
from fasttriplet.portable.windows import SortedKeys, UnsortedKeys

#: Keys beyond the k-th that are sorted with them, for what may be as near.
_MORE = 8

#: Queries of a chunk at least, where their keys to very many candidates leave the caches anyway: all of them wait for
#: the same candidates to be read. As much memory as candidates of so many features take.
_TOGETHER = 16


class _Some(NamedTuple):
    """Some queries and their keys."""

    queries: slice
    lower: Tensor  # [C, more than M] lower bounds, NONE of what is no neighbour


class _Search:
    """Queries and candidates, prepared, with who is no neighbour of whom."""

    def __init__(self, queries: Tensor, references: Tensor | None, rules: NeighbourRules, distance: int) -> None:
        self._rules, self._distance, self._own = rules, distance, references is None
        self._rows = survey(queries.detach(), distance)
        self._candidates = self._rows if references is None else self._masked(survey(references.detach(), distance))
        self.frame = frame_of(self._rows, self._candidates)
        self.level = level_of(self.frame, self._rows, self._candidates, distance, coarse=False)

    def _masked(self, rows: Rows) -> Rows:
        mask = self._rules.ref_mask
        return rows if mask is None else rows._replace(usable=rows.finite & mask)

    def __iter__(self) -> Iterator[_Some]:
        q, m = len(self._rows.wide), len(self._candidates.wide)
        step, buffer = max(_TOGETHER, chunk_length(q, m, self._rows.wide.device)), None
        for first in range(0, q, step):
            some = slice(first, min(first + step, q))
            lower = self.level.lower(some, buffer)
            buffer = lower if buffer is None else buffer  # the first chunk is the longest
            self._leave_out(some, lower, m)
            yield _Some(some, lower)

    def _leave_out(self, some: slice, lower: Tensor, m: int) -> None:
        """Makes NONE of the keys of what is no neighbour; of rows that are not usable they are already."""
        rules = self._rules
        if rules.keys is not None:
            theirs = rules.keys if rules.ref_keys is None else rules.ref_keys
            for own, other in zip(rules.keys[:, some], theirs, strict=True):
                lower[:, :m].masked_fill_((own[:, None] == other) & (other >= 0), NONE)
        copies = rules.self_indices
        if self._own:
            copies = torch.arange(m, device=lower.device)
        if copies is not None:
            lower.scatter_(1, torch.where(copies < 0, m, copies)[some, None], NONE)  # behind all there is none already

    def scores(self, some: _Some, found: Found) -> Tensor:
        """[K] float64."""
        first = found.rows + some.queries.start
        return scores_of(self._rows, self._candidates, first, found.columns, self._distance)

    def near(self, some: _Some, k: int) -> Table:
        """All that may be among the k nearest, k at most as many as there are keys."""
        width = some.lower.shape[1]
        first = torch.zeros((len(some.lower), 1), dtype=torch.int64, device=some.lower.device)
        for count in (min(k + _MORE, width), width):
            keys = SortedKeys(some.lower, self.level, self.frame, Chunk(some.queries, 0), self._distance, count)
            windows = keys.ranks(first, k)
            if keys.reaches(windows[1]):
                break
        rows, found = keys.found(*windows)
        slots, often = places_of(rows, len(some.lower))
        shape = len(some.lower), int(often.amax())
        return Table.of_pairs(rows, slots, shape, self.scores(some, found), found.columns)

    def within(self, some: _Some, radius: float) -> tuple[Found, Tensor]:
        """All up to the radius, query by query and nearest first, with their scores."""
        thresholds = some.lower.new_full((len(some.lower), 1), radius)
        keys = UnsortedKeys(some.lower, self.level, self.frame, Chunk(some.queries, 0), self._distance)
        bound = keys.window_of(thresholds)[1].clamp_max(NONE / 2)
        found = Found(*(some.lower <= bound).nonzero().unbind(1))  # by index
        scores = self.scores(some, found)
        inside = (scores <= radius).nonzero().squeeze(1)
        inside = inside[scores[inside].argsort(stable=True)]
        inside = inside[found.rows[inside].argsort(stable=True)]
        return Found(found.rows[inside], found.columns[inside]), scores[inside]


def nearest(
    queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None], distance: int, k: int
) -> tuple[Tensor, Tensor]:
    """The operator: distances [Q, k] and indices [Q, k], NaN and -1 where there are fewer."""
    told = check_neighbours(queries, references, rules)
    check_count(k, "k")
    check_distance(distance)
    distances = queries.new_full((len(queries), k), torch.nan, dtype=torch.float64)
    indices = torch.full_like(distances, -1, dtype=torch.int64)
    search = _Search(queries, references, told, distance)
    for some in search:
        table = search.near(some, min(k, some.lower.shape[1])).sorted()
        scores, numbers, taken = (each[:, :k] for each in (*table, table.taken))
        distances[some.queries, : scores.shape[1]] = torch.where(taken, scores, torch.nan)
        indices[some.queries, : scores.shape[1]] = torch.where(taken, numbers, -1)
    return distances, indices


def within(
    queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None], distance: int, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: offsets [Q + 1] into distances [T] and indices [T]."""
    told = check_neighbours(queries, references, rules)
    check_radius(radius)
    check_distance(distance)
    counts, distances, indices = [], [], []
    search = _Search(queries, references, told, distance)
    for some in search:
        found, scores = search.within(some, radius)
        counts.append(torch.bincount(found.rows, minlength=len(some.lower)))
        distances.append(scores)
        indices.append(found.columns)
    nothing = queries.new_zeros(0, dtype=torch.int64)
    offsets = torch.nn.functional.pad(torch.cat([nothing, *counts]).cumsum(0), (1, 0))
    return offsets, torch.cat([nothing.double(), *distances]), torch.cat([nothing, *indices])
