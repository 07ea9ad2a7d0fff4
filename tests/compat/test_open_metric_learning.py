"""open-metric-learning's losses with miners are one call each here: its formulas, value and gradient.

Its miners want two rows of each class and two classes at least, so that nothing is missing.
"""

import pytest
import torch

import fasttriplet
from benchmarks import published
from tests.compat.batches import BATCHES, DTYPES, Batch, assert_same

FITTING = ("random", "large", "pairs", "one large class")
MARGINS = (None, 0.7)
REDUCTIONS = ("mean", "sum")


def batch_of(name):
    """Classes of one row alone, which its miners refuse, become one class."""
    rows, labels = BATCHES[name]
    counts = (labels[:, None] == labels).sum(1)
    return Batch(rows, torch.where(counts == 1, -1, labels))


def options(margin, reduction):
    return {"margin": 0.0 if margin is None else margin, "soft_margin": margin is None, "reduction": reduction}


def theirs(miner, margin, reduction):
    def loss(rows, labels):
        chosen = miner(rows.detach(), labels)
        return published.oml_loss(*(rows[indices] for indices in chosen), margin, reduction)

    return loss


def n_hard(n_positive, n_negative):
    return lambda rows, labels: published.oml_n_hard(rows, labels, slice(*n_positive), slice(*n_negative), len(rows))


#: Their miner, and the function of ours with its arguments.
MINERS = {
    "HardTripletsMiner()": (published.oml_hard, fasttriplet.batch_hard_triplet_loss, {}),
    "AllTripletsMiner()": (lambda rows, labels: published.oml_all(labels), fasttriplet.batch_all_triplet_loss, {}),
    "NHardTripletsMiner(1, 3)": (n_hard((0, 1), (0, 3)), fasttriplet.k_hardest_triplet_loss, {"k": 3}),
    "NHardTripletsMiner(1, (3, 3))": (
        n_hard((0, 1), (2, 3)),
        fasttriplet.k_hardest_triplet_loss,
        {"k": 3, "kth_only": True},
    ),
}


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("miner", MINERS)
def test_loss_with_miner(name, dtype, margin, reduction, miner):
    chosen, function, arguments = MINERS[miner]
    assert_same(
        lambda rows, labels: function(rows, labels, **arguments, **options(margin, reduction)),
        theirs(chosen, margin, reduction),
        batch_of(name),
        dtype,
        gradient_atol=1e-6 if reduction == "sum" else 0.0,
    )


@pytest.mark.parametrize("name", FITTING)
def test_hard_miner_chooses_the_same(name):
    rows, labels = batch_of(name)
    mined = fasttriplet.mine_batch_hard(rows, labels)
    assert all(map(torch.equal, mined.triplets(), published.oml_hard(rows, labels)))
    mined = fasttriplet.mine_k_hardest(rows, labels, k=3)
    found = set(zip(*(each.tolist() for each in mined.triplets()), strict=True))
    chosen = published.oml_n_hard(rows, labels, slice(0, 1), slice(0, 3), len(rows))
    assert found == set(zip(*(each.tolist() for each in chosen), strict=True))


@pytest.mark.parametrize("margin", MARGINS)
def test_miner_with_bank(margin):
    """Its bank, once it is full, joins the batch as candidates; anchors are the batch's rows."""
    rows, labels = batch_of("large")
    bank, bank_labels = rows.flip(0) + 0.1, labels.flip(0)
    every_label = torch.cat([labels, bank_labels])

    def ours(batch, labels):
        everyone = torch.cat([batch, bank.to(batch.dtype)])
        pairing = {"ref_embeddings": everyone, "ref_labels": every_label, "self_indices": torch.arange(len(batch))}
        return fasttriplet.k_hardest_triplet_loss(batch, labels, k=3, **options(margin, "mean"), **pairing)

    def original(batch, labels):
        everyone = torch.cat([batch, bank.to(batch.dtype)])
        chosen = published.oml_n_hard(everyone.detach(), every_label, slice(0, 1), slice(0, 3), len(batch))
        return published.oml_loss(*(everyone[indices] for indices in chosen), margin, "mean")

    assert_same(ours, original, Batch(rows, labels), torch.float64)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_of_given_triplets(margin, reduction):
    rows = BATCHES["large"].rows
    anchor, positive, negative = rows.unflatten(0, (-1, 3)).unbind(1)  # as TripletLossPlain has them: 0, 1, 2 is one
    assert torch.equal(anchor, rows[::3]) and torch.equal(negative, rows[2::3])
    ours = fasttriplet.triplet_margin_loss(anchor, positive, negative, **options(margin, reduction))
    torch.testing.assert_close(ours, published.oml_loss(anchor, positive, negative, margin, reduction))
