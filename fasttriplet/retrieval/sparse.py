"""Rows of which few entries are not zero, [T, C] with E entries, by index arithmetic alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SparseRows(NamedTuple):
    """Row t has ``values[offsets[t]:offsets[t + 1]]`` in the columns of these places."""

    offsets: Tensor  # [T + 1]
    columns: Tensor  # [E] ascending in each row
    values: Tensor  # [E]

    def sizes(self) -> Tensor:
        """[T] entries of each row."""
        return self.offsets[1:] - self.offsets[:-1]

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All entries of ``rows`` [K], one row behind the other: which of the K each is of, columns and values, [E]."""
        sizes = self.sizes()[rows]
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(sizes)
        ends = sizes.cumsum(0)
        places = torch.arange(len(which), device=rows.device) + (self.offsets[:-1][rows] - (ends - sizes))[which]
        return which, self.columns[places], self.values[places]

    def transposed(self, first: int, columns: int) -> SparseRows:
        """[columns, T - first]: rows from ``first`` on become columns, counted from 0, and the other way round."""
        begin = int(self.offsets[first])
        rows = torch.arange(len(self.offsets) - 1 - first, device=self.offsets.device)
        rows = rows.repeat_interleave(self.sizes()[first:])
        order = self.columns[begin:].argsort(stable=True)
        counts = torch.bincount(self.columns[begin:], minlength=columns)
        return SparseRows(offsets_of(counts), rows[order], self.values[begin:][order])


def offsets_of(sizes: Tensor) -> Tensor:
    """[T + 1] of sizes [T]."""
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))


def joined(parts: list[SparseRows]) -> SparseRows:
    """The rows of all parts, at least one, one behind the other."""
    sizes = torch.cat([part.sizes() for part in parts])
    return SparseRows(
        offsets_of(sizes), torch.cat([part.columns for part in parts]), torch.cat([part.values for part in parts])
    )


def summed(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseRows:
    """Of entries [E] in any order, those of one place added up."""
    keys, places = (rows * shape[1] + columns).unique(return_inverse=True)
    total = values.new_zeros(len(keys)).index_add_(0, places, values)
    counts = torch.bincount(keys // shape[1], minlength=shape[0]) if len(keys) else keys.new_zeros(shape[0])
    return SparseRows(offsets_of(counts), keys % max(1, shape[1]), total)
