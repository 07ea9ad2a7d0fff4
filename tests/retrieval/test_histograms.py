"""Histograms of distances, and the pairs that they and verification are of."""

import numpy as np
import pytest
import torch

from fasttriplet import reference
from fasttriplet.check import DISTANCES
from fasttriplet.reference.distances import pairwise_distances
from fasttriplet.reference.pairs import batch_of
from fasttriplet.retrieval import histograms as module
from fasttriplet.retrieval import pairs as pairs_module
from fasttriplet.retrieval import retrieval_metrics
from fasttriplet.retrieval.metrics import query_batch
from fasttriplet.retrieval.pairs import Pairs, distances_of
from tests.inputs import CASES, PAIRINGS, batch, pair_up

KINDS = (True, False)


def rows(n=40, d=4, classes=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype), torch.arange(n) % classes


def eligible(embeddings, labels, **arguments):
    """The pairs of a batch, and what the reference has of both kinds, [N, M] bool, without references i < j alone."""
    options = {"groups_exclude": "positives"} | arguments
    expected = batch_of(embeddings, labels, **options).finite_alone()
    wanted = [expected.positive, expected.negative]
    exclude = options.pop("groups_exclude")
    if "ref_embeddings" not in arguments:
        wanted = [each.triu() for each in wanted]
    return Pairs(query_batch("test", embeddings, labels, options, exclude)), wanted


def tally(pairs, found, like):
    """How often each pair is in ``found``, [N, M]."""
    counts = torch.zeros_like(like, dtype=torch.int64)
    for i, j in found:
        if pairs.own:
            i, j = torch.minimum(i, j), torch.maximum(i, j)
        counts.index_put_((i, j), torch.tensor(1), accumulate=True)
    return counts


@pytest.mark.parametrize("step", [7, 2**20])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("name", ["edge-47", "all-distinct", "one-class", "gauss-1x3", "empty", "no-columns"])
def test_all_pairs(name, pairing, step, monkeypatch):
    monkeypatch.setattr(pairs_module, "_STEP", step)
    embeddings, labels = batch(next(case for case in CASES if case.name == name))
    embeddings, labels = embeddings[:50].clone(), labels[:50]
    labels, arguments = pair_up(pairing, embeddings, labels)
    if embeddings.numel():
        embeddings[len(embeddings) // 2, -1] = torch.nan
    pairs, wanted = eligible(embeddings, labels, **arguments)
    for positive, want in zip(KINDS, wanted, strict=True):
        assert (tally(pairs, pairs.looked_at(positive, None, 0), want) == want).all()
        assert pairs.count(positive) == want.sum()


def test_own_copies_of_another_label():
    """Which are a mistake, but no pair."""
    embeddings, labels = rows(12)
    references = {"ref_embeddings": embeddings, "ref_labels": labels.flip(0), "self_indices": torch.arange(12) - 1}
    pairs, wanted = eligible(embeddings, labels, **references)
    for positive, want in zip(KINDS, wanted, strict=True):
        assert not want.diagonal(-1).any()
        assert (tally(pairs, pairs.looked_at(positive, None, 0), want) == want).all()
        assert pairs.count(positive) == want.sum()


@pytest.mark.parametrize("rate", [0.0, 1.1], ids=["rejected", "chosen"])
@pytest.mark.parametrize("pairing", ["plain", "references", "junk", "multi-hot", "everything"])
def test_draws_are_uniform(pairing, rate, monkeypatch):
    monkeypatch.setattr(pairs_module, "_RATE", rate)
    monkeypatch.setattr(pairs_module, "_STEP", 100 if rate else 30_000)
    embeddings, labels = rows(30, classes=4)
    labels, arguments = pair_up(pairing, embeddings, labels)
    pairs, wanted = eligible(embeddings, labels, **arguments)
    for positive, want in zip(KINDS, wanted, strict=True):
        drawn = pairs._drawn(positive, pairs.count(positive), 20_000, 3)
        counts = tally(pairs, ((pairs.rows[i], pairs.candidates[j]) for i, j in drawn), want)
        assert counts.sum() == 20_000 and (counts[~want] == 0).all()
        expected = 20_000 / want.sum().item()
        freedom = want.sum().item() - 1
        statistic = ((counts[want] - expected) ** 2 / expected).sum().item()
        assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5  # chi-square, five standard deviations


def test_draws_follow_from_the_seed():
    embeddings, labels = rows()
    pairs, _ = eligible(embeddings, labels)

    def drawn(seed):
        return [torch.cat(each) for each in zip(*pairs.looked_at(False, 50, seed), strict=True)]

    assert all(torch.equal(*each) for each in zip(drawn(1), drawn(1), strict=True))
    assert not torch.equal(drawn(1)[0], drawn(2)[0])


@pytest.mark.parametrize("entries", [9, 2**19])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_distances(distance, dtype, entries, monkeypatch):
    monkeypatch.setattr(pairs_module, "_ENTRIES_ON_CPU", entries)
    embeddings, labels = rows(dtype=dtype)
    embeddings[3] = 0
    given = query_batch("test", embeddings, labels, {})
    found = torch.cat(list(distances_of(given, Pairs(given).looked_at(False, None, 0), DISTANCES.index(distance))))
    expected = pairwise_distances(embeddings.double(), distance)
    i, j = (torch.cat(each) for each in zip(*Pairs(given).looked_at(False, None, 0), strict=True))
    torch.testing.assert_close(found, expected[i, j], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("kept", [0, 10_000_000])
def test_counts(pairing, kept, monkeypatch):
    monkeypatch.setattr(module, "_MOST", kept)
    embeddings, labels = rows(50)
    labels, arguments = pair_up(pairing, embeddings, labels)
    embeddings[7, 2] = torch.nan
    options = {"on_nonfinite": "skip", "distance": "squared_euclidean", **arguments}
    found = retrieval_metrics(embeddings, labels, histograms=True, bins=12, pairs=None, **options).histograms
    expected = reference.retrieval_metrics(embeddings, labels, **options)
    edges = found.edges.numpy()
    assert edges.shape == (13,)
    times = 1 if "ref_embeddings" in arguments else 2  # the reference has each pair both ways
    for name in ("positive", "negative"):
        distances = expected[f"{name}_distances"]
        counts = getattr(found, f"{name}s")
        assert counts.dtype == torch.int64
        assert (times * counts).tolist() == np.histogram(distances.numpy(), edges)[0].tolist(), name
        assert counts.sum().item() * times == len(distances)
        assert getattr(found, f"{name}_pairs") == getattr(found, f"sampled_{name}s") == counts.sum().item()
    both = torch.cat([expected["positive_distances"], expected["negative_distances"]])
    assert (edges[0], edges[-1]) == (pytest.approx(both.min().item()), pytest.approx(both.max().item()))


def test_on_nonfinite_says_nothing_of_distances():
    embeddings, labels = rows()
    embeddings[1] = torch.inf
    fail, skip = (
        retrieval_metrics(embeddings, labels, histograms=True, on_nonfinite=each).histograms
        for each in ("fail", "skip")
    )
    assert fail.positives.sum() > 0
    assert all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(fail, skip, strict=True))


def test_samples(monkeypatch):
    embeddings, labels = rows(200, classes=4)
    options = {"histograms": True, "pairs": 500, "bins": 7}

    def found(**more):
        return retrieval_metrics(embeddings, labels, **options | more).histograms

    first = found()
    assert (first.positive_pairs, first.negative_pairs) == (4 * 50 * 49 // 2, 6 * 50 * 50)
    assert (first.sampled_positives, first.sampled_negatives) == (4 * 50 * 49 // 2, 500)
    assert first.negatives.sum() == 500
    again, other = found(), found(seed=1)
    assert torch.equal(first.negatives, again.negatives) and torch.equal(first.edges, again.edges)
    assert not torch.equal(first.negatives, other.negatives)
    whole = found(pairs=None)
    assert whole.sampled_negatives == whole.negatives.sum() == 15000
    monkeypatch.setattr(module, "_MOST", 600)
    fewer = found()
    assert fewer.sampled_positives == fewer.positives.sum() == 500
    exact = found(pairs=4900)
    assert exact.sampled_positives == exact.positives.sum() == 4900


def test_few_distances():
    none = retrieval_metrics(torch.zeros(1, 3), torch.tensor([0]), histograms=True, bins=2).histograms
    assert none.edges.tolist() == [0, 0.5, 1] and none.positives.tolist() == none.negatives.tolist() == [0, 0]
    same = retrieval_metrics(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), histograms=True, bins=2).histograms
    assert same.edges.tolist() == [-0.5, 0, 0.5] and same.positives.tolist() == [0, 2]
    assert same.negatives.tolist() == [0, 4]
    assert retrieval_metrics(torch.ones(4, 3), torch.tensor([0, 0, 1, 1])).histograms is None
    far = torch.tensor([[0.0], [1.0], [1e200]], dtype=torch.float64)
    overflowing = retrieval_metrics(far, torch.zeros(3).long(), histograms=True, bins=1, distance="squared_euclidean")
    assert overflowing.histograms.positives.tolist() == [1] and overflowing.histograms.sampled_positives == 3
