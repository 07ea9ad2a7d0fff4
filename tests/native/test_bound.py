"""The screen's interval holds the exact score of every pair, and is not much wider than it has to be."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.oracle import COSINE, DISTANCES, EUCLIDEAN, INNER, SQUARED, scores, suffix

SHAPES = ["gauss", "offset", "decades", "small", "wide", "zeros", "unit", "odd", "biased", "halves", "outliers"]


def rows_of(shape, dtype, seed=0):
    random = np.random.default_rng(seed)
    d = {"wide": 1500, "odd": 7, "biased": 6000, "halves": 640}.get(shape, 33)
    rows = random.standard_normal((60, d))
    if shape == "biased":  # sums of equal terms round the same way at every step: close to the worst that can happen
        rows = np.ones_like(rows) * random.uniform(0.5, 1, 60)[:, None]
        rows[:40] = -rows[:40]  # the centre lies among these
    elif shape == "halves":  # what bfloat16 leaves of each entry is as large as it can be, and all of one sign
        rows = np.full_like(rows, 1 + 2.0**-8) * 2.0 ** random.integers(-2, 1, 60)[:, None]
        rows[:40] = -rows[:40]
    if shape == "offset":
        rows += 1e4
    elif shape == "decades":
        rows *= np.logspace(-8, 8, 60)[:, None]
    elif shape == "outliers":
        rows[[3, 50]] *= [[1e6], [30]]
    elif shape == "small":
        rows *= 1e-30
    elif shape == "zeros":
        rows[::4] = 0
        rows[::5, ::2] = 0
    elif shape == "unit":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(dtype)


def intervals(native, rows, distance, tier, farthest, labels=None):
    """Lower and upper ends [M, M] of the scan's key, the exact keys in the same units, and which pairs it is about."""
    if labels is None:
        labels = np.zeros(len(rows), int) if farthest else np.arange(len(rows))
    found = getattr(native, f"screen_intervals_{suffix(rows)}")(rows, labels, distance, tier, farthest)
    source = found["source"]
    same = labels[source][:, None] == labels[source]
    about = same & ~np.eye(len(source), dtype=bool) if farthest else ~same
    assert found["reported"] == about.sum() // 2, "every pair once"
    exact, keys = scores(native, rows, distance, tier)[np.ix_(source, source)], found["keys"]
    if distance == EUCLIDEAN:
        exact = exact * exact
    exact = exact * found["scale"] ** 2 / (2 if distance in (EUCLIDEAN, SQUARED) else 1)
    if distance == INNER:  # but for a number of the anchor's
        exact, keys_of_pairs = exact - exact[:, :1], keys - keys[:, :1]
    else:
        keys_of_pairs = keys
    largest = np.abs(np.concatenate([keys, exact])).max(initial=0)
    np.testing.assert_allclose(keys_of_pairs, exact, rtol=1e-12, atol=1e-12 * largest)
    return found["lower"], found["upper"], -keys if farthest else keys, about


@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_interval_holds_the_exact_key(native, tier, farthest, shape, distance, dtype):
    lower, upper, exact, about = intervals(native, rows_of(shape, dtype), distance, tier, farthest)
    assert (lower <= exact)[about].all()
    assert (exact <= upper)[about].all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_interval_holds_the_exact_key_with_a_centre_a_class(native, tier, shape, distance, dtype):
    """Clusters far from each other and from zero; of one class the centre is no better than the common one."""
    rows, labels = rows_of(shape, np.float64), np.arange(60) // 15
    spread = np.linalg.norm(rows, axis=1).max()
    rows += spread * np.array([0, 5, -7, 40])[labels][:, None] * np.cos(np.arange(rows.shape[1]))
    lower, upper, exact, about = intervals(native, rows.astype(dtype), distance, tier, True, labels)
    assert (lower <= exact)[about].all()
    assert (exact <= upper)[about].all()


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 127, 128, 1000, 5000])
@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER])
def test_the_largest_sums_do_not_overflow(native, tier, distance, d):
    """Rows of equal entries and of a single one, both signs, make the largest products there are; the short rows keep
    the centre near zero. A sum that wraps is off by more than any interval is wide."""
    random = np.random.default_rng(0)
    short = random.standard_normal((40, d))
    short *= 0.05 / np.linalg.norm(short, axis=1, keepdims=True)
    equal = np.full((4, d), d**-0.5) * [[1], [-1], [0.999], [-0.999]]
    single = np.eye(4, d, k=-2 if d < 3 else 0) * [[1], [-1], [1], [-1]] if d > 1 else short[:0]
    rows = np.concatenate([short[:20], equal, short[20:], single])
    for factor in (1.0, 0.75, 0.5000001):
        lower, upper, exact, about = intervals(native, (factor * rows).astype(np.float32), distance, tier, False)
        assert ((lower <= exact) & (exact <= upper))[about].all()
        assert (upper - lower).max() < 0.5 * np.abs(exact).max(), "a sum that wraps would be noticed"


@settings(max_examples=500, deadline=None)
@given(
    norm=st.floats(2.0**-40, 64),
    share=st.floats(0, 1),
    d=st.integers(1, 1 << 22),
)
def test_a_step_fills_its_integers_and_not_more(native, norm, share, d):
    entry = norm * max(share, d**-0.5)
    for most, step in ((32767, native.int16_step(norm, entry, d)), (127, native.int8_step(entry))):
        assert (step * 2.0**80) % 1 == 0 and int(np.frexp(step)[0] * 256) == np.frexp(step)[0] * 256, "eight bits"
        assert np.rint(np.float32(entry) * (np.float32(1) / np.float32(step))) <= most
    assert entry / step / 127 > 1 - 2.0**-7
    step = native.int16_step(norm, entry, d)
    assert (norm / step + d**0.5 / 2 + 0.01) ** 2 < 2**31 - 1
    assert max(entry / step / 32767, norm / step / (46340 - d**0.5)) > 1 - 2.0**-7


@pytest.mark.parametrize("distance", [EUCLIDEAN, INNER])
def test_a_bound_a_twentieth_as_wide_would_be_broken(native, tier, distance):
    lower, upper, exact, about = intervals(native, rows_of("biased", np.float32), distance, tier, False)
    error = np.abs(exact - (lower + upper) / 2)[about]
    assert (error > (upper - lower)[about] / 2 / 20).any()


@settings(max_examples=2000, deadline=None)
@given(
    anchor=st.floats(-16, 16),
    candidate=st.floats(-16, 16),
    dot=st.floats(-16, 16, width=32),
    exponents=st.tuples(*[st.integers(-60, 0)] * 3),
    steps=st.integers(-3, 3),
)
def test_rounding_the_terms_to_float32_rejects_nobody(native, anchor, candidate, dot, exponents, steps):
    """The scan tests dot >= key + threshold in float32; it must hold wherever anchor + candidate - dot <= best does."""
    anchor, candidate = anchor * 2.0 ** exponents[0], candidate * 2.0 ** exponents[1]
    dot = np.float32(dot * 2.0 ** exponents[2])
    exact = Fraction(anchor) + Fraction(candidate) - Fraction(float(dot))
    best = float(exact)  # rounded, then moved: just above, just below or on the edge
    for _ in range(abs(steps)):
        best = np.nextafter(best, np.inf if steps > 0 else -np.inf)
    limit = np.float32(native.candidate_key(candidate)) + np.float32(native.anchor_threshold(anchor, best))
    if exact <= Fraction(float(best)):
        assert dot >= limit


def test_keys_are_the_largest_float32_not_above(native):
    float32 = np.finfo(np.float32)
    edges = [0.0, -0.0, float32.tiny, float32.smallest_subnormal, float32.max, 1.0, 1 + 2.0**-24, 1e-60, 1e300, np.inf]
    values = [sign * step for value in edges for sign in (1, -1) for step in (value, np.nextafter(value, np.inf))]
    values += list(
        np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.random.default_rng(1).uniform(-48, 37, 1000)
    )
    for value in values:
        key = np.float32(native.candidate_key(value))
        assert float(key) <= value
        assert key == np.inf or float(np.nextafter(key, np.float32(np.inf))) > value


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE])
def test_the_interval_is_narrow(native, tier, distance):
    lower, upper, exact, about = intervals(native, rows_of("unit", np.float32), distance, tier, False)
    widths = {"int8": 6e-2, "bfloat16": 2e-2, "int16": 7e-4, "bfloat16x2": 6e-5, "float32": 4e-5}
    assert ((upper - lower)[about] <= widths[native.screens_in(tier)] * exact[about].max()).all()


def test_a_centre_a_class_makes_the_interval_of_far_clusters_narrow(native, tier):
    noise, labels = rows_of("unit", np.float64), np.arange(60) // 15
    rows = np.eye(4, 33)[labels] * 100
    found = [
        intervals(native, (factor * rows + noise).astype(np.float32), EUCLIDEAN, tier, True, labels)
        for factor in (1, 0)
    ]
    (lower, upper, _, about), (lower_alone, upper_alone, _, _) = found
    assert (upper - lower)[about].max() < 2 * (upper_alone - lower_alone)[about].max()
