"""PKSampler: what is in its batches and epochs, ranks, resuming, loaders with workers, arguments."""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fasttriplet import PKSampler, batch_hard_triplet_loss, reference
from tests.sampled import LABELS, SIZES, Rows, epoch_of, made


def quiet(*arguments, **options):
    """With short classes, of which the warning is not asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return PKSampler(*arguments, **options)


def counts(values):
    return np.unique(values, return_counts=True)[1]


# What batches and epochs are made of


@pytest.mark.parametrize(("p", "k"), [(2, 2), (3, 3), (8, 3), (5, 2)])
def test_a_batch_is_p_classes_of_k_rows(p, k):
    sampler = made(p, k, batches_per_epoch=100)
    batches = list(sampler)
    assert all(type(row) is int for row in batches[0]) and type(batches[0]) is list
    for batch in batches:
        rows = LABELS[batch].reshape(p, k)
        assert (rows == rows[:, :1]).all() and len(np.unique(rows)) == p
        assert len(set(batch)) == p * k  # no row twice, though classes are shuffled anew in the midst of one
    assert set(itertools.chain(*batches)) == set(range(len(LABELS)))
    assert (sampler.batch_size, sampler.num_classes, sampler.short_classes) == (p * k, 8, 0)


def test_an_epoch_of_equal_classes_has_each_row_once():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(12), 8))
    batches = epoch_of(made(4, 2, labels))
    assert len(batches) == len(made(4, 2, labels)) == 12
    assert sorted(batches.ravel()) == list(range(96))
    for turn in batches.reshape(4, -1):  # each class once before any comes again
        assert (counts(labels[turn]) == 2).all() and len(np.unique(labels[turn])) == 12


@pytest.mark.parametrize("k", [2, 3])
def test_classes_come_equally_often_and_rows_before_they_repeat(k):
    batches = epoch_of(made(3, k, batches_per_epoch=101))
    of_class = counts(LABELS[batches.ravel()])
    assert of_class.max() - of_class.min() <= k and len(of_class) == 8
    for label in SIZES:
        of_row = counts(batches.ravel()[LABELS[batches.ravel()] == label])
        assert of_row.max() - of_row.min() <= 1 and len(of_row) == SIZES[label]


def test_lengths():
    assert len(made()) == len(LABELS) // 9 == len(list(made()))
    assert len(made(8, 3)) == 2 and len(made(2, 2, [0, 0, 1, 1])) == 1
    assert len(made(2, 2, [0, 0, 1, 1, 1])) == 1 and len(made(2, 2, [0] * 6 + [1] * 2)) == 2
    assert len(made(batches_per_epoch=50)) == 50 == len(epoch_of(made(batches_per_epoch=50)))
    assert len(made(2, 2, num_replicas=2, rank=1)) == len(LABELS) // 8
    assert len(made(8, 3, num_replicas=50, rank=1)) == 1  # at least, on all ranks


def test_seed_and_epoch_decide_and_nothing_else():
    first = [epoch_of(made(), epoch) for epoch in range(3)]
    np.random.seed(5), torch.manual_seed(5)
    sampler = made()
    for epoch in (2, 0, 1):
        np.testing.assert_array_equal(epoch_of(sampler, epoch), first[epoch])
    by_itself = made()
    for epoch in range(3):  # one more in every pass
        np.testing.assert_array_equal(list(by_itself), first[epoch])
        assert by_itself.epoch == epoch
    others = [*first, epoch_of(made(seed=1)), epoch_of(made(seed=2**70))]
    assert all((a != b).any() for a, b in itertools.combinations(others, 2))
    # In another process, with another version of NumPy: a state that was saved must mean the same batches.
    assert epoch_of(made(2, 2, [0, 0, 0, 1, 1, 2, 2, 2], seed=3), 4).tolist() == PINNED


PINNED = [[5, 6, 3, 4], [2, 0, 4, 3]]


# Ranks


@pytest.mark.parametrize(("replicas", "p"), [(2, 3), (4, 2), (2, 4)])
def test_ranks_are_parts_of_one_batch(replicas, p):
    ranks = [epoch_of(made(p, 3, num_replicas=replicas, rank=rank, seed=7), 5) for rank in range(replicas)]
    together = np.concatenate(ranks, 1)
    np.testing.assert_array_equal(together, epoch_of(made(replicas * p, 3, seed=7), 5))
    for step in together:
        assert len(np.unique(LABELS[step])) == replicas * p and (counts(LABELS[step]) == 3).all()
    if replicas * p == len(SIZES):  # all of them in every step, but not always on the same rank
        own = epoch_of(made(p, 3, num_replicas=replicas, rank=1, batches_per_epoch=30))
        assert len(np.unique(LABELS[own])) == len(SIZES)


def test_fewer_classes_than_ranks_have_together():
    labels = np.repeat(np.arange(5), 24)
    ranks = [epoch_of(made(3, 4, labels, num_replicas=4, rank=rank, batches_per_epoch=10)) for rank in range(4)]
    for rank in ranks:
        for batch in rank:
            assert (counts(labels[batch]) == 4).all() and len(np.unique(labels[batch])) == 3
            assert len(set(batch)) == 12
    rows = np.concatenate(ranks, 1).ravel()
    assert np.ptp(counts(labels[rows])) <= 4 and len(np.unique(labels[rows])) == 5
    for label in range(5):  # of one deck for all ranks
        assert np.ptp(counts(rows[labels[rows] == label])) <= 1


# Short classes, rows that are left out

SHORT = np.repeat([3, 4, 5, 6], [1, 2, 3, 9])


def test_short_classes_repeat_all_their_rows():
    with pytest.warns(UserWarning) as warned:
        sampler = PKSampler(SHORT, 4, 5)
    assert [str(each.message) for each in warned] == [
        "3 of 4 classes have fewer than 5 rows: some of theirs come more than once in a batch, where a copy is its own "
        'positive unless it is augmented anew or the loss is given sample_ids; on_short="skip" leaves these classes out'
    ]
    assert warned[0].filename == __file__ and sampler.short_classes == 3 and sampler.num_classes == 4
    sampler = quiet(SHORT, 4, 5, batches_per_epoch=40)
    batches = epoch_of(sampler)
    for batch in batches:
        times = {label: sorted(Counter(batch[SHORT[batch] == label]).values()) for label in (3, 4, 5, 6)}
        assert times == {3: [5], 4: [2, 3], 5: [1, 2, 2], 6: [1] * 5}
    for label in (4, 5):  # the one more or less is not always the same row's
        assert np.ptp(counts(batches[SHORT[batches] == label])) <= 1


def test_short_classes_are_skipped():
    sampler = made(2, 3, SHORT, on_short="skip")
    assert (sampler.num_classes, sampler.short_classes, len(sampler)) == (2, 2, 12 // 6)
    assert set(SHORT[epoch_of(sampler).ravel()]) == {5, 6}
    assert made(3, 2, SHORT, on_short="skip").num_classes == 3


def test_short_classes_are_refused():
    told = "labels must have at least 3 rows of every class, .* where on_short is 'error'; got fewer of 2 of 4 classes"
    with pytest.raises(ValueError, match=told):
        made(2, 3, SHORT, on_short="error")
    assert made(2, 2, SHORT[1:], on_short="error").short_classes == 0


def test_a_label_is_ignored():
    labels = np.where(np.arange(len(LABELS)) % 4 == 0, -1, LABELS)
    sampler = quiet(labels, 3, 2, ignore_index=-1)
    kept = np.flatnonzero(labels != -1)
    assert len(sampler) == len(kept) // 6 and set(epoch_of(sampler).ravel()) <= set(kept)
    alone = quiet(labels[kept], 3, 2)
    np.testing.assert_array_equal(epoch_of(sampler), kept[epoch_of(alone)])
    assert -1 in labels[epoch_of(quiet(labels, 9, 2))]  # a class as any other where it is not ignored
    for dtype in (np.uint8, np.uint64):  # which has no -1
        np.testing.assert_array_equal(
            epoch_of(made(labels=LABELS + 2)), epoch_of(made(labels=(LABELS + 2).astype(dtype), ignore_index=-1))
        )


# Labels


@pytest.mark.parametrize(
    "kind",
    [
        *(f"uint{bits}" for bits in (8, 16, 32, 64)),
        *(f"int{bits}" for bits in (8, 16, 32, 64)),
        *(">i4", "list", "tuple", "list of tensors", "not contiguous"),
    ],
)
def test_labels_of_any_kind(kind):
    expected = epoch_of(made(labels=torch.from_numpy(LABELS) + 2))
    ints = (LABELS + 2).tolist()
    if "int" in kind:
        given = [np.array(ints, kind), torch.tensor(ints, dtype=getattr(torch, kind))]
    else:
        strided = np.stack([ints, ints], 1)[:, 0]
        given = {
            ">i4": [np.array(ints, ">i4")],
            "list": [ints],
            "tuple": [tuple(ints)],
            "list of tensors": [list(torch.tensor(ints))],
            "not contiguous": [strided, torch.from_numpy(strided)],
        }[kind]
    for labels in given:
        np.testing.assert_array_equal(epoch_of(made(labels=labels)), expected)


def test_labels_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": LABELS}, index=np.arange(len(LABELS))[::-1])  # rows are counted, not named
    expected = epoch_of(made())
    for column in (frame.label, frame.label.astype("int16"), frame.label.astype("Int64")):
        np.testing.assert_array_equal(epoch_of(made(labels=column)), expected)


def test_labels_that_are_bool_or_far_apart():
    flags = torch.arange(20) % 3 == 0
    for labels in (flags, flags.numpy(), flags.tolist()):
        np.testing.assert_array_equal(epoch_of(made(2, 3, labels)), epoch_of(made(2, 3, flags.long())))
    for dtype in (np.int64, np.uint64):
        ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, np.iinfo(dtype).max - 1], dtype)
        labels = ends[np.arange(30) % 3]
        numbered = np.unique(labels, return_inverse=True)[1]
        np.testing.assert_array_equal(epoch_of(made(2, 3, labels)), epoch_of(made(2, 3, numbered)))
        assert made(2, 3, labels).num_classes == 3


def test_many_classes():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100_000), 10))
    begun = time.process_time()
    sampler = made(64, 4, labels, num_replicas=8, rank=5)
    batches = list(itertools.islice(sampler, 200))
    assert time.process_time() - begun < 5  # about 0.8: a second says nothing on a busy machine
    assert len(set(itertools.chain(*batches))) == 200 * 256 and sampler.num_classes == 100_000


# Resuming


def test_a_state_goes_on_where_it_was():
    whole = [epoch_of(made(), epoch) for epoch in range(3)]
    length = len(whole[0])
    for epoch, batch in itertools.product(range(2), range(1, length + 1)):
        sampler = made()
        sampler.set_epoch(epoch)
        going = iter(sampler)
        assert len(list(itertools.islice(going, batch))) == batch
        state = json.loads(json.dumps(sampler.state_dict()))
        assert state == {"seed": 0, "epoch": epoch, "batch": batch, "finished": batch == length}

        resumed = made(seed=9)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state and len(resumed) == length
        rest = list(resumed)
        if batch < length:
            np.testing.assert_array_equal(rest, whole[epoch][batch:])
            np.testing.assert_array_equal(rest, list(going))
        else:  # a finished epoch is followed by the next
            np.testing.assert_array_equal(rest, whole[epoch + 1])
        assert resumed.epoch == epoch + (batch == length)
        np.testing.assert_array_equal(list(resumed), epoch_of(made(), resumed.epoch))  # the next pass is a whole one
    fresh = made(seed=9)
    fresh.load_state_dict(made().state_dict())
    np.testing.assert_array_equal(list(fresh), whole[0])


def test_an_epoch_told_after_a_state_was_loaded():
    whole = [epoch_of(made(), epoch) for epoch in range(4)]
    state = {"seed": 0, "epoch": 2, "batch": 4, "finished": False}
    for told, expected in ((2, whole[2][4:]), (3, whole[3]), (0, whole[0])):
        sampler = made()
        sampler.load_state_dict(state)
        sampler.set_epoch(told)
        sampler.set_epoch(told)  # as Lightning and Accelerate do
        np.testing.assert_array_equal(list(sampler), expected)
        np.testing.assert_array_equal(epoch_of(sampler, told), whole[told])  # a pass has been: from its beginning
    finished = {"seed": 0, "epoch": 2, "batch": len(whole[2]), "finished": True}
    for told, expected in ((2, []), (3, whole[3])):
        sampler = made()
        sampler.load_state_dict(finished)
        sampler.set_epoch(told)
        np.testing.assert_array_equal(list(sampler), expected)
        np.testing.assert_array_equal(list(sampler), epoch_of(made(), told + 1))


def test_a_batch_to_go_on_from():
    whole = epoch_of(made(), 3)
    sampler = made()
    for batch in (0, 2, len(whole), len(whole) + 1):
        sampler.set_epoch(3, batch)
        sampler.set_epoch(3)
        assert [tuple(each) for each in sampler] == [tuple(each) for each in whole[batch:]]
    np.testing.assert_array_equal(list(sampler), epoch_of(made(), 4))


def test_passes_that_are_abandoned_or_side_by_side():
    whole = [epoch_of(made(), epoch) for epoch in range(3)]
    sampler = made()
    iter(sampler), iter(sampler)  # not asked for a batch: no pass
    one = iter(sampler)
    np.testing.assert_array_equal(list(itertools.islice(one, 2)), whole[0][:2])
    two = iter(sampler)
    np.testing.assert_array_equal(next(two), whole[1][0])
    np.testing.assert_array_equal(list(one), whole[0][2:])  # which does not count any more
    assert sampler.state_dict() == {"seed": 0, "epoch": 1, "batch": 1, "finished": False}
    np.testing.assert_array_equal(list(two), whole[1][1:])
    three = iter(sampler)
    sampler.set_epoch(0)  # told before the first batch is asked for
    np.testing.assert_array_equal(list(three), whole[0])


# Loaders


@pytest.mark.parametrize("persistent", [False, True])
def test_loaders_with_workers(persistent):
    whole = [epoch_of(made(), epoch) for epoch in range(3)]
    sampler = made()
    loader = DataLoader(Rows(), batch_sampler=sampler, num_workers=2, persistent_workers=persistent)
    assert len(loader) == len(whole[0])
    for epoch in range(2):
        np.testing.assert_array_equal(torch.stack(list(loader)), whole[epoch])
    batches = iter(loader)
    trained = [next(batches).tolist() for _ in range(2)]
    del batches
    assert sampler.state_dict()["batch"] > 2  # of what was asked for ahead
    sampler = made()
    sampler.set_epoch(2, len(trained))
    rest = list(DataLoader(Rows(), batch_sampler=sampler, num_workers=2))
    np.testing.assert_array_equal(trained + [each.tolist() for each in rest], whole[2])


def test_a_loss_over_a_batch_with_copies():
    """Copies of a row, augmented anew, never pair where their numbers are told."""
    sampler = quiet(SHORT, 4, 5)
    (batch,) = epoch_of(sampler)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(SHORT), 6, generator=generator, dtype=torch.float64)[batch]
    rows = (rows + 0.1 * torch.randn(rows.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    arguments = {"labels": torch.from_numpy(SHORT[batch]), "margin": 3.0, "sample_ids": torch.from_numpy(batch)}
    results = []
    for function in (batch_hard_triplet_loss, reference.batch_hard_triplet_loss):
        loss, stats = function(rows, **arguments, reduction="none", return_stats=True)
        results.append((loss, *torch.autograd.grad(loss.sum(), rows)))
        assert stats.missing_positive.item() == 5  # the class of one row has only copies
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    arguments.pop("sample_ids")
    with_copies = batch_hard_triplet_loss(rows, **arguments, reduction="none")
    assert len(with_copies) == len(batch) and (with_copies[SHORT[batch] == 3] > 0).all()


# Arguments


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"p": 1}, ValueError, "classes_per_batch must be at least 2; got 1"),
        ({"p": 9}, ValueError, "classes_per_batch must be at most 8, the number of classes in labels; got 9"),
        ({"p": 2.0}, TypeError, "classes_per_batch must be an int; got float"),
        ({"k": 1}, ValueError, "samples_per_class must be at least 2; got 1"),
        ({"k": True}, TypeError, "samples_per_class must be an int; got bool"),
        ({"batches_per_epoch": 0}, ValueError, "batches_per_epoch must be at least 1; got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"seed": None}, TypeError, "seed must be an int; got NoneType"),
        ({"rank": 0}, ValueError, "num_replicas and rank must be given together; got rank and no num_replicas"),
        ({"num_replicas": 2}, ValueError, "num_replicas and rank must be given together; got num_replicas and no rank"),
        ({"rank": 2, "num_replicas": 2}, ValueError, "rank must be below num_replicas, 2; got 2"),
        ({"rank": -1, "num_replicas": 2}, ValueError, "rank must be at least 0; got -1"),
        ({"on_short": "drop"}, ValueError, "on_short must be one of repeat, skip, error; got 'drop'"),
        ({"on_short": None}, TypeError, "on_short must be a str, one of repeat, skip, error; got NoneType"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an int or None; got float"),
        ({"labels": []}, ValueError, "labels must have at least one row; got none"),
        ({"labels": 3}, ValueError, r"labels must have shape \[M\], a class for every row; got \[\]"),
        ({"labels": torch.zeros(4, 2).long()}, ValueError, r"labels must have shape \[M\].*; got \[4, 2\]"),
        ({"labels": torch.zeros(4)}, TypeError, "labels must be integers or bool; got float32: number them with"),
        ({"labels": ["a", "b"]}, TypeError, "labels must be integers or bool; got <U1: number them with"),
        ({"labels": torch.zeros(4).long().to_sparse()}, ValueError, "labels must be a dense tensor"),
        ({"labels": [4, 4], "ignore_index": 4}, ValueError, "classes_per_batch must be at most 0"),
        (
            {"labels": SHORT, "k": 3, "on_short": "skip"},
            ValueError,
            "classes_per_batch must be at most 2, the number of classes of at least 3 rows in labels; got 3",
        ),
    ],
)
def test_wrong_arguments(changed, error, message):
    with pytest.raises(error, match=f"^{message}"):
        made(**changed)


def test_wrong_epochs():
    for arguments, message in (((-1,), "epoch must be at least 0; got -1"), ((0, -1), "batch must be at least 0")):
        with pytest.raises(ValueError, match=message):
            made().set_epoch(*arguments)
    with pytest.raises(TypeError, match="epoch must be an int; got float"):
        made().set_epoch(1.0)
    sampler = made()
    with pytest.warns(UserWarning, match=rf"batch 1000 is beyond the {len(sampler)} of an epoch"):
        sampler.set_epoch(0, 1000)
    with pytest.raises(ValueError, match=r"state must be what state_dict gave; got none of its \['finished', 'seed'\]"):
        sampler.load_state_dict({"epoch": 1, "batch": 2})


def test_integers_of_numpy_are_integers():
    sampler = made(np.int64(3), np.int32(3), seed=np.int64(4))
    sampler.set_epoch(np.int64(2), np.int64(1))
    np.testing.assert_array_equal(list(sampler), epoch_of(made(seed=4), 2)[1:])
    assert json.loads(json.dumps(sampler.state_dict()))["epoch"] == 2
