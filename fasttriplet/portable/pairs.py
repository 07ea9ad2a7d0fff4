"""Who pairs with whom among some anchors and all candidates, as masks of a chunk; never [N, M].

Anchors and candidates are taken in an order of their own: classes one after the other, so that an anchor's class is a
range of columns, and nothing of other columns need be compared. With several labels a row the range is all columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.arguments import GROUPS_EXCLUDE, LISTED
from fasttriplet.portable.checks import check_distance, check_pairing
from fasttriplet.portable.rows import Rows, survey

#: Keys of a chunk: what the caches hold, or what fills an accelerator.
_CHUNK_ON_CPU, _CHUNK = 2**19, 2**24


class Given(NamedTuple):
    """What every operator over a batch is given first, as ``fasttriplet/schemas.py`` declares it."""

    embeddings: Tensor  # [N, D]
    labels: Tensor  # [N], or [N, C] bool
    ref_embeddings: Tensor | None  # [M, D]
    pairing: Sequence[Tensor | None]
    numbers: Sequence[int]
    distance: int

    @classmethod
    def checked(cls, arguments: Sequence[Any]) -> tuple[Given, Sequence[Any]]:
        """Of an operator's arguments those, checked, and the others."""
        given, others = cls(*arguments[:6]), arguments[6:]
        check_pairing(*given[:5])
        check_distance(given.distance)
        return given, others


class Chunk(NamedTuple):
    """Some anchors, by their places."""

    anchors: slice
    width: int  # columns of the largest of their classes


def chunk_length(anchors: int, candidates: int, device: torch.device) -> int:
    """How many anchors a chunk has, at least 1."""
    size = _CHUNK_ON_CPU if device.type == "cpu" else _CHUNK
    return max(1, min(anchors, size // max(1, candidates)))


class Class(NamedTuple):
    """The class of every anchor of a chunk: columns that share a label with it."""

    columns: Tensor  # [C, W] int64, ascending, behind all candidates where a class is smaller than the largest
    same: Tensor  # [C, W] bool: whether there is such a column
    positive: Tensor  # [C, W] bool: whether it is a positive of the anchor


class Pairs:
    """A batch in the order of its classes, and its masks."""

    def __init__(self, given: Given) -> None:
        embeddings, labels, ref_embeddings, pairing, numbers, distance = given
        told = dict(zip(LISTED, pairing, strict=False))
        self.own = ref_embeddings is None  # the batch is its own candidates
        self._positives_alone = bool(numbers) and GROUPS_EXCLUDE[numbers[0]] == "positives"
        ignored = numbers[1] if len(numbers) > 1 else None
        labels, theirs = _int64(labels), told.get("ref_labels")
        ref_labels = labels if theirs is None else _int64(theirs)
        self.order = _by_class(labels)  # [N] the anchor at a place
        self.columns = self.order if self.own else _by_class(ref_labels)  # [M] the candidate of a column
        self.rows = _in_order(embeddings, self.order, distance)
        self.candidates = self.rows if ref_embeddings is None else _in_order(ref_embeddings, self.columns, distance)
        self._labels = labels[self.order]
        self._ref_labels = self._labels if self.own else ref_labels[self.columns]

        takes_part = [torch.ones_like(each.finite) for each in (self.rows, self.candidates)]
        if ignored is not None:
            takes_part = [self._labels != ignored, self._ref_labels != ignored]
        mask = told.get("ref_mask")
        if mask is not None:
            takes_part[1] = takes_part[1] & mask[self.columns]
        both = zip(takes_part, (self.rows, self.candidates), strict=True)
        self.anchor_usable, self.usable = (part & rows.finite for part, rows in both)  # [N], [M]
        self.finite = (self.anchor_usable == takes_part[0]).all() & (self.usable == takes_part[1]).all()  # []
        self.rows = self.rows._replace(usable=self.anchor_usable)
        self.candidates = self.rows if self.own else self.candidates._replace(usable=self.usable)
        self._groups = self._both(told, "groups", "ref_groups")
        self._sample_ids = self._both(told, "sample_ids", "ref_sample_ids")
        self._self_columns = self._own_columns(told.get("self_indices"))

    def __len__(self) -> int:
        return len(self.order)

    def _both(self, told: dict[str, Tensor | None], own: str, theirs: str) -> tuple[Tensor, Tensor] | None:
        """Numbers of anchors [N] and of candidates [M], in their orders."""
        given = told.get(own)
        if given is None:
            return None
        numbers = _int64(given)[self.order]
        other = told.get(theirs)
        return numbers, numbers if self.own or other is None else _int64(other)[self.columns]

    def _own_columns(self, self_indices: Tensor | None) -> Tensor | None:
        """[N] the column of an anchor's own copy, -1 for none; None where no anchor has one."""
        n = len(self.order)
        if self.own:
            return torch.arange(n, device=self.order.device)
        if self_indices is None or len(self.columns) == 0:
            return None
        column_of = torch.empty_like(self.columns)
        column_of[self.columns] = torch.arange(len(self.columns), device=self.columns.device)
        own = _int64(self_indices)[self.order]
        return torch.where(own >= 0, column_of[own.clamp_min(0)], -1)

    @property
    def _restricted(self) -> bool:
        """Whether pairs of different labels may be none."""
        return self._sample_ids is not None or (self._groups is not None and not self._positives_alone)

    @property
    def _may_differ(self) -> bool:
        """Whether an anchor and its own copy may have no label in common; a row without labels has none with itself."""
        return not self.own or self._labels.dim() == 2

    @cached_property
    def _ranges(self) -> tuple[Tensor, Tensor]:
        """[N] where each anchor's class begins among the columns, and how many columns it has."""
        begin = torch.searchsorted(self._ref_labels, self._labels)
        return begin, torch.searchsorted(self._ref_labels, self._labels, right=True) - begin

    def chunks(self) -> Iterator[Chunk]:
        """All anchors; the one wait for the device here is for how large classes are."""
        n, m = len(self.order), len(self.columns)
        step = chunk_length(n, m, self.order.device)
        starts = range(0, n, step)
        if self._labels.dim() == 2:
            widths = [m] * len(starts)
        else:
            sizes = torch.nn.functional.pad(self._ranges[1], (0, len(starts) * step - n))
            widths = sizes.view(-1, step).amax(1).tolist() if n else []
        for start, width in zip(starts, widths, strict=True):
            yield Chunk(slice(start, min(start + step, n)), width)

    @cached_property
    def _hot(self) -> Tensor:
        """[M, C] float32: several labels a candidate, as 0 and 1."""
        return self._ref_labels.float()

    def of_class(self, chunk: Chunk) -> Class:
        """The classes of a chunk's anchors."""
        m = len(self.columns)
        at = torch.arange(chunk.width, device=self.order.device)
        if self._labels.dim() == 2:
            # Sums of zeros and ones: not 0 where one is there, in whatever precision products are made.
            same = self._labels[chunk.anchors].float() @ self._hot.T > 0
            columns = at.expand(same.shape)
        else:
            begin, size = (each[chunk.anchors, None] for each in self._ranges)
            same = at < size
            columns = torch.where(same, begin + at, m)
        inside = columns.clamp_max(max(0, m - 1))
        positive = same & self._allowed(chunk, inside) if m else same
        if self._groups is not None and self._positives_alone and m:
            positive &= self._groups[0][chunk.anchors, None] != self._groups[1][inside]
        return Class(columns, same, positive)

    def _allowed(self, chunk: Chunk, columns: Tensor) -> Tensor:
        """Whether ``columns`` [C, W] or [M] may pair with the chunk's anchors at all."""
        some = chunk.anchors
        allowed = self.usable[columns] & self.anchor_usable[some, None]
        if self._self_columns is not None:
            allowed &= self._self_columns[some, None] != columns
        if self._sample_ids is not None:
            other = self._sample_ids[1][columns]
            allowed &= (self._sample_ids[0][some, None] != other) | (other == -1)
        if self._groups is not None and not self._positives_alone:
            allowed &= self._groups[0][some, None] != self._groups[1][columns]
        return allowed

    def leave_negatives(self, chunk: Chunk, classes: Class, keys: Tensor, none: float) -> None:
        """Makes ``none`` of the keys [C, more than M] of what is no negative; those behind M, of columns that are not
        usable and of anchors that are not are already."""
        m, some = len(self.columns), chunk.anchors
        if self._restricted:
            keys[:, :m].masked_fill_(~self._allowed(chunk, torch.arange(m, device=keys.device)), none)
        if self._labels.dim() == 2:
            keys[:, :m].masked_fill_(classes.same, none)
        else:
            keys.scatter_(1, classes.columns, none)  # behind all candidates there is none already
        if self._may_differ and self._self_columns is not None:
            own = self._self_columns[some, None]
            keys.scatter_(1, torch.where(own >= 0, own, m), none)


def _int64(numbers: Tensor) -> Tensor:
    """As the kernels compare integers; several labels a row stay bool."""
    return numbers if numbers.dim() == 2 else numbers.long()


def _by_class(labels: Tensor) -> Tensor:
    """[N] rows, by class and then by index; with several labels a row by index alone."""
    if labels.dim() == 2:
        return torch.arange(len(labels), device=labels.device)
    return labels.argsort(stable=True)


def _in_order(embeddings: Tensor, order: Tensor, distance: int) -> Rows:
    return survey(embeddings.detach().index_select(0, order), distance)
