"""On real rows float32 rankings differ from ours: only where two distances are equal within float32's rounding, and
float64 is on our side.

What is compared is each query's average precision, which any exchange of a positive and a negative changes.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.retrieval.agreement import cases
from tests.retrieval.agreement.peers import peer

UNIT = 2.0**-24  # of rounding in float32


def faiss_orders(case, queries=None):
    """[Q, M] of all candidates, those of the queries or of others."""
    index = peer("faiss", "faiss-cpu").IndexFlatL2(case.candidates.shape[1])
    index.add(case.candidates.numpy())
    return index.search((case.queries if queries is None else queries).numpy(), len(case.candidates))[1]


@contextmanager
def faiss_threshold(value):
    """From how many queries on it takes products: their number in older releases, in 1.15 that times D."""
    variables = peer("faiss", "faiss-cpu").cvar
    before = variables.distance_compute_blas_threshold
    variables.distance_compute_blas_threshold = value
    try:
        yield
    finally:
        variables.distance_compute_blas_threshold = before


def faiss_differences(case):
    """As it searches for few queries: sums of squared differences."""
    with faiss_threshold(2**30):
        return faiss_orders(case)


def faiss_products(case):
    """As it searches for many: |x|^2 + |y|^2 - 2 x.y."""
    with faiss_threshold(1):
        return faiss_orders(case)


def torch_cdist(case):
    return torch.cdist(case.queries, case.candidates).topk(len(case.candidates), largest=False).indices.numpy()


def torchreid(case):
    """``euclidean_squared_distance`` and ``evaluate_rank``'s sort."""
    squares = case.queries.square().sum(1, keepdim=True) + case.candidates.square().sum(1)
    return np.argsort(squares.addmm(case.queries, case.candidates.T, alpha=-2).numpy(), axis=1)


SEARCHES = {search.__name__: search for search in (faiss_differences, faiss_products, torch_cdist, torchreid)}


def rounding(case, distances):
    """[Q, M]: how far a squared distance may be off in float32: D products and sums in any order, a root and more."""
    lengths = [np.linalg.norm(rows.double().numpy(), axis=1) for rows in (case.queries, case.candidates)]
    return UNIT * ((case.queries.shape[1] + 4) * (lengths[0][:, None] + lengths[1]) ** 2 + 4 * distances)


def compared(case, orders):
    """How many queries and pairs of candidates are in another order; each must be explained."""
    exact = case.precisions(case.order())
    ranks = cases.ours_of_queries(case)
    np.testing.assert_allclose(ranks.gain / ranks.positives, exact, atol=1e-12)  # float64 sides with us; NaN for none
    theirs = case.precisions(orders)
    distances = case.distances()
    errors = rounding(case, distances)
    queries, exchanged = [], 0
    for query, order in enumerate(orders):
        values, error = distances[query, order], errors[query, order]
        # Whoever comes before was not farther by more than both roundings.
        assert (np.maximum.accumulate(values - error) <= values + error).all()
        exchanged += int((values[:, None] > values).astype(int)[np.triu_indices(len(values), 1)].sum())
        if not np.isclose(theirs[query], exact[query], atol=1e-12, equal_nan=True):
            assert (order != case.order()[query]).any()
            queries.append(query)
    return queries, exchanged


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", [*cases.REAL, *cases.IMAGES])
def test_only_near_ties_differ(name, search):
    case = cases.images(name) if name in cases.IMAGES else cases.REAL[name]()
    differing, exchanged = compared(case, SEARCHES[search](case))
    if name == "pixels":
        assert exchanged == 0  # integers: what differs are ties
    if name == "clusters" and search != "faiss_differences":
        assert len(differing) > 10 and exchanged > 100


def test_ties_differ():
    """Pixels are small integers: exact in float32, with many ties, whose order is each search's own."""
    case = cases.digits("pixels")
    tied = sum(len(np.unique(row)) < len(row) for row in case.distances())
    assert tied == len(case.queries)
    orders = case.order()
    reverse = [
        order[::-1][np.argsort(case.distances()[query, order[::-1]], kind="stable")]
        for query, order in enumerate(orders)
    ]
    differing, exchanged = compared(case, reverse)
    assert differing and exchanged == 0


def test_faiss_ranks_by_how_many_ask():
    """The same queries alone and among many, where it goes over to products."""
    case = cases.clusters()
    alone, among = faiss_orders(case), faiss_orders(case, case.queries.repeat(50, 1))[: len(case.queries)]
    assert len(compared(case, among)[0]) > 10 * len(compared(case, alone)[0])


def test_pytorch_metric_learning_on_clusters():
    """Its figure is that of its float32 ranking; with our search as ``knn_func``, see its own file, it is ours."""
    calculator = peer("pytorch_metric_learning.utils.accuracy_calculator", "pytorch-metric-learning faiss-cpu")
    case = cases.clusters()
    measure = calculator.AccuracyCalculator(include=("mean_average_precision",), device=torch.device("cpu"))
    gallery = {"reference": case.references, "reference_labels": case.ref_labels}
    with faiss_threshold(1):
        value = measure.get_accuracy(case.queries, case.labels, **gallery)["mean_average_precision"]
    found = cases.ours(case).map.item()
    assert value == pytest.approx(case.precisions(faiss_products(case)).mean(), abs=1e-6)
    assert found == pytest.approx(case.precisions(case.order()).mean(), abs=1e-12)
    assert abs(value - found) > 1e-5
