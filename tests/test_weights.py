"""Weights that are negative, not finite or want a gradient, in the losses of a batch and of explicit triplets."""

import math

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from tests.family import NAMES
from tests.inputs import REDUCTIONS

ROWS = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0], [2.0], [9.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 0, 2, 0])  # row 5 has no positive
MODULES = [fasttriplet, reference]


@pytest.mark.parametrize("module", MODULES)
def test_negative_weights_by_hand(module):
    """On a line at 0, 1, 3, 7: d_ap - d_an of the anchors are 1 - 3, 1 - 2, 4 - 2 and 4 - 6."""
    rows, labels = ROWS[:4], torch.tensor([0, 0, 1, 1])
    each = module.batch_hard_triplet_loss(rows, labels, margin=3.0, reduction="none")
    assert each.tolist() == [1.0, 2.0, 5.0, 1.0]
    weights = torch.tensor([2.0, -1.0, 1.0, -4.0], dtype=torch.float64)
    options = dict(margin=3.0, weights=weights)
    none = module.batch_hard_triplet_loss(rows, labels, reduction="none", **options)
    assert none.tolist() == [2.0, -2.0, 5.0, -4.0]
    assert module.batch_hard_triplet_loss(rows, labels, **options) == 1 / -2
    zero_sum = dict(margin=3.0, weights=torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64))
    assert module.batch_hard_triplet_loss(rows, labels, **zero_sum) == 0
    assert module.batch_hard_triplet_loss(rows, labels, reduction="sum", **zero_sum) == 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5])  # row 5 has no positive, and does not count
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_not_finite_are_never_passed_over(name, module, at, value):
    weights = torch.ones(7, dtype=torch.float64)
    weights[at] = value
    function = getattr(module, f"{name}_triplet_loss")
    for soft_margin in (False, True):
        for reduction in REDUCTIONS[1:]:
            options = dict(weights=weights, soft_margin=soft_margin, reduction=reduction)
            loss = function(ROWS, LABELS, **options)
            assert loss.isnan() if math.isnan(value) else not loss.isfinite()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("module", MODULES)
def test_weights_of_explicit_triplets(module, at, value):
    """Triplet 2 is too easy to count where mining_margin is given."""
    anchor, positive = torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    negative = torch.tensor([[1.5], [1.2], [9.0]], dtype=torch.float64)
    negated = torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64)
    options = dict(margin=1.0, mining_margin=2.0)
    assert module.triplet_margin_loss(anchor, positive, negative, weights=negated, **options) == pytest.approx(0.2)
    weights = torch.ones(3, dtype=torch.float64)
    weights[at] = value
    for reduction in REDUCTIONS[1:]:
        loss = module.triplet_margin_loss(anchor, positive, negative, weights=weights, reduction=reduction, **options)
        assert loss.isnan() if math.isnan(value) else not loss.isfinite()


@pytest.mark.parametrize("name", ["batch_all", "weighted"])
def test_a_gradient_of_nan_reaches_every_row(name):
    """Of float32 rows, by the kernels of all pairs: an anchor's NaN must not be masked as one that means nothing."""
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = getattr(fasttriplet, f"{name}_triplet_loss")(rows, torch.arange(40) // 4, reduction="none", margin=5.0)
    loss.backward(torch.where(torch.arange(40) == 3, torch.nan, 1.0))
    assert rows.grad.isnan().all()


def test_weights_that_require_grad():
    weights = torch.ones(4, requires_grad=True)
    rows, labels = ROWS[:4].float(), torch.tensor([0, 0, 1, 1])
    fasttriplet.batch_hard_triplet_loss(rows, labels, margin=3.0, weights=weights).backward()
    # d mean / d w_i = (loss_i - mean) / 4
    assert weights.grad.tolist() == [-1.25 / 4, -0.25 / 4, 2.75 / 4, -1.25 / 4]
    with pytest.raises(ValueError, match="weights must not require grad"):
        fasttriplet.triplet_margin_loss(rows, rows, rows, weights=weights)
