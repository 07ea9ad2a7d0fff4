"""Who pairs with whom: what each argument means, by example, for all losses at once."""

import pytest
import torch

import fasttriplet
from tests.family import LOSSES, NAMES
from tests.inputs import CASES, batch

ROWS, LABELS = batch(next(case for case in CASES if case.name == "edge-25"))


def losses(rows, labels, names=LOSSES, **arguments):
    arguments.setdefault("weights", torch.ones(len(labels)))  # by the same operator in every comparison
    return [
        getattr(fasttriplet, f"{name}_triplet_loss")(rows, labels, margin=0.7, **chosen, **arguments)
        for name, chosen in names
    ]


def assert_equal(ours, theirs):
    for loss, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_the_batch_as_its_own_references():
    own = torch.arange(25)
    assert_equal(losses(ROWS, LABELS, ref_embeddings=ROWS, ref_labels=LABELS, self_indices=own), losses(ROWS, LABELS))


def test_without_self_indices_a_copy_is_a_positive():
    mined = fasttriplet.mine_easy_positive(ROWS, LABELS, ref_embeddings=ROWS, ref_labels=LABELS)
    assert torch.equal(mined.positives, torch.arange(25)) and not mined.positive_distances.any()


@pytest.mark.parametrize("far", [[], [[9.0]]])
def test_an_own_copy_of_another_class_among_equal_references(far):
    """The two lowest of the equal rows are the copy and a positive: the third is the negative."""
    references = torch.tensor([[1.0], [1.0], [1.0], *far])
    mined = fasttriplet.mine_batch_hard(
        torch.tensor([[0.0]]),
        torch.tensor([1]),
        ref_embeddings=references,
        ref_labels=torch.tensor([0, 1, 3, *[4] * len(far)]),
        self_indices=torch.tensor([0]),
    )
    assert mined.positives.item() == 1 and mined.negatives.item() == 2


def test_batch_hard_is_the_fused_one_where_nothing_is_told():
    for distance in ("euclidean", "cosine"):
        for reduction in ("none", "sum", "mean", "mean_nonzero"):
            options = dict(distance=distance, reduction=reduction)
            fused = fasttriplet.batch_hard_triplet_loss(ROWS, LABELS, **options)
            general = fasttriplet.batch_hard_triplet_loss(ROWS, LABELS, weights=torch.ones(25), **options)
            torch.testing.assert_close(general, fused, rtol=1e-12, atol=1e-12)


def test_nothing_told_calls_the_fused_operator(monkeypatch):
    def fail(*_):
        raise AssertionError("the general operator was called")

    monkeypatch.setattr(fasttriplet.functional.batch_hard, "loss_of_mined", fail)
    monkeypatch.setattr(fasttriplet.functional.batch_hard, "mined_triplets", fail)
    fasttriplet.batch_hard_triplet_loss(ROWS, LABELS)
    fasttriplet.mine_batch_hard(ROWS, LABELS)
    with pytest.raises(AssertionError):
        fasttriplet.mine_batch_hard(ROWS, LABELS, ignore_index=-1)


def test_masks_of_one_bit_are_labels():
    assert_equal(losses(ROWS, 1 << LABELS[:, None]), losses(ROWS, LABELS))
    words = torch.nn.functional.one_hot(LABELS)  # [N, W], a word a class
    assert_equal(losses(ROWS, words), losses(ROWS, LABELS))
    assert_equal(losses(ROWS, words.bool()), losses(ROWS, LABELS))
    high = torch.full((25, 1), -(2**63)) * (LABELS % 2)[:, None]  # the sign is a bit like any other
    mined = fasttriplet.mine_batch_hard(ROWS, high)
    assert (mined.positives[LABELS % 2 == 0] == -1).all() and (mined.positives[LABELS % 2 == 1] >= 0).all()


def test_ignored_rows_are_as_if_left_out():
    left = LABELS != 2
    assert 0 < int(left.sum()) < 25
    assert_equal(losses(ROWS, LABELS, ignore_index=2), losses(ROWS[left], LABELS[left]))
    anything = torch.where(left[:, None], ROWS, torch.nan)
    assert_equal(losses(anything, LABELS, ignore_index=2), losses(ROWS[left], LABELS[left]))
    assert_equal(losses(ROWS, LABELS, ignore_index=-100), losses(ROWS, LABELS))


def test_groups_that_are_labels_leave_no_positives_and_others_none_out():
    mined = fasttriplet.mine_batch_hard(ROWS, LABELS, groups=LABELS)
    assert (mined.positives == -1).all()
    assert_equal(losses(ROWS, LABELS, groups=torch.arange(25)), losses(ROWS, LABELS))
    mined = fasttriplet.mine_batch_hard(ROWS, LABELS, groups=torch.zeros(25, dtype=torch.int8))
    assert (mined.positives == -1).all() and (mined.negatives == -1).all()


def test_cameras():
    """Two cameras, two people: the positive and the negative are always what the other camera saw."""
    rows, people = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]]), torch.tensor([0, 0, 0, 1, 1, 1])
    mined = fasttriplet.mine_batch_hard(rows, people, groups=torch.tensor([0, 1, 0, 1, 0, 1]))
    assert mined.positives.tolist() == [1, 2, 1, 4, 3, 4] and mined.negatives.tolist() == [3, 4, 3, 2, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_references_and_batch_add_up(name):
    """Rows given twice: the gradient of the batch alone is the sum of both."""
    function = getattr(fasttriplet, f"{name}_triplet_loss")
    alone, first, second = (ROWS.clone().requires_grad_() for _ in range(3))
    function(alone, LABELS).backward()
    function(first, LABELS, ref_embeddings=second, ref_labels=LABELS, self_indices=torch.arange(25)).backward()
    torch.testing.assert_close(first.grad + second.grad, alone.grad, rtol=1e-10, atol=1e-12)


def test_integer_dtypes_of_all_ids():
    expected = fasttriplet.mine_batch_hard(
        ROWS,
        LABELS,
        ref_embeddings=ROWS,
        ref_labels=LABELS,
        self_indices=torch.arange(25),
        groups=LABELS % 3,
        ref_groups=LABELS % 2,
    )
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32):
        mined = fasttriplet.mine_batch_hard(
            ROWS,
            LABELS.to(dtype),
            ref_embeddings=ROWS,
            ref_labels=LABELS.to(torch.int32),
            self_indices=torch.arange(25).to(dtype),
            groups=(LABELS % 3).to(dtype),
            ref_groups=(LABELS % 2).to(dtype),
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(mined[:2], expected[:2], strict=True))


def test_an_ignored_index_outside_the_labels_dtype_ignores_nothing():
    clean = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    rows = clean.clone()
    rows[0, 0] = float("nan")
    labels = torch.tensor([255, 255, 1, 1, 2, 2], dtype=torch.uint8)
    assert fasttriplet.semi_hard_triplet_loss(rows, labels, ignore_index=-1).isnan()
    _, stats = fasttriplet.semi_hard_triplet_loss(clean, labels, ignore_index=-1, return_stats=True)
    _, plain = fasttriplet.semi_hard_triplet_loss(clean, labels.long(), ignore_index=-1, return_stats=True)
    for found, wanted in zip(stats, plain, strict=True):
        torch.testing.assert_close(found, wanted)
