"""Labels of the drop-ins: one a row, of any dtype; and batches of one class."""

import pytest
import torch

from benchmarks import published
from fasttriplet.compat import fastreid, pml, tfa, torchreid

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("labels", [torch.ones(6, 3), torch.ones(6, 3, dtype=torch.bool), torch.tensor(1)])
def test_labels_that_are_not_one_a_row_are_refused(labels):
    calls = {
        "labels": lambda: pml.TripletMarginLoss()(ROWS, labels),
        "targets": lambda: torchreid.TripletLoss()(ROWS, labels),
        "y_true": lambda: tfa.triplet_semihard_loss(labels, ROWS),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"{name} must have shape \[.*got \[|{name} must .* got .*\["):
            call()
    with pytest.raises(ValueError, match=r"targets must have shape \[N\], one label a row; got \["):
        fastreid.triplet_loss(ROWS, labels, 0.3, False, True)


COLUMN = torch.arange(6)[:, None] // 2


def test_a_column_of_labels_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"labels must have shape \[6\], .*; got \[6, 1\]: pass labels.squeeze\(1\)"):
        pml.TripletMarginLoss(swap=True)(ROWS, COLUMN)
    with pytest.raises(ValueError, match=r"labels must have shape \[6\], .*; got \[6, 1\]: pass labels.squeeze\(1\)"):
        pml.BatchHardMiner()(ROWS, COLUMN)


@pytest.mark.parametrize("hard_mining", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_columns_of_labels_as_torchreid_and_fastreid_take_them(hard_mining, dtype):
    column = COLUMN.to(dtype)
    labels = column[:, 0]
    # torchreid's way to compare them; fast-reid's begins with a view of shape [N, 1].
    assert torch.equal(column.expand(6, 6) == column.expand(6, 6).T, labels[:, None] == labels)
    assert torch.equal(torchreid.TripletLoss()(ROWS, column), torchreid.TripletLoss()(ROWS, labels))
    torch.testing.assert_close(torchreid.TripletLoss()(ROWS, column), published.torchreid(ROWS, labels, 0.3))
    ours = [fastreid.triplet_loss(ROWS, each, 0.3, False, hard_mining) for each in (column, labels)]
    assert torch.equal(*ours)
    theirs = published.fastreid(ROWS, labels, 0.3, False, hard_mining)
    torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=5e-6)  # it adds 1e-6 to the positives' weights


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64, torch.uint8])
def test_labels_of_any_dtype(dtype):
    labels = torch.tensor([0, 0, 1, 1, 3, 3])
    expected = torchreid.TripletLoss()(ROWS, labels)
    torch.testing.assert_close(torchreid.TripletLoss()(ROWS, labels.to(dtype)), expected)
    signs = torch.tensor([0.0, -0.0, 1, 1, 3, 3])
    if dtype.is_floating_point:
        torch.testing.assert_close(torchreid.TripletLoss()(ROWS, signs.to(dtype)), expected)


def test_a_zero_row_in_a_batch_of_one_class_is_at_cosine_distance_one():
    rows = torch.cat([torch.zeros(2, 4), ROWS]).double().requires_grad_()
    loss = tfa.triplet_semihard_loss(torch.zeros(8), rows, margin=0.2, distance_metric="angular")
    unit = torch.nn.functional.normalize(rows.detach(), dim=1)
    distances = 1 - unit @ unit.T
    expected = (distances + 0.2).clamp_min(0)[~torch.eye(8, dtype=torch.bool)].mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert rows.grad.isfinite().all() and not rows.grad[:2].any() and rows.grad[2:].any()
