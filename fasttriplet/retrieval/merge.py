"""What is found among one chunk of references after another, joined to what one search among all of them finds.

A distance is that of its pair alone, whatever else is in a chunk. So the order of all is by distance and then index, as
the operators have it, and chunks that come in ascending order are joined by a stable sort: of equal distances what was
found before is of the lower index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.engines import operator

#: Tensors of what was found so far, with a row a query or a number a pair.
Found = tuple[Tensor, ...]

_LARGEST = 2**63 - 1


class Task(Protocol):
    """A search that can be made a chunk at a time."""

    @property
    def name(self) -> str:
        """Of the operator and the public function."""

    @property
    def named(self) -> dict[str, object]:
        """Its options by the names of their arguments."""

    def among(self, queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None]) -> Found:
        """By the operator, of rows of one dtype; ``references`` None: the queries without each one's own row."""

    def nothing(self, queries: Tensor) -> Found:
        """What was found among no references."""

    def joined(self, found: Found, more: Found, first: int) -> Found:
        """``found`` among references before ``first`` and ``more`` among those from there on, counted from 0."""

    def finished(self, found: Found) -> Found:
        """``found`` as the operator gives it."""


class KNearest(NamedTuple):
    """The k nearest, as distances and indices [Q, w] of w = k, or as many as there were references so far."""

    distance: int
    k: int

    @property
    def name(self) -> str:
        return "nearest"

    @property
    def named(self) -> dict[str, object]:
        return {"k": self.k, "distance": DISTANCES[self.distance]}

    def among(self, queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None]) -> Any:
        return operator("nearest", queries.device)(queries, references, rules, self.distance, self.k)

    def nothing(self, queries: Tensor) -> Found:
        shape = len(queries), 0
        return queries.new_empty(shape, dtype=torch.float64), queries.new_empty(shape, dtype=torch.int64)

    def joined(self, found: Found, more: Found, first: int) -> Found:
        distances, indices = more
        indices = torch.where(indices < 0, -1, indices + first)
        distances, indices = torch.cat([found[0], distances], 1), torch.cat([found[1], indices], 1)
        order = _places(distances, indices).argsort(dim=1, stable=True)[:, : self.k]
        return distances.gather(1, order), indices.gather(1, order)

    def finished(self, found: Found) -> Found:
        missing = (0, self.k - found[0].shape[1])
        pad = torch.nn.functional.pad
        return pad(found[0], missing, value=torch.nan), pad(found[1], missing, value=-1)


def _places(distances: Tensor, indices: Tensor) -> Tensor:
    """Integers that are in order as distances are: first NaN, of a distance that overflowed, last what is missing."""
    bits = (distances + 0.0).view(torch.int64)  # of 0.0 where it is -0.0, which is the same distance
    places = torch.where(bits < 0, bits ^ _LARGEST, bits).masked_fill(distances.isnan(), -_LARGEST - 1)
    return places.masked_fill(indices < 0, _LARGEST)


class AllWithin(NamedTuple):
    """All within a radius, as queries, distances and indices [T] of pairs in the order in which they were found."""

    distance: int
    radius: float

    @property
    def name(self) -> str:
        return "within"

    @property
    def named(self) -> dict[str, object]:
        return {"radius": self.radius, "distance": DISTANCES[self.distance]}

    def among(self, queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None]) -> Any:
        return operator("within", queries.device)(queries, references, rules, self.distance, self.radius)

    def nothing(self, queries: Tensor) -> Found:
        # Every query's number of pairs in place of the operator's offsets, which are of all chunks.
        counts = queries.new_zeros(len(queries), dtype=torch.int64)
        return counts, counts.new_empty(0), counts.new_empty(0, dtype=torch.float64), counts.new_empty(0)

    def joined(self, found: Found, more: Found, first: int) -> Found:
        offsets, distances, indices = more
        counts = offsets.diff()
        numbers = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        pairs = zip(found[1:], (numbers, distances, indices + first), strict=True)
        return found[0] + counts, *(torch.cat(both) for both in pairs)

    def finished(self, found: Found) -> Found:
        counts, numbers, distances, indices = found
        order = distances.argsort(stable=True)
        order = order[numbers[order].argsort(stable=True)]
        return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), distances[order], indices[order]
