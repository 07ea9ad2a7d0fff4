"""pytorch-metric-learning's AccuracyCalculator, with every k, and what its k does to metrics that are not about k."""

import logging

import pytest
import torch

from fasttriplet.retrieval import nearest, retrieval_metrics
from tests.retrieval.agreement import cases
from tests.retrieval.agreement.peers import peer

PML = "pytorch-metric-learning faiss-cpu"
faiss = peer("faiss", PML)  # what it searches with
accuracy_calculator = peer("pytorch_metric_learning.utils.accuracy_calculator", PML)
inference = peer("pytorch_metric_learning.utils.inference", PML)

METRICS = ("precision_at_1", "r_precision", "mean_average_precision", "mean_average_precision_at_r")
METRICS += ("mean_reciprocal_rank",)
NAMES = [name for name in cases.INTEGERS if name != "cameras"]  # it knows no junk
EUCLIDEAN = [name for name in NAMES if name != "inner product"]
KINDS = ("max_bin_count", None, 1, 4, 10)


@pytest.fixture(autouse=True)
def quiet():
    """It warns where k is below the largest class: that is what is tried."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def theirs(case, k, knn_func=None, **options):
    calculator = accuracy_calculator.AccuracyCalculator(
        include=METRICS, k=k, knn_func=knn_func, device=torch.device("cpu"), **options
    )
    gallery = {}
    if case.references is not None:
        gallery = {"reference": case.references, "reference_labels": case.ref_labels}
        gallery["ref_includes_query"] = case.includes_queries
    return calculator.get_accuracy(case.queries, case.labels, **gallery)


def search(case):
    """Its search by the case's distance."""
    return inference.FaissKNN(index_init_fn=faiss.IndexFlatIP if case.distance == "inner_product" else None)


def our_search(query, k, reference, ref_includes_query=False):
    """Ours as its ``knn_func``."""
    return nearest(query, reference, k, self_indices=torch.arange(len(query)) if ref_includes_query else None)


def expected_of_queries(case, k):
    """Its definitions by our counts, of each query with a positive: how many neighbours it looks at decides."""
    largest = int(cases.ours_of_queries(case, (1,)).positives.max())
    looked_at = {"max_bin_count": largest, None: len(case.candidates)}.get(k, k)
    found = cases.ours_of_queries(case, range(1, looked_at + 1))
    found = type(found)(*(column[found.positives > 0] for column in found))
    r = found.positives.clamp_max(looked_at).long()[:, None]
    return {
        "precision_at_1": found.hits[:, 0],
        "r_precision": found.hits.gather(1, r - 1)[:, 0] / r[:, 0],
        "mean_average_precision": found.gains[:, -1] / found.positives,
        "mean_average_precision_at_r": found.gains.gather(1, r - 1)[:, 0] / found.positives,
        "mean_reciprocal_rank": torch.where(found.first <= looked_at, 1 / found.first, 0),
    }


@pytest.mark.parametrize("k", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_k(name, k):
    case = cases.integers(name)
    expected = {metric: values.mean().item() for metric, values in expected_of_queries(case, k).items()}
    assert theirs(case, k, search(case)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_our_names(name):
    """With k=None all are ours; with "max_bin_count" those that look at R neighbours."""
    case = cases.integers(name)
    largest = int(cases.ours_of_queries(case, (1,)).positives.max())
    found = cases.ours(case, at=(1, 4, largest))
    same = {
        "precision_at_1": found.hit_rate[0].item(),
        "r_precision": found.r_precision.item(),
        "mean_average_precision_at_r": found.map_at_r.item(),
    }
    whole = {"mean_average_precision": found.map.item(), "mean_reciprocal_rank": found.mrr.item()}
    assert theirs(case, None, search(case)) == pytest.approx(same | whole, abs=1e-6)
    cut = theirs(case, "max_bin_count", search(case))
    assert {metric: cut[metric] for metric in same} == pytest.approx(same, abs=1e-6)
    assert cut["mean_average_precision"] == pytest.approx(found.map_at[2].item(), abs=1e-6)
    assert cut["mean_average_precision"] < found.map.item() - 1e-3
    four = theirs(case, 4, search(case))
    assert four["mean_average_precision"] == pytest.approx(found.map_at[1].item(), abs=1e-6)
    assert four["r_precision"] != pytest.approx(found.r_precision.item(), abs=1e-3)


@pytest.mark.parametrize("name", ["among themselves", "gallery"])
def test_means_of_classes(name):
    """``avg_of_avgs`` is the mean over classes of the means of their queries."""
    case = cases.integers(name)
    counted = cases.ours_of_queries(case).positives > 0
    _, classes = case.labels[counted].unique(return_inverse=True)
    expected = {}
    for metric, values in expected_of_queries(case, None).items():
        sums = torch.zeros(int(classes.max()) + 1, dtype=torch.float64).index_add(0, classes, values)
        expected[metric] = (sums / classes.bincount()).mean().item()
    assert theirs(case, None, avg_of_avgs=True) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", ["max_bin_count", None])
@pytest.mark.parametrize("name", [*EUCLIDEAN, *cases.REAL])
def test_our_search_in_its_place(name, k):
    """``knn_func`` may be ours: its metrics are then those of the order of float64."""
    case = cases.integers(name) if name in NAMES else cases.REAL[name]()
    expected = {metric: values.mean().item() for metric, values in expected_of_queries(case, k).items()}
    assert theirs(case, k, our_search) == pytest.approx(expected, abs=1e-6)


def test_labels_from_2_to_the_24_on_merge():
    """It compares labels as float32, where 2^24 and 2^24 + 1 are one number: here every neighbour is then right."""
    rows, small = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 1, 0, 1])
    large = small + 2**24
    assert theirs(cases.Case(rows, small), None)["precision_at_1"] == 0
    assert theirs(cases.Case(rows, large), None)["precision_at_1"] == 1
    assert retrieval_metrics(rows, large, at=(1,)).as_dict() == retrieval_metrics(rows, small, at=(1,)).as_dict()
    assert retrieval_metrics(rows, large, at=(1,)).hit_rate.item() == 0


def test_more_neighbours_than_references():
    """faiss fills up with index -1, which counts as the last reference: it may be found again and again."""
    case = cases.Case(torch.tensor([[0.0]]), torch.tensor([7]), torch.tensor([[1.0], [2.0]]), torch.tensor([5, 7]))
    found = cases.ours(case, at=(6,))
    assert found.map_at.item() == found.map.item() == 1 / 2
    assert theirs(case, None)["mean_average_precision"] == pytest.approx(1 / 2)
    assert theirs(case, 6)["mean_average_precision"] == pytest.approx(1 / 2 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 6)
