"""Retrieval metrics, exactly: every image queries all the others, itself excluded.

With R the number of other images of the query's class:

- recall@k: the share of queries with one of their class among the k nearest;
- mAP@R: the mean over queries of (1 / R) sum over i <= R of precision@i where the i-th nearest is of the class, else 0.

(K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", 2020, https://arxiv.org/abs/2003.08505.)
Queries whose class has no other image are left out of the means. Equal distances are ranked by index.

A row that is not finite has no distances: NaN sorts behind all numbers, and embeddings that are all NaN would be ranked
by index, which data sorted by class takes for perfect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.resnet50.device import float64_device


class NotFinite(ValueError):
    """Embeddings that retrieve nothing: a network that has diverged."""


_ROWS = 512  # queries at a time: 512 x 4000 distances and their order take 33 MB


@dataclass(frozen=True)
class RetrievalMetrics:
    """Each in 0..1, higher is better."""

    recall_at_1: float
    recall_at_5: float
    map_at_r: float


def nearest(embeddings: Tensor, queries: Tensor) -> Tensor:
    """[Q, M - 1] indices of the other rows of ``embeddings`` [M, D], nearest first, for the rows ``queries`` [Q].

    Distances are computed in float64 as differences, so near neighbours are not confused by cancellation. Rows that are
    not finite come last. All of it on the device of ``embeddings``, which must have float64.
    """
    wide = embeddings.double()
    distances = torch.cdist(wide[queries], wide, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances.nan_to_num(nan=torch.inf, posinf=torch.inf)
    distances[torch.arange(len(queries), device=queries.device), queries] = torch.nan  # behind infinity
    return distances.argsort(dim=1, stable=True)[:, :-1]


def summed_metrics(embeddings: Tensor, labels: Tensor, finite: Tensor) -> Tensor:
    """[4]: the three metrics summed over the queries that count, and their number; waits for no device."""
    positions = torch.arange(1, len(labels), dtype=torch.float64, device=labels.device)  # rank of each neighbour
    sums = torch.zeros(4, dtype=torch.float64, device=labels.device)
    for queries in torch.arange(len(labels), device=labels.device).split(_ROWS):
        found = nearest(embeddings, queries)  # [Q, M - 1]
        same = labels[found] == labels[queries, None]
        number = same.sum(1)  # R of each query; one whose R is 0 has no hits
        hits = same & finite[found] & finite[queries, None]
        precision = hits.cumsum(1) / positions
        average = (precision * hits * (positions <= number[:, None])).sum(1) / number.clamp(min=1)
        sums += torch.stack([hits[:, :1].sum(), hits[:, :5].any(1).sum(), average.sum(), (number > 0).sum()])
    return sums


@torch.no_grad()
def retrieval_metrics(embeddings: Tensor, labels: Tensor, *, on_nonfinite: str = "error") -> RetrievalMetrics:
    """The three metrics of ``embeddings`` [M, D] with ``labels`` [M]; NaN where no class has two images.

    ``on_nonfinite``: what becomes of rows with an entry that is NaN or infinite. ``"error"``: :class:`NotFinite`.
    ``"fail"``: as queries they fail every metric; as neighbours they come last and are never a hit, though they count
    among the R of their class. Computed on the device of ``embeddings``, or on the CPU where that has no float64.
    """
    if on_nonfinite not in ("error", "fail"):
        raise ValueError(f"on_nonfinite must be 'error' or 'fail'; got {on_nonfinite!r}")
    if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings [M, D] and labels [M] must match; got {list(embeddings.shape)} and {list(labels.shape)}"
        )
    place = float64_device(embeddings.device)
    embeddings, labels = embeddings.to(place), labels.to(place)
    finite = embeddings.isfinite().all(1)
    if on_nonfinite == "error" and not finite.all():
        raise NotFinite(
            f"embeddings must be finite; got {int((~finite).sum())} of {len(finite)} rows that are not, the first at "
            f"{int((~finite).int().argmax())}: they retrieve nothing, on_nonfinite='fail' counts them as failures"
        )
    sums = summed_metrics(embeddings, labels, finite)
    return RetrievalMetrics(*(sums[:3] / sums[3]).tolist())
