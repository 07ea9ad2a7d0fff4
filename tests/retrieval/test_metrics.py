"""retrieval_metrics beside the reference, rankings written out, other libraries, and numbers made by hand."""

import math

import numpy as np
import pytest
import torch

from fasttriplet import reference
from fasttriplet.retrieval import retrieval_metrics
from fasttriplet.retrieval.metrics import metrics_of_ranks, query_batch, query_ranks
from fasttriplet.retrieval.ranks import Ranks
from tests.inputs import CASES, DISTANCES, DTYPES, PAIRINGS, batch, pair_up

#: Small ones: the reference sorts every query's candidates in Python.
SOME = [case for case in CASES if len(batch(case)[0]) <= 101]
#: Of them those that every pairing is tried on.
PAIRED = ("gauss-3x2", "edge-48", "no-columns", "one-column", "binary", "duplicates", "empty")
LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]])


def assert_same(found, expected):
    for name in ("hit_rate", "precision", "recall", "map_at", "map", "map_at_r", "r_precision", "mrr", "minp", "cmc"):
        value = getattr(found, name)
        assert value.dtype == torch.float64, name
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=0, equal_nan=True, msg=name)
    assert found.queries == expected["queries"]
    assert found.queries_without_positive == expected["queries_without_positive"]


@pytest.mark.parametrize(
    ("case", "pairing"),
    [(case, "plain") for case in SOME]
    + [(case, pairing) for case in SOME if case.name in PAIRED for pairing in PAIRINGS[1:]],
    ids=lambda value: getattr(value, "name", value),
)
def test_reference(case, pairing):
    embeddings, labels = batch(case)
    labels, arguments = pair_up(pairing, embeddings, labels)
    options = {"at": (3, 1, 500), "max_rank": 9, **arguments}
    assert_same(
        retrieval_metrics(embeddings, labels, **options), reference.retrieval_metrics(embeddings, labels, **options)
    )


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gauss-97x33", "duplicates", "zero-rows", "edge-49"])
def test_distances_and_dtypes(name, dtype, distance):
    case = next(case for case in CASES if case.name == name)
    embeddings, labels = batch(case, dtype)
    expected = reference.retrieval_metrics(embeddings.double(), labels, distance=distance)
    assert_same(retrieval_metrics(embeddings, labels, distance=distance), expected)


@pytest.mark.parametrize("on_nonfinite", ["fail", "skip"])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rows_that_are_not_finite(pairing, on_nonfinite):
    embeddings = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, arguments = pair_up(pairing, embeddings, torch.arange(60) % 7)
    embeddings[3, 1], embeddings[17], embeddings[58, 0] = math.nan, math.inf, -math.inf
    if "ref_embeddings" in arguments:
        arguments["ref_embeddings"][2:9:3, 1] = math.nan
    options = {"on_nonfinite": on_nonfinite, **arguments}
    expected = reference.retrieval_metrics(embeddings, labels, **options)
    assert_same(retrieval_metrics(embeddings, labels, **options), expected)
    with pytest.raises(ValueError, match="embeddings must be finite"):
        retrieval_metrics(embeddings, labels, **arguments)


def test_error_counts_rows_that_take_part():
    embeddings, labels = torch.zeros(6, 2), torch.tensor([0, 0, 1, 1, 9, 9])
    embeddings[3:, 0] = math.nan
    message = (
        r"^embeddings must be finite .*; got 3 of 6 rows .*, the first at index 3: pass on_nonfinite='fail' .*'skip'"
    )
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(embeddings, labels)
    with pytest.raises(ValueError, match=r"got 1 of 6 rows"):
        retrieval_metrics(embeddings, labels, ignore_index=9)
    embeddings[3] = 0.0
    assert retrieval_metrics(embeddings, labels, ignore_index=9).queries == 4
    references = {"ref_embeddings": torch.full((3, 2), math.inf), "ref_labels": torch.tensor([0, 1, 9])}
    with pytest.raises(ValueError, match=r"^ref_embeddings must be finite .*; got 1 of 3 rows .*first at index 1"):
        mask = torch.tensor([False, True, True])
        retrieval_metrics(embeddings, labels, ignore_index=9, ref_mask=mask, **references)


def test_by_hand():
    embeddings = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    labels = torch.tensor([0, 1, 0, 0, 2])
    found = retrieval_metrics(embeddings, labels, at=(2, 1), max_rank=3)
    # 0 ranks 1 2 3 4: - + + -; 2 ranks 1 0 3 4: - + + -; 3 ranks 2 4 1 0: + - - +; 1 and 4 have no positive.
    assert (found.queries, found.queries_without_positive, found.at) == (3, 2, (2, 1))
    assert found.hit_rate.tolist() == [1, 1 / 3]
    torch.testing.assert_close(found.precision, torch.tensor([1 / 2, 1 / 3]).double())
    torch.testing.assert_close(found.recall, torch.tensor([1 / 2, 1 / 6]).double())
    late, early = (1 / 2 + 2 / 3) / 2, (1 + 2 / 4) / 2
    assert found.map.item() == pytest.approx((2 * late + early) / 3)
    torch.testing.assert_close(found.map_at, torch.tensor([(1 / 4 + 1 / 4 + 1 / 2) / 3, 1 / 6]).double())
    assert found.map_at_r.item() == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)
    assert found.r_precision.item() == pytest.approx(1 / 2)
    assert found.mrr.item() == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found.minp.item() == pytest.approx((2 / 3 + 2 / 3 + 2 / 4) / 3)
    torch.testing.assert_close(found.cmc, torch.tensor([1 / 3, 1, 1]).double())


def test_names():
    found = retrieval_metrics(LINE, torch.tensor([0, 0, 1, 1, 2]), at=(2, 1), max_rank=2)
    names = [f"{name}@{k}" for name in ("hit_rate", "precision", "recall", "map") for k in (2, 1)]
    names += ["cmc@1", "cmc@2", "map", "map_at_r", "r_precision", "mrr", "minp", "queries", "queries_without_positive"]
    told = found.as_dict()
    assert list(told) == names
    assert all(type(value) is float for value in told.values())
    assert told["recall@2"] == found.recall[0].item() != told["recall@1"] == found.recall[1].item()
    assert told["map@1"] == found.map_at[1].item() and told["map"] == found.map.item()
    assert told["cmc@2"] == found.cmc[1].item() and (told["queries"], told["queries_without_positive"]) == (4, 1)


def test_fail_costs_what_it_should():
    """A row that is not finite finds nothing, and whoever looks for it never finds it."""
    embeddings, labels = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.tensor([0, 0, 0, 1])
    embeddings[2] = math.nan
    failed = retrieval_metrics(embeddings, labels, at=(1, 2), on_nonfinite="fail")
    assert failed.queries == 3 and failed.queries_without_positive == 1
    assert failed.mrr.item() == pytest.approx(2 / 3) and failed.minp.item() == 0
    assert failed.recall.tolist() == pytest.approx([1 / 3, 1 / 3]) and failed.map.item() == pytest.approx(1 / 3)
    skipped = retrieval_metrics(embeddings, labels, at=(1, 2), on_nonfinite="skip")
    assert skipped.queries == 2 and skipped.queries_without_positive == 1
    assert skipped.mrr.item() == skipped.minp.item() == skipped.map.item() == 1


def ranking_written_out(distances, labels, query):
    """Whether each candidate of ``query``, by distance and then index, is a positive."""
    order = sorted((distances[query][j], j) for j in range(len(labels)) if j != query)
    return [labels[j] == labels[query] for _, j in order]


@pytest.mark.parametrize("seed", range(12))
def test_rankings_written_out(seed):
    """Few whole numbers, so that most distances are tied."""
    generator = torch.Generator().manual_seed(seed)
    n = 3 + 2 * seed
    rows = torch.randint(0, 3, (n, 2), generator=generator)
    labels = torch.randint(0, 1 + seed // 2, (n,), generator=generator)
    squares = (rows[:, None] - rows).square().sum(2).tolist()
    k, sums, queries = 3, dict.fromkeys(("hit", "ap", "ap_r", "ap_k", "mrr", "minp"), 0.0), 0
    for query in range(n):
        hits = ranking_written_out(squares, labels.tolist(), query)
        ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
        if not ranks:
            continue
        queries += 1
        r = len(ranks)
        precisions = [(j / rank, rank) for j, rank in enumerate(ranks, 1)]
        sums["hit"] += any(hits[:k])
        sums["ap"] += sum(p for p, _ in precisions) / r
        sums["ap_r"] += sum(p for p, rank in precisions if rank <= r) / r
        sums["ap_k"] += sum(p for p, rank in precisions if rank <= k) / r
        sums["mrr"] += 1 / ranks[0]
        sums["minp"] += r / ranks[-1]
    found = retrieval_metrics(rows.float(), labels, at=(k,), distance="squared_euclidean")
    assert found.queries == queries > 0
    ours = [found.hit_rate[0], found.map, found.map_at_r, found.map_at[0], found.mrr, found.minp]
    assert [value.item() for value in ours] == pytest.approx([total / queries for total in sums.values()], rel=1e-12)


def test_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(2)
    embeddings, labels = torch.randn(60, 8, generator=generator), torch.randint(0, 9, (60,), generator=generator)
    distances = torch.cdist(embeddings.double(), embeddings.double()).numpy()
    values = []
    for query in range(60):
        others = np.arange(60) != query
        positive = (labels == labels[query]).numpy()[others]
        if positive.any():
            values.append(metrics.average_precision_score(positive, -distances[query][others]))
    found = retrieval_metrics(embeddings, labels)
    assert found.queries == len(values)
    assert found.map.item() == pytest.approx(np.mean(values), rel=1e-12)


def test_pytorch_metric_learning():
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator").AccuracyCalculator
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    knn = pytest.importorskip("pytorch_metric_learning.utils.inference").CustomKNN(
        distances.LpDistance(normalize_embeddings=False)
    )
    generator = torch.Generator().manual_seed(3)
    embeddings, labels = torch.randn(80, 6, generator=generator), torch.randint(0, 11, (80,), generator=generator)
    # Numbers of theirs, each with the k that makes it whole.
    theirs = calculator(k=None, knn_func=knn, device=torch.device("cpu")).get_accuracy(embeddings, labels)
    found = retrieval_metrics(embeddings, labels, at=(1,))
    ours = {
        "precision_at_1": found.precision[0],
        "mean_average_precision": found.map,
        "mean_average_precision_at_r": found.map_at_r,
        "r_precision": found.r_precision,
        "mean_reciprocal_rank": found.mrr,
    }
    for name, value in ours.items():
        assert value.item() == pytest.approx(theirs[name], rel=1e-6), name


def test_market_1501():
    """The same person in the same camera is junk; another person in it is a negative."""
    queries, labels, cameras = torch.tensor([[0.0]]), torch.tensor([7]), torch.tensor([1])
    gallery = {
        "ref_embeddings": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
        "ref_labels": torch.tensor([7, 8, 7, 7]),  # junk, negative, positive, positive
        "ref_groups": torch.tensor([1, 1, 2, 3]),
    }
    found = retrieval_metrics(queries, labels, groups=cameras, **gallery)
    assert found.map.item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.minp.item() == pytest.approx(2 / 3) and found.cmc[:2].tolist() == [0, 1]
    assert retrieval_metrics(queries, labels, groups=cameras, groups_exclude="pairs", **gallery).map.item() == 1


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_label_dtypes(dtype):
    labels = torch.tensor([0, 1, 0, 1, 127])
    expected = retrieval_metrics(LINE, labels)
    assert retrieval_metrics(LINE, labels.to(dtype)).as_dict() == expected.as_dict()
    ignoring = retrieval_metrics(LINE, labels.to(dtype), ignore_index=127)
    assert (ignoring.queries, ignoring.queries_without_positive) == (4, 0)


def test_labels_are_not_rounded():
    big = torch.tensor([0, 1, 0, 1, 2]) + 2**24
    assert retrieval_metrics(LINE, big).as_dict() == retrieval_metrics(LINE, big - 2**24).as_dict()
    assert retrieval_metrics(LINE, big * 2**38 + big).queries == 4
    assert retrieval_metrics(LINE, torch.arange(5) + 2**53).queries == 0
    small = torch.tensor([255, 255, 0, 0, 255], dtype=torch.uint8)
    assert retrieval_metrics(LINE, small, ignore_index=-1).queries == 5  # which is not 255
    assert retrieval_metrics(LINE, small, ignore_index=255).queries == 2
    assert retrieval_metrics(LINE, torch.tensor([True, True, False, False, True])).queries == 5


def test_no_positives():
    for embeddings, labels in (
        (LINE, torch.arange(5)),
        (LINE[:1], torch.tensor([3])),
        (LINE[:0], torch.zeros(0, dtype=torch.int64)),
        (LINE, torch.zeros(5, 2, dtype=torch.bool)),
    ):
        found = retrieval_metrics(embeddings, labels, at=(1, 2), max_rank=4, histograms=True)
        assert (found.queries, found.queries_without_positive) == (0, len(labels))
        told = found.as_dict()
        assert {name for name, value in told.items() if not math.isnan(value)} == {
            "queries",
            "queries_without_positive",
        }
        assert found.cmc.shape == (4,) and found.hit_rate.shape == (2,)


def test_references_may_be_none():
    nobody = {"ref_embeddings": LINE[:0], "ref_labels": torch.zeros(0, dtype=torch.int64)}
    assert retrieval_metrics(LINE, torch.arange(5) // 2, **nobody).queries_without_positive == 5
    everybody = {"ref_embeddings": LINE.double(), "ref_labels": torch.zeros(5, dtype=torch.int64)}
    assert retrieval_metrics(LINE.half(), torch.zeros(5, dtype=torch.int64), **everybody).recall[0].item() == 1 / 5


def test_no_ranks():
    found = retrieval_metrics(LINE, torch.arange(5) // 2, at=())
    assert found.hit_rate.shape == (0,) and found.hit_rate.dtype == torch.float64 and found.map.item() > 0


def test_parts_of_the_queries():
    """Ranks of some queries after those of others are those of all, to the bit."""
    generator = torch.Generator().manual_seed(4)
    embeddings, labels = torch.randn(40, 3, generator=generator), torch.randint(0, 6, (40,), generator=generator)
    at = (1, 4)
    parts = []
    for some in torch.arange(40).split([13, 0, 27]):
        pairing = {"ref_embeddings": embeddings, "ref_labels": labels, "self_indices": some}
        parts.append(query_ranks(query_batch("test", embeddings[some], labels[some], pairing), 0, at, "error"))
    ranks = Ranks(*map(torch.cat, zip(*parts, strict=True)))
    assert metrics_of_ranks(ranks, at, 50).as_dict() == retrieval_metrics(embeddings, labels, at=at).as_dict()


def test_threads_and_strides():
    generator = torch.Generator().manual_seed(5)
    embeddings, labels = torch.randn(90, 10, generator=generator), torch.randint(0, 9, (90,), generator=generator)
    expected = retrieval_metrics(embeddings, labels).as_dict()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert retrieval_metrics(embeddings, labels).as_dict() == expected
    finally:
        torch.set_num_threads(threads)
    wide = torch.zeros(180, 20)
    wide[::2, ::2] = embeddings
    every_other = torch.zeros(180, dtype=torch.int64)
    every_other[::2] = labels
    assert retrieval_metrics(wide[::2, ::2].requires_grad_(), every_other[::2]).as_dict() == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at": (1, 0)}, ValueError, r"^at\[1\] must be at least 1 .*; got 0$"),
        ({"at": (5, 1, 5)}, ValueError, r"^at must hold distinct ranks; got \[5, 1, 5\]$"),
        ({"at": 5}, TypeError, r"^at must be a sequence of ints, .*; got int$"),
        ({"at": "15"}, TypeError, "^at must be a sequence"),
        ({"at": (1.0,)}, TypeError, r"^at\[0\] must be an int; got float$"),
        ({"max_rank": 0}, ValueError, "^max_rank must be at least 1 .*; got 0$"),
        ({"distance": "l2"}, ValueError, "^distance must be one of .*; got 'l2'$"),
        ({"on_nonfinite": "ignore"}, ValueError, "^on_nonfinite must be one of error, fail, skip; got 'ignore'$"),
        ({"groups_exclude": "both"}, ValueError, "^groups_exclude must be one of pairs, positives; got 'both'$"),
        ({"histograms": 1}, TypeError, "^histograms must be a bool; got int$"),
        ({"bins": 0}, ValueError, "^bins must be at least 1"),
        ({"pairs": 0}, ValueError, "^pairs must be at least 1"),
        ({"seed": -1}, ValueError, "^seed must be at least 0 and below .*; got -1$"),
        ({"seed": 1.0}, TypeError, "^seed must be an int; got float$"),
        ({"margin": 1.0}, TypeError, r"^retrieval_metrics\(\) got an unexpected keyword argument 'margin'$"),
        ({"ref_labels": torch.zeros(5)}, ValueError, "^ref_embeddings and ref_labels must be given together"),
        ({"self_indices": torch.arange(5)}, ValueError, "^self_indices must come with ref_embeddings"),
        ({"sample_ids": torch.zeros(4).long()}, ValueError, r"^sample_ids must have shape \[5\]"),
        ({"ref_embeddings": LINE.int(), "ref_labels": torch.arange(5)}, ValueError, "^ref_embeddings must have dtype"),
        ({"ref_embeddings": LINE[0], "ref_labels": torch.arange(5)}, ValueError, r"^ref_embeddings must have shape"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        retrieval_metrics(LINE, torch.arange(5) // 2, **options)


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (LINE[:, 0], torch.arange(5), r"^embeddings must have shape \[N, D\]; got \[5\]"),
        (LINE.int(), torch.arange(5), "^embeddings must have dtype float64, float32, float16 or bfloat16"),
        (LINE, torch.arange(4), r"^labels must be integers or bool \[5\]"),
        (LINE, torch.arange(5.0), r"^labels must be integers or bool \[5\]"),
        (LINE, torch.arange(10).view(5, 2), r"^labels must be integers or bool \[5\]"),
    ],
)
def test_wrong_tensors(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(embeddings, labels)
