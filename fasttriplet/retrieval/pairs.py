"""All positive or negative pairs of a batch, or a uniform sample of them, some at a time; never [N, M].

A pair is a row and a candidate of it, both finite. Without references a pair is not another one the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from fasttriplet.check import check_count, check_integer
from fasttriplet.engines import operator
from fasttriplet.pairing import Batch
from fasttriplet.retrieval.finite import finite

#: Rows and candidates, [T] each.
Indices: TypeAlias = tuple[Tensor, Tensor]

#: Pairs at a time: their indices, labels and masks take some 30 MB.
_STEP = 2**18

#: Entries of rows at a time that distances are computed of: what the caches hold, or what fills a device.
_ENTRIES_ON_CPU, _ENTRIES = 2**19, 2**24

#: A sample is drawn by rejection where at least this share of draws is kept; else all pairs are gone through once.
_RATE = 1 / 64


class _Space(NamedTuple):
    """The pairs of a row at each of N places with some columns in a row, which go on with the first after the last."""

    rows: Tensor  # [N] the row at each place
    columns: Tensor  # [M] candidates, one label after the other
    begin: Tensor  # [N] the first of the columns
    sizes: Tensor  # [N] how many columns
    ends: Tensor  # [N] how many pairs there are up to and with each place

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def pairs(self, numbers: Tensor) -> Indices:
        """Those of ``numbers`` [T], each below their number."""
        place = torch.searchsorted(self.ends, numbers, right=True)
        columns = self.begin[place] + numbers - (self.ends - self.sizes)[place]
        return self.rows[place], self.columns[columns % len(self.columns)]


class Pairs:
    """Of a checked batch. Rows and candidates that are ignored, masked or not finite are in no pair."""

    def __init__(self, batch: Batch) -> None:
        told, references, index = batch.told, batch.ref_embeddings, batch.told.get("ignore_index")
        self.own = references is None
        labels, theirs = _int64(batch.labels), None if self.own else _int64(told["ref_labels"])
        usable = finite(batch.embeddings)
        if index is not None:
            usable = usable & (labels != index)
        self.rows = self.candidates = usable.nonzero()[:, 0]
        if references is not None and theirs is not None:
            usable = finite(references)
            if index is not None:
                usable = usable & (theirs != index)
            if told.get("ref_mask") is not None:
                usable = usable & told["ref_mask"]
            self.candidates = usable.nonzero()[:, 0]
        self._labels = labels[self.rows]
        self._ref_labels = self._labels if theirs is None else theirs[self.candidates]
        self._sample_ids = self._both(told.get("sample_ids"), told.get("ref_sample_ids"))
        self._groups = self._both(told.get("groups"), told.get("ref_groups"))
        self._positives_alone = told.get("groups_exclude") == "positives"
        self._copies = self._own_copies(told.get("self_indices"), len(usable))

    def _both(self, own: Tensor | None, theirs: Tensor | None) -> Indices | None:
        if own is None:
            return None
        return _int64(own)[self.rows], _int64(own if theirs is None else theirs)[self.candidates]

    def _own_copies(self, self_indices: Tensor | None, candidates: int) -> Tensor | None:
        """[N] the place of a row's own copy among the usable candidates, -1 for none."""
        if self.own:
            return torch.arange(len(self.rows), device=self.rows.device)
        if self_indices is None or candidates == 0:
            return None
        places = self.candidates.new_full((candidates,), -1)
        places[self.candidates] = torch.arange(len(self.candidates), device=places.device)
        own = self_indices.long()[self.rows]
        return torch.where(own >= 0, places[own.clamp_min(0)], -1)

    def _are(self, positive: bool, i: Tensor, j: Tensor, own_copies: bool = False) -> Tensor:
        """Whether places ``i`` and ``j`` are such a pair, [T] each, or [B, 1] and all candidates [M].

        With ``own_copies`` but for the rule that a row and its own copy are none.
        """
        if self._labels.dim() == 1:
            same = self._labels[i] == self._ref_labels[j]
        elif i.dim() == 2:
            same = self._labels[i[:, 0]].float() @ self._hot.T > 0  # sums of zeros and ones, however rounded
        else:
            same = (self._labels[i] & self._ref_labels[j]).any(1)
        found = same if positive else ~same
        if self._sample_ids is not None:
            numbers = self._sample_ids[1][j]
            found = found & ((self._sample_ids[0][i] != numbers) | (numbers == -1))
        if self._groups is not None and (positive or not self._positives_alone):
            found = found & (self._groups[0][i] != self._groups[1][j])
        if self._copies is not None and not own_copies:
            found = found & (self._copies[i] != j)
        return found

    @cached_property
    def _hot(self) -> Tensor:
        """[M, C] float32: several labels a candidate, as 0 and 1."""
        return self._ref_labels.float()

    @cached_property
    def _spaces(self) -> tuple[_Space, _Space]:
        """All pairs of equal and of different labels [N], whether or not other rules forbid them.

        Those of a row are with its class, a range of columns, or with what is behind that and before it. Without
        references, whose rows and columns have one order, with what comes after alone.
        """
        columns = self._ref_labels.argsort(stable=True)
        ordered, m, device = self._ref_labels[columns], len(columns), columns.device
        if self.own:
            rows, of_rows = columns, ordered
            begin = torch.arange(1, m + 1, device=device)
        else:
            rows, of_rows = torch.arange(len(self._labels), device=device), self._labels
            begin = torch.searchsorted(ordered, of_rows)
        end = torch.searchsorted(ordered, of_rows, right=True)
        sizes = end - begin
        others = m - end if self.own else m - sizes
        same = _Space(rows, columns, begin, sizes, sizes.cumsum(0))
        return same, _Space(rows, columns, end, others, others.cumsum(0))

    def count(self, positive: bool) -> int:
        """How many there are, exactly."""
        return self._counts[0 if positive else 1]

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Positive and negative pairs; of labels [N] by inclusion and exclusion, and no pair is looked at."""
        if self._labels.dim() == 2:
            positives, negatives = (
                sum(int(found.sum()) for _, found in self._masks(positive)) for positive in (True, False)
            )
            return positives, negatives
        label, groups = (self._labels, self._ref_labels), self._groups
        of_one_class = self._equal(label)
        everything = self._equal()
        positives = of_one_class - (0 if groups is None else self._equal(label, groups))
        if groups is None or self._positives_alone:
            negatives = everything - of_one_class
        else:
            negatives = everything - self._equal(groups) - positives
        if self._copies is not None:
            i = (self._copies >= 0).nonzero()[:, 0]
            j = self._copies[i]
            positives -= int(self._are(True, i, j, own_copies=True).sum())
            negatives -= int(self._are(False, i, j, own_copies=True).sum())
        times = 2 if self.own else 1  # each was counted the other way round, too
        return positives // times, negatives // times

    def _equal(self, *keys: Indices) -> int:
        """Rows and candidates of equal numbers in all ``keys``, those aside that are copies of one sample."""
        found = _equal_pairs(keys, len(self.rows), len(self.candidates))
        if self._sample_ids is not None:
            which = [each != -1 for each in self._sample_ids]
            restricted = [
                tuple(x[some] for x, some in zip(key, which, strict=True)) for key in (*keys, self._sample_ids)
            ]
            found -= _equal_pairs(restricted, *(int(some.sum()) for some in which))
        return found

    def looked_at(self, positive: bool, most: int | None, seed: int) -> Iterator[Indices]:
        """Rows and candidates of all such pairs, or where there are more than ``most`` of so many drawn uniformly.

        Drawn with replacement, the same ones of the same batch and seed, on every device.
        """
        count = self.count(positive)
        found = self._all(positive) if most is None or count <= most else self._drawn(positive, count, most, seed)
        for i, j in found:
            yield self.rows[i], self.candidates[j]

    def _all(self, positive: bool) -> Iterator[Indices]:
        if self._labels.dim() == 2:
            for first, found in self._masks(positive):
                i, j = found.nonzero(as_tuple=True)
                yield i + first, j
            return
        space = self._spaces[0 if positive else 1]
        for first in range(0, len(space), _STEP):
            i, j = space.pairs(torch.arange(first, min(first + _STEP, len(space)), device=self.rows.device))
            found = self._are(positive, i, j)
            yield i[found], j[found]

    def _masks(self, positive: bool) -> Iterator[tuple[int, Tensor]]:
        """Which of all candidates make such a pair with some rows, [B, M] bool, from that place on."""
        n, m, device = len(self.rows), len(self.candidates), self.rows.device
        columns, step = torch.arange(m, device=device), max(1, _STEP // max(1, m))
        for first in range(0, n, step):
            some = torch.arange(first, min(first + step, n), device=device)[:, None]
            found = self._are(positive, some, columns)
            yield first, found & (columns > some) if self.own else found

    def _drawn(self, positive: bool, count: int, wanted: int, seed: int) -> Iterator[Indices]:
        generator = torch.Generator().manual_seed(seed)  # the CPU's, for the same pairs everywhere
        if self._labels.dim() == 1:
            space = self._spaces[0 if positive else 1]
            total, pairs, most = len(space), space.pairs, _STEP
            rate = count / total
        else:  # without references each is there twice; all labels of a row are compared at a time
            m = len(self.candidates)
            total, pairs = len(self.rows) * m, lambda numbers: (numbers // m, numbers % m)
            most = max(1, 16 * _STEP // max(16, self._labels.shape[1]))
            rate = (2 if self.own else 1) * count / total
        if rate < _RATE:
            yield from self._chosen(positive, torch.randint(count, (wanted,), generator=generator).sort()[0])
            return
        while wanted:
            draws = torch.randint(total, (min(most, int(wanted / rate) + 1000),), generator=generator)
            i, j = pairs(draws.to(self.rows.device))
            found = self._are(positive, i, j).nonzero()[:wanted, 0]
            wanted -= len(found)
            yield i[found], j[found]

    def _chosen(self, positive: bool, numbers: Tensor) -> Iterator[Indices]:
        """Those of ``numbers``, ascending, when all are gone through."""
        before = 0
        for i, j in self._all(positive):
            first, last = torch.searchsorted(numbers, torch.tensor([before, before + len(i)])).tolist()
            some = (numbers[first:last] - before).to(i.device)
            before += len(i)
            yield i[some], j[some]


def distances_of(batch: Batch, pairs: Iterator[Indices], distance: int) -> Iterator[Tensor]:
    """Distances [T] float64 of ``pairs``, as they come."""
    candidates = batch.embeddings if batch.ref_embeddings is None else batch.ref_embeddings
    for i, j in pairs:
        yield pair_scores(batch.embeddings, candidates, i, j, distance)


def pair_scores(rows: Tensor, candidates: Tensor, first: Tensor, second: Tensor, distance: int) -> Tensor:
    """Distances [T] float64 of the pairs (rows[first], candidates[second]), by the code of the distance.

    Those of the kernels to the bit, so that a threshold taken from them is one to :func:`fasttriplet.retrieval.within`.
    """
    score = operator("triplet_margin_loss", rows.device)  # which has kernels for distances of given rows
    options = (None, 0.0, distance, False, False, None, 0)
    step = max(1, (_ENTRIES_ON_CPU if rows.is_cpu else _ENTRIES) // max(1, rows.shape[1]))
    found = []
    for i, j in zip(first.split(step), second.split(step), strict=True):
        partners = candidates.index_select(0, j)
        values = score(rows.index_select(0, i), partners, partners, *options)[1]
        found.append(values[1])  # slopes, then distances to the positive and to the negative, which are the same here
    return torch.cat(found)


def checked_pairs(pairs: object) -> int | None:
    """How many pairs to look at, or None for all."""
    return None if pairs is None else check_count("pairs", pairs)


def checked_seed(seed: object) -> int:
    """As a ``torch.Generator`` takes it."""
    number = check_integer("seed", seed)
    if not 0 <= number < 2**63:
        raise ValueError(f"seed must be at least 0 and below 2^63; got {seed}")
    return number


def _equal_pairs(keys: Sequence[Sequence[Tensor]], n: int, m: int) -> int:
    """Of n rows and m candidates the pairs that are equal in each of ``keys``."""
    if not keys or n == 0 or m == 0:
        return n * m
    numbers = torch.zeros(n + m, dtype=torch.int64, device=keys[0][0].device)
    for key in keys:
        of_key = torch.cat(list(key)).unique(return_inverse=True)[1]
        numbers = (numbers * (n + m) + of_key).unique(return_inverse=True)[1]
    here, there = (torch.bincount(each, minlength=n + m) for each in (numbers[:n], numbers[n:]))
    return int((here * there).sum())


def _int64(numbers: Tensor) -> Tensor:
    """As the kernels compare integers; several labels a row stay bool."""
    return numbers if numbers.dim() == 2 else numbers.long()
