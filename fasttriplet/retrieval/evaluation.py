"""What kept rows are evaluated to, on one process or by all ranks of a group.

Each rank ranks all candidates for its share of the queries, and what it reads off the rankings, some numbers a query,
is all that travels beside the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fasttriplet.arguments import GROUPS_EXCLUDE
from fasttriplet.check import DISTANCES, check_bool, check_choice, check_count, check_ignore_index
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.group import Group
from fasttriplet.engines import announce_trip
from fasttriplet.pairing import Batch
from fasttriplet.retrieval.histograms import distance_histogram
from fasttriplet.retrieval.kept import Kept, kept_of_all, without_duplicates
from fasttriplet.retrieval.metrics import (
    ON_NONFINITE,
    RetrievalMetrics,
    checked_at,
    metrics_of_ranks,
    query_batch,
    query_ranks,
    refuse_nonfinite,
)
from fasttriplet.retrieval.pairs import checked_pairs, checked_seed
from fasttriplet.retrieval.ranks import Ranks
from fasttriplet.trip import away


class Options(NamedTuple):
    """How rows are evaluated."""

    at: Sequence[int] = (1, 5, 10)
    distance: str = "euclidean"
    on_nonfinite: str = "error"
    groups_exclude: str = "positives"
    max_rank: int = 50
    ignore_index: int | None = None
    drop_duplicates: bool = True
    histograms: bool = False
    bins: int = 100
    pairs: int | None = 1_000_000
    seed: int = 0

    @classmethod
    def checked(cls, **options: Any) -> Options:
        """TypeError or ValueError where one is wrong."""
        given = cls(**options)
        check_choice("distance", given.distance, DISTANCES)
        check_choice("on_nonfinite", given.on_nonfinite, ON_NONFINITE)
        check_choice("groups_exclude", given.groups_exclude, GROUPS_EXCLUDE)
        check_bool("drop_duplicates", given.drop_duplicates)
        check_bool("histograms", given.histograms)
        return given._replace(
            at=checked_at(given.at),
            max_rank=check_count("max_rank", given.max_rank),
            ignore_index=check_ignore_index(given.ignore_index),
            bins=check_count("bins", given.bins),
            pairs=checked_pairs(given.pairs),
            seed=checked_seed(given.seed),
        )


def checked_names(names: Sequence[str] | None, options: Options) -> tuple[str, ...]:
    """Of metrics, as ``as_dict`` has them; None are all but those of the CMC curve, which hit rates are."""
    columns = len(Ranks._fields) - 2
    none = Ranks._make([torch.zeros(0)] * columns + [torch.zeros(0, len(options.at) + 1)] * 2)
    known = list(metrics_of_ranks(none, options.at, options.max_rank).as_dict())
    if names is None:
        return tuple(name for name in known if not name.startswith("cmc@"))
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise TypeError(f"metrics must be a sequence of names, as ('map_at_r',), or None; got {type(names).__name__}")
    for name in names:
        if name not in known:
            raise ValueError(f"metrics must be among {', '.join(known)}; got {name!r}")
    return tuple(names)


def named(metrics: RetrievalMetrics, names: Sequence[str]) -> dict[str, float]:
    """Those of ``names``, in their order."""
    found = metrics.as_dict()
    return {name: found[name] for name in names}


@torch.no_grad()
def metrics_of_kept(
    queries: Kept | None, references: Kept | None, options: Options, process_group: Any = None
) -> RetrievalMetrics:
    """Of the rows of this process, or of all ranks of a process group, each of which calls it."""
    group = None if process_group is None else Group(process_group)
    if group is not None:
        agreed(group, lambda: (Statement({"the function": "RetrievalEvaluator", **options._asdict()}, 0), True))
        queries, references = kept_of_all(group, queries), kept_of_all(group, references)
    batch = _batch(queries, references, options)
    if group is not None and options.on_nonfinite == "error":
        refuse_nonfinite(batch)  # before the ranks part: of a share the other queries are references
    ranks = _ranks(batch, options) if group is None or group.size == 1 else _ranks_of_all(group, batch, options)
    histogram = None
    if options.histograms:  # of the whole batch on every rank, which makes the same draw
        code = DISTANCES.index(options.distance)
        histogram = distance_histogram(batch, code, options.bins, options.pairs, options.seed)
    return metrics_of_ranks(ranks, options.at, options.max_rank, histogram)


def _batch(queries: Kept | None, references: Kept | None, options: Options) -> Batch:
    """Queries and their candidates as the operators take them, each sample once."""
    if queries is None:  # as many columns as the references have, if any
        queries = _none(references)
    given: dict[str, Any] = {"ignore_index": options.ignore_index}
    sets = {"": _here(without_duplicates(queries) if options.drop_duplicates else queries)}
    if references is not None:
        sets["ref_"] = _here(without_duplicates(references) if options.drop_duplicates else references)
        given.update(ref_embeddings=sets["ref_"].embeddings, ref_labels=sets["ref_"].labels)
    numbered = any(rows.sample_ids is not None for rows in sets.values())
    for prefix, rows in sets.items():
        ids = rows.sample_ids
        if numbered and ids is None:  # none is a copy of the other set's
            ids = torch.full(rows.labels.shape[:1], -1, device=rows.labels.device)
        given.update({f"{prefix}sample_ids": ids, f"{prefix}groups": rows.groups})
    rows = sets[""]
    return query_batch("RetrievalEvaluator", rows.embeddings, rows.labels, given, options.groups_exclude)


def _none(like: Kept | None) -> Kept:
    """No rows, of the form of others."""
    if like is not None:
        return Kept._make(None if column is None else column[:0] for column in like)
    return Kept(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), None, None)


def _here(rows: Kept) -> Kept:
    """On the CPU where their device has no float64."""
    if not away(rows.embeddings):
        return rows
    announce_trip("RetrievalEvaluator", rows.embeddings.device)
    return Kept._make(None if column is None else column.to("cpu") for column in rows)


def _ranks(batch: Batch, options: Options) -> Ranks:
    return query_ranks(batch, DISTANCES.index(options.distance), options.at, options.on_nonfinite)


def _ranks_of_all(group: Group, batch: Batch, options: Options) -> Ranks:
    """Each rank's share of the queries, equally many whoever brought them, and then those of all."""
    bounds = [batch.anchors * rank // group.size for rank in range(group.size + 1)]
    own = part_of(batch, bounds[group.rank], bounds[group.rank + 1])

    def ranked() -> tuple[Statement, Ranks]:
        ranks = _ranks(own, options)
        return Statement({}, len(ranks.positives)), ranks

    statements, ranks = agreed(group, ranked)  # an error of one rank is one of all
    device = ranks.positives.device
    way = device if device.type in group.device_types() else group.device
    sent = {name: column.to(way) for name, column in ranks._asdict().items()}
    found = group.rows(sent, [statement.rows for statement in statements])
    return Ranks(*(found[name].to(device) for name in Ranks._fields))


def part_of(batch: Batch, begin: int, end: int) -> Batch:
    """The queries from ``begin`` to ``end`` with all their candidates, as references."""
    own, told = slice(begin, end), dict(batch.told)
    ids = [name for name in ("sample_ids", "groups") if name in told]
    references = batch.ref_embeddings
    if references is None:
        told.update({f"ref_{name}": told[name] for name in ids}, ref_labels=batch.labels)
        told["self_indices"] = torch.arange(begin, end, device=batch.labels.device)
        references = batch.embeddings
    told.update({name: told[name][own] for name in ids})
    return Batch(batch.embeddings[own], references, batch.labels[own], told)
