"""Losses and miners over the references of a CrossBatchMemory."""

import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import fasttriplet
from fasttriplet import CrossBatchMemory, reference
from tests.family import NAMES


def random_batch(n, dim, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), torch.randint(0, classes, (n,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_batch_in_memory_is_the_batch(dtype):
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(12, 4, generator=generator), torch.arange(12) // 3
    embeddings = embeddings.bfloat16().float() if dtype == torch.bfloat16 else embeddings.half().float()
    memory = CrossBatchMemory(20, 4, dtype=dtype)
    memory.enqueue(embeddings, labels)
    for name in NAMES:
        function = getattr(fasttriplet, f"{name}_triplet_loss")
        loss = function(embeddings, labels, **memory.references()._asdict())
        torch.testing.assert_close(loss.float(), function(embeddings, labels), rtol=1e-5, atol=1e-6)


def by_hand(memory, broken):
    """The references without the slots ``broken``, as the losses' arguments in float64."""
    found = memory.references()
    left = torch.tensor([slot for slot in range(len(memory)) if slot not in broken])
    own = [left.tolist().index(slot) if slot in left else -1 for slot in found.self_indices.tolist()]
    return {
        "ref_embeddings": found.ref_embeddings[left].double(),
        "ref_labels": found.ref_labels[left],
        "self_indices": torch.tensor(own, dtype=torch.int64),
    }


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_slot_never_filled_pairs_with_nobody(name, multi_hot):
    """One row of the first batch is not finite: NaN in its own step, and its slot is not there in the next one."""
    memory = CrossBatchMemory(32, 4, num_labels=5 if multi_hot else None)
    function = getattr(fasttriplet, f"{name}_triplet_loss")
    for step in range(4):
        x, y = random_batch(10, 4, 3, step)
        y = torch.rand(10, 5, generator=torch.Generator().manual_seed(step)) < 0.3 if multi_hot else y
        if step == 0:
            x[4, 1] = torch.inf
        memory.enqueue(x, y)
        x.requires_grad_()
        loss = function(x, y, **memory.references()._asdict())
        if step == 0:
            assert loss.isnan()
            continue
        loss.backward()
        expected_rows = x.detach().double().requires_grad_()
        broken = {4} if step < 3 else set()  # the fourth batch has written over it
        assert len(memory) == 32 or broken
        expected = getattr(reference, f"{name}_triplet_loss")(expected_rows, y, **by_hand(memory, broken))
        expected.backward()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(x.grad.double(), expected_rows.grad, rtol=1e-4, atol=1e-6)


def test_multi_hot_labels_are_multi_hot():
    x, _ = random_batch(12, 4, 3, 0)
    y = torch.rand(12, 70, generator=torch.Generator().manual_seed(0)) < 0.02
    memory = CrossBatchMemory(12, 4, num_labels=70)
    memory.enqueue(x, y)
    mined = fasttriplet.mine_batch_hard(x, y, **memory.references()._asdict())
    expected = fasttriplet.mine_batch_hard(x, y)
    assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
    assert memory.references().ref_labels.dtype == torch.bool


def test_a_stale_copy_is_no_easy_positive():
    """The same samples one epoch later: what the older network made of each is nearest to it, and is no partner."""
    ids, y = torch.arange(8), torch.arange(8) // 2
    old, _ = random_batch(8, 4, 3, 0)
    new = old + 1e-3
    memory = CrossBatchMemory(32, 4)
    memory.enqueue(old, y, sample_ids=ids)
    memory.enqueue(new, y, sample_ids=ids)
    arguments = memory.references()._asdict()
    without = {**arguments, "ref_sample_ids": None}
    assert (fasttriplet.mine_easy_positive(new, y, **without).positives == ids).all()
    mined = fasttriplet.mine_easy_positive(new, y, sample_ids=ids, **arguments)
    assert torch.equal(mined.positives % 8, ids ^ 1)
    expected = reference.mine_easy_positive(
        new.double(), y, sample_ids=ids, **{**arguments, "ref_embeddings": arguments["ref_embeddings"].double()}
    )
    assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
    with pytest.raises(ValueError, match="sample_ids"):  # forgotten for the anchors
        fasttriplet.mine_easy_positive(new, y, **arguments)
    unnumbered = torch.full_like(ids, -1)  # of no sample: nothing is left out
    memory.reset()
    memory.enqueue(old, y, sample_ids=unnumbered)
    memory.enqueue(new, y, sample_ids=unnumbered)
    mined = fasttriplet.mine_easy_positive(new, y, sample_ids=unnumbered, **memory.references()._asdict())
    assert torch.equal(mined.positives, ids)


def test_groups_of_the_memory_never_pair():
    x, y = random_batch(24, 4, 3, 0)
    groups = torch.arange(24) % 3
    memory = CrossBatchMemory(24, 4)
    memory.enqueue(x, y, groups=groups)
    mined = fasttriplet.mine_batch_hard(x, y, groups=groups, **memory.references()._asdict())
    expected = reference.mine_batch_hard(x.double(), y, groups=groups)
    assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
    with pytest.raises(ValueError, match="groups"):  # forgotten for the anchors
        fasttriplet.mine_batch_hard(x, y, **memory.references()._asdict())


def test_the_loss_before_enqueue():
    """Its anchors are not the batch enqueued last: no slot is an own copy, and the first batch has no references."""
    memory = CrossBatchMemory(16, 4)
    for step in range(3):
        x, y = random_batch(8, 4, 3, step)
        with pytest.raises(ValueError, match="self_indices") if step == 0 else pytest.MonkeyPatch.context():
            fasttriplet.batch_hard_triplet_loss(x, y, **memory.references()._asdict())
        found = memory.references()._replace(self_indices=None)
        loss = fasttriplet.batch_hard_triplet_loss(x, y, **found._asdict())
        if step == 0:
            assert loss == 0
        else:
            expected = reference.batch_hard_triplet_loss(
                x.double(), y, ref_embeddings=found.ref_embeddings.double(), ref_labels=found.ref_labels
            )
            torch.testing.assert_close(loss.double(), expected)
        memory.enqueue(x, y)


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
        loss = loss_function(embeddings, labels, **memory.references()._asdict())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[5:15])


def test_enqueue_between_loss_and_backward_is_an_error():
    memory = CrossBatchMemory(8, 2)
    memory.enqueue(*random_batch(8, 2, 8, 0))
    embeddings = torch.randn(4, 2, requires_grad=True)
    found = memory.references()._replace(self_indices=None)
    loss = fasttriplet.batch_hard_triplet_loss(embeddings, torch.arange(4), **found._asdict())
    memory.enqueue(*random_batch(1, 2, 8, 1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_losses_over_the_references_are_traced():
    """Two graphs serve any number of batches, also while the ring fills; with the memory inside each wants its own."""
    torch._dynamo.reset()
    memory, inner, twin = (CrossBatchMemory(28, 4) for _ in range(3))

    def step_inside(x, y):
        inner.enqueue(x, y)
        return fasttriplet.batch_hard_triplet_loss(x, y, **inner.references()._asdict())

    counted, counted_inside = CompileCounterWithBackend("aot_eager"), CompileCounterWithBackend("aot_eager")
    inside = torch.compile(step_inside, backend=counted_inside)
    outside = torch.compile(
        lambda x, y, found: fasttriplet.batch_hard_triplet_loss(x, y, **found), backend=counted, fullgraph=True
    )
    for step in range(5):
        x, y = random_batch(8, 4, 3, step)
        memory.enqueue(x, y)
        twin.enqueue(x, y)
        expected = fasttriplet.batch_hard_triplet_loss(x, y, **twin.references()._asdict())
        assert torch.equal(outside(x, y, memory.references()._asdict()), expected)
        assert torch.equal(inside(x, y), expected)
    assert counted.frame_count <= 2 and counted_inside.frame_count == 5


def test_a_model_that_holds_a_memory_is_scripted_and_exported():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.memory = torch.nn.Linear(4, 4), CrossBatchMemory(8, 4)

        def forward(self, x):
            return self.layer(x)

    model, x = Net(), torch.ones(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(model)
    assert torch.equal(scripted(x), model(x))
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize("given", ["sample_ids", "groups"])
def test_validation_before_the_first_training_batch(given):
    """As trainers do by default: by the same code as in training."""
    memory = fasttriplet.CrossBatchMemory(8, 3)
    rows, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    arguments = {given: torch.arange(4)}
    for train in (False, True, False):
        memory.train(train).enqueue(rows, labels, **arguments)
        loss = fasttriplet.batch_hard_triplet_loss(rows, labels, **arguments, **memory.references()._asdict())
        assert loss.isfinite()
    with pytest.raises(ValueError, match=f"{given} must come with each batch or with none"):
        memory.enqueue(rows, labels)
    fresh = fasttriplet.CrossBatchMemory(8, 3)
    fresh.enqueue(rows[:0], labels[:0])  # says nothing
    fresh.enqueue(rows, labels, **arguments)
    assert len(fresh) == 4
