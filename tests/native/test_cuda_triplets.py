"""Given triplets by the CUDA kernels under the shim: explicit ones, and losses and gradients of mined ones.

To the bit as on the CPU, but for the order of sums that no row has to itself.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.oracle import COSINE, DISTANCES, EUCLIDEAN, SQUARED, suffix
from tests.native.test_cuda import setting

NONE, SUM, MEAN, NONZERO = range(4)
ALL = (True, True, True)
NO_WEIGHTS = np.zeros(0)


def rows_of(seed, t, d, dtype=np.float32, shape="gauss"):
    """Anchors, positives and negatives."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((3, t, d))
    if shape == "lattice":  # ties between the distances, which swaps depend on
        rows = random.integers(-1, 2, rows.shape).astype(float)
    elif shape == "spread":  # huge beside tiny, squares beyond the range of float64 where the rows are of it
        rows *= 10.0 ** random.uniform(
            -170 if dtype == np.float64 else -30, 150 if dtype == np.float64 else 30, (3, t, 1)
        )
    elif shape == "broken":
        rows[tuple(random.integers(0, size, 5) for size in rows.shape)] = [np.nan, np.inf, -np.inf, np.inf, np.nan]
    elif shape == "equal":
        rows[2, ::2] = rows[1, ::2] = rows[0, ::2]
        rows[1, ::3] = 0
    return list(rows.astype(dtype))


def options_of(distance, swap=False, soft=False, mining=None, reduction=MEAN, margin=0.5):
    return (margin, distance, swap, soft, mining, reduction)


def both(native, rows, weights, options, set_up, tier="portable"):
    name = f"triplet_margin_{suffix(rows[0])}"
    cpu = getattr(native, name)(rows, weights, *options, tier, 1)
    return cpu, getattr(native.cuda, name)(rows, weights, *options, set_up)


def backward(native, rows, values, upstream, distance, swap, wanted, set_up):
    name = f"triplet_margin_backward_{suffix(rows[0])}"
    cpu = getattr(native, name)(rows, values, upstream, distance, swap, wanted, "portable", 1)
    return cpu, getattr(native.cuda, name)(rows, values, upstream, distance, swap, wanted, set_up)


def check(native, rows, weights, options, set_up):
    """Distances, factors and swaps to the bit; slopes and losses too where no sum of weights divides them."""
    dtype, (_, distance, swap, _, mining, reduction) = rows[0].dtype, options
    with np.errstate(over="ignore"):
        cpu, cuda = both(native, rows, weights, options, set_up)
        want = (cpu["losses"] if reduction == NONE else np.array(cpu["loss"])).astype(dtype)
    np.testing.assert_array_equal(cuda["values"][1:], cpu["values"][1:])
    assert cuda["loss"].shape == want.shape and cuda["loss"].dtype == dtype
    if reduction in (NONE, SUM) or (not weights.size and mining is None):
        np.testing.assert_array_equal(cuda["values"][0], cpu["values"][0])
    else:
        np.testing.assert_allclose(cuda["values"][0], cpu["values"][0], rtol=1e-13)
    if reduction == NONE:
        np.testing.assert_array_equal(cuda["loss"], want)
    else:  # another order of the sum, whose terms may cancel where weights are negative
        scale = np.nansum(np.abs(cpu["losses"])) if reduction == SUM else np.abs(cpu["loss"])
        np.testing.assert_allclose(cuda["loss"], want, rtol=4 * np.finfo(dtype).eps, atol=1e-13 * scale)
    upstream = np.random.default_rng(0).standard_normal(len(rows[0])).astype(dtype)
    for grad in (upstream, upstream[:1].reshape(()) if len(upstream) else np.ones((), dtype)):
        with np.errstate(over="ignore"):
            pair = backward(native, rows, cuda["values"], grad, distance, swap, ALL, set_up)
        for ours, theirs in zip(pair[1], pair[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return cuda


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [0, 1, 7, 8, 9, 15, 16, 17, 24, 64, 127, 128, 129, 513])
def test_lengths_of_rows_around_the_edges_of_lanes_and_chains(native, distance, dtype, d):
    for t, swap in ((1, True), (19, False), (5, True)):
        check(native, rows_of(d + t, t, d, dtype), NO_WEIGHTS, options_of(distance, swap), setting(native, d))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("t", [0, 1, 3, 15, 16, 17, 31, 32, 33, 100, 1025])
def test_numbers_of_triplets_around_the_edges_of_blocks(native, distance, t):
    for processors, reduction in ((1, MEAN), (3, SUM), (2, NONE), (2, NONZERO)):
        set_up = setting(native, t, processors=processors)
        check(native, rows_of(t, t, 5), NO_WEIGHTS, options_of(distance, True, False, None, reduction), set_up)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", ["lattice", "spread", "broken", "equal"])
def test_rows_of_all_kinds(native, distance, dtype, shape):
    options = itertools.product([False, True], [False, True], [None, 0.1], range(4))
    for seed, (swap, soft, mining, reduction) in enumerate(options):
        rows = rows_of(seed, 33, 6, dtype, shape)
        check(native, rows, NO_WEIGHTS, options_of(distance, swap, soft, mining, reduction), setting(native, seed))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    t=st.integers(1, 70),
    d=st.integers(0, 40),
    distance=st.sampled_from(DISTANCES),
    dtype=st.sampled_from([np.float32, np.float64]),
    shape=st.sampled_from(["gauss", "lattice", "spread", "broken", "equal"]),
    swap=st.booleans(),
    soft=st.booleans(),
    mining=st.sampled_from([None, 0.0, 0.5, -1.0, np.inf]),
    reduction=st.integers(0, 3),
    weighted=st.booleans(),
    processors=st.integers(1, 3),
)
def test_any_triplets(native, seed, t, d, distance, dtype, shape, swap, soft, mining, reduction, weighted, processors):
    if shape == "broken" and d == 0:
        shape = "gauss"
    weights = np.random.default_rng(seed).uniform(0, 2, t) * (np.arange(t) % 3 > 0) if weighted else NO_WEIGHTS
    options = options_of(distance, swap, soft, mining, reduction)
    check(native, rows_of(seed, t, d, dtype, shape), weights, options, setting(native, seed % 1000, False, processors))


@pytest.mark.parametrize("reduction", range(4))
def test_weights_that_are_not_finite_negative_or_all_zero(native, reduction):
    rows = rows_of(0, 40, 9, np.float64)
    for weights in (np.zeros(40), np.linspace(-1, 2, 40), np.where(np.arange(40) == 7, np.inf, 1.0)):
        cuda = check(native, rows, weights, options_of(SQUARED, True, False, 0.3, reduction), setting(native))
        assert np.isfinite(cuda["loss"]).all() == np.isfinite(weights).all()


def test_nothing_counts(native):
    """Every triplet is well apart, or none is hard enough: no division by zero."""
    rows = rows_of(0, 20, 4)
    for options in (options_of(SQUARED, margin=-1e9, reduction=NONZERO), options_of(SQUARED, mining=-1e9)):
        cuda = check(native, rows, NO_WEIGHTS, options, setting(native))
        assert cuda["loss"] == 0 and (cuda["values"][0] == 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, True), (False, False, True)])
def test_gradients_that_are_not_wanted_are_not_written(native, distance, wanted):
    rows = rows_of(0, 21, 150)
    _, cuda = both(native, rows, NO_WEIGHTS, options_of(distance, True), setting(native))
    upstream = np.array(1.5, np.float32)
    cpu, ours = backward(native, rows, cuda["values"], upstream, distance, True, wanted, setting(native))
    assert [len(gradient) for gradient in ours] == [21 * want for want in wanted]
    for found, expected in zip(ours, cpu, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any(np.abs(gradient).sum() > 0 for gradient in ours)


def test_the_sum_does_not_depend_on_the_machine(native):
    """Nor on timing: numbers of multiprocessors part the blocks otherwise, not the sums."""
    rows, weights = rows_of(1, 700, 3, np.float64), np.random.default_rng(1).uniform(size=700)
    runs = [
        both(native, rows, weights, options_of(EUCLIDEAN), setting(native, seed, processors=1 + seed))[1]
        for seed in range(5)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run["loss"], runs[0]["loss"])
        np.testing.assert_array_equal(run["values"], runs[0]["values"])


@pytest.mark.parametrize("distance", DISTANCES)
def test_launches(native, distance):
    """One for losses, one more to reduce them, and nothing to clear."""
    rows = rows_of(0, 50, 8)
    for reduction, launches in ((NONE, 1), (SUM, 2), (MEAN, 2)):
        options = options_of(distance, distance == COSINE, reduction=reduction)
        assert both(native, rows, NO_WEIGHTS, options, setting(native))[1]["launches"] == launches


# Losses and gradients of triplets that any miner found.

SEMI_HARD, K_HARDEST = 1, 4
NO_REFERENCES = {dtype: np.zeros((0, 0), dtype) for dtype in (np.float32, np.float64)}


def mined(native, rows, labels, distance, kind=SEMI_HARD):
    """triplets [3, T] and distances [2, T] of a miner that gives an anchor any number of them, or three."""
    options = (kind, 0, False, 0.0, 3, False, 0.0)
    found = getattr(native, f"mine_triplets_{suffix(rows)}")(rows, labels, distance, *options, "portable", 1)
    return found["triplets"], found["distances"]


def gradients(native, rows, references, triplets, distances, slopes, distance, set_up):
    name, arguments = f"triplets_backward_{suffix(rows)}", (rows, references, triplets, distances, slopes, distance)
    cpu = getattr(native, name)(*arguments, "portable", 1)
    *cuda, counts = getattr(native.cuda, name)(*arguments, set_up)
    return cpu, cuda, counts


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "classes"), [(1, 3, 1), (2, 1, 1), (65, 31, 22), (40, 129, 5), (20, 257, 1)])
def test_the_gradient_of_mined_triplets_has_the_bits_of_the_cpu(native, distance, dtype, n, d, classes):
    random = np.random.default_rng(n + d)
    rows = random.standard_normal((n, d)).astype(dtype)
    rows[n // 2] = 0
    for kind in (SEMI_HARD, K_HARDEST):
        triplets, distances = mined(native, rows, np.arange(n) % classes, distance, kind)
        slopes = random.standard_normal(distances.shape) * (random.uniform(size=distances.shape) < 0.8)
        slopes[np.isnan(distances)] = np.nan  # of what is not there, and not looked at
        found = gradients(native, rows, NO_REFERENCES[dtype], triplets, distances, slopes, distance, setting(native, n))
        np.testing.assert_array_equal(found[1][0], found[0][0])
        assert n < 4 or np.abs(found[0][0]).sum() > 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m", "t"), [(1, 1, 1), (5, 40, 17), (30, 3, 200), (300, 20, 4500)])
def test_references_have_their_gradient(native, distance, dtype, n, m, t):
    """The last are more edges than are ranked, and half of the references are hubs."""
    random = np.random.default_rng(n)
    rows, references = (random.standard_normal((count, 6)).astype(dtype) for count in (n, m))
    triplets = random.integers(-1, m, (3, t))
    triplets[0] = np.sort(random.integers(0, n, t))
    distances, slopes = random.uniform(0.5, 2, (2, t)), random.standard_normal((2, t))
    slopes[random.uniform(size=slopes.shape) < 0.2] = 0
    found = gradients(native, rows, references, triplets, distances, slopes, distance, setting(native, n))
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 if dtype == np.float32 else 1e-11, atol=1e-9)
        assert t < 10 or np.abs(ours).sum() > 0
    if t < 1000:  # no hubs, whose sums are of chunks
        np.testing.assert_array_equal(found[1][1], found[0][1])
    np.testing.assert_array_equal(found[1][0], found[0][0])
    again = gradients(native, rows, references, triplets, distances, slopes, distance, setting(native, 7, processors=3))
    for ours, first in zip(again[1], found[1], strict=True):
        np.testing.assert_array_equal(ours, first)


def test_no_triplets_no_rows_and_no_references(native):
    none, empty = np.zeros((3, 0), np.int64), np.zeros((2, 0))
    for n, m in ((4, 0), (4, 3), (0, 3), (0, 0)):
        rows, references = np.ones((n, 5)), np.ones((m, 5))
        _, cuda, counts = gradients(native, rows, references, none, empty, empty, COSINE, setting(native))
        assert [gradient.shape for gradient in cuda] == [(n, 5), (m, 5)] and not any(map(np.any, cuda))
        assert counts[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [(0, 5, 1), (0, 5, -1), (0, 5, 9), (0, 7, 99), (0, 0, -1), (1, 3, 9), (1, 3, -2), (2, 3, 10**12)],
    ids=str,
)
def test_indices_that_no_miner_gave_make_the_gradient_nan(native, wrong):
    """They cannot be reported without waiting for the device. No wild read: see make test-asan."""
    rows = np.random.default_rng(0).standard_normal((9, 3))
    triplets = np.stack([np.arange(8), np.arange(8)[::-1], np.full(8, 2)])
    row, place, value = wrong
    triplets[row, place] = value
    slopes, distances = np.ones((2, 8)), np.ones((2, 8))
    arguments = (rows, NO_REFERENCES[np.float64], triplets, distances, slopes, EUCLIDEAN, setting(native))
    assert np.isnan(native.cuda.triplets_backward_float64(*arguments)[0]).all()


def test_a_slope_that_is_nan_makes_the_gradient_nan(native):
    rows, references = np.ones((4, 3)), np.ones((2, 3))
    triplets, distances, slopes = np.array([[0, 1, 2], [0, -1, 1], [1, 0, -1]]), np.ones((2, 3)), np.ones((2, 3))
    for place, poisons in (((0, 0), True), ((0, 1), False), ((1, 2), False), ((1, 1), True)):
        broken = slopes.copy()
        broken[place] = np.nan
        cpu, cuda, _ = gradients(native, rows, references, triplets, distances, broken, SQUARED, setting(native))
        for ours, theirs in zip(cuda, cpu, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert np.isnan(ours).all() == poisons


def test_launches_of_a_gradient_of_mined_triplets(native):
    """Ranges cleared; edges listed and ranked, indexed, gathered; for cosine factors of both kinds of rows."""
    random = np.random.default_rng(0)
    rows, references = random.standard_normal((2, 20, 4))
    for t, sorts in ((100, 0), (4097, 1)):
        triplets = np.stack([np.sort(random.integers(0, 20, t)), *random.integers(0, 20, (2, t))])
        for distance, surveys in ((EUCLIDEAN, 0), (COSINE, 2)):
            counts = gradients(
                native, rows, references, triplets, np.ones((2, t)), np.ones((2, t)), distance, setting(native)
            )[2]
            assert counts == (3 + surveys + sorts, 1, sorts)


@pytest.mark.parametrize("reduction", range(4))
@pytest.mark.parametrize("on_missing", range(3))
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("poison", [1.0, np.nan])
@pytest.mark.parametrize("t", [0, 1, 7, 1024, 1025])
def test_losses_of_mined_triplets(native, reduction, on_missing, soft, poison, t):
    random = np.random.default_rng(t)
    triplets = random.integers(-1, 3, (3, t))
    distances = np.where(triplets[1:] < 0, np.nan, random.uniform(0, 2, (2, t)))
    options = (0.2, soft, reduction, on_missing)
    reduced, losses, slopes = native.loss(*triplets[1:], distances, *options, np.isnan(poison))
    want = np.where(triplets[1:] < 0, 0, [slopes, -slopes])
    loss, found, launches = native.cuda.triplet_losses(triplets, distances, poison, *options, setting(native, t))
    np.testing.assert_allclose(loss, losses if reduction == NONE else reduced, rtol=1e-14)
    np.testing.assert_array_equal(found, want)
    assert launches == (1 if 0 < t <= 1024 or t == 0 else 1 if reduction == NONE else 2) - (
        t == 0 and reduction == NONE
    )
