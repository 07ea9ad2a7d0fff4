"""A case's rankings as the libraries that evaluate scores take them: by query, with names for queries and candidates.

Names are padded with zeros, so that their order as strings is that of the indices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.retrieval.agreement import cases


class Rankings(NamedTuple):
    """Of Q queries."""

    scores: dict[str, dict[str, float]]  # of the ranked candidates, the higher the nearer
    relevant: dict[str, dict[str, int]]  # 1 of the positives, of the queries that have any

    @property
    def counted(self) -> list[int]:
        """The queries that have a positive."""
        return [int(query[1:]) for query in self.relevant]


def candidate(index: int) -> str:
    return f"d{index:05}"


def query(index: int) -> str:
    return f"q{index:05}"


def by_scores(case: cases.Case, scores: np.ndarray) -> Rankings:
    """By others' scores [Q, M]."""
    ranked, relevant = case.ranked(), case.relevant()
    run = {query(i): {candidate(j): float(scores[i, j]) for j in np.flatnonzero(row)} for i, row in enumerate(ranked)}
    qrels = {query(i): {candidate(j): 1 for j in np.flatnonzero(row)} for i, row in enumerate(relevant) if row.any()}
    return Rankings(run, qrels)


def by_distance(case: cases.Case) -> Rankings:
    """By exact distances, negative."""
    return by_scores(case, -case.distances())


def ours(case: cases.Case) -> Rankings:
    """By our ranking alone: the nearest of M candidates scores M, the next M - 1."""
    m = len(case.candidates)
    scores = np.zeros((len(case.queries), m))
    for i, order in enumerate(cases.our_order(case)):
        scores[i, order] = m - np.arange(len(order))
    return by_scores(case, scores)


def of_case(name: str) -> tuple[cases.Case, Rankings]:
    """Integer rows by their distances, of which there is one right order; others by our ranking."""
    if name in cases.INTEGERS:
        case = cases.integers(name)
        return case, by_distance(case)
    case = cases.REAL[name]()
    return case, ours(case)


NAMES = (*cases.INTEGERS, *cases.REAL)
