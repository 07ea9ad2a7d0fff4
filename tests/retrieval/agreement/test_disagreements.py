"""Where libraries answer differently to the same ranking: what each says, and what of ours says the same.

A ranking is written as its hits, nearest first: ``[1, 0, 1]`` is a positive, a negative and a positive.
"""

import numpy as np
import pytest
import torch

from tests.retrieval.agreement import cases, formulas, rankings
from tests.retrieval.agreement.peers import peer


def ranking(hits, positions=None):
    """One query, whose candidates are at 1, 2, ... or at the positions given."""
    positions = range(1, len(hits) + 1) if positions is None else positions
    references = torch.tensor(positions, dtype=torch.float32)[:, None]
    return cases.Case(torch.zeros(1, 1), torch.tensor([1]), references, torch.tensor(hits))


def pytorch_metric_learning(case, k):
    module = peer("pytorch_metric_learning.utils.accuracy_calculator", "pytorch-metric-learning faiss-cpu")
    names = {"precision_at_1": "hit", "mean_average_precision": "map", "mean_reciprocal_rank": "mrr"}
    measure = module.AccuracyCalculator(include=tuple(names), k=k, device=torch.device("cpu"))
    values = measure.get_accuracy(case.queries, case.labels, case.references, case.ref_labels)
    return {names[name]: value for name, value in values.items()}


def trec_eval(case, k):
    """Of the queries that are judged: those with a positive."""
    module = peer("pytrec_eval", "pytrec-eval-terrier")
    found = rankings.by_distance(case)
    names = {"P": "precision", "recall": "recall", "success": "hit", "map_cut": "map"}
    measures = {f"{name}.{k}" for name in names} | {"recip_rank"}
    values = list(module.RelevanceEvaluator(found.relevant, measures).evaluate(found.scores).values())
    means = {key: float(np.mean([value[key] for value in values])) for key in values[0]}
    return {"mrr": means["recip_rank"], **{ours: means[f"{name}_{k}"] for name, ours in names.items()}}


def trec_eval_all_judged(case, k):
    """With judgements of all candidates, 0 for negatives."""
    module = peer("pytrec_eval", "pytrec-eval-terrier")
    found, relevant = rankings.by_distance(case), case.relevant().astype(int)
    judged = {
        rankings.query(i): {rankings.candidate(j): int(hit) for j, hit in enumerate(row)}
        for i, row in enumerate(relevant)
    }
    values = module.RelevanceEvaluator(judged, {f"map_cut.{k}"}).evaluate(found.scores).values()
    return {"map": float(np.mean([value[f"map_cut_{k}"] for value in values]))}


def ranx(case, k):
    module = peer("ranx", "ranx")
    found = rankings.by_distance(case)
    judged = {name: found.relevant.get(name, {rankings.candidate(0): 0}) for name in found.scores}
    names = {"precision": "precision", "recall": "recall", "hit_rate": "hit", "map": "map", "mrr": "mrr"}
    values = module.evaluate(module.Qrels(judged), module.Run(found.scores), [f"{name}@{k}" for name in names])
    return {ours: float(values[f"{name}@{k}"]) for name, ours in names.items()}


def sentence_transformers(case, k):
    module = peer("sentence_transformers.evaluation", "sentence-transformers")
    found = rankings.by_distance(case)
    names = {"accuracy": "hit", "precision": "precision", "recall": "recall", "mrr": "mrr", "map": "map"}
    cuts = ("mrr_at_k", "accuracy_at_k", "precision_recall_at_k", "map_at_k")
    measure = module.InformationRetrievalEvaluator(
        dict.fromkeys(found.scores, ""),
        {rankings.candidate(j): "" for j in range(len(case.candidates))},
        {name: set(documents) for name, documents in found.relevant.items()},
        **{name: [k] for name in cuts},
        score_functions={"given": None},
    )
    listed = [
        [{"corpus_id": document, "score": score} for document, score in found.scores[name].items()]
        for name in measure.queries_ids
    ]
    values = measure.compute_metrics(listed)
    return {ours: float(values[f"{name}@k"][k]) for name, ours in names.items()}


def torchmetrics(case, k, empty="skip", **options):
    module = peer("torchmetrics.retrieval", "torchmetrics")
    queries, candidates = case.relevant().shape
    preds = torch.from_numpy(1 / (1 + case.distances())).flatten()
    numbers = {"target": torch.from_numpy(case.relevant()).flatten()}
    numbers["indexes"] = torch.arange(queries).repeat_interleave(candidates)
    names = {"Precision": "precision", "Recall": "recall", "HitRate": "hit", "MAP": "map", "MRR": "mrr"}
    return {
        ours: getattr(module, f"Retrieval{name}")(
            top_k=k, empty_target_action=empty, **(options if name == "Precision" else {})
        )(preds, **numbers).item()
        for name, ours in names.items()
    }


def torchmetrics_adaptive(case, k):
    return torchmetrics(case, k, adaptive_k=True)


def torchmetrics_neg(case, k):
    return torchmetrics(case, k, "neg")


def torchmetrics_pos(case, k):
    return torchmetrics(case, k, "pos")


def open_metric_learning(case, k):
    relevant = case.relevant()
    values = [formulas.oml(relevant[i, order], relevant[i].sum(), k) for i, order in enumerate(case.order())]
    means = {key: float(np.mean([value[key] for value in values])) for key in values[0]}
    return {"hit": means["cmc"], "precision": means["precision"], "map": means["map"]}


def market1501(case, k):
    """torchreid's and fast-reid's, without cameras that are shared."""
    numbers = (case.labels, case.candidate_labels, case.labels - 100, case.candidate_labels + 100)
    cmc, mean_precision, _ = formulas.market1501(case.distances(), *(tensor.numpy() for tensor in numbers))
    return {"hit": float(cmc[k - 1]), "map": mean_precision}


#: What of the counts of a query gives each denominator; k is how many were asked for.
AVERAGE_PRECISION = {
    "R": lambda found, k: found.gains / found.positives,
    "min(k, R)": lambda found, k: found.gains / found.positives.clamp_max(k),
    "hits among k": lambda found, k: found.gains / found.hits,
}
PRECISION = {
    "k": lambda found, k: found.hits / k,
    "min(k, candidates)": lambda found, k: found.hits / found.candidates.clamp_max(k),
    "min(k, candidates, R)": lambda found, k: found.hits / found.candidates.clamp_max(k).minimum(found.positives),
}


def counts(case, k):
    """Of the one query, single numbers."""
    found = cases.ours_of_queries(case, (k,))
    return type(found)(*(column.flatten()[0] for column in found))


@pytest.mark.parametrize(
    ("library", "divided_by", "expected"),
    [
        (pytorch_metric_learning, "R", 5 / 12),
        (trec_eval, "R", 5 / 12),
        (ranx, "R", 5 / 12),
        (sentence_transformers, "min(k, R)", 5 / 9),
        (torchmetrics, "hits among k", 5 / 6),
        (open_metric_learning, "hits among k", 5 / 6),
    ],
)
def test_average_precision_at_k(library, divided_by, expected):
    """(1 + 2/3) over the denominator; ours is R."""
    case, k = ranking([1, 0, 1, 1, 1]), 3
    assert library(case, k)["map"] == pytest.approx(expected, abs=1e-6)
    assert AVERAGE_PRECISION[divided_by](counts(case, k), k).item() == pytest.approx(expected)
    assert cases.ours(case, (k,)).map_at.item() == pytest.approx(5 / 12)


@pytest.mark.parametrize(
    ("library", "divided_by", "fewer", "alone"),
    [
        (trec_eval, "k", 2 / 5, 1 / 4),
        (ranx, "k", 2 / 5, 1 / 4),
        (sentence_transformers, "k", 2 / 5, 1 / 4),
        (torchmetrics, "k", 2 / 5, 1 / 4),
        (torchmetrics_adaptive, "min(k, candidates)", 2 / 3, 1 / 4),
        (open_metric_learning, "min(k, candidates, R)", 1, 1),
    ],
)
def test_precision_at_k(library, divided_by, fewer, alone):
    """Of fewer candidates than k, and of fewer positives; ours is over k always."""
    for case, k, expected in ((ranking([1, 0, 1]), 5, fewer), (ranking([0, 1, 0, 0, 0, 0]), 4, alone)):
        assert library(case, k)["precision"] == pytest.approx(expected, abs=1e-6)
        assert PRECISION[divided_by](counts(case, k), k).item() == pytest.approx(expected)
    assert cases.ours(ranking([1, 0, 1]), (5,)).precision.item() == 2 / 5


LEFT_OUT, ZERO, ONE = 0.5, 0.25, 0.75


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (pytorch_metric_learning, LEFT_OUT),
        (trec_eval, LEFT_OUT),
        (trec_eval_all_judged, ZERO),
        (ranx, ZERO),
        (sentence_transformers, LEFT_OUT),
        (torchmetrics, LEFT_OUT),
        (torchmetrics_neg, ZERO),
        (torchmetrics_pos, ONE),
        (open_metric_learning, ZERO),
        (market1501, LEFT_OUT),
    ],
)
def test_queries_without_a_positive(library, expected):
    """Two queries, one with an average precision of 1 / 2: MAP over all ranks, of which there are two."""
    case = ranking([0, 1])._replace(queries=torch.zeros(2, 1), labels=torch.tensor([1, 2]))
    found = cases.ours(case)
    share = found.queries / (found.queries + found.queries_without_positive)
    ours = {LEFT_OUT: found.map, ZERO: found.map * share, ONE: found.map * share + (1 - share)}
    assert library(case, 2)["map"] == pytest.approx(expected) == ours[expected].item()
    if library is open_metric_learning:
        assert np.isnan(library(case, 2)["precision"])


NAN = float("nan")


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (pytorch_metric_learning, NAN),
        (trec_eval, IndexError),  # no topics: this file's mean fails
        (trec_eval_all_judged, 0),
        (ranx, 0),
        (torchmetrics, 0),
        (torchmetrics_pos, 1),
        (open_metric_learning, 0),
        (market1501, AssertionError),
    ],
)
def test_no_query_has_a_positive(library, expected):
    case = ranking([0, 0])
    assert cases.ours(case).map.isnan()
    if isinstance(expected, type):
        with pytest.raises(expected):
            library(case, 2)
    else:
        assert library(case, 2)["map"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (pytorch_metric_learning, 0),
        (trec_eval, 1 / 3),  # it has none with a cut
        (ranx, 0),
        (sentence_transformers, 0),
        (torchmetrics, 0),
    ],
)
def test_reciprocal_rank_behind_k(library, expected):
    """The first positive is third, and two were asked for; ours looks at all."""
    case = ranking([0, 0, 1])
    found = counts(case, 2)
    ours = {0: torch.where(found.first <= 2, 1 / found.first, 0), 1 / 3: cases.ours(case).mrr}[expected]
    assert library(case, 2)["mrr"] == pytest.approx(expected) == ours.item()


@pytest.mark.parametrize(
    "library",
    [pytorch_metric_learning, trec_eval, ranx, sentence_transformers, torchmetrics, open_metric_learning, market1501],
)
def test_recall_is_two_things(library):
    """A positive is among the k nearest: the "Recall@1" of papers on metric learning. How many of them: recall."""
    case = ranking([1, 0, 1, 1])
    found, values = cases.ours(case, (1,)), library(case, 1)
    assert values["hit"] == found.hit_rate.item() == 1
    assert values.get("recall", 1 / 3) == pytest.approx(found.recall.item()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("hits", [[1, 0], [0, 1]])
@pytest.mark.parametrize(
    ("library", "order"),
    [
        (sentence_transformers, "ascending"),
        (trec_eval, "descending"),
        (pytorch_metric_learning, "any"),
        (ranx, "any"),
        (torchmetrics, "any"),
        (market1501, "any"),
    ],
)
def test_ties(library, order, hits):
    """Two candidates equally far, a positive and a negative; ours takes the lower index first."""
    case = ranking(hits, positions=[1, -1])
    found = library(case, 1)["hit"]
    ours = cases.ours(case, (1,)).hit_rate.item()
    backwards = cases.ours(ranking(hits[::-1], positions=[1, -1]), (1,)).hit_rate.item()
    assert ours == hits[0] and backwards == hits[1]
    assert found in {"ascending": [ours], "descending": [backwards], "any": [ours, backwards]}[order]
