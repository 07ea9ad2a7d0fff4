"""Float64 parts of the kernels: scores, gradients and losses, the same bits from every tier."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.oracle import COSINE, DISTANCES, INNER, suffix

WIDTHS = [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 128]


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_are_exact_and_the_same_in_every_tier(native, d, dtype):
    random = np.random.default_rng(d)
    x, y = random.standard_normal((2, d)).astype(dtype)
    score = getattr(native, f"score_{suffix(x)}")
    wide = [float(v) for v in x], [float(v) for v in y]
    expected = {
        0: math.dist(*wide),
        1: math.fsum((a - b) ** 2 for a, b in zip(*wide, strict=True)),
        COSINE: math.fsum((a / 2 - b / 4) ** 2 for a, b in zip(*wide, strict=True)) / 2,
        INNER: -math.fsum(a * b for a, b in zip(*wide, strict=True)),
    }
    for distance in DISTANCES:
        values = {score(x, y, distance, tier, 0.5, 0.25) for tier in native.tiers_to_test()}
        assert len(values) == 1
        assert values.pop() == pytest.approx(expected[distance], rel=1e-13, abs=1e-13)
        assert score(x, y, distance, "portable", 0.5, 0.25) == score(y, x, distance, "portable", 0.25, 0.5)


def test_the_cosine_of_a_zero_row_is_zero(native, tier):
    x, y = np.zeros(5), np.ones(5)
    assert native.score_float64(x, y, COSINE, tier, 0.0, 1.0) == 1.0
    assert native.score_float64(x, x, COSINE, tier, 0.0, 0.0) == 1.0


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalising_factors(native, d, dtype):
    rows = np.random.default_rng(d).standard_normal((9, d)).astype(dtype)
    rows[3] = 0
    norms = [math.hypot(*map(float, row)) for row in rows]
    expected = [1 / norm if norm > 0 else 0 for norm in norms]
    np.testing.assert_allclose(getattr(native, f"factors_{suffix(rows)}")(rows), expected, rtol=1e-14)


def gradient_oracle(rows, positives, negatives, distances, slopes, upstream, distance):
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    gradient = np.zeros_like(rows)
    for anchor in range(len(rows)):
        weight = slopes[anchor] * upstream[anchor]
        for partner, value, sign in (
            (positives[anchor], distances[0, anchor], 1),
            (negatives[anchor], distances[1, anchor], -1),
        ):
            if partner < 0:
                continue
            for row, other in ((anchor, partner), (partner, anchor)):
                if distance == INNER:
                    step = -rows[other]
                elif distance == COSINE:
                    u, v = rows[row] / norms[row], rows[other] / norms[other]
                    step = (u - v - value * u) / norms[row]
                else:
                    step = (rows[row] - rows[other]) * (2 if distance == 1 else 1 / value)
                gradient[row] += sign * weight * step
    return gradient


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 8, 13, 40])
def test_gradients_are_the_same_bits_in_every_tier_and_for_any_threads(native, distance, dtype, d):
    random = np.random.default_rng(d)
    n = 90
    rows = random.standard_normal((n, d)).astype(dtype)
    positives = (np.arange(n) + 1) % n
    negatives = np.where(np.arange(n) % 3 == 0, 5, random.integers(0, n, n))  # row 5 is a hub
    positives[4] = negatives[11] = -1
    negatives[negatives == np.arange(n)] = 6
    negatives[6] = 7
    distances = random.uniform(0.5, 2, (2, n))
    slopes = random.uniform(0, 1, n) * (np.arange(n) % 4 > 0)
    upstream = random.standard_normal(n).astype(dtype)
    backward = getattr(native, f"backward_{suffix(rows)}")
    results = [
        backward(rows, positives, negatives, distances, slopes, upstream, distance, tier, threads)
        for tier in native.tiers_to_test()
        for threads in (1, 4)
    ]
    assert len({result.tobytes() for result in results}) == 1
    expected = gradient_oracle(rows, positives, negatives, distances, slopes, upstream, distance)
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(results[0], expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@settings(max_examples=200, deadline=None)
@given(
    differences=st.lists(st.floats(-1e6, 1e6) | st.floats(-5, 5), min_size=1, max_size=20),
    margin=st.floats(-2, 2),
    soft_margin=st.booleans(),
    reduction=st.integers(0, 3),
)
def test_losses(native, differences, margin, soft_margin, reduction):
    n = len(differences)
    distances = np.stack([np.asarray(differences), np.zeros(n)])
    indices = np.zeros(n, np.int64)
    value, losses, slopes = native.loss(indices, indices, distances, margin, soft_margin, reduction, 0, False)
    x = np.asarray(differences)
    expected = np.logaddexp(x, 0) if soft_margin else np.maximum(x + margin, 0)
    np.testing.assert_allclose(losses, expected, rtol=1e-14, atol=1e-300)
    count = {0: 1, 1: 1, 2: n, 3: max(1, int((expected > 0).sum()))}[reduction]
    assert value == pytest.approx(expected.sum() / count, rel=1e-12, abs=1e-300)
    with np.errstate(over="ignore"):
        expected_slopes = 1 / (1 + np.exp(-x)) if soft_margin else (x + margin > 0).astype(float)
    np.testing.assert_allclose(slopes, expected_slopes / count, rtol=1e-13, atol=1e-300)


def test_poison_reaches_every_slope(native):
    indices, distances = np.array([1, 0, -1]), np.ones((2, 3))
    for reduction in range(4):
        value, losses, slopes = native.loss(indices, indices, distances, 0.3, False, reduction, 0, True)
        assert math.isnan(value) and np.isnan(slopes).all()
        assert np.isnan(losses[:2]).all() and losses[2] == 0
