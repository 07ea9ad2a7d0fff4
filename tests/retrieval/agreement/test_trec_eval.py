"""trec_eval, by pytrec_eval (the package pytrec-eval-terrier): every query's counts and values, and its ties."""

import numpy as np
import pytest
import torch

from tests.retrieval.agreement import cases, rankings
from tests.retrieval.agreement.peers import peer

pytrec_eval = peer("pytrec_eval", "pytrec-eval-terrier")

CUTS = ",".join(map(str, cases.AT))
MEASURES = {"map", "Rprec", "recip_rank", "num_rel", "num_ret"}
MEASURES |= {f"{name}.{CUTS}" for name in ("P", "recall", "success", "map_cut")}


def theirs(found):
    return pytrec_eval.RelevanceEvaluator(found.relevant, MEASURES).evaluate(found.scores)


@pytest.mark.parametrize("name", rankings.NAMES)
def test_every_query(name):
    case, found = rankings.of_case(name)
    values = theirs(found)
    ranks = cases.ours_of_queries(case)
    assert len(values) == len(found.counted) == int((ranks.positives > 0).sum())
    for query in found.counted:
        value = values[rankings.query(query)]
        one = type(ranks)(*(column[query] for column in ranks))
        assert (value["num_rel"], value["num_ret"]) == (one.positives.item(), one.candidates.item())
        for place, k in enumerate(cases.AT):
            assert round(value[f"P_{k}"] * k) == one.hits[place].item() == pytest.approx(value[f"P_{k}"] * k)
        gains = torch.tensor([value[f"map_cut_{k}"] for k in cases.AT]) * value["num_rel"]
        np.testing.assert_allclose(gains, one.gains, atol=1e-6)
        assert value["recip_rank"] == pytest.approx(1 / one.first.item(), abs=1e-6)
        assert value["Rprec"] == pytest.approx((one.hits_at_r / one.positives).item(), abs=1e-6)
        assert value["map"] == pytest.approx((one.gain / one.positives).item(), abs=1e-6)


@pytest.mark.parametrize("name", rankings.NAMES)
def test_our_names(name):
    case, found = rankings.of_case(name)
    values = theirs(found).values()
    means = {key: float(np.mean([value[key] for value in values])) for key in next(iter(values))}
    metrics = cases.ours(case)
    expected = {"map": metrics.map, "Rprec": metrics.r_precision, "recip_rank": metrics.mrr}
    for place, k in enumerate(cases.AT):
        expected[f"P_{k}"], expected[f"recall_{k}"] = metrics.precision[place], metrics.recall[place]
        expected[f"success_{k}"], expected[f"map_cut_{k}"] = metrics.hit_rate[place], metrics.map_at[place]
    for key, value in expected.items():
        assert means[key] == pytest.approx(value.item(), abs=1e-6), key


def first_rank(names, scores):
    """Of the first of two candidates."""
    measures = pytrec_eval.RelevanceEvaluator({"q": {names[0]: 1}}, {"recip_rank"})
    return round(1 / measures.evaluate({"q": dict(zip(names, scores, strict=True))})["q"]["recip_rank"])


@pytest.mark.parametrize(
    ("names", "expected"), [(("a", "b"), 2), (("b", "a"), 1), (("d9", "d10"), 1), (("d09", "d10"), 2)]
)
def test_ties_are_by_name_descending(names, expected):
    """The reverse of ours, with names in the order of the indices: candidates the other way round give its answer."""
    assert first_rank(names, (1.0, 1.0)) == expected
    places = sorted(range(2), key=names.__getitem__, reverse=True)
    labels = torch.tensor([0, 1])[places]
    case = cases.Case(torch.zeros(1, 1), torch.tensor([0]), torch.ones(2, 1), labels)
    assert 1 / cases.ours(case).mrr.item() == expected


@pytest.mark.parametrize("scores", [(16777217.0, 16777216.0), (1 + 1e-9, 1.0)])
def test_scores_are_floats_of_c(scores):
    """What float64 tells apart may be a tie."""
    assert scores[0] > scores[1]
    assert first_rank(("a", "b"), scores) == 2
    assert first_rank(("a", "b"), (2.0, 1.0)) == 1


def test_distances_of_a_large_ranking_tie_there():
    """Real distances in float64, written as scores, may lose their order; ranks as scores do not, up to 2^24."""
    case = cases.clusters()
    exact = np.mean([value["map"] for value in theirs(rankings.ours(case)).values()])
    assert exact == pytest.approx(cases.ours(case).map.item(), abs=1e-12)
    by_distance = np.mean([value["map"] for value in theirs(rankings.by_scores(case, 1e4 - case.distances())).values()])
    assert abs(by_distance - exact) > 1e-4


def test_topics_without_a_relevant_document():
    """Not judged: no such topic. Judged, all of them 0: a topic whose values are 0."""
    run = {"a": {"x": 2.0, "y": 1.0}, "b": {"x": 2.0, "y": 1.0}}
    assert pytrec_eval.RelevanceEvaluator({"a": {"x": 1}}, {"map"}).evaluate(run) == {"a": {"map": 1}}
    judged = pytrec_eval.RelevanceEvaluator({"a": {"x": 1}, "b": {"x": 0}}, {"map"}).evaluate(run)
    assert judged == {"a": {"map": 1}, "b": {"map": 0}}


def test_rankings_are_not_cut_at_1000():
    run = {"q": {rankings.candidate(i): -float(i) for i in range(3000)}}
    relevant = {"q": {rankings.candidate(i): 1 for i in (0, 2499)}}
    value = pytrec_eval.RelevanceEvaluator(relevant, {"map", "num_ret"}).evaluate(run)["q"]
    assert value == {"map": (1 + 2 / 2500) / 2, "num_ret": 3000}
