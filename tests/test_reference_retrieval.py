"""The reference of retrieval against small examples by hand."""

import math

import pytest
import torch

from fasttriplet import reference

#: Distances from 0: 1, 3, 7, 8; from 1: 1, 2, 6, 7; from 3: 3, 2, 4, 5; from 7: 7, 6, 4, 1; from 8: 8, 7, 5, 1.
LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]], dtype=torch.float64)
NAN = math.nan


def test_nearest_of_the_queries_themselves():
    distances, indices = reference.nearest(LINE, k=2)
    assert indices.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert distances.tolist() == [[1, 3], [1, 2], [2, 3], [1, 4], [1, 5]]
    assert reference.nearest(LINE, k=7)[1][0].tolist() == [1, 2, 3, 4, -1, -1, -1]
    assert reference.nearest(LINE, k=7)[0][0, 4:].isnan().all()


def test_nearest_of_references_breaks_ties_by_index():
    queries, references = torch.tensor([[2.0], [5.5]]).double(), LINE[[4, 2, 1, 3, 2]]
    assert reference.nearest(queries, references, 4)[1].tolist() == [[1, 2, 4, 3], [3, 0, 1, 4]]
    assert reference.nearest(queries, references, 2, distance="inner_product")[0].tolist() == [[-16, -14], [-44, -38.5]]
    assert reference.nearest(queries, references, 3, distance="cosine")[1].tolist() == [[0, 1, 2]] * 2
    assert reference.nearest(queries, references[:0], 1)[1].tolist() == [[-1], [-1]]


def test_rules_of_neighbours():
    def found(k=1, **rules):
        return reference.nearest(LINE, LINE, k, **rules)[1].tolist()

    assert found() == [[0], [1], [2], [3], [4]]
    assert found(self_indices=torch.tensor([0, 1, -1, 3, 2])) == [[1], [0], [2], [4], [4]]
    ids = torch.tensor([5, 5, -1, -1, 2])
    assert found(sample_ids=ids, ref_sample_ids=ids) == [[2], [2], [2], [3], [3]]
    assert found(groups=ids, ref_groups=ids) == [[2], [2], [1], [4], [3]]
    assert found(ref_mask=torch.tensor([True, False, False, True, False])) == [[0], [0], [0], [3], [3]]
    ids = torch.tensor([0, 0, 1, 1, 1])
    assert reference.nearest(LINE, k=3, groups=ids)[1].tolist() == [[2, 3, 4]] * 2 + [[1, 0, -1]] * 3


def test_rows_that_are_not_finite_are_nobodys_neighbours():
    rows = LINE.clone()
    rows[1], rows[3] = NAN, math.inf
    assert reference.nearest(rows, k=2)[1].tolist() == [[2, 4], [-1, -1], [0, 4], [-1, -1], [2, 0]]
    assert reference.within(rows, radius=5.0)[0].tolist() == [0, 1, 1, 3, 3, 4]


def test_a_distance_that_overflowed_goes_first():
    query, references = (torch.tensor(rows, dtype=torch.float64) for rows in ([[1e200, -1e200]], [[0, 0], [1e200] * 2]))
    distances, indices = reference.nearest(query, references, 2, distance="inner_product")
    assert indices.tolist() == [[1, 0]] and distances[0].isnan().tolist() == [True, False]


def test_within():
    offsets, distances, indices = reference.within(LINE, radius=3.0)
    assert offsets.tolist() == [0, 2, 4, 6, 7, 8]
    assert indices.tolist() == [1, 2, 0, 2, 1, 0, 4, 3] and distances.tolist() == [1, 3, 1, 2, 2, 3, 1, 1]
    found = reference.within(LINE, radius=0.5)
    assert [each.tolist() for each in found] == [[0] * 6, [], []]
    assert reference.within(LINE[:0], radius=1.0)[0].tolist() == [0]


def test_metrics():
    """Rankings 1 2 3 4 | 0 2 3 4 | 1 0 3 4 | 4 2 1 0 | 3 2 1 0 of labels 0 1 0 0 2: positives at ranks (2, 3) of query
    0, none of 1, (2, 3) of 2, (2, 4) of 3, and none of 4."""
    found = reference.retrieval_metrics(LINE, torch.tensor([0, 1, 0, 0, 2]), at=(1, 2, 10), max_rank=3)
    assert found["queries"] == 3 and found["queries_without_positive"] == 2
    precision = (1 / 2 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2
    expected = {
        "hit_rate": [0, 1, 1],
        "precision": [0, 1 / 2, 2 / 10],
        "recall": [0, 1 / 2, 1],
        "map_at": [0, 1 / 4, sum(precision) / 3],
        "map": sum(precision) / 3,
        "map_at_r": 1 / 4,
        "r_precision": 1 / 2,
        "mrr": 1 / 2,
        "minp": (2 / 3 + 2 / 3 + 2 / 4) / 3,
        "cmc": [0, 1, 1],
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(value, dtype=torch.float64), msg=name)
    assert found["positive_distances"].tolist() == [3, 7, 3, 4, 7, 4]
    assert found["negative_distances"].tolist() == [1, 8, 1, 2, 6, 7, 2, 5, 6, 1, 8, 7, 5, 1]


def test_metrics_without_a_query():
    found = reference.retrieval_metrics(LINE, torch.arange(5), at=(1,))
    assert found["queries"] == 0 and found["queries_without_positive"] == 5
    assert found["map"].isnan() and found["hit_rate"].isnan().all() and found["cmc"].isnan().all()


def test_junk_is_not_ranked():
    """Query 0 of camera 0 has positives 2 of camera 0, junk, and 3 of camera 1, which is behind 1 alone."""
    labels, cameras = torch.tensor([0, 1, 0, 0, 2]), torch.tensor([0, 0, 0, 1, 0])
    references = {"ref_embeddings": LINE, "ref_labels": labels, "ref_groups": cameras}
    query = {"embeddings": LINE[:1], "labels": labels[:1], "groups": cameras[:1], "self_indices": torch.tensor([0])}
    assert reference.retrieval_metrics(**query, **references)["mrr"] == 1 / 2
    assert reference.retrieval_metrics(**query, **references, groups_exclude="pairs")["mrr"] == 1
    found = reference.retrieval_metrics(**query, **references, ignore_index=1)
    assert found["mrr"] == 1 and found["negative_distances"].tolist() == [8]


@pytest.mark.parametrize(
    ("on_nonfinite", "queries", "without", "map_", "minp"),
    [("fail", 4, 1, 2 * (1 / 2 / 3) / 4, 0), ("skip", 2, 1, 1 / 2, 1 / 2)],
)
def test_rows_that_are_not_finite_fail_or_are_skipped(on_nonfinite, queries, without, map_, minp):
    """Labels 0 1 0 0 0, rows 2 and 3 not finite: to 0 and 4 the other is at rank 2, two more are at none."""
    rows = LINE.clone()
    rows[2], rows[3] = NAN, -math.inf
    labels = torch.tensor([0, 1, 0, 0, 0])
    with pytest.raises(ValueError, match="on_nonfinite"):
        reference.retrieval_metrics(rows, labels)
    found = reference.retrieval_metrics(rows, labels, on_nonfinite=on_nonfinite)
    assert (found["queries"], found["queries_without_positive"]) == (queries, without)
    assert (found["map"].item(), found["minp"].item()) == (pytest.approx(map_), pytest.approx(minp))


def test_several_labels_a_row():
    labels = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.bool)
    found = reference.retrieval_metrics(LINE, labels, at=(1,))
    # Ranks of positives: of 0 (2, 4), of 1 (2), of 2 (1, 2, 4), of 4 (2, 4); 3 has none.
    assert found["queries"] == 4 and found["queries_without_positive"] == 1
    assert found["hit_rate"].tolist() == [1 / 4]
    assert found["minp"].item() == pytest.approx((2 / 4 + 1 / 2 + 3 / 4 + 2 / 4) / 4)
