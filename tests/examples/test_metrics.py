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
