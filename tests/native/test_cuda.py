"""The CUDA kernels on the host, under the shim: mining, loss and gradient, to the bit as on the CPU.

A distance is summed in the same order on both, so not only the indices but the distances must be equal to the bit.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.native.oracle import COSINE, DISTANCES, EUCLIDEAN, INNER, SQUARED, hardest, scores, suffix
from tests.native.test_mine import ANY_BATCH, rows_of

PRODUCTS = ("float", "small-tensor", "large-tensor", "wgmma", "wgmma-pair")
MEAN, SKIP = 2, 0


def setting(native, seed=0, deferred=False, processors=2):
    result = native.cuda.Settings()
    result.seed, result.deferred_copies, result.processors = seed, deferred, processors
    result.deferred_products = seed % 4 >= 2
    return result


def mine(native, rows, labels, distance, products, set_up, margin=0.3, soft=False, reduction=MEAN, on_missing=SKIP):
    function = getattr(native.cuda, f"mine_{suffix(rows)}")
    return function(rows, labels, distance, products, set_up, margin, soft, reduction, on_missing)


def cpu(native, rows, labels, distance):
    return getattr(native, f"mine_{suffix(rows)}")(rows, labels, distance, "portable", 1)


def check(native, rows, labels, distance, products, set_up):
    """Against a look at every pair, and against the CPU's distances."""
    mined = mine(native, rows, labels, distance, products, set_up)
    positives, negatives = hardest(scores(native, rows, distance, "portable"), labels)
    np.testing.assert_array_equal(mined["pairs"][0], positives)
    np.testing.assert_array_equal(mined["pairs"][1], negatives)
    np.testing.assert_array_equal(mined["distances"], cpu(native, rows, labels, distance)["distances"])
    assert mined["bad_rows"] == 0
    return mined


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 140),
    products=st.sampled_from(PRODUCTS),
    deferred=st.booleans(),
    processors=st.integers(1, 3),
    **ANY_BATCH,
)
@example(  # products of denormals: keys that are zeros of both signs
    seed=0, n=64, d=1, classes=1, distance=INNER, dtype=np.float32, shape="spread-rows", products="small-tensor",
    deferred=False, processors=1
)  # fmt: skip
def test_any_batch(native, seed, n, d, classes, distance, dtype, shape, products, deferred, processors):
    random = np.random.default_rng(seed)
    rows = rows_of(random, shape, n, d).astype(dtype)
    labels = random.integers(0, classes, n) * random.choice([1, -(2**40)])
    check(native, rows, labels, distance, products, setting(native, seed % 1000, deferred, processors))


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 257])
def test_sizes_around_the_edges_of_tiles(native, products, n):
    rows = np.random.default_rng(n).standard_normal((n, n % 19 + 1)).astype(np.float32)
    for deferred, labels in enumerate((np.arange(n) // 3, np.arange(n) % 2)):
        check(native, rows, labels, EUCLIDEAN, products, setting(native, n, deferred == n % 2))


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 97, 129, 160, 257, 1025])
def test_depths_around_the_edges_of_stages(native, products, d):
    """Rows whose length is no multiple of 16 bytes, many stages of the pipeline, and lists of each length."""
    rows = np.random.default_rng(d).standard_normal((70, d)).astype(np.float32)
    for deferred, labels in ((False, np.arange(70) // 3), (True, np.zeros(70, np.int64))):
        check(native, rows, labels, EUCLIDEAN, products, setting(native, d, deferred))
        check(native, rows + 5, labels, INNER, products, setting(native, d + 2, not deferred))


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("labels", ["pairs", "thirds", "one", "half", "distinct"])
def test_classes_over_several_tiles(native, products, distance, labels):
    n = 300
    rows = np.random.default_rng(7).standard_normal((n, 5)).astype(np.float32)
    classes = {
        "pairs": np.arange(n) // 2,
        "thirds": np.arange(n) % 3,
        "one": np.zeros(n),
        "half": np.maximum(np.arange(n), n // 2),
        "distinct": -np.arange(n),
    }
    check(native, rows, classes[labels].astype(np.int64), distance, products, setting(native))


@pytest.mark.parametrize("distance", DISTANCES)
def test_more_tiles_than_a_square(native, distance):
    """More than 16 tiles a side of the walk, and more than one tile of ranked keys."""
    n = 2098
    random = np.random.default_rng(0)
    rows = random.standard_normal((n, 3)).astype(np.float32)
    labels = random.permutation(n) // 4 - 100
    mined = mine(native, rows, labels, distance, "small-tensor", setting(native))
    want = cpu(native, rows, labels, distance)
    np.testing.assert_array_equal(mined["pairs"], [want["positives"], want["negatives"]])
    np.testing.assert_array_equal(mined["distances"], want["distances"])


@pytest.mark.parametrize("products", PRODUCTS)
def test_no_rows_and_no_columns(native, products):
    none = mine(native, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), EUCLIDEAN, products, setting(native))
    assert none["pairs"].shape == (2, 0) and none["loss"] == 0
    check(native, np.zeros((70, 0), np.float32), np.arange(70) // 2, EUCLIDEAN, products, setting(native))


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_answer_does_not_depend_on_timing(native, products):
    """The candidates kept depend on who comes first; what is mined does not."""
    random = np.random.default_rng(0)
    rows = random.integers(-2, 3, (150, 6)).astype(np.float32)
    labels = random.integers(0, 20, 150)
    runs = [
        mine(native, rows, labels, EUCLIDEAN, products, setting(native, seed, seed % 2 == 1, 1 + seed % 3))
        for seed in range(8)
    ]
    for run in runs[1:]:
        for key in ("pairs", "distances", "slopes", "loss"):
            np.testing.assert_array_equal(run[key], runs[0][key])


def test_full_lists_go_to_the_finer_round_and_then_to_the_exact_scan(native):
    """Rows that bfloat16 cannot tell apart but float32 can; then exact ties, which only the scan can settle."""
    random = np.random.default_rng(0)
    close = (1 + 1e-3 * random.standard_normal((200, 16))).astype(np.float32)
    close[100:] *= -1  # no centre for both
    mined = check(native, close, np.arange(200) // 100, EUCLIDEAN, "small-tensor", setting(native))
    assert mined["fine_round"] and sum(mined["scanned"]) < 400
    axes = np.concatenate([np.eye(60), np.zeros((3, 60))]).astype(np.float32)
    labels = np.concatenate([np.arange(60), [60, 60, 60]])
    for products in PRODUCTS:
        mined = check(native, axes, labels, EUCLIDEAN, products, setting(native))
        assert mined["scanned"][0] > 0 and mined["pairs"][1][-1] == 0
    assert not mine(native, axes, labels, EUCLIDEAN, "float", setting(native))["fine_round"]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", ["decades", "spread-rows", "spread-entries", "two-clusters"])
def test_rows_too_different_for_bfloat16(native, distance, shape):
    """Small rows among large ones overflow in the coarse round; the finer one starts afresh for them."""
    rows = rows_of(np.random.default_rng(0), shape, 190, 20).astype(np.float32)
    mined = check(native, rows, np.arange(190) % 5, distance, "small-tensor", setting(native))
    assert mined["fine_round"] == (distance != COSINE or shape in ("spread-entries", "two-clusters"))


@pytest.mark.parametrize("products", PRODUCTS)
def test_equal_rows(native, products):
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)[np.arange(130) % 4]
    rows[::8] = -np.abs(rows[::8]) * 0  # zeros of both signs are equal
    mined = check(native, rows, np.arange(130) % 5, EUCLIDEAN, products, setting(native))
    # 17 zero rows and 16 equal ones have at most 16 negatives among themselves; the other kinds are 32 or 33 rows.
    assert mined["scanned"][0] == 97
    check(native, np.ones((70, 3), np.float32), np.arange(70) // 7, COSINE, products, setting(native))


@pytest.mark.parametrize("products", PRODUCTS)
def test_survivors_are_few_on_random_unit_vectors(native, products):
    """The bound is not idle: nearly all pairs are rejected by the screen."""
    rows = np.random.default_rng(3).standard_normal((600, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    most = 700 if products == "float" else 1500
    labels = np.arange(600) // 4
    for batch in (rows, rows + 100):  # what a large offset costs is little, since the rows are centred
        mined = mine(native, batch.astype(np.float32), labels, EUCLIDEAN, products, setting(native))
        assert mined["candidates"][0] <= most and not mined["fine_round"]
        assert sum(mined["scanned"]) == 0
    one = mine(native, rows, np.zeros(600, np.int64), EUCLIDEAN, products, setting(native))
    assert one["candidates"][1] <= most and one["candidates"][0] == 0


@pytest.mark.parametrize("d", [1000, 1100])
def test_lists_are_long_enough_for_deep_rows(native, d):
    """With 8 slots some anchors of these would overflow, and be scored against everyone."""
    rows = np.random.default_rng(0).standard_normal((300, d))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    mined = mine(native, rows, np.arange(300) // 4, EUCLIDEAN, "large-tensor", setting(native))
    assert mined["candidates"][0] > 300 and mined["overflown"] == (0, 0)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("lengths", [[1e6], [1e6, 3e3, 50]])
def test_a_few_long_rows_do_not_blur_inner_products(native, products, lengths):
    rows = np.random.default_rng(0).standard_normal((300, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[10 : 10 + len(lengths)] *= np.array(lengths)[:, None]
    mined = check(native, rows.astype(np.float32), np.arange(300) // 4, INNER, products, setting(native))
    assert sum(mined["scanned"]) <= 2 * len(lengths)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("bad", [[7], [0, 1, 2, 3], [5, 40, 41], range(60)])
@pytest.mark.parametrize("classes", [1, 4, 60])
def test_rows_that_are_not_finite(native, products, bad, classes):
    rows = np.random.default_rng(3).standard_normal((60, 4)).astype(np.float32)
    for place, i in enumerate(bad):
        rows[i, place % 4] = [np.nan, np.inf, -np.inf][place % 3]
    labels = np.arange(60) * classes // 60
    mined = mine(native, rows, labels, COSINE, products, setting(native))
    want = cpu(native, rows, labels, COSINE)
    assert mined["bad_rows"] == len(bad)
    np.testing.assert_array_equal(mined["pairs"], [want["positives"], want["negatives"]])
    np.testing.assert_array_equal(mined["distances"], want["distances"])
    assert np.isnan(mined["slopes"]).all() and np.isnan(mined["loss"])


@pytest.mark.parametrize("products", ["float", "small-tensor"])
def test_products_that_overflow_to_nan_are_the_hardest(native, products):
    random = np.random.default_rng(0)
    rows = random.standard_normal((130, 16)) * 10.0 ** random.uniform(151, 154, (130, 1))
    assert np.isnan(scores(native, rows, INNER, "portable")).any()
    for labels in (np.arange(130) % 5, np.arange(130) // 3):
        check(native, rows, labels, INNER, products, setting(native))


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_centre_whose_square_overflows(native, products, distance):
    """Nothing can be screened there, and the centre's norm is infinity times zero."""
    rows = 1e200 * (1 + 1e-3 * np.random.default_rng(0).standard_normal((40, 6)))
    mined = mine(native, rows, np.arange(40) // 4, distance, products, setting(native))
    want = cpu(native, rows, np.arange(40) // 4, distance)
    np.testing.assert_array_equal(mined["pairs"], [want["positives"], want["negatives"]])


# Loss.


@pytest.mark.parametrize("reduction", range(4))
@pytest.mark.parametrize("on_missing", range(3))
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n", [6, 1030])
def test_loss_and_slopes(native, reduction, on_missing, soft, n):
    """Chunks of 1024 anchors, and a third of the anchors without a positive."""
    rows = np.random.default_rng(0).standard_normal((n, 2))
    labels = np.where(np.arange(n) % 3 == 0, -1 - np.arange(n), np.arange(n) // 9)
    mined = mine(native, rows, labels, SQUARED, "float", setting(native), 0.2, soft, reduction, on_missing)
    pairs, distances = mined["pairs"], mined["distances"]
    reduced, losses, slopes = native.loss(*pairs, distances, 0.2, soft, reduction, on_missing, False)
    np.testing.assert_allclose(mined["loss"], losses if reduction == 0 else reduced, rtol=1e-14)
    np.testing.assert_allclose(mined["slopes"], slopes, rtol=1e-14)
    if on_missing == 2:
        missing = (pairs < 0).any(0)
        assert mined["missing"] == missing.sum() and mined["first_missing"] == missing.argmax()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 0], [0, 1, 0, 1]])
def test_differences_that_overflow_are_nan(native, labels, soft):
    """Towards both ends: an infinite loss would go with a slope of 1, and one of 0 with none."""
    rows = np.array([[0.0], [1.0], [1e155], [1e155]])[: len(labels)]
    mined = mine(native, rows, np.array(labels), EUCLIDEAN, "float", setting(native), 0.2, soft)
    assert np.isnan(mined["loss"]) and np.isnan(mined["slopes"]).any() and mined["bad_rows"] == 0
    gradient = backward(native, rows, mined, np.array(1.0), EUCLIDEAN, setting(native))
    assert np.isnan(gradient).all()


# Gradient.


def backward(native, rows, mined, upstream, distance, set_up):
    function = getattr(native.cuda, f"backward_{suffix(rows)}")
    return function(rows, mined["pairs"], mined["distances"], mined["slopes"], upstream, distance, set_up)


def cpu_backward(native, rows, mined, upstream, distance):
    function = getattr(native, f"backward_{suffix(rows)}")
    return function(rows, *mined["pairs"], mined["distances"], mined["slopes"], upstream, distance, "portable", 1)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (65, 31), (110, 257)])
def test_gradient_has_the_bits_of_the_cpu(native, distance, dtype, n, d):
    random = np.random.default_rng(n + d)
    rows = random.standard_normal((n, d)).astype(dtype)
    rows[n // 2] = 0
    mined = mine(native, rows, np.arange(n) // 3, distance, "float", setting(native), reduction=0, margin=10.0)
    for upstream in (random.standard_normal(n).astype(dtype), np.array(0.37, dtype)):
        gradient = backward(native, rows, mined, upstream, distance, setting(native, n))
        np.testing.assert_array_equal(gradient, cpu_backward(native, rows, mined, upstream, distance))
        assert n < 4 or np.abs(gradient).sum() > 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("n", [200, 1400])
def test_a_row_that_all_others_point_at(native, distance, n):
    """A hub's edges are summed in chunks: another order, the same sum, and the same on every run."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((n, 9))
    pairs = np.stack([np.where(np.arange(n) % 2 == 0, 5, np.arange(n) - 1), np.full(n, n - 7)])
    pairs[:, 5] = pairs[:, n - 7] = [1, 2]
    difference = rows - rows[pairs]
    mined = {"pairs": pairs, "distances": np.sqrt((difference**2).sum(2)), "slopes": random.uniform(0.5, 1, n)}
    want = cpu_backward(native, rows, mined, np.array(1.0), distance)
    runs = [backward(native, rows, mined, np.array(1.0), distance, setting(native, seed)) for seed in range(3)]
    np.testing.assert_allclose(runs[0], want, rtol=1e-12, atol=1e-12)
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_slopes_that_are_nan_and_pairs_beyond_the_batch_make_the_gradient_nan(native):
    rows = np.random.default_rng(0).standard_normal((6, 3))
    mined = mine(native, rows, np.arange(6) // 2, EUCLIDEAN, "float", setting(native))
    for key, value in (("slopes", np.nan), ("pairs", 6)):
        broken = {**mined, key: mined[key].copy()}
        broken[key].flat[3] = value
        assert np.isnan(backward(native, rows, broken, np.array(1.0), EUCLIDEAN, setting(native))).all()


# Tiles.

TILES = {"float": 64, "small_tensor": 64, "large_tensor": 128, "wgmma": 128, "wgmma_pair": 256}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("d", [1, 8, 33, 72, 300])
def test_a_tile_multiplies_whole_numbers_exactly(native, tile, deferred, d):
    size = TILES[tile]
    rows = np.random.default_rng(d).integers(-8, 9, (2 * size - 5, d)).astype(np.float32)
    products, rounded = getattr(native.cuda, f"multiply_{tile}_tile")(rows, setting(native, d, deferred))
    np.testing.assert_array_equal(rounded, rows)
    np.testing.assert_array_equal(products[:, : size - 5], rows[:size] @ rows[size:].T)
    assert (products[:, size - 5 :] == 0).all()


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("cut", [False, True])
def test_products_keep_to_their_error_bound(native, tile, cut):
    """The shim cuts off as much as the bound allows for: one large term first, and all others lose bits to a tenth of
    it."""
    size, d = TILES[tile], 200
    rows = np.random.default_rng(0).standard_normal((2 * size, d)).astype(np.float32)
    if cut:
        rows = np.random.default_rng(0).uniform(1, 2, rows.shape).astype(np.float32)
        rows[:, 0] = 64
    products, rounded = getattr(native.cuda, f"multiply_{tile}_tile")(rows, setting(native))
    error = native.cuda.accumulation_error(d) if tile == "float" else native.cuda.tensor_core_error(d)
    x, y = rounded[:size].astype(np.float64), rounded[size:].astype(np.float64)
    allowed = error * np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    assert (np.abs(products - x @ y.T) <= allowed).all()
    if tile != "float" and cut:
        assert (np.abs(products - x @ y.T) > allowed / 10).any()
    if tile != "float":  # to nearest, ties to even: half a step of eight bits
        assert (np.abs(rounded - rows) <= np.abs(rows) * 2.0**-8 / (1 + 2.0**-8)).all()
