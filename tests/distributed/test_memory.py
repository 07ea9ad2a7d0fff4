"""A CrossBatchMemory of several processes: the same rows on every rank, or a shard on each."""

from __future__ import annotations

import copy
import pickle
import tempfile
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as checkpoint

import fasttriplet
from fasttriplet import CrossBatchMemory
from fasttriplet.memory import References
from tests.distributed.ranks import sizes, whole_results
from tests.distributed.test_mined import same

RANKS, N, STEPS, SIZE = 3, 12, 4, 30


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(N, 4, generator=generator)
    if step == 2:
        x[5, 0] = torch.nan  # is not kept
    return x, torch.randint(0, 4, (N,), generator=generator), torch.randint(0, 40, (N,), generator=generator)


def part(rank):
    shares = sizes(N, RANKS, "uneven")
    return slice(sum(shares[:rank]), sum(shares[: rank + 1]))


def kept(memory):
    """The references, which are views of a ring that goes on."""
    return References(*(each if each is None else each.clone() for each in memory.references()))


def remembered(rows, **group):
    """Some steps of rows ``rows`` of each batch: references, loss and gradient of each, and the memory afterwards."""
    memory, found = CrossBatchMemory(SIZE, 4, **group), []
    scale = {"gradient_scale": "sum"} if group else {}
    for step in range(STEPS):
        x, labels, ids = (each[rows] for each in batch(step))
        memory.enqueue(x, labels, sample_ids=ids)
        told = memory.references()._asdict()
        x = x.nan_to_num(0).requires_grad_()
        loss = fasttriplet.batch_hard_triplet_loss(x, labels, sample_ids=ids, margin=1.0, **told, **group, **scale)
        loss.backward()
        found.append((kept(memory), loss.detach(), x.grad))
    return found, memory.state_dict(), memory.ages()


def replicated(rank, group):
    return remembered(part(rank), process_group=group)


def sharded(rank, group):
    """Beside one process whose references are the shards of all."""
    memory, found = CrossBatchMemory(10, 4, process_group=group, sharded=True), []
    for step in range(STEPS):
        x, labels, ids = (each[part(rank)] for each in batch(step))
        memory.enqueue(x, labels, sample_ids=ids)
        told = memory.references()._asdict()
        x = x.nan_to_num(0).requires_grad_()
        loss = fasttriplet.semi_hard_triplet_loss(
            x, labels, sample_ids=ids, process_group=group, ref_sharded=True, gradient_scale="sum", margin=1.0, **told
        )
        loss.backward()
        found.append((kept(memory), loss.detach(), x.grad))
    return found


def checkpoints(folder, rank, group):
    """By rank, and all together by torch.distributed.checkpoint."""
    memory = CrossBatchMemory(10, 4, process_group=group, sharded=True)
    memory.enqueue(*(each[part(rank)] for each in batch(0)[:2]))
    model = torch.nn.ModuleDict({"memory": memory})
    names = list(model.state_dict())
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    checkpoint.save(model.state_dict(), checkpoint_id=f"{folder}/all", process_group=group)
    found = {"names": names}
    for way in ("by rank", "all"):
        twin = torch.nn.ModuleDict({"memory": CrossBatchMemory(10, 4, process_group=group, sharded=True)})
        state = twin.state_dict()
        if way == "all":
            checkpoint.load(state, checkpoint_id=f"{folder}/all", process_group=group)
        else:
            state = torch.load(f"{folder}/{rank}.pt", weights_only=True)
        twin.load_state_dict(state)
        found[way] = all(torch.equal(twin.state_dict()[name], value) for name, value in model.state_dict().items())
    torch.distributed.barrier(group)
    try:
        twin.load_state_dict(torch.load(f"{folder}/{(rank + 1) % RANKS}.pt", weights_only=True))
    except RuntimeError as error:
        found["another's"] = str(error)
    return found


def copies(rank, group):
    """A deep copy shares the group; a pickle is refused."""
    loss = fasttriplet.BatchHardTripletLoss(process_group=group)
    memory = CrossBatchMemory(10, 4, process_group=group)
    twins = copy.deepcopy((loss, memory))
    found = [twin.process_group is group for twin in twins]
    for module in (loss, memory):
        try:
            pickle.dumps(module)
        except TypeError as error:
            found.append(str(error))
    return found, repr(CrossBatchMemory(10, 4, process_group=group, sharded=True))


def of_other_shape(rank, group):
    """Memories of one group that differ: they would keep garbage."""
    raised = []
    for told in ({"dim": 5}, {"num_labels": 3}, {"size": 9}, {"dtype": torch.float64}):
        options = {"size": 8, "dim": 4, **(told if rank == 1 else {})}
        memory = CrossBatchMemory(**options, process_group=group)
        labels = torch.ones(6, 3, dtype=torch.bool) if memory.num_labels else torch.arange(6)
        try:
            memory.enqueue(torch.randn(6, memory.dim), labels)
            raised.append(None)
        except ValueError as error:
            raised.append(str(error))
    memory = CrossBatchMemory(8, 4, process_group=group)
    other = CrossBatchMemory(8, 4)
    if rank == 1:  # loads what the others do not
        other.enqueue(torch.randn(3, 4), torch.arange(3))
        memory.load_state_dict(other.state_dict())
    try:
        memory.enqueue(torch.randn(6, 4), torch.arange(6))
    except ValueError as error:
        raised.append(str(error))
    return raised


def disagreeing(rank, group):
    memory = CrossBatchMemory(SIZE, 4, process_group=group)
    labels = torch.arange(6) if rank != 1 else torch.arange(5)
    try:
        memory.enqueue(torch.randn(6, 4), labels)
    except ValueError as error:
        return str(error), len(memory)


def work(ranks):
    if ranks != RANKS:
        return {}
    return {
        "memory replicated": replicated,
        "memory sharded": sharded,
        "memory checkpoints": partial(in_a_folder, checkpoints),
        "memory copies": copies,
        "memory disagreeing": disagreeing,
        "memory of other shape": of_other_shape,
    }


def in_a_folder(function, rank, group):
    """One of all ranks."""
    folder = [tempfile.mkdtemp() if rank == 0 else None]
    torch.distributed.broadcast_object_list(folder, 0)
    return function(folder[0], rank, group)


def test_every_rank_remembers_the_rows_of_all(found):
    expected, state, ages = remembered(slice(None))
    results = whole_results(found(RANKS)["memory replicated"])
    for rank, (steps, of_state, of_ages) in enumerate(results):
        assert of_state.keys() == state.keys()
        for name, value in state.items():
            same(of_state[name], value, name)
        same(of_ages, ages, "ages")
        for (references, loss, gradient), (all_references, all_loss, all_gradient) in zip(steps, expected, strict=True):
            for name, value in all_references._asdict().items():
                if name == "self_indices":
                    value = value[part(rank)]
                if value is not None:
                    same(getattr(references, name), value, name)
            same(loss, all_loss, "loss")
            same(gradient, all_gradient[part(rank)], "gradient")


def test_shards_are_one_set(found):
    results = whole_results(found(RANKS)["memory sharded"])
    for step in range(STEPS):
        x, labels, ids = batch(step)
        x = x.nan_to_num(0).requires_grad_()
        shards, told, first = [result[step][0] for result in results], {}, 0
        for name in ("ref_embeddings", "ref_labels", "ref_mask", "ref_sample_ids"):
            told[name] = torch.cat([getattr(shard, name) for shard in shards])
        copies_found = []
        for shard in shards:
            copies_found.append(torch.where(shard.self_indices < 0, -1, shard.self_indices + first))
            first += len(shard.ref_labels)
        loss = fasttriplet.semi_hard_triplet_loss(
            x, labels, sample_ids=ids, self_indices=torch.cat(copies_found), margin=1.0, **told
        )
        loss.backward()
        for result in results:
            same(result[step][1], loss.detach(), "loss")
        same(torch.cat([result[step][2] for result in results]), x.grad, "gradient")


def test_checkpoints_say_whose_shard_they_are(found):
    for rank, result in enumerate(whole_results(found(RANKS)["memory checkpoints"])):
        assert f"memory.embeddings_{rank + 1}of{RANKS}" in result["names"]
        assert result["by rank"] and result["all"]
        assert f"memory.embeddings_{rank + 1}of{RANKS}" in result["another's"]


def test_a_copy_shares_the_group_and_a_pickle_is_refused(found):
    for result, shown in whole_results(found(RANKS)["memory copies"]):
        assert result[:2] == [True, True]
        assert len(result) == 4 and all("cannot be pickled" in text for text in result[2:])
        assert shown == "CrossBatchMemory(size=10, dim=4, dtype=torch.float32, sharded=True)"


def test_what_is_wrong_with_one_ranks_batch_is_an_error_on_all(found):
    for text, kept in whole_results(found(RANKS)["memory disagreeing"]):
        assert text.endswith("(on rank 1 of process_group)") and kept == 0


def test_a_sharded_memory_needs_processes():
    with pytest.raises(ValueError, match="process_group must be given where sharded is true"):
        CrossBatchMemory(10, 4, sharded=True)


def test_memories_of_a_group_are_alike(found):
    names = ("dim", "num_labels", "size", "dtype", "what the memory has kept so far")
    for raised in whole_results(found(RANKS)["memory of other shape"]):
        for name, text in zip(names, raised, strict=True):
            assert text is not None and text.startswith(f"{name} must be the same on every rank of process_group"), text
