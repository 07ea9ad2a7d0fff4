"""The protocol of Market-1501 as torchreid and fast-reid evaluate it: ``groups`` are the cameras."""

import numpy as np
import pytest
import torch

from tests.retrieval.agreement import cases, formulas

MAX_RANK = 20


def cameras(case, count=3):
    """Some for a case that has none."""
    if case.cameras is not None:
        return case
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, count, (len(case.queries) + len(case.candidates),), generator=generator)
    return case._replace(cameras=drawn[: len(case.queries)], ref_cameras=drawn[len(case.queries) :])


def theirs(case, distances, max_rank=MAX_RANK):
    numbers = (case.labels, case.candidate_labels, case.cameras, case.ref_cameras)
    return formulas.market1501(distances, *(tensor.numpy() for tensor in numbers), max_rank)


def assert_same(case, distances):
    cmc, mean_precision, penalty = theirs(case, distances)
    found = cases.ours(case, max_rank=MAX_RANK)
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-6)
    assert found.map.item() == pytest.approx(mean_precision, abs=1e-6)
    assert found.minp.item() == pytest.approx(penalty, abs=1e-6)
    assert found.hit_rate.tolist()[:3] == [found.cmc[rank - 1].item() for rank in cases.AT[:3]]


@pytest.mark.parametrize("name", ["cameras", "gallery", "inner product"])
def test_integer_rows(name):
    case = cameras(cases.integers(name))
    assert_same(case, case.distances().astype(np.float32))


@pytest.mark.parametrize("name", cases.REAL)
def test_our_ranking_of_real_rows(name):
    case = cameras(cases.REAL[name]())
    ranks = np.full(case.same().shape, 1e9)
    for query, order in enumerate(cases.our_order(case)):
        ranks[query, order] = np.arange(len(order))
    assert_same(case, ranks)


def test_junk_is_no_negative_either():
    """The junk at 1 is out of the ranking, so that the positive is first; of the same camera alone is a negative."""
    case = cases.Case(
        *(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])),
        cameras=torch.tensor([5]),
        ref_cameras=torch.tensor([5, 6, 5]),
    )
    _, mean_precision, penalty = theirs(case, case.distances())
    found = cases.ours(case, max_rank=3)
    assert (mean_precision, penalty) == (found.map.item(), found.minp.item()) == (1, 1)
    assert found.cmc.tolist() == [1, 1, 1]
    nearer = case._replace(references=torch.tensor([[1.0], [2.0], [0.5]]))
    assert theirs(nearer, nearer.distances())[1] == cases.ours(nearer).map.item() == 1 / 2
    # Without the candidates of its camera, whatever their label, it is first again.
    assert cases.ours(nearer, groups_exclude="pairs").map.item() == 1


def test_images_without_a_person():
    """Label -1 in Market-1501's gallery: both readers drop these; ``ignore_index=-1`` does, and 0 is a distractor."""
    case = cameras(cases.integers("cameras"))
    labels = torch.where(torch.arange(len(case.candidates)) % 4 == 0, -1, case.candidate_labels)
    kept = labels != -1
    without = case._replace(
        references=case.references[kept], ref_labels=labels[kept], ref_cameras=case.ref_cameras[kept]
    )
    found = cases.ours(case._replace(ref_labels=labels), ignore_index=-1)
    assert found.as_dict() == cases.ours(without).as_dict()
    assert found.map.item() == pytest.approx(theirs(without, without.distances())[1], abs=1e-6)
    assert found.map.item() != pytest.approx(cases.ours(case._replace(ref_labels=labels)).map.item(), abs=1e-3)


def test_fewer_candidates_than_ranks():
    """Their curves must be of one length; ours goes on at its last value."""
    case = cases.Case(
        *(torch.zeros(2, 1), torch.tensor([0, 1])),
        *(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])),
        cameras=torch.tensor([0, 0]),
        ref_cameras=torch.tensor([0, 1, 1]),
    )
    assert [len(order) for order in case.order()] == [2, 3]
    with pytest.raises(ValueError, match="same shape"):
        theirs(case, case.distances(), max_rank=5)
    assert cases.ours(case, max_rank=5).cmc.tolist() == [0.5, 0.5, 1, 1, 1]


def test_no_query_with_a_positive():
    case = cameras(cases.integers("gallery"))
    case = case._replace(labels=case.labels + 1000)
    with pytest.raises(AssertionError, match="is in the gallery"):
        theirs(case, case.distances())
    found = cases.ours(case)
    assert found.map.isnan() and found.queries == 0 and found.queries_without_positive == len(case.queries)
