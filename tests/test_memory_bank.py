"""CrossBatchMemory: what its slots hold, and what it refuses."""

import random

import pytest
import torch

from fasttriplet import CrossBatchMemory

INF, NAN = float("inf"), float("nan")


def rows(n, start=0, dim=2):
    numbers = torch.arange(start, start + n)
    return numbers[:, None].expand(n, dim).float(), numbers


def filled(size, *counts, dtype=torch.float32):
    memory, start = CrossBatchMemory(size, 2, dtype=dtype), 0
    for count in counts:
        memory.enqueue(*rows(count, start))
        start += count
    return memory


# The ring.


@pytest.mark.parametrize(
    ("counts", "labels", "ages", "own"),
    [
        ([], [], [], []),
        ([3], [0, 1, 2], [0, 0, 0], [0, 1, 2]),
        ([3, 2], [0, 1, 2, 3, 4], [1, 1, 1, 0, 0], [3, 4]),
        ([3, 3], [5, 1, 2, 3, 4], [0, 1, 1, 0, 0], [3, 4, 0]),
        ([5], [0, 1, 2, 3, 4], [0] * 5, [0, 1, 2, 3, 4]),
        ([7], [2, 3, 4, 5, 6], [0] * 5, [-1, -1, 0, 1, 2, 3, 4]),
        ([2, 7], [7, 8, 4, 5, 6], [0] * 5, [-1, -1, 2, 3, 4, 0, 1]),
        ([4, 0], [0, 1, 2, 3], [1] * 4, []),
        ([4, 4, 4], [10, 11, 7, 8, 9], [0, 0, 1, 0, 0], [3, 4, 0, 1]),
    ],
)
def test_slots(counts, labels, ages, own):
    memory = filled(5, *counts)
    found = memory.references()
    assert found.ref_labels.tolist() == labels and found.ref_embeddings[:, 1].tolist() == labels
    assert memory.ages().tolist() == ages and found.self_indices.tolist() == own
    assert found.ref_mask.tolist() == [True] * len(labels) and len(memory) == len(labels)
    assert found.ref_sample_ids is None and found.ref_groups is None


class Ring:
    """What a memory is to hold, slot by slot in plain Python: (row, label, sample id, group, step), or None."""

    def __init__(self, size):
        self.slots, self.place, self.step, self.reached = [None] * size, 0, 0, 0

    def enqueue(self, batch):
        """The slots of the batch's rows."""
        own = []
        for at, (row, *rest) in enumerate(batch):
            if at < len(batch) - len(self.slots):
                own.append(-1)
                continue
            finite = all(-INF < value < INF for value in row)
            if finite:
                self.slots[self.place] = (row, *rest, self.step)
            own.append(self.place if finite else -1)
            self.place = (self.place + 1) % len(self.slots)
            self.reached = min(self.reached + 1, len(self.slots))
        self.step += 1
        return own


@pytest.mark.parametrize("seed", range(30))
def test_memory_is_the_ring(seed):
    chance = random.Random(seed)
    size, count, multi_hot = chance.randint(1, 9), 0, seed % 2 == 1
    memory, ring = CrossBatchMemory(size, 3, num_labels=4 if multi_hot else None), Ring(size)
    for _ in range(12):
        n = chance.randint(0, 7)
        x = torch.arange(count, count + n)[:, None].expand(n, 3).double().clone()
        for row in range(n):
            if chance.random() < 0.3:
                x[row, chance.randrange(3)] = chance.choice([INF, -INF, NAN])
        y = torch.rand(n, 4) < 0.5 if multi_hot else torch.arange(count, count + n, dtype=torch.int32)
        ids, groups = torch.arange(n) + 100 * count, torch.arange(n, dtype=torch.int16) % 3
        own = ring.enqueue(list(zip(x.tolist(), y.tolist(), ids.tolist(), groups.tolist(), strict=True)))
        memory.enqueue(x, y, sample_ids=ids, groups=groups)
        count += n

        found = memory.references()
        assert found.self_indices.tolist() == own and len(memory) == ring.reached == len(found.ref_labels)
        expected = ring.slots[: ring.reached]
        assert found.ref_mask.tolist() == [slot is not None for slot in expected]
        kept = (found.ref_embeddings, found.ref_labels, found.ref_sample_ids, found.ref_groups, memory.ages())
        for slot, *values in zip(expected, *(value.tolist() for value in kept), strict=True):
            if slot is None:
                assert values[-1] == -1
            else:
                assert values == [*slot[:4], ring.step - 1 - slot[4]]


def test_references_are_views_written_in_place():
    memory = filled(4, 4)
    before = memory.references()
    memory.enqueue(*rows(1, 9))
    assert before.ref_embeddings[0, 0] == 9 and before.ref_labels[0] == 9
    assert before.ref_embeddings.data_ptr() == memory.references().ref_embeddings.data_ptr()
    assert not before.ref_embeddings.requires_grad


def test_reset():
    memory = CrossBatchMemory(4, 2)
    memory.enqueue(*rows(3), groups=torch.arange(3))
    memory.reset()
    assert len(memory) == 0 and memory.references().ref_embeddings.shape == (0, 2)
    assert memory.references().self_indices.shape == (0,) and memory.references().ref_groups is None
    memory.enqueue(*rows(1))
    assert memory.ages().tolist() == [0]


@pytest.mark.parametrize("name", ["sample_ids", "groups"])
def test_batches_come_with_the_same(name):
    memory = CrossBatchMemory(8, 2)
    assert memory.references()._asdict()[f"ref_{name}"] is None
    memory.enqueue(*rows(2), **{name: torch.tensor([5, 6], dtype=torch.int8)})
    assert memory.references()._asdict()[f"ref_{name}"].tolist() == [5, 6]
    with pytest.raises(ValueError, match=rf"{name} must come with each batch or with none .* got none after batches w"):
        memory.enqueue(*rows(2))
    memory.reset()
    memory.enqueue(*rows(2))
    with pytest.raises(ValueError, match=rf"{name} must come with .* got {name} after batches without"):
        memory.enqueue(*rows(2), **{name: torch.tensor([5, 6])})
    assert len(memory) == 2 and memory.references()._asdict()[f"ref_{name}"] is None


def test_nothing_is_kept_in_eval_mode():
    memory = filled(8, 4)
    before = memory.state_dict()
    memory.eval()
    memory.enqueue(*rows(3, 90))
    for training in (False, True):
        memory.train(training)
        assert memory.references().self_indices.tolist() == [-1, -1, -1] and len(memory) == 4
        assert memory.references().ref_sample_ids is None
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    memory.enqueue(*rows(4, 4))
    assert memory.references().ref_labels.tolist() == list(range(8)) and memory.ages().tolist() == [1] * 4 + [0] * 4
    memory.eval()  # a batch of validation that was not enqueued is not the one of training
    assert memory.references().self_indices.tolist() == [-1] * 4


@pytest.mark.parametrize("value", [INF, -INF, NAN, 1e5])
def test_a_row_that_is_not_finite_as_stored_leaves_its_slot(value):
    memory = filled(4, 4, dtype=torch.float16)
    x, y = rows(3, 50)
    x = x.clone()
    x[1, 0] = value
    memory.enqueue(x, y)
    found = memory.references()
    assert found.ref_labels.tolist() == [50, 1, 52, 3] and found.ref_embeddings[:, 0].tolist() == [50, 1, 52, 3]
    assert found.self_indices.tolist() == [0, -1, 2] and memory.ages().tolist() == [0, 1, 0, 1]


def test_nothing_waits_for_the_device():
    """Whatever reads a value of a tensor raises on the meta device."""
    device = "meta"
    memory = CrossBatchMemory(4, 2, num_labels=3).to(device)
    for n in (3, 6):
        x, y = torch.zeros(n, 2, device=device), torch.zeros(n, 3, dtype=torch.bool, device=device)
        numbers = torch.zeros(n, dtype=torch.int64, device=device)
        memory.enqueue(x, y, sample_ids=numbers, groups=numbers)
        assert all(value.device.type == device for value in memory.references()) and memory.ages().is_meta
    assert memory.references().ref_labels.shape == (4, 3)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 2), ValueError, "size must be at least 1 and at most 2.31 - 1; got 0"),
        ((2.0, 2), TypeError, "size must be an int; got float"),
        ((2, -1), ValueError, "dim must be at least 1 and at most 2.31 - 1; got -1"),
        ((2, True), TypeError, "dim must be an int; got bool"),
    ],
)
def test_wrong_sizes(arguments, error, match):
    with pytest.raises(error, match=match):
        CrossBatchMemory(*arguments)


def test_wrong_dtypes():
    with pytest.raises(ValueError, match=r"dtype must be float64, float32, float16 or bfloat16; got torch\.int64"):
        CrossBatchMemory(2, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype; got str"):
        CrossBatchMemory(2, 2, dtype="float32")
    with pytest.raises(ValueError, match=r"num_labels must be at least 1 and at most 2.31 - 1; got 0"):
        CrossBatchMemory(2, 2, num_labels=0)


X, Y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "match"),
    [
        ([[0.0]], Y[:1], TypeError, r"embeddings must be a torch\.Tensor; got list"),
        (X, [0, 0, 0], TypeError, r"labels must be a torch\.Tensor; got list"),
        (X.long(), Y, ValueError, r"embeddings must have dtype float64, float32, .*; got torch.int64"),
        (X[..., None, None], Y, ValueError, r"embeddings must have .*: pool or flatten .* of \[N, C, H, W\]"),
        (X, Y.float(), ValueError, "labels must have an integer dtype or bool; got torch.float32"),
        (torch.zeros(3, 5), Y, ValueError, r"embeddings must have shape \[N, 2\]; got \[3, 5\]"),
        (X, torch.zeros(4).long(), ValueError, r"labels must have shape \[3\] to match embeddings \[3, 2\]; got \[4\]"),
        (X, Y[:, None], ValueError, r"labels must have shape \[3\] to .* got \[3, 1\]: pass labels\.squeeze\(1\)"),
        (X, torch.zeros(3, 7).bool(), ValueError, r"labels must have .* got \[3, 7\]: give num_labels=C to the con"),
        (X.to("meta"), Y, ValueError, "embeddings must be on the memory's device, cpu; got meta"),
    ],
)
def test_wrong_batches(embeddings, labels, error, match):
    with pytest.raises(error, match=match):
        CrossBatchMemory(4, 2).enqueue(embeddings, labels)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (torch.zeros(3, 7), "labels must have an integer dtype or bool; got torch.float32"),
        (
            torch.zeros(3, 7).long(),
            r"labels must be bool where they are multi-hot; got torch.int64: pass labels.bool\(\)",
        ),
        (torch.zeros(3, 6).bool(), r"labels must have shape \[3, 7\] to match embeddings \[3, 2\]; got \[3, 6\]"),
        (Y, r"labels must have shape \[3, 7\] to match embeddings \[3, 2\]; got \[3\]"),
    ],
)
def test_wrong_multi_hot_labels(labels, match):
    with pytest.raises(ValueError, match=match):
        CrossBatchMemory(4, 2, num_labels=7).enqueue(X, labels)


@pytest.mark.parametrize("name", ["sample_ids", "groups"])
@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ([0, 1, 2], TypeError, r"must be a torch\.Tensor; got list"),
        (torch.zeros(3), ValueError, "must have an integer dtype.*; got torch.float32"),
        (Y[:, None], ValueError, r"must have shape \[3\] to match embeddings \[3, 2\]; got \[3, 1\]"),
        (Y.to("meta"), ValueError, "must be on the memory's device, cpu; got meta"),
    ],
)
def test_wrong_numbers(name, value, error, match):
    memory = CrossBatchMemory(4, 2)
    with pytest.raises(error, match=f"{name} {match}"):
        memory.enqueue(X, Y, **{name: value})
    assert len(memory) == 0


def test_bool_sample_ids_are_refused_as_by_the_losses_and_bool_groups_are_two():
    memory = CrossBatchMemory(4, 2)
    with pytest.raises(ValueError, match=r"sample_ids must have an integer dtype; got torch\.bool"):
        memory.enqueue(X, Y, sample_ids=Y > 0)
    memory.enqueue(X, Y, groups=Y > 0)
    assert memory.references().ref_groups.tolist() == (Y > 0).long().tolist()


def test_a_dtype_without_arithmetic_is_refused():
    with pytest.raises(ValueError, match=r"dtype must be float64, .*; got torch\.float8_e4m3fn"):
        CrossBatchMemory(8, 4, dtype=torch.float8_e4m3fn)


def test_a_memory_made_or_loaded_in_inference_mode_is_written_to_outside():
    with torch.inference_mode():
        made, loaded = CrossBatchMemory(8, 4), CrossBatchMemory(8, 4)
        loaded.load_state_dict(made.state_dict())
    for memory in (made, loaded):
        memory.enqueue(torch.randn(3, 4), torch.arange(3))
        assert memory.references().ref_mask.tolist() == [True] * 3
