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


def with_buffers(cached, rank, group):
    """Running statistics, which DistributedDataParallel makes rank 0's at each forward; then a gradient in eval."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8)).double(), process_group=group)
    loss = fasttriplet.BatchHardTripletLoss(process_group=group)
    for step in range(4):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(10 * step + rank), dtype=torch.float64)
        if step == 3:
            model.eval()
        model.zero_grad()
        if cached:
            fasttriplet.grad_cache(model, loss, x, torch.arange(8) // 2, chunk_size=8).backward()
        else:
            loss(model(x), torch.arange(8) // 2).backward()
    return dict(model.module.named_buffers()), [parameter.grad for parameter in model.parameters()]


def wrong(rank, group):
    x = torch.randn(8, 16, dtype=torch.float64)
    given = (x, x[:3]) if rank == 1 else (x, x)
    try:
        fasttriplet.grad_cache(
            net(), fasttriplet.batch_hard_triplet_loss, given, torch.arange(8), chunk_size=4, process_group=group
        )
    except ValueError as error:
        return str(error)


def work(ranks):
    if ranks != RANKS:
        return {}
    asked = {f"grad_cache {way}": partial(on_a_rank, way) for way in ("ddp", "fsdp")}
    asked.update({f"grad_cache buffers {cached}": partial(with_buffers, cached) for cached in (True, False)})
    return {**asked, "grad_cache wrong": wrong}


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


def test_buffers_are_synchronised_as_without_it(found):
    cached, plain = (whole_results(found(RANKS)[f"grad_cache buffers {way}"]) for way in (True, False))
    for (buffers, gradients), (their_buffers, their_gradients) in zip(cached, plain, strict=True):
        assert buffers.keys() == their_buffers.keys() and len(buffers) == 3
        for name, value in buffers.items():
            torch.testing.assert_close(value, their_buffers[name], rtol=1e-12, atol=0)
        for value, expected in zip(gradients, their_gradients, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_what_is_wrong_on_one_rank_is_an_error_on_all(found):
    for text in whole_results(found(RANKS)["grad_cache wrong"]):
        assert text == "inputs must be tensors [N, ...] of one N; got [8, 16], [3, 16] (on rank 1 of process_group)"
