"""Who pairs with whom among some anchors and all candidates, as masks of a chunk; never [N, M].

Anchors and candidates are taken in an order of their own: classes one after the other, so that the positives of a
chunk's anchors lie in a block of columns and labels are compared there alone. With several labels a row the block is
all columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.arguments import GROUPS_EXCLUDE, LISTED
from fasttriplet.portable.rows import Rows, survey

#: Keys of a chunk: what the caches hold, or what fills an accelerator.
_CHUNK_ON_CPU, _CHUNK = 2**19, 2**24


class Chunk(NamedTuple):
    """Some anchors, by their places, and the block of columns that has all their positives."""

    anchors: slice
    block: slice


class Pairs:
    """A batch in the order of its classes, and its masks."""

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        pairing: Sequence[Tensor | None],
        numbers: Sequence[int],
        distance: int,
    ) -> None:
        told = dict(zip(LISTED, pairing, strict=False))
        self.own = ref_embeddings is None  # the batch is its own candidates
        self._positives_alone = bool(numbers) and GROUPS_EXCLUDE[numbers[0]] == "positives"
        ignored = numbers[1] if len(numbers) > 1 else None
        labels, ref_labels = _int64(labels), labels if self.own else _int64(told["ref_labels"])
        if self.own:
            ref_labels = labels
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
        self.anchor_usable = takes_part[0] & self.rows.finite  # [N]
        self.usable = takes_part[1] & self.candidates.finite  # [M]
        self.finite = (self.anchor_usable == takes_part[0]).all() & (self.usable == takes_part[1]).all()  # []
        self._groups = self._both(told, "groups", "ref_groups")
        self._sample_ids = self._both(told, "sample_ids", "ref_sample_ids")
        self._self_columns = self._own_columns(told.get("self_indices"))

    def __len__(self) -> int:
        return len(self.rows)

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
    def restricted(self) -> bool:
        """Whether pairs of different labels may be none."""
        return self._sample_ids is not None or (self._groups is not None and not self._positives_alone)

    @property
    def _may_differ(self) -> bool:
        """Whether an anchor and its own copy may have no label in common, as a row without labels has none with itself."""
        return not self.own or self._labels.dim() == 2

    def chunks(self) -> Iterator[Chunk]:
        """All anchors; with classes the only wait for the device here, for where they begin and end."""
        n, m = len(self.order), len(self.columns)
        size = _CHUNK_ON_CPU if self.order.device.type == "cpu" else _CHUNK
        step = max(1, min(n, size // max(1, m)))
        starts = range(0, n, step)
        if self._labels.dim() == 2:
            blocks = [(0, m)] * len(starts)
        else:
            first = self._labels[::step].contiguous()
            last = self._labels[[min(start + step, n) - 1 for start in starts]] if n else first
            bounds = [
                torch.searchsorted(self._ref_labels, edge, right=right) for edge, right in ((first, False), (last, True))
            ]
            blocks = torch.stack(bounds, 1).tolist()
        for start, (begin, end) in zip(starts, blocks, strict=True):
            yield Chunk(slice(start, min(start + step, n)), slice(begin, end))

    def _same(self, chunk: Chunk, columns: slice) -> Tensor:
        """[C, W] bool: one label, or several with one in common."""
        own, other = self._labels[chunk.anchors], self._ref_labels[columns]
        if own.dim() == 1:
            return own[:, None] == other
        # Counts of zeros and ones: exact in float64, and in whatever precision their products are made.
        return own.double() @ other.double().T > 0

    def _allowed(self, chunk: Chunk, columns: slice, shape_of: Tensor) -> Tensor:
        """[C, W] bool, like ``shape_of``: pairs of any kind."""
        allowed = self.usable[columns].expand(shape_of.shape) & self.anchor_usable[chunk.anchors, None]
        if self._self_columns is not None:
            own = self._self_columns[chunk.anchors, None]
            at = torch.arange(columns.start, columns.stop, device=own.device)
            allowed &= own != at
        if self._sample_ids is not None:
            own, other = self._sample_ids[0][chunk.anchors, None], self._sample_ids[1][columns]
            allowed &= (own != other) | (other == -1)
        if self._groups is not None and not self._positives_alone:
            allowed &= self._groups[0][chunk.anchors, None] != self._groups[1][columns]
        return allowed

    def positive(self, chunk: Chunk) -> Tensor:
        """[C, W] bool, of the columns of the block."""
        same = self._same(chunk, chunk.block)
        positive = same & self._allowed(chunk, chunk.block, same)
        if self._groups is not None and self._positives_alone:
            positive &= self._groups[0][chunk.anchors, None] != self._groups[1][chunk.block]
        return positive

    def leave_negatives(self, chunk: Chunk, keys: Tensor, none: float) -> None:
        """Makes ``none`` of the keys [C, padded M] of what is no negative; those of unusable columns are already."""
        block, m = chunk.block, len(self.columns)
        if self.restricted:
            everyone = slice(0, m)
            keys[:, :m].masked_fill_(~self._allowed(chunk, everyone, keys[:, :m]), none)
        else:
            keys.masked_fill_(~self.anchor_usable[chunk.anchors, None], none)
        keys[:, block].masked_fill_(self._same(chunk, block), none)
        if self._may_differ and self._self_columns is not None and m:
            own = self._self_columns[chunk.anchors, None]
            at = own.clamp_min(0)
            keys.scatter_(1, at, keys.gather(1, at).masked_fill_(own >= 0, none))

    def negatives(self, chunk: Chunk) -> Tensor:
        """[C] int64: how many negatives each anchor has."""
        everyone = slice(0, len(self.columns))
        if self.restricted or self._may_differ:
            same = self._same(chunk, everyone)
            return (self._allowed(chunk, everyone, same) & ~same).sum(1)
        others = self.usable.sum() - (self._same(chunk, chunk.block) & self.usable[chunk.block]).sum(1)
        return torch.where(self.anchor_usable[chunk.anchors], others, 0)


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
