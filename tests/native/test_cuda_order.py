"""Sorting, the gradient's edges and exact scores of the CUDA kernels on the host: orders, bits, launches."""

import numpy as np
import pytest

from tests.native.oracle import COSINE, DISTANCES, EUCLIDEAN, INNER, SQUARED
from tests.native.test_cuda import backward, check, cpu_backward, mine, setting

TOP = 2**64 - 1


def check_order(native, keys, set_up):
    keys = np.asarray(keys, np.uint64)
    order, begin, end = native.cuda.sort_classes(keys, set_up)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    ordered = np.sort(keys)
    np.testing.assert_array_equal(begin, np.searchsorted(ordered, ordered, "left"))
    np.testing.assert_array_equal(end, np.searchsorted(ordered, ordered, "right"))


# A block ranks 32 keys against tiles of 2048; beyond ranked_keys the radix sort takes over.
SIZES = (1, 2, 31, 32, 33, 63, 65, 255, 257, 1000, 2047, 2048, 2049, 2081, 4128)


@pytest.mark.parametrize("n", SIZES)
def test_keys_in_order_equal_ones_by_index(native, n):
    random = np.random.default_rng(n)
    for seed, keys in enumerate(
        [
            random.integers(0, 3, n),
            random.permutation(n) // 4,
            random.integers(0, 2**64, n, np.uint64),
            random.integers(0, 2, n).astype(np.uint64) * np.uint64(TOP),  # the largest key, which fills no tile
            (random.integers(0, 4, n) << 32) + random.integers(0, 4, n),  # the upper half decides
            np.full(n, TOP, np.uint64),
        ]
    ):
        check_order(native, keys, setting(native, seed, processors=1 + seed % 3))


@pytest.mark.parametrize("place", [0, 1, 40, 2047, 2048, 2100])
@pytest.mark.parametrize("other", [2**32, TOP])
def test_one_key_with_another_upper_half(native, place, other):
    """Its tile and its block compare in full what others compare by the lower halves."""
    keys = np.random.default_rng(place).integers(0, 50, 2101).astype(np.uint64)
    keys[place] = other
    check_order(native, keys, setting(native, place))
    check_order(native, TOP - keys, setting(native, place + 1))


@pytest.mark.parametrize("more", [0, 1])
def test_on_both_sides_of_the_radix_sort(native, more):
    n = native.cuda.ranked_keys + more
    check_order(native, np.random.default_rng(more).permutation(n) // 4, setting(native))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 10, 17, 18, 30])
def test_classes_end_where_they_end(native, size):
    """Within the positions looked at first, on their edge, and beyond; at both ends of the batch."""
    for n in (size, 2 * size, 300):
        check_order(native, np.random.default_rng(size).permutation(n) // size, setting(native, size))


# Gradient.


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("n", "launches"), [(5, 3), (300, 3), (4096, 3), (4097, 4)])
def test_launches_of_a_gradient(native, distance, n, launches):
    """Ranked as they are listed, indexed, gathered; beyond the ranked edges listed and numbered for the radix sort. The
    rows' factors for cosine. Nothing is cleared."""
    rows, zeros = np.ones((n, 1), np.float32), np.zeros((2, n))
    counts = native.cuda.backward_counts(rows, zeros.astype(np.int64), zeros, zeros[0], distance)
    more = n > native.cuda.ranked_keys // 2
    assert counts == (launches + (distance == COSINE), 0, more)


def edges_of(n, targets):
    """Pairs whose sorted edges have the given targets, -1 for those that pull nothing."""
    targets = np.concatenate([targets, np.full(2 * n - len(targets), -1)])
    return np.random.default_rng(n).permutation(targets).reshape(n, 2).T.copy()


def squared_gradient(rows, pairs, slopes, chunk):
    """[N] gradient of rows [N] in the kernels' order: own edges, edges before the first whole chunk, chunks, rest."""
    n = len(rows)
    weights = np.stack([2 * slopes, -2 * slopes], 1).ravel()
    targets = np.where(pairs < 0, n, pairs).T.ravel()
    order = np.argsort(targets, kind="stable")
    gradient = np.zeros(n)
    for i in range(n):
        positions = np.flatnonzero(targets[order] == i)
        begin, end = (positions[0], positions[-1] + 1) if len(positions) else (0, 0)
        total = 0.0
        for e in (2 * i, 2 * i + 1):
            if targets[e] < n:
                total += weights[e] * (rows[i] - rows[targets[e]])
        p = begin
        while p < end:
            length = chunk if p % chunk == 0 and p + chunk <= end else 1
            part = 0.0
            for e in order[p : p + length]:
                part += weights[e] * (rows[i] - rows[e // 2])
            total += part
            p += length
        gradient[i] = total
    return gradient


@pytest.mark.parametrize("before", [0, 1, 127, 128])
@pytest.mark.parametrize("count", [1, 5, 127, 128, 129, 255, 256, 257, 400])
def test_hubs_are_summed_in_chunks_in_one_order(native, before, count):
    """A row with `count` edges after `before` others, to the bit."""
    n = 270
    random = np.random.default_rng(count + before)
    rows, slopes = random.standard_normal(n), random.uniform(0.5, 1, n)
    pairs = edges_of(n, np.concatenate([np.zeros(before, int), np.full(count, 3), [n - 1, n - 1]]))
    mined = {"pairs": pairs, "distances": (rows - rows[pairs]) ** 2, "slopes": slopes}
    want = squared_gradient(rows, pairs, slopes, native.cuda.hub_chunk)
    for seed in range(2):
        found = backward(native, rows[:, None], mined, np.array(1.0), SQUARED, setting(native, seed))
        np.testing.assert_array_equal(found[:, 0], want)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("n", [4146, 8191])  # a poisoned edge's key, N + 1, has a bit more than N in the second
def test_gradient_beyond_the_ranked_edges_has_the_bits_of_the_cpu(native, distance, n):
    assert 2 * n > native.cuda.ranked_keys
    random = np.random.default_rng(0)
    rows = random.standard_normal((n, 2))
    pairs = random.integers(-1, n, (2, n))
    mined = {"pairs": pairs, "distances": random.uniform(1, 2, (2, n)), "slopes": random.uniform(0, 1, n)}
    mined["slopes"][::7] = 0
    want = cpu_backward(native, rows, mined, np.array(0.5), distance)
    np.testing.assert_array_equal(backward(native, rows, mined, np.array(0.5), distance, setting(native)), want)
    mined["pairs"][1, 77] = n
    assert np.isnan(backward(native, rows, mined, np.array(0.5), distance, setting(native))).all()


@pytest.mark.parametrize("key", ["slopes", "pairs"])
def test_a_poisoned_edge_is_found_wherever_it_is(native, key):
    rows = np.random.default_rng(0).standard_normal((70, 3))
    mined = mine(native, rows, np.arange(70) // 2, EUCLIDEAN, "float", setting(native))
    for place in (0, 69, mined[key].size - 1):
        broken = {**mined, key: mined[key].copy()}
        broken[key].flat[place] = {"slopes": np.nan, "pairs": 70}[key]
        assert np.isnan(backward(native, rows, broken, np.array(1.0), INNER, setting(native))).all()


def test_a_row_that_is_not_finite_leaves_the_others_alone(native):
    """The survey of a gradient by cosine, which keeps nothing of the batch as a whole."""
    rows = np.random.default_rng(0).standard_normal((40, 3))
    mined = mine(native, rows, np.arange(40) // 4, COSINE, "float", setting(native), margin=10.0)
    for key in ("pairs", "distances", "slopes"):
        mined[key][..., -4:] = {"pairs": -1, "distances": np.nan, "slopes": 0}[key]
    mined["pairs"][mined["pairs"] >= 36] = 0
    rows[38, 1] = np.inf
    found = backward(native, rows, mined, np.array(1.0), COSINE, setting(native))
    want = cpu_backward(native, rows, mined, np.array(1.0), COSINE)
    np.testing.assert_array_equal(found[:36], want[:36])
    assert np.isfinite(want).all() and np.abs(want[:36]).sum() > 0


# Exact scores and the survey: loads run ahead of the sums in blocks of 256 entries.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [248, 255, 256, 257, 263, 264, 271, 272, 280, 511, 512, 519, 2048])
def test_long_rows_have_the_bits_of_the_cpu(native, dtype, d):
    rows = np.random.default_rng(d).standard_normal((9, d)).astype(dtype)
    for distance in DISTANCES:
        mined = check(native, rows, np.arange(9) // 3, distance, "float", setting(native, d))
        found = backward(native, rows, mined, np.ones(9, dtype), distance, setting(native))
        np.testing.assert_array_equal(found, cpu_backward(native, rows, mined, np.ones(9, dtype), distance))
