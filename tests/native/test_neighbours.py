"""Nearest neighbours, what is within a radius and ranks of positives, in every tier, by a look at every pair."""

import functools

import numpy as np
import pytest

from tests.native.oracle import DISTANCES, EUCLIDEAN, INNER, scores, suffix
from tests.native.test_bound import rows_of

WALK, ROWS = 1, 2
SHAPES = ["gauss", "offset", "decades", "zeros", "unit", "outliers"]


def matrix_of(native, rows, distance, tier):
    """[N, N] exact scores, infinite on the diagonal."""
    matrix = scores(native, rows, distance, tier)
    np.fill_diagonal(matrix, np.inf)
    return matrix


def many(kind, dtype, seed=0):
    """Enough rows for several blocks and for a sample: 900, of few different values where they are integers."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((900, 6))
    if kind == "integers":
        rows = np.round(rows * 1.3)
    elif kind == "two values":
        rows = np.sign(rows[:, :1]) * np.ones(6)
    elif kind == "clusters":
        rows = rows * 0.3 + 3 * random.standard_normal((90, 6)).repeat(10, 0)
    return rows.astype(dtype)


@functools.cache
def many_with_matrix(native, kind, dtype, distance):
    """Rows and their scores, which have the same bits in every tier: half a million calls are made once."""
    rows = many(kind, dtype)
    return rows, matrix_of(native, rows, distance, "portable")


def nearest(native, rows, k, distance, tier, references=None, threads=2):
    return getattr(native, f"nearest_{suffix(rows)}")(rows, references, k, distance, tier, threads)


def first(matrix, k):
    return matrix.argsort(axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_are_those_of_all_pairs(native, tier, shape, distance, dtype):
    rows = rows_of(shape, dtype)
    matrix = matrix_of(native, rows, distance, tier)
    for k in (1, 7, 59):
        distances, indices = nearest(native, rows, k, distance, tier)
        np.testing.assert_array_equal(indices, first(matrix, k))
        np.testing.assert_array_equal(distances, np.take_along_axis(matrix, indices, 1))


@pytest.mark.parametrize("kind", ["gauss", "integers", "two values", "clusters"])
@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER])
def test_the_nearest_of_many_rows(native, tier, kind, distance):
    rows, matrix = many_with_matrix(native, kind, np.float32, distance)
    for k in (3, 40):
        for threads in (1, 3):
            np.testing.assert_array_equal(nearest(native, rows, k, distance, tier, None, threads)[1], first(matrix, k))
        queries, references = rows[:100], rows[100:]
        np.testing.assert_array_equal(
            nearest(native, queries, k, distance, tier, references)[1], first(matrix[:100, 100:], k)
        )


@pytest.mark.parametrize("kind", ["gauss", "integers"])
@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER])
def test_all_within_a_radius(native, tier, kind, distance):
    rows, matrix = many_with_matrix(native, kind, np.float32, distance)
    radius = float(np.sort(matrix, axis=None)[2000])  # the distance of a pair, which is in
    found = native.within_float32(rows, None, radius, distance, tier, 2)
    for i, indices in enumerate(found):
        near = np.flatnonzero(matrix[i] <= radius)
        assert indices == near[matrix[i][near].argsort(kind="stable")].tolist()


def table_of(matrix, labels, at):
    """What a sorted ranking says of every query."""
    table = []
    for i, distances in enumerate(matrix):
        order = distances.argsort(kind="stable")
        ranks = 1 + np.flatnonzero(labels[order[order != i]] == labels[i])
        precisions = np.arange(1, len(ranks) + 1) / ranks
        relevant = len(ranks)
        whole = [relevant, *((ranks[0], ranks[-1]) if relevant else (0, 0)), precisions.sum()]
        whole += [precisions[ranks <= relevant].sum(), (ranks <= relevant).sum(), len(labels) - 1]
        whole += [(ranks <= k).sum() for k in at] + [precisions[ranks <= k].sum() for k in at]
        table.append(whole)
    return np.array(table, dtype=float)


@pytest.mark.parametrize("way", [WALK, ROWS])
@pytest.mark.parametrize("classes", [4, 200])  # many positives an anchor, and few
@pytest.mark.parametrize("kind", ["gauss", "integers", "clusters"])
@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER])
def test_ranks_are_those_of_a_sorted_ranking(native, tier, way, classes, kind, distance):
    rows, matrix = many_with_matrix(native, kind, np.float32, distance)
    labels = np.random.default_rng(1).integers(0, classes, len(rows))
    expected = table_of(matrix, labels, [1, 10])
    for threads in (1, 3):
        found = native.retrieval_ranks_float32(rows, labels, None, [1, 10], way, distance, tier, threads)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("way", [WALK, ROWS])
@pytest.mark.parametrize(("distance", "signs"), [(EUCLIDEAN, "any"), (INNER, "any"), (INNER, "one row has two")])
def test_ranks_of_distances_that_overflow(native, tier, way, distance, signs):
    """Some of each anchor's are infinite, of products also not numbers: first those, and equal ones by their index."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((200, 2)) * np.where(random.random((200, 1)) < 0.3, 1e200, 1)
    if signs == "one row has two":  # and no infinite distances
        rows = np.abs(rows)
        rows[100] = 1e200, -1e200
    labels = random.integers(0, 2, len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        differences = np.sqrt(((rows[:, None] - rows) ** 2).sum(2))
        matrix = differences if distance == EUCLIDEAN else -(rows[:, None] * rows).sum(2)
    assert np.isinf(matrix).any() and np.isfinite(matrix).any()
    assert np.isnan(matrix).any() == (distance == INNER)
    order = np.where(np.isnan(matrix), -np.inf, matrix.clip(-1e300, 1e300))
    found = native.retrieval_ranks_float64(rows, labels, None, [1, 10], way, distance, tier, 2)
    np.testing.assert_allclose(found, table_of(order, labels, [1, 10]), rtol=1e-12)


@pytest.mark.parametrize("way", [WALK, ROWS])
def test_ranks_among_references(native, tier, way):
    rows, matrix = many_with_matrix(native, "clusters", np.float64, EUCLIDEAN)
    labels, matrix = np.random.default_rng(1).integers(0, 90, len(rows)), matrix[:100, 100:]
    found = native.retrieval_ranks_float64(rows[:100], labels, rows[100:], [5], way, EUCLIDEAN, tier, 2)
    for i, distances in enumerate(matrix):
        ranks = 1 + np.flatnonzero(labels[100:][distances.argsort(kind="stable")] == labels[i])
        assert found[i, 0] == len(ranks)
        np.testing.assert_allclose(found[i, 3], (np.arange(1, len(ranks) + 1) / ranks).sum(), rtol=1e-12)
        assert found[i, 7] == (ranks <= 5).sum()


@pytest.mark.parametrize("offset", [1e6, 3e6])
def test_inner_products_of_rows_far_from_zero(native, tier, offset):
    """Whole numbers whose products float64 holds, and whose keys are large beside their bounds: ties and near ties."""
    random = np.random.default_rng(0)
    rows = random.integers(-3, 4, (5000, 32))
    rows[:, 0] -= rows.sum(1) - np.where(np.arange(len(rows)) % 2, 40, -40)  # few different products
    rows = (rows + offset).astype(np.float32)
    queries, references = rows[:1000], rows[1000:]
    matrix = -(queries.astype(np.float64) @ references.T.astype(np.float64))
    for k in (3, 10, 50):
        found = nearest(native, queries, k, INNER, tier, references)[1]
        np.testing.assert_array_equal(found, first(matrix, k))
