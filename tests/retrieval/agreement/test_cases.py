"""The inputs of the other tests are what they say, and our ranking of them is that of brute force in float64."""

import numpy as np
import pytest

from tests.retrieval.agreement import cases


@pytest.mark.parametrize("name", cases.INTEGERS)
def test_integer_rows_round_nowhere(name):
    case = cases.integers(name)
    x, y = case.queries.numpy(), case.candidates.numpy()
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)
    assert squares.max() < 2**22
    expanded = squares - 2 * x @ y.T if case.distance == "euclidean" else -x @ y.T
    assert expanded.dtype == np.float32
    np.testing.assert_array_equal(expanded, case.distances())


@pytest.mark.parametrize("name", cases.INTEGERS)
def test_integer_cases_have_what_metrics_differ_about(name):
    case = cases.integers(name)
    found = cases.ours(case)
    assert found.queries > 20 and found.queries_without_positive > 0
    assert len({int(count) for count in case.relevant().sum(1)}) > 4  # classes of many sizes
    assert 0.2 < found.map.item() < 0.95
    if name == "with copies":
        assert sum(len(np.unique(row)) < len(row) - 2 for row in case.distances()) > 20
    if name == "cameras":
        assert (case.same() & ~case.ranked()).sum() > 20


@pytest.mark.parametrize("name", [*cases.INTEGERS, *cases.REAL])
def test_our_neighbours_are_in_the_order_of_float64(name):
    case = cases.integers(name) if name in cases.INTEGERS else cases.REAL[name]()
    for found, expected in zip(cases.our_order(case), case.order(), strict=True):
        np.testing.assert_array_equal(found, expected)
