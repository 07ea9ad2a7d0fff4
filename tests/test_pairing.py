"""Who pairs with whom: what each argument means, by example, for all losses at once."""

import pytest
import torch

import fasttriplet
from tests.family import LOSSES, NAMES
from tests.inputs import CASES, batch

G = torch.Generator().manual_seed(0)
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


def test_classes_as_a_column_are_refused():
    """As bit masks, 1 and 3 would be positives."""
    rows, classes = torch.randn(12, 8), torch.arange(12) // 3
    assert fasttriplet.batch_hard_triplet_loss(rows, classes) > 0
    with pytest.raises(ValueError, match=r"labels.squeeze\(1\)"):
        fasttriplet.batch_hard_triplet_loss(rows, classes[:, None])


@pytest.mark.parametrize("width", [9, 63, 64, 65, 200])
def test_multi_hot_labels_of_one_label_are_classes(width):
    one_hot = torch.nn.functional.one_hot(LABELS * (width // 9), width).bool()
    assert_equal(losses(ROWS, one_hot), losses(ROWS, LABELS))
    assert_equal(losses(ROWS, one_hot.T.contiguous().T), losses(ROWS, LABELS))  # of any strides


def test_multi_hot_labels_share_any_of_their_labels():
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    many = torch.zeros(4, 130, dtype=torch.bool)
    for row, labels in enumerate([[0], [0, 129], [129], []]):
        many[row, labels] = True
    mined = fasttriplet.mine_batch_hard(rows, many)
    assert mined.positives.tolist() == [1, 2, 1, -1] and mined.negatives.tolist() == [2, 3, 0, 2]
    for shared in (0, 62, 63, 64, 127, 128, 129):  # at the ends of words
        many = torch.zeros(4, 130, dtype=torch.bool)
        many[:2, shared] = True
        assert fasttriplet.mine_batch_hard(rows, many).positives.tolist() == [1, 0, -1, -1]
        narrow = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]).bool()  # in one word, but no classes
        assert fasttriplet.mine_batch_hard(rows, narrow).positives.tolist() == [3, 2, 1, 0]
    nothing = fasttriplet.mine_batch_hard(rows, torch.zeros(4, 0, dtype=torch.bool))
    assert nothing.positives.tolist() == [-1] * 4 and nothing.negatives.tolist() == [1, 0, 1, 2]


def test_bool_labels_are_two_classes():
    odd = torch.arange(25) % 2 == 1
    assert_equal(losses(ROWS, odd), losses(ROWS, odd.long()))


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


def test_copies_of_a_sample_never_pair():
    """Two views of each sample: the nearest positive is a view of another sample, and so is every other."""
    rows, samples = ROWS.repeat_interleave(2, 0) + 1e-3 * torch.randn(50, 17, generator=G), torch.arange(50) // 2
    labels = LABELS.repeat_interleave(2)
    plain = fasttriplet.mine_easy_positive(rows, labels)
    assert torch.equal(plain.positives, torch.arange(50) ^ 1)
    for mined in (
        fasttriplet.mine_easy_positive(rows, labels, sample_ids=samples),
        fasttriplet.mine_batch_hard(rows, samples // 4, sample_ids=samples),
        fasttriplet.mine_semi_hard(rows, labels, sample_ids=samples),
    ):
        found = mined.positives >= 0
        anchors = getattr(mined, "anchors", torch.arange(50))
        assert found.any() and (samples[mined.positives[found]] != samples[anchors[found]]).all()
    assert_equal(losses(ROWS, LABELS, sample_ids=torch.arange(25) + 100), losses(ROWS, LABELS))
    assert_equal(losses(ROWS, LABELS, sample_ids=torch.full((25,), -1)), losses(ROWS, LABELS))
    nobody = fasttriplet.mine_batch_hard(ROWS, LABELS, sample_ids=torch.full((25,), 7))
    assert (nobody.positives == -1).all() and (nobody.negatives == -1).all()


def test_sample_ids_of_references_are_self_indices_and_more():
    own = torch.arange(25)
    given = dict(ref_embeddings=ROWS, ref_labels=LABELS)
    expected = losses(ROWS, LABELS, self_indices=own, **given)
    assert_equal(losses(ROWS, LABELS, sample_ids=own, ref_sample_ids=own, **given), expected)
    twice = dict(ref_embeddings=torch.cat([ROWS, ROWS + 1e-3]), ref_labels=LABELS.repeat(2), sample_ids=own)
    mined = fasttriplet.mine_easy_positive(ROWS, LABELS, ref_sample_ids=own.repeat(2), **twice)
    found = mined.positives >= 0
    assert found.any() and (mined.positives[found] % 25 != own[found]).all()


def test_equal_rows_beside_several_own_copies():
    """Of a column of equal references the lowest that is no copy is the pair, however many copies lie before it."""
    references = torch.ones(6, 1)
    given = dict(ref_embeddings=references, ref_labels=torch.tensor([0, 0, 0, 0, 1, 1]))
    given |= dict(sample_ids=torch.tensor([5]), ref_sample_ids=torch.tensor([5, 5, 5, -1, 5, 3]))
    for miner in (fasttriplet.mine_batch_hard, fasttriplet.mine_easy_positive, fasttriplet.mine_semi_hard):
        mined = miner(torch.zeros(1, 1), torch.tensor([0]), **given)
        assert mined.positives.tolist() == [3] and mined.negatives.tolist() == [5]


def test_groups_that_exclude_positives_alone_are_the_rule_of_market_1501():
    """Same person and same camera is junk; another person seen by the same camera is the hardest negative there is."""
    rows, people = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]]), torch.tensor([0, 0, 0, 1, 1, 1])
    cameras = torch.tensor([0, 1, 0, 1, 0, 1])
    mined = fasttriplet.mine_batch_hard(rows, people, groups=cameras, groups_exclude="positives")
    assert mined.positives.tolist() == [1, 2, 1, 4, 3, 4] and mined.negatives.tolist() == [3, 3, 3, 2, 2, 2]
    assert_equal(
        losses(ROWS, LABELS, groups=torch.arange(25), groups_exclude="positives"),
        losses(ROWS, LABELS),
    )


def test_masked_references_are_as_if_left_out():
    mask = torch.arange(25) % 3 != 0
    rows = torch.where(mask[:, None], ROWS, torch.tensor(float("inf")))
    left_out = losses(ROWS, LABELS, ref_embeddings=ROWS[mask], ref_labels=LABELS[mask])
    assert_equal(losses(ROWS, LABELS, ref_embeddings=rows, ref_labels=LABELS, ref_mask=mask), left_out)
    mined = fasttriplet.mine_batch_hard(ROWS, LABELS, ref_embeddings=rows, ref_labels=LABELS, ref_mask=mask & False)
    assert (mined.positives == -1).all() and (mined.negatives == -1).all()
