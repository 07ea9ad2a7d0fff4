"""ranx, without its compiler: compiling these metrics takes a minute, and the formulas are the same code."""

import numpy as np
import pytest
import torch

from tests.retrieval.agreement import cases, rankings
from tests.retrieval.agreement.peers import peer

ranx = peer("ranx", "ranx")
OF_K = ("hits", "hit_rate", "precision", "recall", "map")
METRICS = (*(f"{name}@{k}" for name in OF_K for k in cases.AT), "map", "mrr", "r-precision")


def theirs(found, metrics=METRICS, **options):
    """Of every query that has a positive, in order."""
    run = {name: found.scores[name] for name in found.relevant}
    return ranx.evaluate(ranx.Qrels(found.relevant), ranx.Run(run), list(metrics), return_mean=False, **options)


@pytest.mark.parametrize("name", ["among themselves", "gallery", "cameras", "clusters"])
def test_every_query_and_our_names(name):
    case, found = rankings.of_case(name)
    values = theirs(found)
    ranks = cases.ours_of_queries(case)
    ranks = type(ranks)(*(column[found.counted] for column in ranks))
    metrics = cases.ours(case)
    for place, k in enumerate(cases.AT):
        np.testing.assert_array_equal(values[f"hits@{k}"], ranks.hits[:, place])
        np.testing.assert_allclose(values[f"map@{k}"], ranks.gains[:, place] / ranks.positives, atol=1e-6)
        same = {"hit_rate": metrics.hit_rate, "precision": metrics.precision, "recall": metrics.recall}
        for key, value in (same | {"map": metrics.map_at}).items():
            assert values[f"{key}@{k}"].mean() == pytest.approx(value[place].item(), abs=1e-6), (key, k)
    for key, value in {"map": metrics.map, "mrr": metrics.mrr, "r-precision": metrics.r_precision}.items():
        assert values[key].mean() == pytest.approx(value.item(), abs=1e-6), key


@pytest.mark.parametrize("k", [2, 10])
def test_mrr_with_a_cut(k):
    case, found = rankings.of_case("gallery")
    first = cases.ours_of_queries(case).first[found.counted]
    expected = torch.where(first <= k, 1 / first, 0)
    np.testing.assert_allclose(theirs(found, [f"mrr@{k}", "mrr"])[f"mrr@{k}"], expected, atol=1e-12)
    assert expected.mean() < cases.ours(case).mrr


def test_queries_without_a_positive_are_zeros():
    """As judgements that are all 0; ours leaves them out of the means and says how many."""
    run = {"a": {"x": 2.0, "y": 1.0}, "b": {"x": 2.0, "y": 1.0}}
    judged = {"a": {"x": 1}, "b": {"x": 0}}
    values = ranx.evaluate(ranx.Qrels(judged), ranx.Run(run), ["map", "hit_rate@1"])
    case = cases.Case(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]), torch.tensor([0, 2]))
    found = cases.ours(case)
    share = found.queries / (found.queries + found.queries_without_positive)
    assert values == {"map": 0.5, "hit_rate@1": 0.5}
    assert (found.map.item(), found.hit_rate[0].item(), share) == (1, 1, 0.5)


def test_scores_are_float64():
    run = ranx.Run({"a": {"x": 1.0, "y": 1 + 1e-12}})
    assert ranx.evaluate(ranx.Qrels({"a": {"y": 1}}), run, "mrr") == 1
