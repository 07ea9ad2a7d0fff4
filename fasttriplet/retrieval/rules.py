"""Who is no neighbour of whom: what a call is told of it, checked, and as the operators take it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fasttriplet.arguments import BOTH_OR_NEITHER
from fasttriplet.check import check_dense

#: Of queries; those of references have these names behind ``ref_``.
_IDS = tuple(own for own, _ in BOTH_OR_NEITHER)


def check_told(told: Mapping[str, object], queries: Tensor, references: bool, count: int | None) -> dict[str, Tensor]:
    """``told`` by the names of the arguments, those that are None left out, for queries [Q, D].

    Args:
        references: whether there are any.
        count: of them, M; None where nobody knows yet.
    """
    given = {name: value for name, value in told.items() if value is not None}
    tensors: dict[str, Tensor] = {}
    for name, value in given.items():
        check_dense(name, value)
        assert isinstance(value, Tensor)
        of_references = name.startswith("ref_")
        if not references and (of_references or name == "self_indices"):
            raise ValueError(f"{name} must come with references, whose rows it is about; got no references")
        _check_numbers(name, value, queries, count if of_references else len(queries))
        tensors[name] = value
    if references:
        for own, theirs in BOTH_OR_NEITHER:
            if (own in given) != (theirs in given):
                had, absent = (own, theirs)[:: 1 if own in given else -1]
                raise ValueError(
                    f"{own} and {theirs} must be given together where there are references; got {had} and no {absent}"
                )
    return tensors


def _check_numbers(name: str, values: Tensor, queries: Tensor, count: int | None) -> None:
    if values.device != queries.device:
        raise ValueError(f"{name} must be on the device of queries, {queries.device}; got {values.device}")
    dtype = values.dtype
    if name == "ref_mask":
        if dtype != torch.bool:
            raise ValueError(f"ref_mask must have dtype torch.bool; got {dtype}")
    elif dtype.is_floating_point or dtype.is_complex or (dtype == torch.bool and not name.endswith("groups")):
        raise ValueError(
            f"{name} must have an integer dtype{' or bool' if name.endswith('groups') else ''}; got {dtype}"
        )
    shape = list(values.shape)
    if count is None:
        if len(shape) != 1:
            raise ValueError(f"{name} must have shape [M], a number for each of the references; got {shape}")
    elif shape != [count]:
        whose = "references" if name.startswith("ref_") else "queries"
        raise ValueError(
            f"{name} must have shape [{count}] to match {whose} [{count}, {queries.shape[1]}]; got {shape}"
        )


class _Ids:
    """Numbers of the queries as the operators compare them: equal ones from 0 on are of one kind, -1 of none.

    Every number a query has becomes its place among theirs in order, and what no query has becomes -1: so all integers
    can be told apart, negative ones too. Places depend on the queries alone, and are the same for every chunk.
    """

    def __init__(self, own: Tensor, minus_one_is_none: bool) -> None:
        self._sorted = own.long().sort().values
        self._minus_one_is_none = minus_one_is_none
        self.own = self.of(own)

    def of(self, numbers: Tensor) -> Tensor:
        """[M] of any [M] integers."""
        numbers = numbers.long()
        if len(self._sorted) == 0:
            return torch.full_like(numbers, -1)
        places = torch.searchsorted(self._sorted, numbers).clamp_max(len(self._sorted) - 1)
        none = self._sorted[places] != numbers
        if self._minus_one_is_none:
            none = none | (numbers == -1)
        return torch.where(none, -1, places)


class Rules:
    """The list ``rules`` of the operators, of all references or of a chunk of them.

    Args:
        told: what :func:`check_told` gives; without references that of the queries is theirs.
    """

    def __init__(self, told: Mapping[str, Tensor]) -> None:
        self.self_indices = told["self_indices"].long() if "self_indices" in told else None
        self._ids = {name: _Ids(told[name], name == "sample_ids") for name in _IDS if name in told}
        self._own = torch.stack([ids.own for ids in self._ids.values()]) if self._ids else None

    def of_all(self, told: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Of all references, or of none, by what is told of them."""
        return [self.self_indices, *self._keys(told), told.get("ref_mask")]

    def of_chunk(self, first: int, count: int, told: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Of ``count`` references from ``first`` on, by what is told of these."""
        own = self.self_indices
        if own is not None:
            own = torch.where((own >= first) & (own < first + count), own - first, -1)
        return [own, *self._keys(told), told.get("ref_mask")]

    def _keys(self, told: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        theirs = [ids.of(told[f"ref_{name}"]) for name, ids in self._ids.items() if f"ref_{name}" in told]
        return self._own, torch.stack(theirs) if theirs else None
