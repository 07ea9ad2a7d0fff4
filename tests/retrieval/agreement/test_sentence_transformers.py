"""sentence-transformers' InformationRetrievalEvaluator: its MAP@k divides by min(k, R), and nobody is left out."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.retrieval.agreement import cases, rankings
from tests.retrieval.agreement.peers import peer

util = peer("sentence_transformers.util", "sentence-transformers")
home = "sentence_transformers.sentence_transformer.evaluation"  # from 5.4 on
evaluation = peer(home if find_spec(home) else "sentence_transformers.evaluation", "sentence-transformers")

FUNCTIONS = {"euclidean": util.euclidean_sim, "inner_product": util.dot_score, "cosine": util.cos_sim}
#: It takes no self and no junk out of a corpus.
NAMES = ("gallery", "inner product")


class Encoder:
    """A model whose texts are the rows' numbers."""

    def __init__(self, case):
        self.queries, self.candidates = case.queries, case.candidates

    def encode_query(self, texts, **options):
        return self.queries[[int(text) for text in texts]]

    def encode_document(self, texts, **options):
        return self.candidates[[int(text) for text in texts]]


def evaluator(case, relevant, function, chunk=1000):
    cuts = list(cases.AT)
    return evaluation.InformationRetrievalEvaluator(
        {rankings.query(i): str(i) for i in range(len(case.queries))},
        {rankings.candidate(i): str(i) for i in range(len(case.candidates))},
        {query: set(documents) for query, documents in relevant.items()},
        corpus_chunk_size=chunk,
        **{name: cuts for name in ("mrr_at_k", "accuracy_at_k", "precision_recall_at_k", "map_at_k")},
        score_functions={"given": function},
        write_csv=False,
    )


def theirs(case, function=None, chunk=1000):
    measure = evaluator(case, rankings.by_distance(case).relevant, function or FUNCTIONS[case.distance], chunk)
    return measure.compute_all_metrics(Encoder(case))["given"]


def assert_same(case, values):
    ranks, metrics = cases.ours_of_queries(case), cases.ours(case)
    ranks = type(ranks)(*(column[ranks.positives > 0] for column in ranks))
    for place, k in enumerate(cases.AT):
        expected = {
            "accuracy@k": metrics.hit_rate[place],
            "precision@k": metrics.precision[place],
            "recall@k": metrics.recall[place],
            "mrr@k": torch.where(ranks.first <= k, 1 / ranks.first, 0).mean(),
            "map@k": (ranks.gains[:, place] / ranks.positives.clamp_max(k)).mean(),
        }
        for name, value in expected.items():
            assert values[name][k] == pytest.approx(value.item(), abs=1e-6), (name, k)
    assert values["map@k"][1000] == pytest.approx(metrics.map.item(), abs=1e-6)
    assert values["mrr@k"][1000] == pytest.approx(metrics.mrr.item(), abs=1e-6)
    assert values["map@k"][2] > metrics.map_at[1].item() + 1e-3  # divided by less


@pytest.mark.parametrize("chunk", [1000, 17])
@pytest.mark.parametrize("name", NAMES)
def test_integer_rows(name, chunk):
    case = cases.integers(name)
    assert_same(case, theirs(case, chunk=chunk))


@pytest.mark.parametrize("name", ["among themselves", "gallery with the queries", "cameras", *cases.REAL])
def test_our_rankings(name):
    """What it is given is our ranking, in which no query finds itself."""
    case = cases.integers(name) if name in cases.INTEGERS else cases.REAL[name]()
    found = rankings.ours(case)
    measure = evaluator(case, found.relevant, util.dot_score)
    hits = [
        [{"corpus_id": document, "score": score} for document, score in found.scores[query].items()]
        for query in measure.queries_ids
    ]
    assert_same(case, measure.compute_metrics(hits))


def test_the_query_itself_in_the_corpus():
    """It is found first where it is the nearest, and is a negative unless it was named as relevant."""
    case = cases.integers("among themselves")
    values = theirs(case)
    assert values["accuracy@k"][1] == 0
    assert values["recall@k"][2] == pytest.approx(cases.ours(case).recall[0].item(), abs=1e-6)


@pytest.mark.parametrize("first", [0, 1])
def test_ties_are_by_name_ascending(first):
    """As ours, with names in the order of the indices."""
    labels = torch.tensor([0, 1]) if first == 0 else torch.tensor([1, 0])
    case = cases.Case(torch.zeros(1, 1), torch.tensor([0]), torch.ones(2, 1), labels)
    expected = {0: 1, 1: 0.5}[first]
    assert theirs(case)["mrr@k"][1000] == cases.ours(case).mrr.item() == expected


def test_queries_without_a_relevant_document_are_left_out():
    case = cases.integers("gallery")
    measure = evaluator(case, rankings.by_distance(case).relevant, util.dot_score)
    assert len(measure.queries) == cases.ours(case).queries < len(case.queries)
    with pytest.raises(IndexError):  # none at all
        evaluator(case, {}, util.dot_score).compute_all_metrics(Encoder(case))
    assert np.isnan(cases.ours(case._replace(labels=case.labels + 1000)).map.item())


def test_cosines_in_float32():
    """Of rows that point in nearly one direction few values are left, and ties go by name: see test_near_ties.py."""
    case = cases.clusters()._replace(distance="cosine")
    cosines = util.cos_sim(case.queries, case.candidates).numpy()
    assert len(np.unique(cosines)) < cosines.size / 10
    orders = case.order(-cosines)
    exact = case.precisions(case.order()).mean()
    assert theirs(case)["map@k"][1000] == pytest.approx(case.precisions(orders).mean(), abs=1e-6)
    assert cases.ours(case).map.item() == pytest.approx(exact, abs=1e-12)
    assert abs(case.precisions(orders).mean() - exact) > 1e-5
    bound = 2.0**-24 * (2 * case.queries.shape[1] + 8)  # of both lengths and of the product
    for query, order in enumerate(orders):
        values = case.distances()[query, order]
        assert (np.maximum.accumulate(values) - values).max() <= 2 * bound
