"""Retrieval metrics against an example worked by hand and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from examples.resnet50.metrics import nearest, retrieval_metrics


def plain_metrics(embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[float, float, float]:
    """The definitions, one query and one neighbour at a time."""
    recalls_1, recalls_5, averages = [], [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        others.sort(key=lambda i: (math.dist(embeddings[query].tolist(), embeddings[i].tolist()), i))
        hits = [bool(labels[i] == labels[query]) for i in others]
        if not any(hits):
            continue
        recalls_1.append(any(hits[:1]))
        recalls_5.append(any(hits[:5]))
        total = sum(hits)
        averages.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(total) if hits[i]) / total)
    return tuple(sum(values) / len(values) for values in (recalls_1, recalls_5, averages))


def test_by_hand():
    """On a line: a at 0, 1 and 4, b at 2 and 5.5.

    Query a0: a1 b2 a4 b5.5, R = 2, hits 1 0: AP@R = (1/1) / 2 = 1/2. Query a1 (a0 and b2 both at distance 1: the lower
    index first): a0 b2 a4, hits 1 0: 1/2. Query a4: b5.5 (1.5) b2 (2) a1 (3) a0: hits 0 0: 0. Query b2: a1 (1)
    a0 (2) a4 (2) b5.5, R = 1: 0. Query b5.5: a4, 0. So mAP@R = 1/5, recall@1 = 2/5, recall@5 = 1.
    """
    embeddings = torch.tensor([[0.0], [1.0], [4.0], [2.0], [5.5]])
    metrics = retrieval_metrics(embeddings, torch.tensor([0, 0, 0, 1, 1]))
    assert metrics.recall_at_1 == pytest.approx(2 / 5)
    assert metrics.recall_at_5 == 1
    assert metrics.map_at_r == pytest.approx(1 / 5)


@pytest.mark.parametrize("number", [2, 7, 97, 600])  # 600 is more than one block of queries
@pytest.mark.parametrize("classes", [2, 5])
def test_against_plain_loops(number: int, classes: int):
    generator = torch.Generator().manual_seed(number)
    # Small integers: distances tie often, and are exact in either computation.
    embeddings = torch.randint(-2, 3, (number, 3), generator=generator).float()
    labels = torch.randint(classes, (number,), generator=generator)
    labels[:2] = 0  # at least one query counts
    metrics = retrieval_metrics(embeddings, labels)
    expected = plain_metrics(embeddings, labels)
    assert (metrics.recall_at_1, metrics.recall_at_5, metrics.map_at_r) == pytest.approx(expected)


def test_perfect_and_self_excluded():
    embeddings = torch.eye(4).repeat_interleave(3, 0)
    metrics = retrieval_metrics(embeddings, torch.arange(4).repeat_interleave(3))
    assert (metrics.recall_at_1, metrics.recall_at_5, metrics.map_at_r) == (1, 1, 1)
    order = nearest(embeddings, torch.tensor([3, 11]))
    assert order.shape == (2, 11)
    assert order[0, :2].tolist() == [4, 5] and 3 not in order[0] and 11 not in order[1]


def test_lonely_queries_are_left_out():
    embeddings = torch.tensor([[0.0], [1.0], [0.1]])
    assert retrieval_metrics(embeddings, torch.tensor([0, 0, 1])).recall_at_1 == pytest.approx(0.0)
    assert math.isnan(retrieval_metrics(embeddings, torch.tensor([0, 1, 2])).map_at_r)


def test_rows_that_are_not_finite_are_refused():
    """NaN sorts behind everything: a hit at every rank in embeddings that are all NaN, were it taken for a distance."""
    embeddings = torch.randn(6, 2)
    labels = torch.arange(6) // 2
    for value in (math.nan, math.inf, -math.inf):
        embeddings[[2, 5], 1] = value
        with pytest.raises(ValueError, match="embeddings must be finite; got 2 of 6 rows that are not, the first at 2"):
            retrieval_metrics(embeddings, labels)
    with pytest.raises(ValueError, match="got 6 of 6 rows that are not, the first at 0"):
        retrieval_metrics(torch.full((6, 2), math.nan), labels)
    with pytest.raises(ValueError, match="on_nonfinite must be 'error' or 'fail'; got 'skip'"):
        retrieval_metrics(torch.zeros(6, 2), labels, on_nonfinite="skip")


def test_rows_that_are_not_finite_fail():
    labels = torch.arange(4).repeat_interleave(3)
    broken = retrieval_metrics(torch.full((12, 4), math.nan), labels, on_nonfinite="fail")
    assert (broken.recall_at_1, broken.recall_at_5, broken.map_at_r) == (0, 0, 0)
    for value in (math.nan, math.inf):
        embeddings = torch.eye(4).repeat_interleave(3, 0)
        embeddings[0, 0] = value
        # Of 12 queries row 0 fails. Rows 1 and 2 find each other first, and one of their R = 2 never: AP@R = 1/2.
        metrics = retrieval_metrics(embeddings, labels, on_nonfinite="fail")
        assert metrics.recall_at_1 == metrics.recall_at_5 == pytest.approx(11 / 12)
        assert metrics.map_at_r == pytest.approx((9 + 2 * 0.5) / 12)


def test_a_broken_row_among_perfect_pairs_fails_with_its_partner():
    embeddings = torch.tensor([[0.0], [0.1], [5.0], [math.nan], [9.0], [9.1]])
    metrics = retrieval_metrics(embeddings, torch.arange(6) // 2, on_nonfinite="fail")
    # It stands last in every ranking: row 2, whose partner it is, meets it at rank 5 and does not find it there.
    assert metrics.recall_at_1 == metrics.recall_at_5 == metrics.map_at_r == pytest.approx(4 / 6)
    order = nearest(embeddings, torch.arange(6))
    assert all(query not in row.tolist() for query, row in enumerate(order)) and (order[[0, 1, 2, 4, 5], -1] == 3).all()


def test_nothing_changes_where_all_rows_are_finite():
    embeddings, labels = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 7
    assert retrieval_metrics(embeddings, labels, on_nonfinite="fail") == retrieval_metrics(embeddings, labels)


def test_rows_and_labels_must_match():
    for rows, labels in ((torch.randn(4, 2, 1), torch.arange(4)), (torch.randn(4, 2), torch.arange(4)[:, None])):
        with pytest.raises(ValueError, match=r"embeddings \[M, D\] and labels \[M\] must match; got \[4, 2"):
            retrieval_metrics(rows, labels)
