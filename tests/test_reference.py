"""The reference itself, against loops that follow the definition word by word, and its conventions."""

import math

import pytest
import torch

from fasttriplet import reference
from tests.inputs import DISTANCES, ON_MISSING, REDUCTIONS


def distance_by_definition(x, y, distance):
    x, y = x.tolist(), y.tolist()
    dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
    if distance == "inner_product":
        return -dot
    if distance == "cosine":
        lengths = math.hypot(*x), math.hypot(*y)
        return 1 - dot / (lengths[0] * lengths[1]) if all(lengths) else 1.0
    return math.dist(x, y) ** (2 if distance == "squared_euclidean" else 1)


def loss_by_definition(embeddings, labels, margin, distance, soft_margin, reduction, on_missing):
    n, losses, counted = len(labels), [], []
    for a in range(n):
        positives = [i for i in range(n) if i != a and labels[i] == labels[a]]
        negatives = [i for i in range(n) if labels[i] != labels[a]]
        d = [distance_by_definition(embeddings[a], embeddings[i], distance) for i in range(n)]
        counts = bool(negatives) and (bool(positives) or on_missing == "zero")
        counted.append(counts)
        if not counts:
            losses.append(0.0)
            continue
        difference = max((d[i] for i in positives), default=0.0) - min(d[i] for i in negatives)
        losses.append(math.log1p(math.exp(difference)) if soft_margin else max(difference + margin, 0.0))
    if reduction == "none":
        return losses
    number = {"sum": 1, "mean": sum(counted), "mean_nonzero": sum(loss > 0 for loss in losses)}[reduction]
    return sum(losses) / max(number, 1)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("on_missing", ON_MISSING[:2])
def test_loss(distance, soft_margin, reduction, on_missing):
    generator = torch.Generator().manual_seed(0)
    for n, classes in ((1, 1), (2, 1), (2, 2), (9, 1), (14, 5), (15, 15)):
        embeddings = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, classes, (n,), generator=generator)
        options = dict(
            margin=0.4, distance=distance, soft_margin=soft_margin, reduction=reduction, on_missing=on_missing
        )
        loss = reference.batch_hard_triplet_loss(embeddings, labels, **options)
        expected = loss_by_definition(embeddings, labels.tolist(), **options)
        torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_mining_takes_the_lowest_index_on_ties(distance):
    embeddings = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3, dtype=torch.float64)
    mined = reference.mine_batch_hard(embeddings, torch.tensor([0, 0, 0, 1, 1, 2]), distance=distance)
    assert mined.positives.tolist() == [1, 0, 0, 4, 3, -1]
    assert mined.negatives.tolist()[:3] == [3, 3, 3]
    assert mined.positive_distances[5].isnan() and not mined.negative_distances.isnan().any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_derivatives(distance):
    labels = torch.arange(10) // 3
    embeddings = torch.randn(10, 4, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    for soft_margin in (False, True):
        options = dict(distance=distance, soft_margin=soft_margin)
        assert torch.autograd.gradcheck(
            lambda x: reference.batch_hard_triplet_loss(x, labels, **options),  # noqa: B023
            (embeddings,),
        )


def test_misspelt_names_are_refused():
    embeddings, labels = torch.zeros(4, 2), torch.arange(4) // 2
    for name in ("distance", "reduction", "on_missing"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*; got 'bogus'"):
            reference.batch_hard_triplet_loss(embeddings, labels, **{name: "bogus"})
    with pytest.raises(ValueError, match="distance must be one of"):
        reference.mine_batch_hard(embeddings, labels, distance="bogus")


def test_error_on_missing():
    with pytest.raises(ValueError, match="1 anchors miss a positive or a negative, first 2"):
        reference.batch_hard_triplet_loss(torch.zeros(3, 1), torch.tensor([0, 0, 1]), on_missing="error")


def test_huge_and_tiny_rows_have_cosines():
    rows = torch.tensor([[3e200, 4e200], [3e-200, 4e-200], [4e-320, 0.0], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2 + [[1.0] * 4] * 2, dtype=torch.float64)
    torch.testing.assert_close(reference.pairwise_distances(rows, "cosine"), expected, rtol=0, atol=1e-15)
