"""Plain NumPy: what the kernels must find, by looking at every pair."""

import numpy as np

EUCLIDEAN, SQUARED, COSINE, INNER = range(4)
DISTANCES = (EUCLIDEAN, SQUARED, COSINE, INNER)


def suffix(rows):
    return {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}[rows.dtype]


def scores(native, rows, distance, tier):
    """[N, N] exact scores, each from the kernel's own float64 sums, so that ties are ties to the bit.

    The norms too: NumPy adds in another order, and one rounding of a norm parts or swaps cosines that are nearly equal.
    """
    factors = getattr(native, f"factors_{suffix(rows)}")(rows) if distance == COSINE else np.ones(len(rows))
    score = getattr(native, f"score_{suffix(rows)}")
    n = len(rows)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(i, n):
            matrix[i, j] = matrix[j, i] = score(rows[i], rows[j], distance, tier, factors[i], factors[j])
    return matrix


def hardest(matrix, labels):
    """Farthest positive and nearest negative by score, NaN first, lowest index on ties, -1 where there is none."""
    n = len(labels)
    largest = np.finfo(np.float64).max
    matrix = np.clip(matrix, -largest, largest)  # infinities are left to mark NaN and exclusion
    same = labels[:, None] == labels[None]
    positive = same & ~np.eye(n, dtype=bool)
    positives = np.where(
        positive.any(1), np.where(positive, np.where(np.isnan(matrix), np.inf, matrix), -np.inf).argmax(1), -1
    )
    negatives = np.where(
        (~same).any(1), np.where(same, np.inf, np.where(np.isnan(matrix), -np.inf, matrix)).argmin(1), -1
    )
    return positives, negatives
