"""The order of candidates: by score and then by index, a NaN first (``goes_before`` in ``csrc/core/distance.h``)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: In place of the index of what is none, behind all indices.
BEHIND = 2**62


class Table(NamedTuple):
    """Scored candidates of C queries, in the first columns of each row; a row may have fewer than L."""

    scores: Tensor  # [C, L] float64, infinite where there are fewer
    indices: Tensor  # [C, L] int64, BEHIND where there are fewer

    @classmethod
    def of_pairs(cls, rows: Tensor, slots: Tensor, shape: tuple[int, int], scores: Tensor, indices: Tensor) -> Table:
        """From pairs [K] that stand at ``(rows, slots)``."""
        table = cls(scores.new_full(shape, torch.inf), indices.new_full(shape, BEHIND))
        for filled, values in zip(table, (scores, indices), strict=True):
            filled[rows, slots] = values
        return table

    @property
    def taken(self) -> Tensor:
        """[C, L] bool: where there is a candidate."""
        return self.indices < BEHIND

    def order(self) -> Tensor:
        """[C, L]: columns in order, of nothing the last."""
        by_index = self.indices.argsort(1)
        scores = -self.scores.gather(1, by_index)  # descending, since that has NaN first
        return by_index.gather(1, scores.sort(dim=1, descending=True, stable=True).indices)

    def sorted(self) -> Table:
        order = self.order()
        return Table(*(each.gather(1, order) for each in self))

    def beside(self, other: Table) -> Table:
        """Both, the other's columns behind these; what a row has of its own need not come first then."""
        return Table(*(torch.cat(each, 1) for each in zip(self, other, strict=True)))
