"""Retrieval: nearest neighbours, and metrics of a ranking of all candidates for every query.

Candidates are ranked by distance, equal ones by index; a distance that overflowed to NaN goes first. A row that is not
finite finds nothing and is never found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fasttriplet.reference.distances import check, pairwise_distances
from fasttriplet.reference.pairs import Pairing, batch_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

ON_NONFINITE = ("error", "fail", "skip")


def ranking(distances: Tensor, candidates: Tensor) -> Tensor:
    """[R] the indices of ``candidates`` [M] bool by ``distances`` [M], then by index; NaN first."""
    indices = candidates.nonzero().squeeze(1)
    return indices[(-distances[indices]).sort(stable=True, descending=True).indices]


def neighbours(
    queries: Tensor,
    references: Tensor | None,
    self_indices: Tensor | None,
    sample_ids: Tensor | None,
    ref_sample_ids: Tensor | None,
    groups: Tensor | None,
    ref_groups: Tensor | None,
    ref_mask: Tensor | None,
) -> Tensor:
    """[Q, M] bool: which candidates a query may find. Without references those are the queries, but for itself."""
    candidates = queries if references is None else references
    indices = torch.arange(len(candidates), device=queries.device)
    allowed = queries.isfinite().all(1)[:, None] & candidates.isfinite().all(1)
    if references is None:
        self_indices = indices
    if self_indices is not None:
        allowed &= self_indices[:, None] != indices
    if sample_ids is not None:
        theirs = sample_ids if ref_sample_ids is None else ref_sample_ids
        allowed &= (sample_ids[:, None] != theirs) | (theirs == -1)
    if groups is not None:
        allowed &= groups[:, None] != (groups if ref_groups is None else ref_groups)
    return allowed if ref_mask is None else allowed & ref_mask


@torch.no_grad()
def nearest(
    queries: Tensor,
    references: Tensor | None = None,
    k: int = 1,
    *,
    distance: str = "euclidean",
    self_indices: Tensor | None = None,
    sample_ids: Tensor | None = None,
    ref_sample_ids: Tensor | None = None,
    groups: Tensor | None = None,
    ref_groups: Tensor | None = None,
    ref_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Distances [Q, k] and indices [Q, k] of the k nearest, NaN and -1 where there are fewer."""
    allowed = neighbours(queries, references, self_indices, sample_ids, ref_sample_ids, groups, ref_groups, ref_mask)
    matrix = pairwise_distances(queries, distance, references)
    distances = matrix.new_full((len(queries), k), torch.nan)
    indices = torch.full_like(distances, -1, dtype=torch.int64)
    for query, order in enumerate(map(ranking, matrix, allowed)):
        first = order[:k]
        distances[query, : len(first)] = matrix[query, first]
        indices[query, : len(first)] = first
    return distances, indices


@torch.no_grad()
def within(
    queries: Tensor,
    references: Tensor | None = None,
    radius: float = 0.0,
    *,
    distance: str = "euclidean",
    self_indices: Tensor | None = None,
    sample_ids: Tensor | None = None,
    ref_sample_ids: Tensor | None = None,
    groups: Tensor | None = None,
    ref_groups: Tensor | None = None,
    ref_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets [Q + 1] into distances [T] and indices [T] of all at a distance of at most ``radius``, nearest first."""
    allowed = neighbours(queries, references, self_indices, sample_ids, ref_sample_ids, groups, ref_groups, ref_mask)
    matrix = pairwise_distances(queries, distance, references)
    allowed &= matrix <= radius
    offsets = torch.nn.functional.pad(allowed.sum(1).cumsum(0), (1, 0))
    orders = [ranking(*row) for row in zip(matrix, allowed, strict=True)]
    distances = [row[order] for row, order in zip(matrix, orders, strict=True)]
    return offsets, torch.cat([matrix.new_zeros(0), *distances]), torch.cat([offsets[:0], *orders])


@torch.no_grad()
def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    at: Sequence[int] = (1, 5, 10),
    distance: str = "euclidean",
    max_rank: int = 50,
    on_nonfinite: str = "error",
    **pairing: Unpack[Pairing],
) -> dict[str, Tensor | int]:
    """Every metric by name, the means over the queries with at least one positive; NaN where there are none.

    Of a query with R positives, where ``precision(r)`` is the share of positives among the r nearest candidates:

    - ``hit_rate``, ``precision``, ``recall`` [A] for each k of ``at``: whether a positive is among the k nearest, how
      many are / k, how many are / R.
    - ``map_at`` [A]: sum of precision(r) over the ranks r <= k of positives, / R; ``map`` []: over all ranks;
      ``map_at_r`` []: over r <= R. ``r_precision`` []: precision(R).
    - ``mrr`` []: 1 / the first positive's rank. ``minp`` []: R / the last one's, 0 where one is never found.
    - ``cmc`` [max_rank]: whether the first positive is among the 1, 2, ... nearest.
    - ``queries`` and ``queries_without_positive``: how many there are with a positive and without.
    - ``positive_distances`` and ``negative_distances``, of all pairs that are ranked, by query and then candidate.

    Rows that are not finite are an error, or they fail: they are queries and positives, but are not ranked; or they are
    skipped: they are neither. Rows of one group and one label are left out, unless ``groups_exclude`` says otherwise.
    """
    check("on_nonfinite", on_nonfinite, ON_NONFINITE)
    pairing.setdefault("groups_exclude", "positives")
    batch = batch_of(embeddings, labels, **pairing)
    if on_nonfinite == "error" and batch.poison.isnan():
        raise ValueError("embeddings and ref_embeddings must be finite where on_nonfinite is 'error'")
    finite = batch.finite_alone()
    relevant = (batch if on_nonfinite == "fail" else finite).positive.sum(1).tolist()
    counted = batch.takes_part
    if on_nonfinite == "skip":
        counted = counted & batch.rows.isfinite().all(1)

    matrix = pairwise_distances(batch.rows, distance, batch.references)
    rows: list[dict[str, list[float]]] = []
    for query in counted.nonzero().squeeze(1).tolist():
        positive, negative = finite.positive[query], finite.negative[query]
        if relevant[query]:
            hits = positive[ranking(matrix[query], positive | negative)].tolist()
            rows.append(_of_ranking(hits, relevant[query], at, max_rank))
    found: dict[str, Tensor | int] = {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float64).view(len(rows), length).mean(0)
        for name, length in [*((each, len(at)) for each in _AT), *((each, 1) for each in _WHOLE), ("cmc", max_rank)]
    }
    for name in _WHOLE:
        found[name] = torch.as_tensor(found[name])[0]
    found["queries"] = len(rows)
    found["queries_without_positive"] = int(counted.sum()) - len(rows)
    found["positive_distances"] = matrix[finite.positive]
    found["negative_distances"] = matrix[finite.negative]
    return found


_AT = ("hit_rate", "precision", "recall", "map_at")
_WHOLE = ("map", "map_at_r", "r_precision", "mrr", "minp")


def _of_ranking(hits: Sequence[bool], relevant: int, at: Sequence[int], max_rank: int) -> dict[str, list[float]]:
    """Of one query: ``hits`` says of each ranked candidate whether it is a positive, of ``relevant`` in all."""
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]

    def among(k: float) -> int:
        return sum(rank <= k for rank in ranks)

    def average_precision(k: float) -> float:
        return sum(among(rank) / rank for rank in ranks if rank <= k) / relevant

    return {
        "hit_rate": [float(among(k) > 0) for k in at],
        "precision": [among(k) / k for k in at],
        "recall": [among(k) / relevant for k in at],
        "map_at": [average_precision(k) for k in at],
        "map": [average_precision(math.inf)],
        "map_at_r": [average_precision(relevant)],
        "r_precision": [among(relevant) / relevant],
        "mrr": [1 / ranks[0] if ranks else 0.0],
        "minp": [relevant / ranks[-1] if len(ranks) == relevant else 0.0],
        "cmc": [float(among(k) > 0) for k in range(1, max_rank + 1)],
    }
