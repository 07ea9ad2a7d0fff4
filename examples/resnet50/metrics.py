"""Retrieval metrics, exactly: every image queries all the others, itself excluded.

With R the number of other images of the query's class:

- recall@k: the share of queries with one of their class among the k nearest;
- mAP@R: the mean over queries of (1 / R) sum over i <= R of precision@i where the i-th nearest is of the class, else 0.

(K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", 2020, https://arxiv.org/abs/2003.08505.)
Queries whose class has no other image are left out of the means. Equal distances are ranked by index.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 512  # queries at a time: 512 x 4000 distances and their order take 33 MB


@dataclass(frozen=True)
class RetrievalMetrics:
    """Each in 0..1, higher is better."""

    recall_at_1: float
    recall_at_5: float
    map_at_r: float


def nearest(embeddings: Tensor, queries: Tensor) -> Tensor:
    """[Q, M - 1] indices of the other rows of ``embeddings`` [M, D], nearest first, for the rows ``queries`` [Q].

    Distances are computed in float64 as differences, so near neighbours are not confused by cancellation.
    """
    wide = embeddings.double()
    distances = torch.cdist(wide[queries], wide, compute_mode="donot_use_mm_for_euclid_dist")
    distances[torch.arange(len(queries)), queries] = torch.inf
    return distances.argsort(dim=1, stable=True)[:, :-1]


@torch.no_grad()
def retrieval_metrics(embeddings: Tensor, labels: Tensor) -> RetrievalMetrics:
    """The three metrics of ``embeddings`` [M, D] with ``labels`` [M]; NaN where no class has two images."""
    positions = torch.arange(1, len(labels), dtype=torch.float64)  # rank of each neighbour
    sums = torch.zeros(3, dtype=torch.float64)
    counted = 0
    for queries in torch.arange(len(labels)).split(_ROWS):
        hits = (labels[nearest(embeddings, queries)] == labels[queries, None]).double()  # [Q, M - 1]
        number = hits.sum(1)  # R of each query
        hits, number = hits[number > 0], number[number > 0]
        precision = hits.cumsum(1) / positions
        average = (precision * hits * (positions <= number[:, None])).sum(1) / number
        sums += torch.stack([hits[:, :1].sum(), hits[:, :5].amax(1).sum() if len(hits) else sums[0] * 0, average.sum()])
        counted += len(hits)
    values = (sums / counted if counted else sums * torch.nan).tolist()
    return RetrievalMetrics(*values)
