"""Retrieval metrics of embeddings: every query ranks all candidates, exactly, and no ranking is kept.

What is read off the rankings are the columns of :mod:`fasttriplet.retrieval.ranks`, some numbers a query. Those of
several parts of the queries, as of several processes, can be put one after the other before :func:`metrics_of_ranks`
makes means of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import GROUPS_EXCLUDE, BatchPairing, takes, told
from fasttriplet.check import DISTANCES, check_bool, check_choice, check_count, check_rows, check_tensors
from fasttriplet.pairing import Batch, checked_batch
from fasttriplet.portable.checks import check_pairing
from fasttriplet.reduction import ordered_sum
from fasttriplet.retrieval.finite import finite, refuse_rows
from fasttriplet.retrieval.histograms import DistanceHistogram, distance_histogram
from fasttriplet.retrieval.pairs import checked_pairs, checked_seed
from fasttriplet.retrieval.ranks import Ranks, ranks_of
from fasttriplet.trip import away, there_and_back

ON_NONFINITE = ("error", "fail", "skip")

#: A rank behind all candidates, of which there are fewer.
_ALL = 2**31 - 1


class QueryPairing(BatchPairing, total=False):
    """Who is a candidate of whom.

    Attributes:
        ignore_index: rows of this label are neither queries nor candidates; not with multi-hot labels. Default None: no
            label.
    """

    ignore_index: int | None


class RetrievalMetrics(NamedTuple):
    """Means over the queries with a positive, float64; NaN where there is no such query.

    Of a query, R is the number of its positives. Each metric is between 0 and 1, and the higher the better.

    Attributes:
        hit_rate: [A], whether a positive is among the k nearest, for each k of ``at``. The "Recall@k" of papers on
            metric learning.
        precision: [A], positives among the k nearest / k.
        recall: [A], positives among the k nearest / R.
        map_at: [A], sum of the precisions at the ranks of the positives among the k nearest / R.
        map: [], the same over the whole ranking: mean average precision.
        map_at_r: [], sum of the precisions at the ranks of the positives among the R nearest / R.
        r_precision: [], positives among the R nearest / R.
        mrr: [], 1 / rank of the nearest positive.
        minp: [], R / rank of the farthest positive; 0 of a query that never finds one of its positives.
        cmc: [max_rank], whether the nearest positive is at rank r + 1 or before.
        at: the k of the first four.
        queries: with a positive, which the means are over.
        queries_without_positive: left out of the means.
        histograms: of the distances of positive and negative pairs, :class:`DistanceHistogram`; None where they were
            not asked for.
    """

    hit_rate: Tensor
    precision: Tensor
    recall: Tensor
    map_at: Tensor
    map: Tensor
    map_at_r: Tensor
    r_precision: Tensor
    mrr: Tensor
    minp: Tensor
    cmc: Tensor
    at: tuple[int, ...]
    queries: int
    queries_without_positive: int
    histograms: DistanceHistogram | None = None

    def as_dict(self) -> dict[str, float]:
        """By name, as a logger takes them: ``"hit_rate@1"``, ..., ``"map"``, ..., ``"cmc@1"``, ..., ``"queries"``."""
        ranks = range(1, len(self.cmc) + 1)
        several: list[tuple[str, Tensor, Sequence[int]]] = [
            *(("hit_rate", self.hit_rate, self.at), ("precision", self.precision, self.at)),
            *(("recall", self.recall, self.at), ("map", self.map_at, self.at), ("cmc", self.cmc, ranks)),
        ]
        found = {
            f"{name}@{k}": float(x) for name, values, at in several for k, x in zip(at, values.tolist(), strict=True)
        }
        single = ("map", "map_at_r", "r_precision", "mrr", "minp", "queries", "queries_without_positive")
        return found | {name: float(getattr(self, name)) for name in single}


@torch.no_grad()
@takes(QueryPairing)
def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    at: Sequence[int] = (1, 5, 10),
    distance: str = "euclidean",
    max_rank: int = 50,
    on_nonfinite: str = "error",
    groups_exclude: str = "positives",
    histograms: bool = False,
    bins: int = 100,
    pairs: int | None = 1_000_000,
    seed: int = 0,
    **pairing: Unpack[QueryPairing],
) -> RetrievalMetrics:
    """Hit rate, precision, recall, MAP, MAP@R, R-precision, MRR, mINP and CMC of embeddings as queries.

    Each row of ``embeddings`` is a query that ranks all candidates by distance, ties by the lowest index, as float64
    arithmetic orders them: the other rows, or with ``ref_embeddings`` those. Rankings are whole and none is kept, so
    memory is O((N + M) D). Queries are what is called anchors below.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        at: distinct ranks k, at least 1, for hit rate, precision, recall and MAP at k. Default (1, 5, 10).
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        max_rank: how many ranks of the CMC curve. Default 50.
        on_nonfinite: what becomes of rows with a NaN or infinite entry that are neither ignored nor masked.
            ``"error"``: ``ValueError``. ``"fail"``: they find nothing and are never found, but are queries and
            positives still, so that they cost what they should. ``"skip"``: as if they were not there.
        groups_exclude: with ``groups``, what rows of equal group never are to each other. ``"positives"``, the
            default: of one label they are left out of the ranking, of different labels they are negatives, the rule of
            Market-1501. ``"pairs"``: candidates at all.
        histograms: also count the distances of positive and of negative pairs. Default false.
        bins: how many bins a histogram has. Default 100.
        pairs: how many pairs a histogram is of where there are more: these are drawn uniformly, with replacement. Up
            to 10 million positive pairs are all looked at in any case. Default 1,000,000. None: all there are.
        seed: of that draw, at least 0 and below 2^63. Default 0.
        **pairing: who pairs with whom: :class:`fasttriplet.retrieval.metrics.QueryPairing`.

    Returns:
        :class:`RetrievalMetrics`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or with ``on_nonfinite="error"`` a row that is not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import retrieval_metrics
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]])
        >>> found = retrieval_metrics(embeddings, torch.tensor([0, 0, 1, 1, 2]), at=(1, 2))
        >>> found.hit_rate.tolist(), found.map.item(), found.queries, found.queries_without_positive
        ([0.5, 0.75], 0.7083333333333334, 4, 1)

    Source: MAP@R and R-precision: K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", 2020,
    https://arxiv.org/abs/2003.08505. CMC and MAP with junk: L. Zheng et al., "Scalable Person Re-identification: A
    Benchmark", 2015. mINP: M. Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", 2021,
    https://arxiv.org/abs/2001.04193. MAP@k is divided by R, as trec_eval, ranx and pytorch-metric-learning do.
    """
    if away(embeddings):
        return there_and_back(retrieval_metrics, locals())
    batch = query_batch("retrieval_metrics", embeddings, labels, pairing, groups_exclude)
    code = check_choice("distance", distance, DISTANCES)
    ranks_asked, most = checked_at(at), check_count("max_rank", max_rank)
    drawn = check_count("bins", bins), checked_pairs(pairs), checked_seed(seed)
    wanted = check_bool("histograms", histograms)
    ranks = query_ranks(batch, code, ranks_asked, on_nonfinite)
    return metrics_of_ranks(ranks, ranks_asked, most, distance_histogram(batch, code, *drawn) if wanted else None)


def checked_at(at: object) -> tuple[int, ...]:
    """Distinct ranks, each at least 1, in the order given."""
    if not isinstance(at, Sequence) or isinstance(at, str):
        raise TypeError(f"at must be a sequence of ints, as (1, 5, 10); got {type(at).__name__}")
    ranks = tuple(check_count(f"at[{place}]", k) for place, k in enumerate(at))
    if len(set(ranks)) != len(ranks):
        raise ValueError(f"at must hold distinct ranks; got {list(ranks)}")
    return ranks


def query_batch(
    function: str, embeddings: Tensor, labels: Tensor, pairing: Mapping[str, Any], groups_exclude: str = "positives"
) -> Batch:
    """The batch of a public function that takes :class:`QueryPairing`, checked in full."""
    given = told(function, pairing, QueryPairing)
    check_tensors(embeddings, labels)
    check_rows("embeddings", embeddings)
    if "ref_embeddings" in given:
        check_rows("ref_embeddings", given["ref_embeddings"], "M")
    check_choice("groups_exclude", groups_exclude, GROUPS_EXCLUDE)
    if "groups" in given and groups_exclude != "pairs":
        given["groups_exclude"] = groups_exclude
    batch = checked_batch(embeddings.detach(), labels, given)
    check_pairing(*batch.arguments)
    return batch


def query_ranks(batch: Batch, distance: int, at: Sequence[int], on_nonfinite: str) -> Ranks:
    """What :func:`metrics_of_ranks` needs, of the batch's queries that count; ``hits`` and ``gains`` have a column more
    than ``at``, for the whole ranking.

    Raises:
        ValueError: with ``on_nonfinite="error"`` where a row that is neither ignored nor masked is not finite.
    """
    check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
    if on_nonfinite == "error":
        refuse_nonfinite(batch)
    ranks = ranks_of(batch, distance, (*at, _ALL), count_missing=on_nonfinite == "fail")
    counts = batch.takes_part()
    if on_nonfinite == "skip":
        fine = finite(batch.embeddings)
        counts = fine if counts is None else counts & fine
    return ranks if counts is None else Ranks(*(column[counts] for column in ranks))


def metrics_of_ranks(
    ranks: Ranks, at: Sequence[int], max_rank: int, histograms: DistanceHistogram | None = None
) -> RetrievalMetrics:
    """Means over queries of what :func:`query_ranks` says of each, for the same ``at``."""
    counted = ranks.positives > 0
    queries = int(counted.sum())
    without = len(counted) - queries
    ranks = Ranks(*(column[counted] for column in ranks))
    hits, gains, positives = ranks.hits, ranks.gains, ranks.positives
    found = ranks.first > 0
    per_query = {
        "hit_rate": (hits[:, :-1] > 0).double(),
        "precision": hits[:, :-1] / hits.new_tensor(list(at)),
        "recall": hits[:, :-1] / positives[:, None],
        "map_at": gains[:, :-1] / positives[:, None],
        "map": ranks.gain / positives,
        "map_at_r": ranks.gain_at_r / positives,
        "r_precision": ranks.hits_at_r / positives,
        "mrr": torch.where(found, 1 / ranks.first, 0),
        "minp": torch.where(hits[:, -1] == positives, positives / ranks.last, 0),
    }
    # The first rank of each query, those without at the end beside those behind max_rank.
    places = torch.where(found, ranks.first - 1, max_rank).clamp_max(max_rank).long()
    cmc = torch.bincount(places, minlength=max_rank + 1)[:max_rank].cumsum(0).double() / _or_nan(queries)
    means = {name: _mean(values) for name, values in per_query.items()}
    return RetrievalMetrics(
        **means, cmc=cmc, at=tuple(at), queries=queries, queries_without_positive=without, histograms=histograms
    )


def _or_nan(queries: int) -> float:
    return float(queries) if queries else float("nan")


def _mean(values: Tensor) -> Tensor:
    """[] or [A] over the queries [Q] or [Q, A], of the same bits whatever the number of threads."""
    if values.dim() == 2:
        return torch.stack([_mean(column) for column in values.unbind(1)]) if values.shape[1] else values.new_zeros(0)
    return ordered_sum(values) / _or_nan(len(values))


_ADVICE = {"fail": "'fail' to count them as queries that find nothing", "skip": "'skip' to leave them out"}


def refuse_nonfinite(batch: Batch, others: Sequence[str] = ON_NONFINITE[1:]) -> None:
    """ValueError where a row that is neither ignored nor masked is not finite; says how many and the first, and which
    ``others`` there are beside "error".
    """
    index, mask = batch.told.get("ignore_index"), batch.told.get("ref_mask")
    for name, rows, labels in (
        ("embeddings", batch.embeddings, batch.labels),
        ("ref_embeddings", batch.ref_embeddings, batch.told.get("ref_labels")),
    ):
        if rows is None or labels is None:
            continue
        wrong = ~finite(rows)
        if index is not None:
            wrong &= labels.long() != index
        if mask is not None and name == "ref_embeddings":
            wrong &= mask
        advice = f": pass on_nonfinite={', '.join(_ADVICE[other] for other in others)}"
        refuse_rows(name, wrong, why=" (on_nonfinite='error')", advice=advice)
