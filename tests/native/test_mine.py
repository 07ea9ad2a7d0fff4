"""Mining by every tier, straight on NumPy arrays, against a look at every pair."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.oracle import COSINE, DISTANCES, EUCLIDEAN, INNER, hardest, scores, suffix


def mine(native, rows, labels, distance, tier, threads=2):
    return getattr(native, f"mine_{suffix(rows)}")(rows, labels, distance, tier, threads)


def check(native, rows, labels, distance, tier, threads=2):
    mined = mine(native, rows, labels, distance, tier, threads)
    positives, negatives = hardest(scores(native, rows, distance, tier), labels)
    np.testing.assert_array_equal(mined["positives"], positives)
    np.testing.assert_array_equal(mined["negatives"], negatives)
    assert mined["finite"]
    return mined


SHAPES = [
    *("gauss", "lattice", "offset", "decades", "copies", "collapsed", "near-ties", "denormal"),
    *("spread-rows", "spread-entries", "huge-rows", "two-clusters"),
]


def rows_of(random, shape, n, d):
    rows = random.standard_normal((n, d))
    if shape == "lattice":
        rows = random.integers(-2, 3, (n, d)).astype(float)
    elif shape == "offset":
        rows += 1e4
    elif shape == "decades":
        rows *= np.logspace(-6, 6, n)[:, None]
    elif shape == "copies":
        rows = rows[random.integers(0, max(1, n // 4), n)]
    elif shape == "collapsed":
        rows = 1 + 1e-6 * rows
    elif shape == "near-ties":  # one float32 step apart in one entry
        rows = np.repeat(rows[:1], n, 0).astype(np.float32)
        entry = (np.arange(n), random.integers(0, d, n))
        rows[entry] = np.nextafter(rows[entry], np.float32(np.inf))
    elif shape == "denormal":
        rows *= 1e-40
    elif shape == "spread-rows":  # down to float32's denormals beside rows of norm 1
        rows *= 10.0 ** random.uniform(-45, 0, (n, 1))
    elif shape == "spread-entries":
        rows *= 10.0 ** random.uniform(-45, 0, (n, d))
    elif shape == "huge-rows":
        rows *= 10.0 ** random.uniform(-38, 36, (n, 1))
    elif shape == "two-clusters":
        rows = 1e-4 * rows + random.choice([-3, 5], (n, 1))
    return rows


# What any batch is drawn from, here and in test_cuda.py.
ANY_BATCH = {
    "seed": st.integers(0, 2**32 - 1),
    "d": st.integers(1, 40),
    "classes": st.integers(1, 12),
    "distance": st.sampled_from(DISTANCES),
    "dtype": st.sampled_from([np.float32, np.float64]),
    "shape": st.sampled_from(SHAPES),
}


@settings(max_examples=400, deadline=None)
@given(n=st.integers(1, 70), threads=st.integers(1, 3), **ANY_BATCH)
def test_any_batch(native_tiers, seed, n, d, classes, distance, dtype, shape, threads):
    native, tiers = native_tiers
    random = np.random.default_rng(seed)
    rows = rows_of(random, shape, n, d)
    rows = rows.astype(dtype)
    labels = random.integers(0, classes, n)
    for tier in tiers:
        check(native, rows, labels, distance, tier, threads)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(100, 450),
    d=st.integers(1, 300),
    smallest=st.integers(44, 52),
    distance=st.sampled_from(DISTANCES),
    shape=st.sampled_from(SHAPES),
    threads=st.sampled_from([1, 2, 8, 16]),
)
def test_batches_with_screened_positives(native_tiers, seed, n, d, smallest, distance, shape, threads):
    """Classes around the size at which positives are screened, several blocks, many threads."""
    native, tiers = native_tiers
    random = np.random.default_rng(seed)
    rows = rows_of(random, shape, n, d).astype(np.float32)
    labels = np.minimum(np.arange(n) // smallest, random.integers(1, 6))
    random.shuffle(labels)
    check(native, rows, labels, distance, tiers[seed % len(tiers)], threads)


@pytest.fixture(scope="session")
def native_tiers(native):
    return native, native.tiers_to_test()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", ["pairs", "thirds", "one", "half"])
def test_several_blocks(native, tier, distance, dtype, labels):
    """More rows than a block of the scan and classes large enough for the screen of positives."""
    n = 420
    rows = np.random.default_rng(7).standard_normal((n, 5)).astype(dtype)
    classes = {
        "pairs": np.arange(n) // 2,
        "thirds": np.arange(n) % 3,
        "one": np.zeros(n),
        "half": np.maximum(np.arange(n), n // 2),
    }
    check(native, rows, classes[labels].astype(np.int64), distance, tier, threads=4)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("labels", ["fours", "halves"])
def test_anchors_of_many_rows_begin_with_a_bound_from_a_sample(native, tier, distance, labels):
    """The nearest is a little nearer than another of its kind, of which the sample has only one: the bound from there
    must not be below it."""
    random = np.random.default_rng(3)
    rows = random.standard_normal((900, 24))
    for first in (450, 600):  # two twins each, the second outside the sample
        rows[first : first + 150] = rows[:150] + 1e-3 * random.standard_normal((150, 24))
    rows = rows.astype(np.float32)
    check(native, rows, np.arange(900) // 4 if labels == "fours" else np.arange(900) // 450, distance, tier)


@pytest.fixture(scope="session")
def int8_tier(native):
    if "avx512vnni" not in native.tiers_to_test():
        pytest.skip("this CPU has no AVX-512 VNNI")
    return "avx512vnni"


@pytest.mark.parametrize(
    "d, distance, coarse",
    [(768, EUCLIDEAN, True), (769, EUCLIDEAN, False), (256, INNER, True), (257, INNER, False)],
)
def test_rows_too_deep_for_int8_go_to_int16(native, int8_tier, d, distance, coarse):
    rows = np.random.default_rng(0).standard_normal((300, d)).astype(np.float32)
    found, finer = (check(native, rows, np.arange(300) // 4, distance, name, 1) for name in (int8_tier, "avx512int16"))
    assert (found["exact_negatives"] > finer["exact_negatives"]) == coarse


@pytest.mark.parametrize("d", [16, 800])
def test_cosines_of_rows_whose_squares_leave_float64(native, tier, d):
    random = np.random.default_rng(0)
    flat = random.choice([-1.0, 1.0], (40, d))  # of which four are nearly parallel, in as many classes
    rows = np.repeat(flat, 4, 0) + 0.01 * random.standard_normal((160, d))
    rows *= np.array([1e-200, 1, 1e200, 1e-160])[np.arange(160) % 4][:, None]
    check(native, rows, (np.arange(160) + np.arange(160) // 4) % 4, COSINE, tier)


@pytest.mark.skipif("FASTTRIPLET_ISA" in os.environ, reason="FASTTRIPLET_ISA names the tier")
def test_few_rows_are_not_screened_in_int8(native, int8_tier):
    few, many = (native.screens_in(native.tier_for_batch_hard(rows)) for rows in (511, 512))
    assert (few, many) in [("int16", "int8"), ("bfloat16", "bfloat16")], "the second with AMX"


def test_rows_of_very_different_norms_go_from_int8_to_int16(native, int8_tier):
    random = np.random.default_rng(0)
    rows = (random.standard_normal((900, 64)) * np.exp(2 * random.standard_normal((900, 1)))).astype(np.float32)
    found, finer = (check(native, rows, np.arange(900) // 4, EUCLIDEAN, name, 1) for name in (int8_tier, "avx512int16"))
    assert found["exact_negatives"] == finer["exact_negatives"], "nothing is scored for a screen that says nothing"


@pytest.mark.parametrize("n", [*range(1, 14), 23, 24, 25, 31, 32, 33, 47, 48, 49, 50, 63, 64, 65, 95, 96, 97])
def test_sizes_around_the_edges_of_tiles(native, tier, n):
    rows = np.random.default_rng(n).standard_normal((n, n % 19 + 1)).astype(np.float32)
    for labels in (np.arange(n) // 3, np.arange(n) % 2):
        check(native, rows, labels, EUCLIDEAN, tier)


@pytest.mark.parametrize("d", [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 160])
def test_depths_around_the_edges_of_tiles_and_chunks(native, tier, d):
    rows = np.random.default_rng(d).standard_normal((70, d)).astype(np.float32)
    for labels in (np.arange(70) // 3, np.zeros(70, np.int64)):
        check(native, rows, labels, EUCLIDEAN, tier)
        check(native, rows + 5, labels, INNER, tier)


@pytest.mark.parametrize("count", [9, 30, 40, 100])
def test_full_lists_are_settled_in_place(native, tier, count):
    """Far more candidates at one distance than a list holds: unit axes are all equally far from the origin."""
    axes = np.eye(count, dtype=np.float32)
    rows = np.concatenate([axes, np.zeros((3, count), np.float32)])
    labels = np.concatenate([np.arange(count), [count, count, count]])
    mined = check(native, rows, labels, EUCLIDEAN, tier)
    assert mined["negatives"][-1] == 0
    assert mined["exact_negatives"] >= count


def test_one_representative_for_equal_rows(native, tier):
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)[np.arange(400) % 4]
    rows[::8] = -np.abs(rows[::8]) * 0  # zeros of both signs are equal
    labels = np.arange(400) % 5
    mined = check(native, rows, labels, EUCLIDEAN, tier)
    assert mined["representatives"] <= 25
    assert mined["exact_negatives"] <= 200


def test_rows_that_are_anchors_only_still_find_their_negative(native, tier):
    """Copies in many classes: all but the first few are no candidates. In the second block no copy is one, and the last
    row, everybody's nearest by inner product, is met there before it has met a candidate itself."""
    row = np.random.default_rng(0).standard_normal((1, 12)).astype(np.float32)
    rows = np.concatenate([np.repeat(row, 400, 0), 3 * row])
    mined = check(native, rows, np.arange(401), INNER, tier, threads=1)
    assert (mined["negatives"][:400] == 400).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_survivors_are_few_on_random_unit_vectors(native, tier, dtype):
    """The bound is not idle: nearly all pairs are rejected by the screen."""
    rows = np.random.default_rng(3).standard_normal((2000, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)
    mined = mine(native, rows, np.arange(2000) // 4, EUCLIDEAN, tier)
    usual = 4 if native.screens_in(tier) == "int8" else 2
    assert mined["exact_negatives"] <= usual * 2000
    # What a large offset costs is little, since the rows are centred.
    shifted = mine(native, (rows + 100).astype(dtype), np.arange(2000) // 4, EUCLIDEAN, tier)
    assert shifted["exact_negatives"] <= usual * 2000
    # Norms over six decades: a centre far from the small rows would make them all candidates of each other.
    spread = (rows * np.logspace(-3, 3, 2000)[:, None]).astype(dtype)
    few = 20 if native.screens_in(tier) == "bfloat16" else 2
    assert mine(native, spread, np.arange(2000) // 4, EUCLIDEAN, tier)["exact_negatives"] <= few * 2000
    # One class: positives are screened too.
    one = mine(native, rows, np.zeros(2000, np.int64), EUCLIDEAN, tier)
    assert one["exact_positives"] <= usual * 2000 and one["exact_negatives"] == 0


def test_rows_too_close_for_a_coarse_screen_are_screened_in_a_finer(native, tier):
    """Two tight clusters far apart, a class each: all distances of a row agree to three digits."""
    random = np.random.default_rng(0)
    ends = random.standard_normal((1, 64)) / 8 * [[1], [-1]]
    rows = (ends[np.arange(700) % 2] + 1e-3 * random.standard_normal((700, 64))).astype(np.float32)
    mined = check(native, rows, np.arange(700) % 2, EUCLIDEAN, tier)
    wasted = 9 * 700 if native.screens_in(tier) != "float32" else 0  # until the coarse screen is given up
    assert mined["exact_negatives"] <= wasted + 8 * 700
    assert mined["exact_positives"] <= wasted + 8 * 700


@pytest.mark.parametrize("spread", [1e-4, 1e-2])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positives_of_far_clusters_are_screened_about_their_own_centre(native, tier, dtype, distance, spread):
    """Classes too large to be scored pair by pair, among them one without a centre and one of equal rows, beside small
    ones. About a common centre, nearly all pairs of a tight class would be candidates."""
    random = np.random.default_rng(0)
    sizes = [250, 150, 100, 60, 49, 48, 3, 1]
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    ends = random.standard_normal((len(sizes), 40))
    rows = ends[labels] + spread * random.standard_normal((len(labels), 40))
    rows[labels == 2] -= ends[2]
    rows[labels == 4] = ends[4]
    mined = check(native, rows.astype(dtype), labels, distance, tier)
    pairwise = 48 * 47 // 2 + 3
    wasted = 9 * len(labels) if native.screens_in(tier) != "float32" else 0  # until the coarse screen is given up
    assert mined["exact_positives"] <= pairwise + wasted + 12 * len(labels)


@pytest.mark.parametrize("lengths", [[1e6], [1e6, 3e3, 50]])
def test_a_few_long_rows_do_not_blur_inner_products(native, tier, lengths):
    rows = np.random.default_rng(0).standard_normal((700, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[10 : 10 + len(lengths)] *= np.array(lengths)[:, None]
    mined = check(native, rows.astype(np.float32), np.arange(700) // 4, INNER, tier)
    assert mined["exact_negatives"] <= (4 + len(lengths)) * 700


@pytest.mark.parametrize("threads", [1, 8])
def test_products_that_overflow_to_nan_are_the_hardest(native, tier, threads):
    random = np.random.default_rng(0)
    rows = random.standard_normal((300, 16)) * 10.0 ** random.uniform(151, 154, (300, 1))
    assert np.isnan(scores(native, rows, INNER, tier)).any()
    for labels in (np.arange(300) % 5, np.arange(300) // 3):
        check(native, rows, labels, INNER, tier, threads)
        rows[200] = np.nan  # and the lower index wins, whichever of the two a NaN comes from
        mined = mine(native, rows, labels, INNER, tier, threads)
        positives, negatives = hardest(scores(native, rows, INNER, tier), labels)
        np.testing.assert_array_equal(mined["positives"], positives)
        np.testing.assert_array_equal(mined["negatives"], negatives)
        assert ((negatives < 200) & (np.arange(300) != 200)).any()
        rows[200] = 1


def test_non_finite_rows_are_reported(native, tier):
    rows = np.random.default_rng(3).standard_normal((60, 4)).astype(np.float32)
    rows[7, 2] = np.nan
    mined = mine(native, rows, np.arange(60) // 4, COSINE, tier)
    assert not mined["finite"]
    assert mined["positives"][4:7].tolist() == [7, 7, 7] and mined["positives"][7] == 4
    assert (mined["negatives"][8:] == 7).all() and mined["negatives"][7] == 0


def test_stages_are_told_apart(native, tier):
    """Prepare, positives, screen, settle, write: a stage that has nothing to do takes no time."""
    rows = np.random.default_rng(0).standard_normal((48, 300))
    one_class = mine(native, rows, np.zeros(48, np.int64), EUCLIDEAN, tier)["seconds"]
    assert one_class[2] == one_class[3] == 0 and min(one_class[0], one_class[1], one_class[4]) > 0
    no_positives = mine(native, rows, np.arange(48), EUCLIDEAN, tier)["seconds"]
    assert min(no_positives) > 0
    # 1128 exact pairs against none, and nothing else differs so much.
    assert one_class[1] > no_positives[1]


def test_an_unknown_tier_is_refused(native):
    with pytest.raises(ValueError, match=r"must be one of the tiers this CPU can run \(.*portable\); got 'sse'"):
        native.tier_named("sse")
