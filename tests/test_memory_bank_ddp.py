"""A CrossBatchMemory inside DistributedDataParallel, two processes over gloo: each has its own ring."""

import copy
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.ranks import leave
from tests.memory_model import Net, batch, descend

STEPS, RANKS = 4, 2
PATIENCE = timedelta(minutes=2)  # in place of half an hour: a process that never comes fails the test


def net():
    torch.manual_seed(0)
    model = Net()
    model.register_buffer("other", torch.zeros(3))  # so that buffers are broadcast at each forward
    return model


def inputs(step, rank):
    return batch(STEPS * rank + step)


def work(rank, folder):
    """One process: what it saw goes into a file."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS, timeout=PATIENCE)
    torch.save(trained(rank), f"{folder}/{rank}.pt")
    leave()


def trained(rank):
    model = DistributedDataParallel(net())
    losses = []
    for step in range(STEPS):
        losses.append(model(*inputs(step, rank))["loss"])
        descend(model, losses[-1])
    return {"losses": torch.stack(losses).detach(), "state": model.module.state_dict()}


def by_one_process():
    """The same training: losses [RANKS, STEPS], the state with each rank's memory."""
    model = net()
    memories, losses = [copy.deepcopy(model.memory) for _ in range(RANKS)], torch.zeros(RANKS, STEPS)
    for step in range(STEPS):
        total = 0.0
        for rank, memory in enumerate(memories):
            model.memory = memory
            loss = model(*inputs(step, rank))["loss"]
            losses[rank, step] = loss.detach()
            total = total + loss / RANKS
        descend(model, total)
    states = []
    for memory in memories:
        model.memory = memory
        states.append(model.state_dict())
    return losses, states


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this PyTorch has no gloo")
def test_each_process_has_its_own_memory(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=RANKS)
    losses, states = by_one_process()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for rank in range(RANKS):
        torch.testing.assert_close(found[rank]["losses"], losses[rank])
        torch.testing.assert_close(found[rank]["state"], dict(states[rank]))
    assert not torch.equal(found[0]["state"]["memory.labels"], found[1]["state"]["memory.labels"])

    # A checkpoint is one process's: all of them go on from its memory.
    model = net()
    model.load_state_dict(found[0]["state"])
    torch.testing.assert_close(model.memory.references().ref_embeddings, states[0]["memory.embeddings"])
    assert torch.equal(model.memory.references().ref_labels, states[0]["memory.labels"])
