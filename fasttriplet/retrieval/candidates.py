"""Rows of a data set that take part in mining, who may pair with whom, and the positives of every query.

Labels and groups are numbered from 0, so that they are keys of the operator ``nearest``, to which -1 is no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.arguments import as_lists
from fasttriplet.autograd import mine
from fasttriplet.check import MINERS
from fasttriplet.engines import operator
from fasttriplet.pairing import Batch, Miner
from fasttriplet.retrieval.finite import finite, refuse_rows
from fasttriplet.retrieval.pairs import pair_scores

#: Queries that positives are mined for at once. Sorted by label they need the references of their own labels alone.
_QUERIES = 4096


class Candidates(NamedTuple):
    """Q queries and M references that take part, all finite."""

    queries: Tensor  # [Q, D]
    references: Tensor  # [M, D], the same tensor where the queries are their own references
    rows: Tensor  # [Q] which of the rows given each query is
    ref_rows: Tensor  # [M] which of the references given
    labels: Tensor  # [Q] from 0
    ref_labels: Tensor  # [M] the same numbers
    copies: Tensor  # [Q] the reference that is the query's own copy, -1 for none
    sample_ids: Tensor | None  # [Q], -1 for none
    ref_sample_ids: Tensor | None  # [M]
    groups: Tensor | None  # [Q] from 0
    ref_groups: Tensor | None  # [M] the same numbers
    groups_exclude: str
    of_one_set: bool  # whether the references are the queries

    def given_references(self, indices: Tensor) -> Tensor:
        """Which of the references given those of ``indices`` are; -1 stays."""
        return torch.cat([self.ref_rows, self.ref_rows.new_full((1,), -1)])[indices]

    def keys(self, some: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Of ``some`` queries [K, q] and of the references [K, M]: where one is equal, no negative."""
        own, theirs = [self.labels[some]], [self.ref_labels]
        if self.sample_ids is not None and self.ref_sample_ids is not None:
            own.append(self.sample_ids[some])
            theirs.append(self.ref_sample_ids)
        if self.groups is not None and self.ref_groups is not None and self.groups_exclude == "pairs":
            own.append(self.groups[some])
            theirs.append(self.ref_groups)
        return torch.stack(own), torch.stack(theirs)

    def nearest_negatives(self, some: slice, distance: int, k: int) -> tuple[Tensor, Tensor]:
        """Distances and indices [q, k] of the k nearest references that are negatives of ``some`` queries."""
        keys, ref_keys = self.keys(some)
        search = operator("nearest", self.queries.device)
        if self.of_one_set and some == slice(0, len(self.queries)):
            return search(self.queries, None, [None, keys, None, None], distance, k)
        return search(self.queries[some], self.references, [self.copies[some], keys, ref_keys, None], distance, k)

    def available(self) -> tuple[Tensor, Tensor]:
        """Of each query how many references [Q] are of another label, and how many of those are negatives."""
        of_label = torch.bincount(self.ref_labels, minlength=self._labels)
        others = len(self.references) - of_label[self.labels]
        ids, groups = (self.sample_ids, self.ref_sample_ids), (self.groups, self.ref_groups)
        labels = (self.labels, self.ref_labels)
        excluded = torch.zeros_like(others)
        has_id = torch.zeros_like(others) if ids[0] is None else (ids[0] >= 0).long()
        by_group = groups[0] is not None and self.groups_exclude == "pairs"
        # Of another label, and of the sample or the group: as many as each, less those counted twice.
        if ids[0] is not None:
            excluded += has_id * (_equal(ids) - _equal(ids, labels))
        if by_group:
            excluded += _equal(groups) - _equal(groups, labels)
        if ids[0] is not None and by_group:
            excluded -= has_id * (_equal(ids, groups) - _equal(ids, groups, labels))
        if len(self.references):  # the own copy, where nothing else tells that it is one
            keys, ref_keys = self.keys()
            theirs = ref_keys[:, self.copies.clamp_min(0)]
            excluded += ((self.copies >= 0) & ~((keys == theirs) & (keys >= 0)).any(0)).long()
        return others, others - excluded

    def positives(self, miner: str, distance: int) -> tuple[Tensor, Tensor]:
        """Distances [Q] float64 and indices [Q] of the positive that ``miner`` chooses, NaN and -1 where there is none.

        ``"easy_positive"`` is the nearest, ``"batch_hard"`` the farthest.
        """
        distances = self.queries.new_full((len(self.queries),), torch.nan, dtype=torch.float64)
        indices = torch.full_like(self.labels, -1)
        for some in self.labels.argsort(stable=True).split(_QUERIES):
            present = self.labels.new_zeros(self._labels, dtype=torch.bool)
            present[self.labels[some]] = True
            theirs = present[self.ref_labels].nonzero()[:, 0]
            if not len(theirs):
                continue
            found, triplets = self._mined(some, theirs, miner, distance)
            positives = triplets[1]
            indices[some] = torch.where(positives >= 0, theirs[positives.clamp_min(0)], -1)
            distances[some] = torch.where(positives >= 0, found[0], torch.nan)
        return distances, indices

    def _mined(self, some: Tensor, theirs: Tensor, miner: str, distance: int) -> tuple[Tensor, Tensor]:
        copies = self.copies[some]
        places = theirs.new_full((len(self.references) + 1,), -1)  # the last is of no copy
        places[theirs] = torch.arange(len(theirs), device=theirs.device)
        told: dict[str, Any] = {"ref_labels": self.ref_labels[theirs], "self_indices": places[copies]}
        for name, own, of_references in (
            ("sample_ids", self.sample_ids, self.ref_sample_ids),
            ("groups", self.groups, self.ref_groups),
        ):
            if own is not None and of_references is not None:
                told |= {name: own[some], f"ref_{name}": of_references[theirs]}
        batch = self.queries[some], self.labels[some], self.references[theirs], *as_lists(told)
        return mine(*batch, distance, *Miner(MINERS.index(miner)))

    def all_positives(self, some: slice, distance: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every positive of ``some`` queries: the queries and references [P], by query and index, and distances [P]; of
        a query without a positive -1 and NaN.
        """
        asked = queries = torch.arange(some.start, some.stop, device=self.labels.device)
        order = self.ref_labels.argsort(stable=True)
        counts = torch.bincount(self.ref_labels, minlength=self._labels)
        starts, own = counts.cumsum(0) - counts, self.labels[some]
        sizes = counts[own]
        queries = queries.repeat_interleave(sizes)
        first = (starts[own] - (sizes.cumsum(0) - sizes)).repeat_interleave(sizes)
        references = order[first + torch.arange(len(queries), device=order.device)]
        wanted = references != self.copies[queries]
        if self.sample_ids is not None and self.ref_sample_ids is not None:
            ids = self.sample_ids[queries]
            wanted &= (ids < 0) | (ids != self.ref_sample_ids[references])
        if self.groups is not None and self.ref_groups is not None:
            wanted &= self.groups[queries] != self.ref_groups[references]
        queries, references = queries[wanted], references[wanted]
        distances = pair_scores(self.queries, self.references, queries, references, distance)
        without = asked[torch.bincount(queries - some.start, minlength=len(asked)) == 0]
        queries, order = torch.cat([queries, without]).sort(stable=True)
        references = torch.cat([references, torch.full_like(without, -1)])[order]
        return queries, references, torch.cat([distances, distances.new_full((len(without),), torch.nan)])[order]

    @property
    def _labels(self) -> int:
        """How many, of queries and references together."""
        most = [int(each.max()) for each in (self.labels, self.ref_labels) if len(each)]
        return max(most, default=-1) + 1


def candidates_of(batch: Batch) -> Candidates:
    """Of a checked batch with labels [N].

    Raises:
        ValueError: where a row that is neither ignored nor masked is not finite; says how many and the first.
    """
    told, labels, n = batch.told, batch.labels.long(), len(batch.labels)
    ref_labels = labels if batch.ref_embeddings is None else told["ref_labels"].long()
    rows = torch.arange(n, device=labels.device)
    ref_rows = rows if batch.ref_embeddings is None else torch.arange(len(ref_labels), device=labels.device)
    index, mask = told.get("ignore_index"), told.get("ref_mask")
    if index is not None:
        rows = rows[labels != index]
        ref_rows = rows if batch.ref_embeddings is None else ref_rows[ref_labels != index]
    if mask is not None:
        ref_rows = ref_rows[mask[ref_rows]]
    queries = references = _taken(batch.embeddings, rows, "embeddings")
    copies = torch.arange(len(rows), device=labels.device)
    if batch.ref_embeddings is not None:
        references = _taken(batch.ref_embeddings, ref_rows, "ref_embeddings")
        copies = torch.full_like(rows, -1)
        if told.get("self_indices") is not None:
            places = ref_rows.new_full((len(ref_labels) + 1,), -1)  # the last is of no copy
            places[ref_rows] = torch.arange(len(ref_rows), device=labels.device)
            copies = places[told["self_indices"].long()[rows]]
    numbers, ref_numbers = _numbered(labels[rows], ref_labels[ref_rows])
    ids, groups = told.get("sample_ids"), told.get("groups")
    ref_ids, ref_groups = told.get("ref_sample_ids", ids), told.get("ref_groups", groups)
    own_ids, their_ids = (
        (None, None) if ids is None or ref_ids is None else _numbered_ids(ids.long()[rows], ref_ids.long()[ref_rows])
    )
    own_groups, their_groups = (
        (None, None)
        if groups is None or ref_groups is None
        else _numbered(groups.long()[rows], ref_groups.long()[ref_rows])
    )
    return Candidates(
        *(queries, references, rows, ref_rows, numbers, ref_numbers, copies),
        *(
            own_ids,
            their_ids,
            own_groups,
            their_groups,
            told.get("groups_exclude", "pairs"),
            batch.ref_embeddings is None,
        ),
    )


def _taken(rows: Tensor, which: Tensor, name: str) -> Tensor:
    """``rows[which]``, without a copy where they are all."""
    taken = rows if len(which) == len(rows) else rows[which]
    refuse_rows(name, ~finite(taken), which)
    return taken


def _numbered(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Equal values of both at equal numbers from 0."""
    numbers = torch.cat([own, theirs]).unique(return_inverse=True)[1]
    return numbers[: len(own)], numbers[len(own) :]


def _numbered_ids(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise of sample ids, -1 where they are -1, which is none; other negative ones are ids like any other."""
    numbers, others = _numbered(own, theirs)
    return torch.where(own == -1, -1, numbers), torch.where(theirs == -1, -1, others)


def _equal(*keys: Sequence[Tensor | None]) -> Tensor:
    """Of each query how many references [Q] have all its ``keys``, pairs of [Q] and [M]."""
    own = theirs = None
    for mine_, other in keys:
        assert mine_ is not None and other is not None
        if own is None or theirs is None:
            own, theirs = _numbered(mine_, other)
        else:  # two numbers below the count of rows make one
            more, other_more = _numbered(mine_, other)
            step = int(torch.cat([more, other_more, more.new_zeros(1)]).max()) + 1
            own, theirs = _numbered(own * step + more, theirs * step + other_more)
    assert own is not None and theirs is not None
    counts = torch.bincount(theirs, minlength=int(torch.cat([own, own.new_zeros(1)]).max()) + 1)
    return counts[own]
