"""Batch-hard with samples, groups and an ignored label by the CUDA kernels under the shim: to the bit as on the CPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.oracle import COSINE, DISTANCES, EUCLIDEAN, INNER, hardest, scores, suffix
from tests.native.test_cuda import PRODUCTS, setting
from tests.native.test_mine import ANY_BATCH, rows_of

PAIRS, POSITIVES = range(2)
NOBODY = np.zeros(0, np.int64)


def both(native, rows, labels, distance, products, set_up, samples=NOBODY, groups=NOBODY, exclude=PAIRS, ignored=None):
    """triplets and distances of the CPU and of the CUDA kernels, and the launches of those."""
    name, arguments = f"mine_allowed_{suffix(rows)}", (rows, labels, samples, groups, exclude, ignored, distance)
    return getattr(native, name)(*arguments, "portable", 1), getattr(native.cuda, name)(*arguments, products, set_up)


def check(native, rows, labels, *arguments, **options):
    (triplets, distances), found = both(native, rows, labels, *arguments, **options)
    np.testing.assert_array_equal(found[0], triplets)
    np.testing.assert_array_equal(found[1], distances)
    return triplets


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 140),
    products=st.sampled_from(PRODUCTS),
    deferred=st.booleans(),
    processors=st.integers(1, 3),
    samples=st.sampled_from([0, 1, 3, 50]),
    groups=st.sampled_from([0, 1, 2, 7]),
    exclude=st.sampled_from([PAIRS, POSITIVES]),
    ignores=st.booleans(),
    bad=st.integers(0, 2),
    **ANY_BATCH,
)
def test_any_pairing(
    native, seed, n, d, classes, distance, dtype, shape, products, deferred, processors, samples, groups, exclude,
    ignores, bad,
):  # fmt: skip
    random = np.random.default_rng(seed)
    rows = rows_of(random, shape, n, d).astype(dtype)
    labels = random.integers(0, classes, n) - 1
    if ignores:  # rows that are not finite are among the ignored ones only
        rows[labels == -1] = np.nan
    elif bad and d > 0:
        rows[random.integers(0, n, bad), random.integers(0, d, bad)] = np.inf
    check(
        native, rows, labels, distance, products, setting(native, seed % 1000, deferred, processors),
        samples=random.integers(-1, samples, n) if samples else NOBODY,
        groups=random.integers(0, groups, n) if groups else NOBODY,
        exclude=exclude, ignored=-1 if ignores else None,
    )  # fmt: skip


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_pairs_by_a_look_at_every_one(native, products, distance):
    """Over several tiles, beside an oracle of its own: pairs that are out are made the last choice, then none."""
    n, random = 200, np.random.default_rng(3)
    rows = random.standard_normal((n, 5)).astype(np.float32)
    rows[100:] = rows[:100] + np.float32(1e-3) * random.standard_normal((100, 5)).astype(np.float32)
    labels, samples = np.arange(n) % 4, np.arange(n) % 100  # the nearest negative or positive is a row's own copy
    found = check(native, rows, labels, distance, products, setting(native), samples=samples)
    matrix = scores(native, rows, distance, "portable")
    copies = (samples[:, None] == samples) & ~np.eye(n, dtype=bool)
    same = labels[:, None] == labels
    positives, _ = hardest(np.where(copies, -1e300, matrix), labels)
    _, negatives = hardest(np.where(copies, 1e300, matrix), labels)
    np.testing.assert_array_equal(found, [np.arange(n), positives, negatives])
    assert (same & copies).any()


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("exclude", [PAIRS, POSITIVES])
def test_ties_that_only_the_exact_scan_can_settle(native, products, exclude):
    axes = np.concatenate([np.eye(60), np.zeros((3, 60))]).astype(np.float32)
    labels = np.concatenate([np.arange(60) // 2, [60, 60, 60]])
    found = check(native, axes, labels, EUCLIDEAN, products, setting(native), groups=np.arange(63) % 2, exclude=exclude)
    assert found[2][-1] == (1 if exclude == PAIRS else 0)
    lattice = np.random.default_rng(0).integers(-1, 2, (150, 2)).astype(np.float32)
    check(native, lattice, np.arange(150) % 7, INNER, products, setting(native), samples=np.arange(150) // 3)


def test_nobody_is_left(native):
    rows, labels = np.random.default_rng(0).standard_normal((70, 3)), np.arange(70) // 2
    for options in ({"ignored": 0}, {"samples": np.zeros(70, np.int64)}, {"groups": np.ones(70, np.int64)}):
        out = np.zeros(70, np.int64) if "ignored" in options else labels
        triplets = check(native, rows, out, COSINE, "small-tensor", setting(native), **options)
        assert (triplets[1:] == -1).all() and (triplets[0] == np.arange(70)).all()
    none = both(native, np.zeros((0, 4)), NOBODY, EUCLIDEAN, "float", setting(native))[1]
    assert none[0].shape == (3, 0)


@pytest.mark.parametrize("products", PRODUCTS)
def test_bad_rows_take_part_in_nothing(native, products):
    """Unless they are ignored all distances are NaN, though nobody is paired with them."""
    rows = np.random.default_rng(0).standard_normal((80, 4)).astype(np.float32)
    rows[[5, 33]] = np.nan
    labels = np.arange(80) // 4
    (triplets, distances), found = both(native, rows, labels, EUCLIDEAN, products, setting(native))
    np.testing.assert_array_equal(found[0], triplets)
    assert np.isnan(found[1]).all() and np.isnan(distances).all()
    assert not np.isin(found[0][1:], [5, 33]).any() and (found[0][1:, [5, 33]] == -1).all()
    labels[[5, 33]] = 99
    _, found = both(native, rows, labels, EUCLIDEAN, products, setting(native), ignored=99)
    assert np.isnan(found[1]).sum() == 4


def test_the_second_round_keeps_to_the_pairing(native):
    random = np.random.default_rng(0)
    close = (1 + 1e-3 * random.standard_normal((200, 16))).astype(np.float32)
    close[100:] *= -1  # no centre for both: bfloat16 cannot tell the rows of a half apart
    check(
        native,
        close,
        np.arange(200) // 50,
        EUCLIDEAN,
        "large-tensor",
        setting(native),
        samples=np.arange(200) // 2 % 25,
    )


def test_launches_are_those_of_batch_hard_without_its_loss(native):
    set_up = setting(native)
    set_up.small_batch = native.cuda.small_batch
    rows = np.random.default_rng(0).standard_normal((256, 16)).astype(np.float32)
    found = both(native, rows, np.arange(256) // 4, EUCLIDEAN, "small-tensor", set_up, samples=np.arange(256) // 2)
    assert found[1][2] == 7
