"""grad_cache over several processes: DistributedDataParallel and FSDP2 synchronise once, with the last chunk."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fasttriplet
from tests.distributed.ranks import sizes, whole_results

RANKS, N = 2, 22


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8)).double()


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 16, generator=generator, dtype=torch.float64), torch.arange(N) % 5


def on_a_rank(way, rank, group):
    model = net()
    if way == "fsdp":
        mesh = init_device_mesh("cpu", (RANKS,))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    else:
        model = DistributedDataParallel(model, process_group=group)
    shares = sizes(N, RANKS, "uneven")  # 5 and 17 rows: chunks of 4, but as many on every rank
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    x, y = (each[own] for each in batch())
    reductions = []
    if way == "ddp":
        model.register_comm_hook(reductions, counted)
    loss = fasttriplet.grad_cache(model, fasttriplet.batch_hard_triplet_loss, x, y, chunk_size=4, process_group=group)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    gradients = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in gradients]
    return loss.detach(), gradients, len(reductions)


def counted(reductions, bucket):
    reductions.append(bucket.index())
    future = torch.futures.Future()
    tensor = bucket.buffer() / RANKS
    torch.distributed.all_reduce(tensor)
    future.set_result(tensor)
    return future


def work(ranks):
    return {f"grad_cache {way}": partial(on_a_rank, way) for way in ("ddp", "fsdp")} if ranks == RANKS else {}


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_the_gradient_is_that_of_one_large_batch(way, found):
    model = net()
    x, y = batch()
    loss = fasttriplet.batch_hard_triplet_loss(model(x), y)
    loss.backward()
    for loss_of_rank, gradients, reductions in whole_results(found(RANKS)[f"grad_cache {way}"]):
        torch.testing.assert_close(loss_of_rank, loss.detach(), rtol=1e-12, atol=0)
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-13)
        assert reductions == (1 if way == "ddp" else 0)
