"""What the miner returns: shapes that never depend on data, and the complete triplets."""

import torch

import fasttriplet


def test_fields_and_shapes():
    embeddings = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
    mined = fasttriplet.mine_batch_hard(embeddings, torch.tensor([0, 0, 1, 2]))
    assert isinstance(mined, fasttriplet.MinedTriplets)
    assert mined._fields == ("positives", "negatives", "positive_distances", "negative_distances")
    assert mined.positives.tolist() == [1, 0, -1, -1] and mined.negatives.tolist() == [2, 2, 1, 2]
    assert mined.positive_distances[:2].tolist() == [1, 1] and mined.positive_distances[2:].isnan().all()
    assert mined.negative_distances.tolist() == [3, 2, 2, 6]
    assert all(
        indices.tolist() == expected
        for indices, expected in zip(mined.triplets(), ([0, 1], [1, 0], [2, 2]), strict=True)
    )


def test_nothing_to_mine():
    for n in (0, 1, 5):
        for labels in (torch.zeros(n, dtype=torch.int64), torch.arange(n)):
            mined = fasttriplet.mine_batch_hard(torch.randn(n, 3), labels)
            assert all(field.shape == (n,) for field in mined)
            assert all(indices.shape == (0,) and indices.dtype == torch.int64 for indices in mined.triplets())
            none = mined.positives if labels.any() else mined.negatives
            assert (none == -1).all()


def test_triplets_feed_an_explicit_loss():
    embeddings = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) // 4
    anchors, positives, negatives = (
        embeddings[index] for index in fasttriplet.mine_batch_hard(embeddings, labels).triplets()
    )
    explicit = torch.nn.functional.triplet_margin_loss(anchors, positives, negatives, margin=0.3, eps=0.0)
    torch.testing.assert_close(explicit, fasttriplet.batch_hard_triplet_loss(embeddings, labels))
