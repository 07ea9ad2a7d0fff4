"""torchreid's and fast-reid's triplet losses: their formulas, value and gradient."""

import math

import pytest
import torch

from benchmarks import published
from fasttriplet.compat import fastreid, torchreid
from tests.compat.batches import BATCHES, DTYPES, Batch, assert_same

ONE_CLASS = ("one class", "one row", "two rows, one class")


@pytest.mark.parametrize("name", [name for name in BATCHES if name not in ONE_CLASS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torchreid(name, dtype):
    if name == "all equal" and dtype == torch.float64:
        assert torchreid.TripletLoss()(*BATCHES[name]).item() == pytest.approx(0.3, abs=1e-12)
    assert_same(
        torchreid.TripletLoss(margin=0.7),
        lambda rows, labels: published.torchreid(rows, labels, 0.7),
        BATCHES[name],
        dtype,
    )


def test_torchreid_has_a_floor_under_distances():
    rows = torch.tensor([[0.0], [1e-9], [2e-9], [1.0]], dtype=torch.float64, requires_grad=True)
    loss = torchreid.TripletLoss(margin=0.0)(rows, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    # Only the third counts: from 1 - 2e-9 the floor is subtracted, and what is at the floor has no slope.
    assert loss.item() == pytest.approx((1 - 2e-9 - 1e-6) / 4, abs=1e-15)
    assert rows.grad[:, 0].tolist() == [0, 0, -0.25, 0.25]


@pytest.mark.parametrize("name", ONE_CLASS)
def test_torchreid_without_a_negative_is_an_error(name):
    rows, labels = BATCHES[name]
    with pytest.raises((RuntimeError, IndexError)):
        published.torchreid(rows, labels, 0.3)
    with pytest.raises(ValueError, match=f"targets must have two classes at least; got one class in {len(rows)} rows"):
        torchreid.TripletLoss()(rows, labels)


def test_torchreid_gives_a_tie_to_the_lowest_index():
    rows, labels = torch.tensor([[0.0], [1.0], [-1.0], [9.0]], requires_grad=True), torch.tensor([0, 1, 1, 1])
    ours, original = torchreid.TripletLoss(margin=100.0)(rows, labels), published.torchreid(rows, labels, 100.0)
    assert ours.item() == pytest.approx(original.item())
    gradients = [torch.autograd.grad(loss, rows)[0][:, 0] for loss in (ours, original)]
    # The first row has two nearest negatives, at -1 and 1: it is drawn one way here, both ways there.
    assert (gradients[0] - gradients[1]).tolist() == pytest.approx([0.25, -0.125, -0.125, 0], abs=1e-6)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", [0.7, 0.0])
@pytest.mark.parametrize("norm_feat", [False, True])
@pytest.mark.parametrize("hard_mining", [False, True])
def test_fastreid(name, dtype, margin, norm_feat, hard_mining):
    tied = norm_feat and name == "one dimension"  # all rows are 1 or -1
    assert_same(
        lambda rows, labels: fastreid.triplet_loss(rows, labels, margin, norm_feat, hard_mining),
        lambda rows, labels: published.fastreid(rows, labels, margin, norm_feat, hard_mining),
        BATCHES[name],
        dtype,
        with_gradient=not tied,
        # Its distances are 1e-6 at least, and it adds so much to the sum of the positives' weights.
        value_atol=2e-6 if hard_mining else 5e-6,
        gradient_atol=0.0 if hard_mining else 4e-6,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_fastreid_has_no_gradient_through_the_norm_of_a_zero_row(dtype):
    rows, labels = BATCHES["random"]
    leaf = torch.cat([rows, torch.zeros(2, 8), torch.full((2, 8), 1e-14)]).to(dtype).requires_grad_()
    loss = fastreid.triplet_loss(leaf, torch.cat([labels, torch.tensor([0, 1, 0, 1])]), 0.3, True, True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.abs().max() < 10 and gradient[:24].any() and not gradient[24:].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [3.0, 5.0, 30.0, 1e4])
def test_fastreid_weighs_far_negatives_against_its_epsilon(dtype, scale):
    batch = Batch(BATCHES["large"].rows * scale, BATCHES["large"].labels)
    assert_same(
        lambda rows, labels: fastreid.triplet_loss(rows, labels, 0.3, False, False),
        lambda rows, labels: published.fastreid(rows, labels, 0.3, False, False),
        batch,
        dtype,
        value_atol=1e-5 * scale,  # its 1e-6 beside the positives
        gradient_atol=2e-5 * scale if dtype == torch.float64 else 0.0,
    )


def test_fastreid_draws_far_negatives_nearer():
    rows = torch.tensor([[0.0], [20.0]], dtype=torch.float64, requires_grad=True)
    loss = fastreid.triplet_loss(rows, torch.tensor([0, 1]), 50.0, False, False)
    weight = 1 / (1 + 1e-6 * math.exp(20))  # of the one negative
    assert loss.item() == pytest.approx(50 - 20 * weight)
    loss.backward()
    assert rows.grad[0].item() == pytest.approx(weight * (1 - 20 + 20 * weight)) and rows.grad[0].item() < 0


def test_fastreid_with_weights_is_joined_to_the_graph_and_not_finite_rows_spoil_it():
    rows, labels = BATCHES["random"].rows.clone().requires_grad_(), BATCHES["random"].labels
    (gradient,) = torch.autograd.grad(fastreid.triplet_loss(rows, labels, 0.3, True, False), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
    spoilt = rows.detach().clone()
    spoilt[3, 1] = torch.nan
    spoilt.requires_grad_()
    loss = fastreid.triplet_loss(spoilt, labels, 0.3, False, False)
    loss.backward()
    assert loss.isnan() and spoilt.grad.isnan().all()
    assert fastreid.triplet_loss(rows.half(), labels, 0.3, False, False).dtype == torch.float32


def test_margins_as_tensors():
    rows, labels = BATCHES["random"]
    margin = torch.tensor(0.25)
    assert torch.equal(torchreid.TripletLoss(margin)(rows, labels), torchreid.TripletLoss(0.25)(rows, labels))
    late = torchreid.TripletLoss()
    late.margin = margin
    assert torch.equal(late(rows, labels), torchreid.TripletLoss(0.25)(rows, labels))
    torch.testing.assert_close(late(rows, labels), published.torchreid(rows, labels, margin))
    for hard_mining in (False, True):
        values = [fastreid.triplet_loss(rows, labels, each, False, hard_mining) for each in (margin, 0.25)]
        assert torch.equal(*values)
        torch.testing.assert_close(
            values[0], published.fastreid(rows, labels, margin, False, hard_mining), rtol=1e-5, atol=1e-5
        )
    with pytest.raises(ValueError, match="margin must not require grad"):
        torchreid.TripletLoss(torch.tensor(0.3, requires_grad=True))


def test_arguments():
    rows, labels = BATCHES["random"]
    assert torchreid.TripletLoss().margin == 0.3
    assert repr(torchreid.TripletLoss(0.5)) == "TripletLoss(margin=0.5)"
    with pytest.raises(TypeError, match="margin must be a real number; got str"):
        torchreid.TripletLoss("0.3")
    with pytest.raises(TypeError, match="hard_mining must be a bool; got int"):
        fastreid.triplet_loss(rows, labels, 0.3, False, 0)
    assert torch.equal(torchreid.TripletLoss()(rows, labels / 2), torchreid.TripletLoss()(rows, labels))
    assert torchreid.TripletLoss()(rows.half(), labels).dtype == torch.float32
