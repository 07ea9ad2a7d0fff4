"""Re-ranking against the published algorithm on dense matrices, written out in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fasttriplet.retrieval import k_reciprocal_distances, reciprocal, rerank, rerank_k_reciprocal
from fasttriplet.retrieval.reciprocal import encoded
from fasttriplet.retrieval.sparse import SparseRows, summed

OPTIONS: list[dict[str, Any]] = [
    {},
    {"k1": 6, "k2": 3},
    {"k1": 5, "k2": 1, "lambda_value": 0.0},
    {"k1": 7, "k2": 12, "lambda_value": 0.8},  # k2 beyond the lists of k1
    {"k1": 1, "k2": 2},
    {"k1": 9, "k2": 4, "lambda_value": 1.0},
    {"k1": 500, "k2": 6},  # more than there are rows
    {"k1": 4, "k2": 500},
]


pytestmark = pytest.mark.usefixtures("one_thread")


def dense(
    queries: Tensor,
    references: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    distance: str = "euclidean",
) -> np.ndarray:
    """[Q, M] by the steps of the paper's code, on the [T, T] matrix of squared distances of all rows."""
    rows = torch.cat([queries, references]).double()
    if distance == "cosine":
        rows = torch.nn.functional.normalize(rows, dim=1)
    squared = (rows[:, None] - rows).square().sum(2).numpy()
    relative = squared / squared.max(axis=1, keepdims=True)
    ranking = np.argsort(relative, axis=1, kind="stable")
    total = len(rows)

    def reciprocal_of(row: int, count: int) -> np.ndarray:
        forward = ranking[row, : count + 1]
        return forward[(ranking[forward, : count + 1] == row).any(axis=1)]

    weights = np.zeros((total, total))
    for row in range(total):
        neighbours = reciprocal_of(row, k1)
        expanded = set(neighbours.tolist())
        for member in neighbours:
            theirs = reciprocal_of(member, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, neighbours)) > 2 / 3 * len(theirs):
                expanded |= set(theirs.tolist())
        columns = sorted(expanded)
        weight = np.exp(-relative[row, columns])
        weights[row, columns] = weight / weight.sum()
    if k2 != 1:
        weights = np.stack([weights[ranking[row, :k2]].mean(axis=0) for row in range(total)])
    count = len(queries)
    common = np.minimum(weights[:count, None], weights[None, count:]).sum(axis=2)
    return (1 - lambda_value) * (1 - common / (2 - common)) + lambda_value * relative[:count, count:]


def clusters(q: int, m: int, seed: int = 0, spread: float = 0.8, d: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and references, and which of ten clusters each is of."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, d, generator=g)
    labels, ref_labels = (torch.randint(0, 10, (count,), generator=g) for count in (q, m))
    rows, references = (centres[of] + spread * torch.randn(len(of), d, generator=g) for of in (labels, ref_labels))
    return rows, references, labels, ref_labels


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_as_on_dense_matrices(distance: str, options: dict[str, Any]) -> None:
    large = max(options.get("k1", 1), options.get("k2", 1)) > 100
    for seed, (q, m) in enumerate([(10, 20)] if large else [(15, 70), (40, 25)]):
        queries, references, *_ = clusters(q, m, seed)
        stated = torch.from_numpy(dense(queries, references, distance=distance, **options))
        matrix = k_reciprocal_distances(queries, references, distance=distance, **options)
        assert matrix.dtype == torch.float64
        torch.testing.assert_close(matrix, stated, rtol=0, atol=1e-9)
        for k in (1, 7, m, m + 3):
            found = rerank_k_reciprocal(queries, references, k, distance=distance, **options)
            assert found.distances.shape == found.indices.shape == (q, k)
            within = min(k, m)
            order = stated.sort(1)
            torch.testing.assert_close(found.distances[:, :within], order.values[:, :within], rtol=0, atol=1e-9)
            chosen = stated.gather(1, found.indices[:, :within])
            torch.testing.assert_close(chosen, order.values[:, :within], rtol=0, atol=1e-9)
            assert all(len(set(row)) == within for row in found.indices[:, :within].tolist())
            assert (found.indices[:, within:] == -1).all() and found.distances[:, within:].isnan().all()


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_queries_among_themselves(options: dict[str, Any]) -> None:
    rows, *_ = clusters(60, 1)
    matrix = k_reciprocal_distances(rows, **options)
    assert matrix.shape == (60, 60)
    torch.testing.assert_close(matrix.diagonal(), torch.zeros(60, dtype=torch.float64), rtol=0, atol=1e-12)
    found = rerank_k_reciprocal(rows, k=59, **options)
    order = matrix.fill_diagonal_(torch.inf).sort(1)
    torch.testing.assert_close(found.distances, order.values[:, :59], rtol=0, atol=1e-12)
    assert (found.indices != torch.arange(60)[:, None]).all()
    assert (rerank_k_reciprocal(rows, k=60, **options).indices[:, -1] == -1).all()


def test_queries_among_themselves_as_on_dense_matrices() -> None:
    rows, *_ = clusters(60, 1)
    # Queries and references differ by their place alone: wherever split, the blocks are those of the whole.
    whole = k_reciprocal_distances(rows, k1=6, k2=3)
    for split in (20, 45):
        stated = torch.from_numpy(dense(rows[:split], rows[split:], k1=6, k2=3))
        torch.testing.assert_close(whole[:split, split:], stated, rtol=0, atol=1e-9)


def test_queries_that_are_the_references() -> None:
    rows, *_ = clusters(40, 1)
    found = rerank_k_reciprocal(rows, rows, 5, k1=6, k2=3)
    assert found.indices[:, 0].tolist() == list(range(40))  # each one's own copy, like any other row
    assert (found.distances[:, 0] < found.distances[:, 1]).all()
    matrix = k_reciprocal_distances(rows, rows, k1=6, k2=3)
    torch.testing.assert_close(found.distances, matrix.sort(1).values[:, :5])


@pytest.mark.parametrize("distance", rerank.RERANKED)
def test_rows_that_coincide(distance: str) -> None:
    found = rerank_k_reciprocal(torch.ones(3, 4), torch.ones(5, 4), 2, distance=distance)
    assert found.indices.tolist() == [[0, 1]] * 3 and torch.isfinite(found.distances).all()
    rows = torch.randint(0, 2, (50, 3), generator=torch.Generator().manual_seed(0)).float()
    found = rerank_k_reciprocal(rows[:10], rows[10:], 40, k1=4, k2=2, distance=distance)
    assert torch.isfinite(found.distances).all()
    matrix = k_reciprocal_distances(rows[:10], rows[10:], k1=4, k2=2, distance=distance)
    torch.testing.assert_close(found.distances, matrix.sort(1).values)


def test_ties_go_to_the_nearer_and_then_the_first() -> None:
    # Far from all that the query has in common with anyone, all are at Jaccard distance 1.
    queries = torch.tensor([[0.0], [0.01], [0.02]])
    references = torch.tensor([[9.0], [7.0], [-7.0], [7.0], [8.0], [8.01], [7.5]])
    found = rerank_k_reciprocal(queries[:1], torch.cat([references, queries[1:]]), 9, k1=2, k2=1, lambda_value=0.0)
    assert found.indices[0].tolist() == [7, 8, 1, 2, 3, 6, 4, 5, 0]
    assert found.distances[0, 2:].tolist() == [1.0] * 7
    assert rerank_k_reciprocal(queries[:1], references, 3, k1=2, k2=1, lambda_value=1.0).indices.tolist() == [[1, 2, 3]]


def average_precision(order: Tensor, labels: Tensor, ref_labels: Tensor) -> float:
    hits = (ref_labels[order] == labels[:, None]).double()
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(1) / hits.sum(1)).mean())


def test_clusters_are_found_better() -> None:
    queries, references, labels, ref_labels = clusters(60, 240, spread=1.1, d=16)
    before = average_precision(torch.cdist(queries, references).argsort(1), labels, ref_labels)
    found = rerank_k_reciprocal(queries, references, 240)
    after = average_precision(found.indices, labels, ref_labels)
    assert after > before + 0.03


def test_weights_are_sparse() -> None:
    queries, references, *_ = clusters(100, 500)
    rows = torch.cat([queries, references])
    weights, farthest = encoded(rows, 1, 6, 1)
    assert int(weights.sizes().max()) <= 7 + 7 * 4 and len(weights.columns) < 600 * 12
    assert weights.columns.shape == weights.values.shape == (int(weights.offsets[-1]),)
    torch.testing.assert_close(farthest, torch.cdist(rows.double(), rows.double()).amax(1).square())
    mean = encoded(rows, 1, 6, 3).weights
    assert len(weights.columns) < len(mean.columns) < 3 * len(weights.columns)
    for each in (weights, mean):
        total = torch.zeros(600, dtype=torch.float64).index_add_(
            0, torch.arange(600).repeat_interleave(each.sizes()), each.values
        )
        torch.testing.assert_close(total, torch.ones_like(total))
        inner = each.columns[1:] > each.columns[:-1]
        inner[(each.offsets[1:-1] - 1).unique()] = True  # across rows
        assert inner.all()


def test_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, references, *_ = clusters(30, 60)
    for given in ((queries, references), (references,)):
        matrix = k_reciprocal_distances(*given, k1=6, k2=3)
        found = rerank_k_reciprocal(*given, k=9, k1=6, k2=3)
        with monkeypatch.context() as patch:
            for module, name, value in (
                (reciprocal, "_ENTRIES", 100),
                (rerank, "_QUERIES", 7),
                (rerank, "_NEAREST", 2),
            ):
                assert hasattr(module, name)
                patch.setattr(module, name, value)
            torch.testing.assert_close(k_reciprocal_distances(*given, k1=6, k2=3), matrix, rtol=0, atol=1e-14)
            parts = rerank_k_reciprocal(*given, k=9, k1=6, k2=3)
        assert torch.equal(parts.indices, found.indices)
        torch.testing.assert_close(parts.distances, found.distances, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_strides(dtype: torch.dtype) -> None:
    queries, references, *_ = clusters(10, 40)
    queries, references = queries.to(dtype), references.to(dtype)
    stated = rerank_k_reciprocal(queries.double(), references.double(), 5, k1=5)
    found = rerank_k_reciprocal(torch.stack([queries, queries], 2)[:, :, 0], references.T.contiguous().T, 5, k1=5)
    assert torch.equal(found.indices, stated.indices) and torch.equal(found.distances, stated.distances)
    assert torch.equal(rerank_k_reciprocal(queries.double(), references, 5, k1=5).indices, stated.indices)


def test_both_euclidean_distances_are_one() -> None:
    queries, references, *_ = clusters(10, 40)
    one, other = (rerank_k_reciprocal(queries, references, 5, distance=each) for each in rerank.RERANKED[:2])
    assert torch.equal(one.distances, other.distances)
    assert not torch.equal(one.distances, rerank_k_reciprocal(queries, references, 5, distance="cosine").distances)


def test_sets_with_next_to_nothing() -> None:
    none = torch.zeros(0, 3)
    assert rerank_k_reciprocal(none, torch.ones(4, 3), 2).indices.shape == (0, 2)
    assert rerank_k_reciprocal(torch.ones(4, 3), none, 2).indices.tolist() == [[-1, -1]] * 4
    assert (
        rerank_k_reciprocal(none, none, 2).distances.shape == rerank_k_reciprocal(none, k=2).distances.shape == (0, 2)
    )
    assert rerank_k_reciprocal(torch.ones(1, 3), k=1).indices.tolist() == [[-1]]
    assert rerank_k_reciprocal(torch.zeros(1, 3), torch.ones(1, 3), 2).indices.tolist() == [[0, -1]]
    assert k_reciprocal_distances(torch.ones(4, 3), none).shape == (4, 0)
    assert k_reciprocal_distances(torch.ones(1, 3)).tolist() == [[0.0]]
    assert rerank_k_reciprocal(torch.zeros(2, 0), torch.zeros(3, 0), 1).indices.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1 .*; got 0"),
        ({"k1": 0}, ValueError, "k1 must be at least 1 .*; got 0"),
        ({"k2": 1.0}, TypeError, "k2 must be an int; got float"),
        ({"lambda_value": 1.5}, ValueError, r"lambda_value must be from 0 to 1; got 1\.5"),
        ({"lambda_value": float("nan")}, ValueError, "lambda_value must be from 0 to 1; got nan"),
        ({"lambda_value": "0"}, TypeError, "lambda_value must be a real number; got str"),
        ({"distance": "inner_product"}, ValueError, "distance must be one of euclidean, squared_euclidean, cosine"),
        ({"queries": [[0.0]]}, TypeError, r"queries must be a torch\.Tensor; got list"),
        ({"queries": torch.zeros(3)}, ValueError, r"queries must have shape \[Q, D\]; got \[3\]"),
        ({"queries": torch.zeros(3, 2).long()}, ValueError, "queries must have dtype float64"),
        ({"references": torch.zeros(3, 3)}, ValueError, r"references must have shape \[M, 2\] .*; got \[3, 3\]"),
        ({"references": torch.full((3, 2), torch.nan)}, ValueError, "references must be finite; got 3 of 3 rows"),
        ({"queries": torch.tensor([[0, 0], [0, torch.inf]])}, ValueError, "queries must be finite; .* index 1"),
        ({"references": torch.zeros(3, 2, device="meta")}, ValueError, "references must be on the device of queries"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"queries": torch.zeros(4, 2), "references": torch.ones(3, 2)} | options
    with pytest.raises(error, match=message):
        rerank_k_reciprocal(**given)
    if "k" not in options:
        with pytest.raises(error, match=message):
            k_reciprocal_distances(**given)


def test_sparse_rows() -> None:
    g = torch.Generator().manual_seed(0)
    rows, columns = torch.randint(0, 6, (40,), generator=g), torch.randint(0, 9, (40,), generator=g)
    values = torch.rand(40, generator=g, dtype=torch.float64)
    matrix = torch.zeros(6, 9, dtype=torch.float64).index_put_((rows, columns), values, accumulate=True)

    def filled(sparse: SparseRows, columns: int) -> Tensor:
        which = torch.arange(len(sparse.offsets) - 1).repeat_interleave(sparse.sizes())
        full = torch.zeros(len(sparse.offsets) - 1, columns, dtype=torch.float64)
        return full.index_put_((which, sparse.columns), sparse.values)

    sparse = summed(rows, columns, values, (6, 9))
    torch.testing.assert_close(filled(sparse, 9), matrix)
    torch.testing.assert_close(filled(sparse.transposed(2, 9), 4), matrix[2:].T)
    which, found, of = sparse.of(torch.tensor([4, 1, 4]))
    torch.testing.assert_close(torch.zeros_like(matrix[:3]).index_put_((which, found), of), matrix[[4, 1, 4]])
