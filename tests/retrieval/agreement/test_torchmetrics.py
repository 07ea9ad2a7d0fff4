"""torchmetrics.retrieval, whose MAP divides by the hits among the first k, and which takes no score of 0 or less."""

import pytest
import torch

from tests.retrieval.agreement import cases, rankings
from tests.retrieval.agreement.peers import peer

retrieval = peer("torchmetrics.retrieval", "torchmetrics")


def given(case, scores):
    """Flat: a row for each query and ranked candidate."""
    indexes, columns = torch.from_numpy(case.ranked()).nonzero(as_tuple=True)
    target = torch.from_numpy(case.relevant())[indexes, columns]
    return torch.as_tensor(scores)[indexes, columns], target, indexes


def by_rank(case):
    """[Q, M]: the nearest of M scores M, so that all are above 0; in float32 exact up to 2^24."""
    m = len(case.candidates)
    scores = torch.zeros(len(case.queries), m)
    for query, order in enumerate(cases.our_order(case)):
        scores[query, order] = m - torch.arange(len(order), dtype=torch.float32)
    return scores


def by_distance(case):
    """[Q, M]: exact distances from above, so that all scores are above 0; integers below 2^24 stay what they are."""
    scores = -torch.from_numpy(case.distances())
    return (scores - scores.min() + 1).float()


def of_case(name):
    if name in cases.INTEGERS:
        case = cases.integers(name)
        return case, given(case, by_distance(case))
    case = cases.REAL[name]()
    return case, given(case, by_rank(case))


def theirs(metric, numbers, empty="skip", **options):
    preds, target, indexes = numbers
    return getattr(retrieval, f"Retrieval{metric}")(empty_target_action=empty, **options)(
        preds, target, indexes=indexes
    ).item()


@pytest.mark.parametrize("name", rankings.NAMES)
def test_our_names(name):
    case, numbers = of_case(name)
    found = cases.ours(case)
    for place, k in enumerate(cases.AT):
        assert theirs("Precision", numbers, top_k=k) == pytest.approx(found.precision[place].item(), abs=1e-6)
        assert theirs("Recall", numbers, top_k=k) == pytest.approx(found.recall[place].item(), abs=1e-6)
        assert theirs("HitRate", numbers, top_k=k) == pytest.approx(found.hit_rate[place].item(), abs=1e-6)
    assert theirs("MAP", numbers) == pytest.approx(found.map.item(), abs=1e-6)
    assert theirs("RPrecision", numbers) == pytest.approx(found.r_precision.item(), abs=1e-6)
    assert theirs("MRR", numbers) == pytest.approx(found.mrr.item(), abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5, 10])
@pytest.mark.parametrize("name", ["among themselves", "gallery", "cameras", "digits"])
def test_with_a_cut(name, k):
    """MAP over hits in place of R; MRR as if nothing came after rank k."""
    case, numbers = of_case(name)
    found = cases.ours_of_queries(case, (k,))
    found = type(found)(*(column[found.positives > 0] for column in found))
    hits = found.hits[:, 0]
    precision = torch.where(hits > 0, found.gains[:, 0] / hits, 0).mean()
    assert theirs("MAP", numbers, top_k=k) == pytest.approx(precision.item(), abs=1e-6)
    assert precision > cases.ours(case, at=(k,)).map_at[0] + 1e-3
    reciprocal = torch.where(found.first <= k, 1 / found.first, 0).mean()
    assert theirs("MRR", numbers, top_k=k) == pytest.approx(reciprocal.item(), abs=1e-6)


@pytest.mark.parametrize("metric", ["Precision", "Recall", "HitRate", "MAP", "RPrecision", "MRR"])
def test_queries_without_a_positive(metric):
    """``"skip"`` is ours; ``"neg"``, the default, is ours times the share of queries, ``"pos"`` that and the rest."""
    case, numbers = of_case("gallery")
    found = cases.ours(case)
    share = found.queries / (found.queries + found.queries_without_positive)
    mean = theirs(metric, numbers)
    assert theirs(metric, numbers, "neg") == pytest.approx(share * mean, abs=1e-6)
    assert theirs(metric, numbers, "pos") == pytest.approx(share * mean + 1 - share, abs=1e-6)
    assert share < 0.95
    with pytest.raises(ValueError, match="no positive target"):
        theirs(metric, numbers, "error")
    nobody = (numbers[0], torch.zeros_like(numbers[1]), numbers[2])
    assert theirs(metric, nobody) == 0  # ours: NaN


@pytest.mark.parametrize(
    ("metric", "counts"),
    [("Precision", True), ("Recall", True), ("MAP", True), ("MRR", True), ("HitRate", False), ("RPrecision", False)],
)
def test_scores_of_0_or_less_are_no_hits(metric, counts):
    """Distances with a minus sign as scores: most of its metrics are then 0, whatever the ranking."""
    _, numbers = of_case("gallery")
    negative = (numbers[0] - numbers[0].max(), *numbers[1:])
    assert theirs(metric, negative) == (0 if counts else theirs(metric, numbers))
    assert theirs(metric, numbers) > 0.3 or metric == "Precision"


def test_fewer_candidates_than_k():
    """Precision@5 of 2 hits among 3: 2 / 5 as ours, unless ``adaptive_k``."""
    case = cases.Case(
        torch.zeros(1, 1), torch.tensor([0]), torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0])
    )
    numbers = given(case, by_rank(case))
    ranks = cases.ours_of_queries(case, (5,))
    assert theirs("Precision", numbers, top_k=5) == pytest.approx(cases.ours(case, at=(5,)).precision.item())
    adapted = ranks.hits[0, 0] / ranks.candidates[0].clamp_max(5)
    assert theirs("Precision", numbers, top_k=5, adaptive_k=True) == pytest.approx(adapted.item()) == 2 / 3


def test_junk_by_ignore_index():
    """A target of -1 in all pairs of a query and a candidate leaves the pair out, as the cameras do here."""
    case = cases.integers("cameras")
    target = torch.from_numpy(case.same()).long().masked_fill(torch.from_numpy(~case.ranked()), -1)
    indexes = torch.arange(len(target))[:, None].expand_as(target)
    everything = (by_distance(case).flatten(), target.flatten(), indexes.flatten())
    assert theirs("MAP", everything, ignore_index=-1) == pytest.approx(cases.ours(case).map.item(), abs=1e-6)


def test_scores_become_float32():
    """The positive scores higher in float64, at index 0 and at index 1: one of them loses the tie."""
    values = [
        theirs("MRR", (torch.tensor(scores, dtype=torch.float64), torch.tensor(target), torch.zeros(2).long()))
        for scores, target in (([1 + 1e-12, 1.0], [True, False]), ([1.0, 1 + 1e-12], [False, True]))
    ]
    assert sorted(values) == [0.5, 1]
