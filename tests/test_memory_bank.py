"""CrossBatchMemory: a ring of slots, as references of any loss."""

import copy
import io
import pickle

import pytest
import torch

import fasttriplet
from fasttriplet import CrossBatchMemory
from tests.family import NAMES


def rows(n, start=0, dim=2):
    numbers = torch.arange(start, start + n)
    return numbers[:, None].expand(n, dim).float(), numbers


def filled(size, *counts, dtype=torch.float32):
    memory, start = CrossBatchMemory(size, 2, dtype=dtype), 0
    for count in counts:
        memory.enqueue(*rows(count, start))
        start += count
    return memory


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
    embeddings, found = memory.references()
    assert found.tolist() == labels and embeddings[:, 1].tolist() == labels
    assert memory.ages().tolist() == ages and memory.self_indices().tolist() == own
    assert len(memory) == len(labels)


def test_references_are_views_written_in_place():
    memory = filled(4, 4)
    embeddings, labels = memory.references()
    memory.enqueue(*rows(1, 9))
    assert embeddings[0, 0] == 9 and labels[0] == 9
    assert embeddings.data_ptr() == memory.embeddings.data_ptr() and not embeddings.requires_grad


def test_reset():
    memory = filled(4, 3)
    memory.reset()
    assert len(memory) == 0 and memory.references()[0].shape == (0, 2) and memory.self_indices().shape == (0,)
    memory.enqueue(*rows(1))
    assert memory.ages().tolist() == [0]


def test_state_goes_with_the_state_dict():
    memory = filled(5, 3, 4)
    stream = io.BytesIO()
    torch.save(memory.state_dict(), stream)
    stream.seek(0)
    loaded = CrossBatchMemory(5, 2)
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (loaded, copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert set(twin.state_dict()) == {"embeddings", "labels", "steps", "_extra_state"}
        assert torch.equal(twin.ages(), memory.ages()) and torch.equal(twin.self_indices(), memory.self_indices())
        twin.enqueue(*rows(2, 7))
        assert twin.references()[1].tolist() == [5, 6, 7, 8, 4]
    assert memory.references()[1].tolist() == [5, 6, 2, 3, 4]
    with pytest.raises(RuntimeError, match="size mismatch"):
        CrossBatchMemory(6, 2).load_state_dict(memory.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_batch_in_memory_is_the_batch(dtype):
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(12, 4, generator=generator), torch.arange(12) // 3
    embeddings = embeddings.bfloat16().float() if dtype == torch.bfloat16 else embeddings.half().float()
    memory = CrossBatchMemory(20, 4, dtype=dtype)
    memory.enqueue(embeddings, labels)
    references, ref_labels = memory.references()
    for name in NAMES:
        function = getattr(fasttriplet, f"{name}_triplet_loss")
        loss = function(
            embeddings, labels, ref_embeddings=references, ref_labels=ref_labels, self_indices=memory.self_indices()
        )
        torch.testing.assert_close(loss.float(), function(embeddings, labels), rtol=1e-5, atol=1e-6)


def test_training_with_a_memory():
    torch.manual_seed(0)
    model, memory = torch.nn.Linear(6, 4), CrossBatchMemory(64, 4)
    centres = torch.randn(8, 6)
    loss_function = fasttriplet.BatchHardTripletLoss(soft_margin=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        labels = torch.randint(0, 8, (16,))
        embeddings = model(centres[labels] + 0.3 * torch.randn(16, 6))
        memory.enqueue(embeddings, labels)
        references, ref_labels = memory.references()
        loss = loss_function(
            embeddings, labels, ref_embeddings=references, ref_labels=ref_labels, self_indices=memory.self_indices()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[5:15])


@pytest.mark.parametrize("shape", [(16, 2), (4, 2), (8, 3)])
def test_a_state_of_another_shape_is_refused_and_changes_no_place(shape):
    memory = filled(8, 5)
    before = [buffer.clone() for buffer in memory.buffers()]
    state = CrossBatchMemory(*shape).state_dict()
    for strict in (True, False):
        with pytest.raises(
            RuntimeError, match=rf"embeddings: must have shape \[8, 2\]; got \[{shape[0]}, {shape[1]}\]"
        ):
            memory.load_state_dict(state, strict=strict)
    assert len(memory) == 5
    for kept, was in zip(memory.buffers(), before, strict=True):
        assert torch.equal(kept, was)


def test_enqueue_between_loss_and_backward_is_an_error():
    memory = filled(8, 8)
    embeddings = torch.randn(4, 2, requires_grad=True)
    references, labels = memory.references()
    loss = fasttriplet.batch_hard_triplet_loss(
        embeddings, torch.arange(4), ref_embeddings=references, ref_labels=labels
    )
    memory.enqueue(*rows(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


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
    with pytest.raises(ValueError, match=r"dtype must be a floating dtype; got torch\.int64"):
        CrossBatchMemory(2, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype; got str"):
        CrossBatchMemory(2, 2, dtype="float32")


@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "match"),
    [
        ([[0.0]], torch.zeros(1).long(), TypeError, r"embeddings must be a torch\.Tensor; got list"),
        (torch.zeros(3, 2), [0, 0, 0], TypeError, r"labels must be a torch\.Tensor; got list"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), ValueError, "embeddings must have a floating dtype; got"),
        (torch.zeros(3, 2), torch.zeros(3), ValueError, "labels must have an integer dtype or bool; got torch.float32"),
        (torch.zeros(3, 5), torch.zeros(3).long(), ValueError, r"embeddings must have shape \[N, 2\]; got \[3, 5\]"),
        (torch.zeros(3, 2), torch.zeros(4).long(), ValueError, r"labels must have shape \[3\] to match .* got \[4\]"),
        (torch.zeros(3, 2, device="meta"), torch.zeros(3).long(), ValueError, "embeddings must be on the memory's"),
    ],
)
def test_wrong_batches(embeddings, labels, error, match):
    with pytest.raises(error, match=match):
        CrossBatchMemory(4, 2).enqueue(embeddings, labels)
