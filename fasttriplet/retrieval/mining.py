"""Hard negatives of a whole data set: of every row the nearest ones of another label, exactly and in a bounded window.

They are the operator ``nearest`` with labels as keys, so that no matrix of distances is made; what filters and samples
them sees only a window of ranks, [R, range_max] for some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import takes
from fasttriplet.check import DISTANCES, check_choice, check_count, check_integer, check_margin
from fasttriplet.retrieval.candidates import Candidates, candidates_of
from fasttriplet.retrieval.choosing import REASONS, Options, choose, mixed
from fasttriplet.retrieval.metrics import QueryPairing, query_batch
from fasttriplet.retrieval.odd import odd_ones
from fasttriplet.retrieval.report import MiningReport, summed_up
from fasttriplet.retrieval.walk import Report, check_report, reporting
from fasttriplet.trip import away, there_and_back

POSITIVES = ("nearest", "farthest", "all")
SAMPLINGS = ("top", "random")

#: How wide the window is where not all in it are chosen: times ``num_negatives``.
_WIDER = 10

#: Entries of windows at a time: of the operator's results, 16 bytes each, which prepares all references for each call
#: and so should get many queries; and of what is made of them, some 50 bytes each.
_FOUND, _JUDGED = 2**23, 2**20
_FEWEST_QUERIES = 4096


class HardNegatives(NamedTuple):
    """Hard negatives of every row R: a query, or with ``positive="all"`` a query with one of its positives.

    Attributes:
        anchors: [R] int64, index of the query, ascending; without ``positive="all"`` 0 to Q - 1.
        positives: [R] int64, index of the positive, -1 where there is none.
        positive_distances: [R] float64, NaN where there is no positive.
        negatives: [R, num_negatives] int64, indices of the negatives, nearest first, -1 where there are fewer.
        distances: [R, num_negatives] float64 of the negatives, NaN where there are fewer.
        report: what became of all candidates; ``print`` it.
    """

    anchors: Tensor
    positives: Tensor
    positive_distances: Tensor
    negatives: Tensor
    distances: Tensor
    report: MiningReport

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (anchors, positives, negatives), each [T] int64: each row with each of its negatives.

        Example:
            >>> import torch
            >>> from fasttriplet.retrieval import mine_hard_negatives
            >>> mined = mine_hard_negatives(
            ...     torch.tensor([[0.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1, 2]), num_negatives=2
            ... )
            >>> [indices.tolist() for indices in mined.triplets()]
            [[0, 0, 1, 1], [1, 1, 0, 0], [2, 3, 2, 3]]
        """
        rows, places = ((self.positives[:, None] >= 0) & (self.negatives >= 0)).nonzero(as_tuple=True)
        return self.anchors[rows], self.positives[rows], self.negatives[rows, places]


@torch.no_grad()
@takes(QueryPairing)
def mine_hard_negatives(
    embeddings: Tensor,
    labels: Tensor,
    *,
    num_negatives: int = 3,
    distance: str = "euclidean",
    positive: str = "nearest",
    range_min: int = 0,
    range_max: int | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    min_distance: float | None = None,
    max_distance: float | None = None,
    sampling: str = "top",
    seed: int = 0,
    suspect_ratio: float = 0.1,
    duplicate_distance: float = 0.0,
    groups_exclude: str = "pairs",
    progress: Report = False,
    **pairing: Unpack[QueryPairing],
) -> HardNegatives:
    """Of every row of a data set the nearest rows of other labels, with a report.

    Each row of ``embeddings`` is a query, and its negatives are taken from the other rows, or with ``ref_embeddings``
    from those. Distances and ranks are those of float64 arithmetic, ties go to the lowest index. No matrix of distances
    is made: memory is O((N + M) D + N num_negatives), beside a window of ranks for some queries at a time, and with
    ``positive="all"`` O(num_negatives) for each positive pair.

    Of a query's negatives, nearest first, the ranks from ``range_min`` to below ``range_max`` are looked at. Of those
    every filter must leave one: it must be farther than the positive by the margins, and within ``min_distance`` and
    ``max_distance``. ``num_negatives`` of the rest are chosen. Where there are fewer the search goes no farther; the
    report says of how many queries, and what left candidates out.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool; equal labels make a positive pair.
        num_negatives: how many for each query. Default 3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` (1 - cos) or ``"inner_product"`` (-x.y).
        positive: which one a query is put beside, in triplets and by margins: its ``"nearest"``, the default; its
            ``"farthest"``, so that margins hold against all of them; or ``"all"``, a row for each positive pair, whose
            negatives are held against that pair.
        range_min: how many of the nearest negatives are skipped, since they may be positives with a wrong label.
            Default 0.
        range_max: how many of the nearest negatives are looked at, those skipped among them. Default None:
            ``range_min + num_negatives``, and ``range_min + 10 * num_negatives`` with a filter or random sampling.
        absolute_margin: a negative is at least this much farther than the positive. Default None.
        relative_margin: a negative's similarity is at most the positive's less this share of its absolute value; 0.05
            is the "95 %" of NV-Retriever. Similarity is 1 - distance by cosine and the inner product itself; of
            euclidean and squared distances, which have none, the negative's is at least (1 + share) times the
            positive's. Default None.
        min_distance: a negative is at least this far; for a largest similarity s by cosine 1 - s. Default None.
        max_distance: a negative is at most this far. Default None.
        sampling: ``"top"``, the nearest of what the filters leave in the window; or ``"random"``, any of it alike.
        seed: of the random choice, which follows from it and the indices alone. Default 0.
        suspect_ratio: the report lists queries whose nearest row of another label is within this share of the median
            distance to the nearest positive, as likely wrong labels; of lengths, for squared and cosine distances the
            root. Near 1 it finds rows amid another class, their neighbours with them. Default 0.1.
        duplicate_distance: the report lists queries within this distance of a row that they may pair with. Default 0.
        groups_exclude: with ``groups``, what rows of equal group never are to each other. ``"pairs"``, the default:
            positive or negative. ``"positives"``: positive.
        progress: true for a bar, which needs tqdm; or a function that is told after each part how many queries are
            done, and of how many. Default false.
        **pairing: who pairs with whom: :class:`fasttriplet.retrieval.metrics.QueryPairing`.

    Returns:
        :class:`HardNegatives`. A query without a positive has negatives unless there is a margin to hold them against;
        it is in no triplet. An ignored one has neither.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, labels that are multi-hot, or a row with a NaN or infinite
            entry that is neither ignored nor masked.
        ImportError: ``progress=True`` without tqdm.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import mine_hard_negatives
        >>> embeddings = torch.tensor([[0.0], [1.0], [1.5], [3.0], [9.0]])
        >>> mined = mine_hard_negatives(embeddings, torch.tensor([0, 0, 1, 1, 2]), num_negatives=1, absolute_margin=0.0)
        >>> mined.negatives.tolist(), mined.report.left_out["absolute_margin"]
        ([[2], [3], [0], [1], [-1]], 2)

    Source: margins beside the positive: G. Moreira et al., "NV-Retriever: Improving text embedding models with
    effective hard-negative mining", 2024, https://arxiv.org/abs/2407.15831.
    """
    if away(embeddings):
        return there_and_back(mine_hard_negatives, locals())
    batch = query_batch("mine_hard_negatives", embeddings, labels, pairing, groups_exclude)
    if labels.dim() != 1:
        raise ValueError(
            f"labels must be one class a row, [{len(labels)}], to mine a data set; got multi-hot {list(labels.shape)}"
        )
    check_choice("positive", positive, POSITIVES)
    check_choice("sampling", sampling, SAMPLINGS)
    wanted = check_count("num_negatives", num_negatives)
    filters: dict[str, Any] = {
        name: None if value is None else check_margin(value, name)
        for name, value in (
            *(("absolute_margin", absolute_margin), ("relative_margin", relative_margin)),
            *(("min_distance", min_distance), ("max_distance", max_distance)),
        )
    }
    searches = sampling == "random" or any(limit is not None for limit in filters.values())
    options = Options(
        *(check_choice("distance", distance, DISTANCES), wanted, positive),
        *_checked_window(range_min, range_max, wanted, _WIDER * wanted if searches else wanted),
        **filters,
        sampling=sampling,
        seed=check_integer("seed", seed),
    )
    reach = check_margin(suspect_ratio, "suspect_ratio"), check_margin(duplicate_distance, "duplicate_distance")
    told = check_report(progress)
    candidates = candidates_of(batch)
    with reporting(told, len(candidates.queries), " queries") as report:
        return _mined(candidates, len(embeddings), options, reach, report)


def _mined(
    candidates: Candidates,
    given: int,
    options: Options,
    reach: tuple[float, float],
    progress: Callable[[int], object],
) -> HardNegatives:
    """Of ``given`` rows, of which the queries take part."""
    count = len(candidates.queries)
    width = max(1, min(options.range_max, len(candidates.references)))
    near = candidates.positives("easy_positive", options.distance)
    positives = candidates.positives("batch_hard", options.distance) if options.positive == "farthest" else near
    first = near[0].new_full((count,), torch.nan), near[1].new_full((count,), -1)  # negatives
    others, available = candidates.available()
    left_out = dict.fromkeys(REASONS, 0)
    parts: list[tuple[Tensor, ...]] = []
    step = max(_FEWEST_QUERIES, _FOUND // width)
    for some in (slice(start, min(start + step, count)) for start in range(0, count, step)):
        window = candidates.nearest_negatives(some, options.distance, width)
        for all_, each in zip(first, window, strict=True):
            all_[some] = each[:, 0]
        rows = _rows(candidates, some, options, positives)
        parts += _judged(candidates, some.start, options, rows, window, left_out)
        queries = rows[0]
        left_out["never_pair"] += int((others - available)[queries].sum())
        left_out["range_max"] += int((available[queries] - options.range_max).clamp_min(0).sum())
        progress(some.stop)
    columns = [torch.cat(each) for each in zip(*parts, strict=True)] if parts else _none(candidates, options)
    queries, with_, apart, negatives, distances = columns
    found, complete = negatives >= 0, (negatives >= 0) & (with_ >= 0)[:, None]
    report = MiningReport(
        *(DISTANCES[options.distance], options.num_negatives, count, len(candidates.references), len(queries)),
        without_positive=int((near[1] < 0).sum()),
        without_enough=int((~found).any(1).sum()),
        without_any=int((~found).all(1).sum()),
        candidates=int(others[queries].sum()),
        chosen=int(found.sum()),
        left_out=left_out,
        positives=summed_up(apart[with_ >= 0]),
        negatives=summed_up(distances[found]),
        differences=summed_up((distances - apart[:, None])[complete]),
        **odd_ones(candidates, DISTANCES[options.distance], near, first, *reach),
    )
    return HardNegatives(*_as_given(candidates, given, columns), report)


def _rows(
    candidates: Candidates, some: slice, options: Options, positives: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``some`` queries, with each one's positive: the queries [R], positives [R] and their distances [R]."""
    if options.positive == "all":
        return candidates.all_positives(some, options.distance)
    queries = torch.arange(some.start, some.stop, device=candidates.labels.device)
    distances, indices = positives
    return queries, indices[some], distances[some]


def _judged(
    candidates: Candidates,
    start: int,
    options: Options,
    rows: tuple[Tensor, Tensor, Tensor],
    window: tuple[Tensor, Tensor],
    left_out: dict[str, int],
) -> Iterator[tuple[Tensor, ...]]:
    """The rows of queries from ``start`` on, whose ``window`` [q, W] this is, with what is chosen for each."""
    step = max(1, _JUDGED // window[0].shape[1])
    for queries, positives, apart in zip(*(each.split(step) for each in rows), strict=True):
        distances, indices = (each[queries - start] for each in window)
        numbers = indices
        if options.sampling == "random":
            drawn_by = [candidates.rows[queries][:, None], candidates.given_references(indices)]
            if options.positive == "all":
                drawn_by.insert(1, candidates.given_references(positives)[:, None])
            numbers = mixed(options.seed, *drawn_by)
        yield queries, positives, apart, *choose(options, distances, indices, apart, numbers, left_out)


def _none(candidates: Candidates, options: Options) -> list[Tensor]:
    """The columns of no row."""
    indices, distances = candidates.rows.new_zeros(0), candidates.queries.new_zeros(0, dtype=torch.float64)
    wide = 0, options.num_negatives
    return [indices, indices, distances, indices.new_zeros(wide), distances.new_zeros(wide)]


def _as_given(
    candidates: Candidates, given: int, columns: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indices of what was given in place of the candidates' own, and an empty row for each query that has none."""
    queries, positives, apart, negatives, distances = columns
    absent = torch.ones(given, dtype=torch.bool, device=queries.device)
    absent[candidates.rows] = False
    queries = torch.cat([candidates.rows[queries], absent.nonzero()[:, 0]])
    order = queries.argsort(stable=True)
    empty = len(queries) - len(positives)

    def filled(column: Tensor) -> Tensor:
        nothing = torch.nan if column.is_floating_point() else -1
        return torch.cat([column, column.new_full((empty, *column.shape[1:]), nothing)])[order]

    positives, negatives = candidates.given_references(positives), candidates.given_references(negatives)
    return queries[order], filled(positives), filled(apart), filled(negatives), filled(distances)


def _checked_window(range_min: object, range_max: object, wanted: int, searched: int) -> tuple[int, int]:
    first = check_integer("range_min", range_min)
    if first < 0:
        raise ValueError(f"range_min must be at least 0; got {first}")
    if range_max is None:
        return first, first + searched
    last = check_count("range_max", range_max)
    if last - first < wanted:
        raise ValueError(
            f"range_max must be at least range_min + num_negatives, {first} + {wanted}, to leave room for as many; got "
            f"{last}"
        )
    return first, last
