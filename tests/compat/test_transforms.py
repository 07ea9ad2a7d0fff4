"""Drop-ins under ``torch.func``: as under ``torch.autograd``, or refused by name."""

import pytest
import torch
from torch.func import grad

from fasttriplet.compat import fastreid, pml, sentence_transformers, tfa, torchreid

ROWS = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) // 3


def of_features(loss):
    return lambda rows, labels: loss([{"sentence_embedding": rows}], labels)


MODEL = torch.nn.Identity()
LOSSES = {
    "fastreid": lambda rows, labels: fastreid.triplet_loss(rows, labels, 0.3, False, True),
    "pml": pml.TripletMarginLoss(margin=0.3),
    "sentence_transformers hard": of_features(sentence_transformers.BatchHardTripletLoss(MODEL)),
    "sentence_transformers semi-hard": of_features(sentence_transformers.BatchSemiHardTripletLoss(MODEL)),
    "sentence_transformers all": of_features(sentence_transformers.BatchAllTripletLoss(MODEL)),
    "tfa hard": lambda rows, labels: tfa.triplet_hard_loss(labels, rows),
    "tfa semi-hard": lambda rows, labels: tfa.triplet_semihard_loss(labels, rows),
    "torchreid": torchreid.TripletLoss(),
}


@pytest.mark.parametrize("classes", [4, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_grad_is_that_of_autograd(name, classes):
    classes = 4 if name == "torchreid" else classes  # torchreid refuses a batch of one class
    loss, labels = LOSSES[name], LABELS % classes
    rows = ROWS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(rows, labels), rows)
    torch.testing.assert_close(grad(lambda rows: loss(rows, labels))(ROWS), expected, rtol=1e-10, atol=1e-13)


def test_weighted_mining_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"triplet_loss with hard_mining=False .* torch\.func"):
        grad(lambda rows: fastreid.triplet_loss(rows, LABELS, 0.3, False, False))(ROWS)
