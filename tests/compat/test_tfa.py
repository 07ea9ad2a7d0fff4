"""TensorFlow Addons' losses: its formulas, value and gradient."""

import math

import pytest
import torch

from benchmarks.published import tfa_hard, tfa_semihard
from fasttriplet.compat import tfa
from tests.compat.batches import BATCHES, DTYPES, assert_same

# Where the original divides by the number of pairs, 0.
EMPTY = ("no positives", "one row", "two rows, two classes")


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", tfa.DISTANCE_METRICS)
@pytest.mark.parametrize("soft", [False, True])
def test_hard(name, dtype, metric, soft):
    if dtype == torch.float32 and name == "one dimension" and metric == "angular":
        dtype = torch.float64  # all cosines are 1 or -1, and ties are decided by rounding
    loss = tfa.TripletHardLoss(margin=0.7, soft=soft, distance_metric=metric)
    assert_same(
        lambda rows, labels: loss(labels, rows),
        lambda rows, labels: tfa_hard(labels, rows, 0.7, soft, metric),
        BATCHES[name],
        dtype,
        with_gradient=not (name == "one dimension" and metric == "angular"),
    )


@pytest.mark.parametrize("name", [name for name in BATCHES if name not in EMPTY])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", tfa.DISTANCE_METRICS)
def test_semihard(name, dtype, metric):
    if metric == "angular" and name in ("one dimension", "all equal"):
        metric = "L2"  # distances are equal there, and rounding decides which negative is farther than the positive
    loss = tfa.TripletSemiHardLoss(margin=0.7, distance_metric=metric)
    assert_same(
        lambda rows, labels: loss(labels, rows),
        lambda rows, labels: tfa_semihard(labels, rows, 0.7, metric),
        BATCHES[name],
        dtype,
    )


@pytest.mark.parametrize("name", EMPTY)
def test_semihard_without_pairs_is_zero(name):
    rows, labels = BATCHES[name]
    assert tfa_semihard(labels, rows, 1.0, "L2").isnan()
    leaf = rows.clone().requires_grad_()
    loss = tfa.triplet_semihard_loss(labels, leaf)
    loss.backward()
    assert loss.item() == 0 and not leaf.grad.any()


def test_soft_margin_does_not_overflow():
    rows = torch.tensor([[0.0], [2000.0], [1.0]])
    labels = torch.tensor([0, 0, 1])
    assert tfa_hard(labels, rows, 0.0, True, "L2").isinf()
    # Differences of 1999, of 2000 - 1999 and, where there is no positive, of 0 - 1.
    expected = (1999 + math.log1p(math.e) + math.log1p(1 / math.e)) / 3
    assert tfa.triplet_hard_loss(labels, rows, soft=True).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_cast_back(dtype):
    rows, labels = BATCHES["random"].rows.to(dtype), BATCHES["random"].labels
    for function in (tfa.triplet_hard_loss, tfa.triplet_semihard_loss):
        leaf = rows.clone().requires_grad_()
        loss = function(labels, leaf)
        loss.backward()
        assert loss.dtype == leaf.grad.dtype == dtype
        assert torch.equal(loss, function(labels, rows.float()).to(dtype))


def test_labels_of_any_form_are_compared_by_value():
    rows, labels = BATCHES["random"]
    expected = tfa.triplet_hard_loss(labels, rows)
    zeros_of_both_signs = torch.where(torch.arange(len(labels)) % 2 == 0, 0.0, -0.0)
    for other in (labels[:, None], labels / 2, labels.half()):
        assert torch.equal(tfa.triplet_hard_loss(other, rows), expected)
    same = tfa.triplet_hard_loss(torch.zeros_like(labels), rows)
    assert torch.equal(tfa.triplet_hard_loss(zeros_of_both_signs, rows), same)


@pytest.mark.parametrize("function", [tfa.triplet_hard_loss, tfa.triplet_semihard_loss])
def test_arguments(function):
    rows, labels = BATCHES["random"]
    with pytest.raises(ValueError, match="distance_metric must be one of L2, squared-L2, angular; got 'l2'"):
        function(labels, rows, distance_metric="l2")
    with pytest.raises(TypeError, match="distance_metric must be a str"):
        function(labels, rows, distance_metric=lambda rows: rows @ rows.T)
    with pytest.raises(TypeError, match=r"y_true must be a torch.Tensor; got list"):
        function(labels.tolist(), rows)
    for wrong in (labels[:3], torch.zeros(3)):  # also where they are all one class
        with pytest.raises(ValueError, match=r"y_true must have shape \[24\], one label a row of y_pred; got \[3\]"):
            function(wrong, rows)
    with pytest.raises(ValueError, match="margin must be finite"):
        function(labels, rows, margin=math.inf)
    if function is tfa.triplet_hard_loss:  # with a soft margin too, which takes no other
        with pytest.raises(TypeError, match="margin must be a real number; got str"):
            function(labels, rows, margin="0.5", soft=True)


def test_modules_are_the_functions():
    rows, labels = BATCHES["random"]
    hard = tfa.TripletHardLoss(0.5, True, "angular", "name")
    assert torch.equal(hard(labels, rows), tfa.triplet_hard_loss(labels, rows, 0.5, True, "angular"))
    assert repr(hard) == "TripletHardLoss(margin=0.5, soft=True, distance_metric='angular')"
    semi = tfa.TripletSemiHardLoss(0.5, "squared-L2")
    assert torch.equal(semi(labels, rows), tfa.triplet_semihard_loss(labels, rows, 0.5, "squared-L2"))
    assert repr(semi) == "TripletSemiHardLoss(margin=0.5, distance_metric='squared-L2')"
    assert (tfa.TripletHardLoss().margin, tfa.TripletSemiHardLoss().margin) == (1.0, 1.0)


@pytest.mark.parametrize("make", [tfa.TripletHardLoss, tfa.TripletSemiHardLoss])
def test_other_arguments(make):
    """The original takes any and uses none: of them ``reduction`` is one that people give."""
    rows, labels = BATCHES["random"]
    assert torch.equal(make(0.5, reduction="sum")(labels, rows), make(0.5)(labels, rows))
    with pytest.raises(TypeError, match=f"{make.__name__} got unexpected keyword arguments: margn, x"):
        make(margn=0.5, x=1, reduction="none")


@pytest.mark.parametrize("function", [tfa.triplet_hard_loss, tfa.triplet_semihard_loss])
@pytest.mark.parametrize("margin", [torch.tensor(0.25), torch.tensor([0.25], dtype=torch.float64), torch.tensor(2)])
def test_margins_as_tensors(function, margin):
    rows, labels = BATCHES["random"]
    assert torch.equal(function(labels, rows, margin), function(labels, rows, margin.item()))
    module = {"triplet_hard_loss": tfa.TripletHardLoss, "triplet_semihard_loss": tfa.TripletSemiHardLoss}
    assert module[function.__name__](margin).margin == margin.item()
    with pytest.raises(ValueError, match="margin must not require grad"):
        function(labels, rows, margin.float().clone().requires_grad_())
