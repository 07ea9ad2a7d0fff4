"""Re-ranking by k-reciprocal neighbours: references are near a query where they share its neighbours among all rows.

The Jaccard distance of two rows follows from the weights that both have in common, which is found by an index of the
sparse weights by column. Nothing of all pairs is made but where the whole matrix is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES, check_choice, check_count, check_rows
from fasttriplet.engines import operator
from fasttriplet.pairing import widened
from fasttriplet.retrieval.finite import finite, refuse_rows
from fasttriplet.retrieval.neighbours import Neighbours
from fasttriplet.retrieval.pairs import pair_scores
from fasttriplet.retrieval.reciprocal import Encoded, encoded, over, split
from fasttriplet.retrieval.sparse import SparseRows, summed
from fasttriplet.trip import away, there_and_back

#: By inner product no row need be nearest to itself.
RERANKED = ("euclidean", "squared_euclidean", "cosine")

#: Queries whose nearest references are looked for at once, and how many at least: most of those with weights in common
#: are among them, so that few distances are computed pair by pair.
_QUERIES, _NEAREST = 4096, 256


@torch.no_grad()
def rerank_k_reciprocal(
    queries: Tensor,
    references: Tensor | None = None,
    k: int = 50,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    distance: str = "euclidean",
) -> Neighbours:
    """The k nearest references of each query after re-ranking by k-reciprocal encoding, exactly and without a matrix.

    The distance is ``(1 - lambda_value) * jaccard + lambda_value * d``, where d is the squared distance over that of
    the query and the row farthest from it, and jaccard compares their weighted neighbourhoods among queries and
    references together. Equal ones go by d, then to the lowest index. All is float64. Where the published
    implementations keep matrices of all pairs, memory is O((Q + M) (D + k1) + Q k), the sparse weights, some dozens to
    hundreds a row, and blocks of bounded size.

    Args:
        queries: [Q, D] float64, float32, float16 or bfloat16, any strides.
        references: [M, D] of any of these, on the same device. Default None: the queries, each without its own row.
        k: how many, at least 1 and at most 2^31 - 1. Default 50.
        k1: how many neighbours may be reciprocal. Default 20.
        k2: how many nearest rows, the row itself among them, the mean of weights is over; 1: no mean. Default 6.
        lambda_value: the share of the original distance, from 0 to 1. Default 0.3.
        distance: ``"euclidean"`` or ``"squared_euclidean"``, which are the same here, or ``"cosine"``, which is half
            the square of rows at length 1 and not squared again.

    Returns:
        :class:`Neighbours`, without a graph: re-ranked distances [Q, k] float64, NaN where there are fewer than k
        references, and indices [Q, k] int64, -1 where there are fewer.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or a row with a NaN or infinite entry.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import nearest, rerank_k_reciprocal
        >>> query, references = torch.tensor([[0.0]]), torch.tensor([[-1.0], [-1.1], [-1.2], [1.05], [0.5]])
        >>> nearest(query, references, k=3).indices.tolist()
        [[4, 0, 3]]
        >>> rerank_k_reciprocal(query, references, k=3, k1=2, k2=1).indices.tolist()  # 0 has its neighbours elsewhere
        [[4, 3, 0]]

    Source: Z. Zhong, L. Zheng, D. Cao, S. Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", 2017,
    https://arxiv.org/abs/1701.08398.
    """
    if away(queries):
        return there_and_back(rerank_k_reciprocal, locals())
    search, count = _search(queries, references, k1, k2, lambda_value, distance), check_count("k", k)
    shape = search.queries, count
    distances = search.of.farthest.new_full(shape, torch.nan)
    indices = torch.full(shape, -1, device=search.rows.device)
    # Who can be among the k: references with weights in common, and the k nearest of all. One of the others that is not
    # comes behind k that are nearer, at a Jaccard distance of at most 1, which is its own.
    for pairs in search.pairs(max(count, _NEAREST)):
        order = pairs.ranked()
        own = pairs.queries[order]
        sizes = torch.bincount(own, minlength=search.queries)
        ranks = torch.arange(len(own), device=own.device) - (sizes.cumsum(0) - sizes)[own]
        best = ranks < count
        order, own, ranks = order[best], own[best], ranks[best]
        distances[own, ranks], indices[own, ranks] = pairs.distances[order], pairs.references[order]
    return Neighbours(distances, indices)


@torch.no_grad()
def k_reciprocal_distances(
    queries: Tensor,
    references: Tensor | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    distance: str = "euclidean",
) -> Tensor:
    """The whole matrix of the distances by which :func:`rerank_k_reciprocal` ranks, for sets that are small enough.

    Args:
        queries: [Q, D] float64, float32, float16 or bfloat16, any strides.
        references: [M, D] of any of these, on the same device. Default None: the queries.
        k1: how many neighbours may be reciprocal. Default 20.
        k2: how many nearest rows the mean of weights is over. Default 6.
        lambda_value: the share of the original distance, from 0 to 1. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"`` or ``"cosine"``.

    Returns:
        [Q, M] float64, without a graph.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or a row with a NaN or infinite entry.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import k_reciprocal_distances
        >>> rows = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> k_reciprocal_distances(rows, k1=1, k2=1, lambda_value=0.0).round(decimals=3).tolist()[0]
        [0.0, 0.0, 1.0, 1.0]

    Source: as :func:`rerank_k_reciprocal`.
    """
    if away(queries):
        return there_and_back(k_reciprocal_distances, locals())
    search = _search(queries, references, k1, k2, lambda_value, distance)
    matrix = search.of.farthest.new_zeros(search.queries, search.references)
    for pairs in search.pairs(max(1, search.references), with_own=True):
        matrix[pairs.queries, pairs.references] = pairs.distances
    return matrix


class _Pairs(NamedTuple):
    """Pairs of a query and a reference, by query and then reference."""

    queries: Tensor  # [P]
    references: Tensor  # [P]
    relative: Tensor  # [P] squared distances over the query's largest
    distances: Tensor  # [P] re-ranked

    def ranked(self) -> Tensor:
        """[P] the order by query, re-ranked distance, distance and reference."""
        order = self.relative.argsort(stable=True)
        for by in (self.distances, self.queries):
            order = order[by[order].argsort(stable=True)]
        return order


class _Search(NamedTuple):
    """Queries and references together, T rows: the references are the last M of them, or all."""

    rows: Tensor  # [T, D]
    queries: int
    references: int
    distance: int
    share: float  # of the original distance
    of: Encoded

    def pairs(self, nearest: int, with_own: bool = False) -> Iterator[_Pairs]:
        """Some queries at a time, each with all references that it has weights in common with, and the ``nearest``."""
        first = len(self.rows) - self.references
        weights, index = self.of.weights, self.of.weights.transposed(first, len(self.rows))
        reached = torch.nn.functional.pad(index.sizes()[weights.columns].cumsum(0), (1, 0))[weights.offsets]
        costs = (reached[1:] - reached[:-1])[: self.queries] + nearest
        for begin in range(0, self.queries, _QUERIES):
            end = min(begin + _QUERIES, self.queries)
            lists = self._nearest(begin, end, nearest)
            for start, stop in split(costs[begin:end]):
                common = _in_common(weights, index, begin + start, begin + stop, self.references)
                near, indices = (each[start:stop] for each in lists)
                yield self._joined(begin + start, common, near, indices, with_own)

    def _nearest(self, begin: int, end: int, count: int) -> tuple[Tensor, Tensor]:
        search, rows = operator("nearest", self.rows.device), self.rows[begin:end]
        count = max(1, min(count, self.references))
        if self.references < len(self.rows):
            return search(rows, self.rows[self.queries :], [], self.distance, count)
        own = torch.arange(begin, end, device=rows.device)
        return search(rows, self.rows, [own], self.distance, count)

    def _joined(self, begin: int, common: SparseRows, near: Tensor, indices: Tensor, with_own: bool) -> _Pairs:
        """Of queries from ``begin`` on: weights in common [q, M], and lists [q, nearest]."""
        row, place = (indices >= 0).nonzero(as_tuple=True)
        sharing = torch.arange(len(near), device=row.device).repeat_interleave(common.sizes())
        keys = torch.cat([row * self.references + indices[row, place], sharing * self.references + common.columns])
        keys, places = keys.unique(return_inverse=True)
        scores, weight = near.new_full((len(keys),), torch.nan), near.new_zeros(len(keys))
        scores[places[: len(row)]] = near[row, place]
        weight[places[len(row) :]] = common.values
        queries, references = keys // max(1, self.references) + begin, keys % max(1, self.references)
        rows = references + len(self.rows) - self.references
        if not with_own:
            others = queries != rows
            queries, references, rows, scores, weight = (
                each[others] for each in (queries, references, rows, scores, weight)
            )
        far = scores.isnan().nonzero()[:, 0]
        scores[far] = pair_scores(self.rows, self.rows, queries[far], rows[far], self.distance)
        relative = over(scores, self.of.farthest[queries])
        jaccard = 1 - weight / (2 - weight)
        return _Pairs(queries, references, relative, (1 - self.share) * jaccard + self.share * relative)


def _in_common(weights: SparseRows, index: SparseRows, begin: int, end: int, references: int) -> SparseRows:
    """[q, M] of queries from ``begin`` to ``end``: the sum of the smaller of both weights, of 1 each."""
    which, columns, own = weights.of(torch.arange(begin, end, device=weights.offsets.device))
    entry, found, theirs = index.of(columns)
    return summed(which[entry], found, torch.minimum(own[entry], theirs), (end - begin, references))


def _search(queries: object, references: object, k1: int, k2: int, lambda_value: object, distance: str) -> _Search:
    """Checked and encoded."""
    check_choice("distance", distance, RERANKED)
    code = DISTANCES.index("cosine" if distance == "cosine" else "squared_euclidean")
    share, first, second = _checked_share(lambda_value), check_count("k1", k1), check_count("k2", k2)
    check_rows("queries", queries, "Q")
    assert isinstance(queries, Tensor)
    rows = widened(queries.detach())
    refuse_rows("queries", ~finite(rows))
    count = len(rows)
    if references is not None:
        check_rows("references", references, "M")
        assert isinstance(references, Tensor)
        if references.device != queries.device:
            raise ValueError(f"references must be on the device of queries, {queries.device}; got {references.device}")
        if references.shape[1] != queries.shape[1]:
            raise ValueError(
                f"references must have shape [M, {queries.shape[1]}] to match queries {list(queries.shape)}; got "
                f"{list(references.shape)}"
            )
        others = widened(references.detach())
        refuse_rows("references", ~finite(others))
        rows, count = torch.cat([rows, others]), len(others)  # of the wider dtype
    return _Search(rows, len(queries), count, code, share, encoded(rows, code, first, second))


def _checked_share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"lambda_value must be a real number; got {type(value).__name__}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"lambda_value must be from 0 to 1; got {value}")
    return float(value)
