"""Losses over all ranks in training: DistributedDataParallel and FSDP2 end with the parameters of one process."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fasttriplet
from tests.distributed.ranks import sizes, whole_results

RANKS = (2, 3)
STEPS, N = 3, 24
LOSSES = ("batch_hard", "semi_hard", "batch_all", "weighted")
WAYS = ("ddp", "fsdp", "uneven", "accumulated", "checkpointed", "autocast", "compiled")
#: Sums of a rank's part and of all parts run in another order than those of one process: of the matrix products of
#: forward and backward, and of DDP's average. Of order one each, three steps of them.
TOLERANCE = 2e-6


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(N, 16, generator=generator), torch.arange(N) % 7


def trained(way, name, model, parts, **options):
    """The parameters after some steps; ``parts`` says which rows of a batch are this process's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    function = getattr(fasttriplet, f"{name}_triplet_loss")

    def loss_of(x, y):
        rows = checkpoint(model, x, use_reentrant=False) if way == "checkpointed" else model(x)
        return function(rows, y, margin=1.0, **options)

    if way == "compiled":
        loss_of = torch.compile(loss_of, backend="aot_eager")
    losses = []
    for step in range(STEPS):
        x, y = (each[parts] for each in batch(step))
        optimizer.zero_grad()
        if way == "accumulated":
            quiet = model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()
            with quiet:
                loss_of(x, y).backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
            loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), [parameter.detach() for parameter in model.parameters()]


def on_a_rank(way, name, ranks, rank, group):
    model = net()
    if way == "fsdp":
        mesh = init_device_mesh("cpu", (ranks,))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    else:
        model = DistributedDataParallel(model, process_group=group)
    shares = sizes(N, ranks, "uneven" if way == "uneven" else "even")
    first = sum(shares[:rank])
    losses, parameters = trained(way, name, model, slice(first, first + shares[rank]), process_group=group)
    return losses, [each.full_tensor() if hasattr(each, "full_tensor") else each for each in parameters]


def scaler_skips(rank, group):
    """An infinite row on one rank: GradScaler leaves the parameters of all as they were, and then goes on."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 3), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    found = []
    for step in range(3):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(10 * step + rank))
        if step == 1 and rank == 1:
            x[0, 0] = torch.inf
        optimizer.zero_grad()
        loss = fasttriplet.batch_hard_triplet_loss(model(x), torch.arange(6) // 2, margin=2.0, process_group=group)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append((scaler.get_scale(), model.module.weight.detach().clone()))
    return found


def second_derivative(rank, group):
    x = torch.randn(6, 4, requires_grad=True)
    raised = []
    for name in LOSSES:
        loss = getattr(fasttriplet, f"{name}_triplet_loss")(x, torch.arange(6) // 2, margin=2.0, process_group=group)
        try:
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            gradient.sum().backward()
            raised.append(None)
        except (NotImplementedError, RuntimeError) as error:
            raised.append(str(error))
    return raised


def gone_back_twice(rank, group):
    """What is kept for the way back is let go of by it."""
    raised = []
    for name in LOSSES:
        x = torch.randn(6, 4, requires_grad=True)
        loss = getattr(fasttriplet, f"{name}_triplet_loss")(x, torch.arange(6) // 2, margin=2.0, process_group=group)
        loss.backward(retain_graph=True)
        first = x.grad.clone()
        loss.backward()
        assert torch.equal(x.grad, 2 * first)
        try:
            loss.backward()
            raised.append(None)
        except RuntimeError as error:
            raised.append(str(error))
    return raised


def under_vmap(rank, group):
    def loss(x):
        return fasttriplet.batch_hard_triplet_loss(x, torch.arange(6) // 2, process_group=group)

    with pytest.raises(NotImplementedError) as raised:
        torch.func.grad(loss)(torch.randn(6, 4))
    return str(raised.value)


def work(ranks):
    if ranks not in RANKS:
        return {}
    asked = {f"{way} {name}": partial(on_a_rank, way, name, ranks) for way in WAYS for name in LOSSES}
    return {**asked, "scaler": scaler_skips, "second": second_derivative, "twice": gone_back_twice, "vmap": under_vmap}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranks", RANKS)
def test_parameters_are_those_of_one_process(ranks, way, name, found):
    results = whole_results(found(ranks)[f"{way} {name}"])
    losses, parameters = trained(way, name, net(), slice(None))
    start = [parameter.detach() for parameter in net().parameters()]
    tolerance = 3e-2 if way == "autocast" else TOLERANCE  # half precision rounds products to 8 bits
    for of_rank in results:
        torch.testing.assert_close(of_rank[0], losses, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(of_rank[0], results[0][0], rtol=0, atol=0)
        for value, expected, first in zip(of_rank[1], parameters, results[0][1], strict=True):
            torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(value, first, rtol=0, atol=0)
        # By how far they have moved, too, which is little: half of the gradient would else pass for a rounding.
        moved, should = (
            torch.cat([(each - before).flatten() for each, before in zip(parameters_of, start, strict=True)])
            for parameters_of in (of_rank[1], parameters)
        )
        assert (moved - should).norm() < (0.2 if way == "autocast" else 1e-3) * should.norm()


@pytest.mark.parametrize("ranks", RANKS)
def test_all_ranks_skip_a_step_together(ranks, found):
    results = whole_results(found(ranks)["scaler"])
    for steps in results:
        assert [scale for scale, _ in steps] == [4.0, 2.0, 2.0]
        assert torch.equal(steps[0][1], steps[1][1]) and not torch.equal(steps[1][1], steps[2][1])
        assert torch.equal(steps[2][1], results[0][2][1])


def test_a_second_derivative_is_refused_on_all_ranks(found):
    for raised in whole_results(found(2)["second"]):
        for name, text in zip(LOSSES, raised, strict=True):
            assert text is not None and "differentiable once" in text, name


def test_transforms_are_refused_by_name(found):
    for text in whole_results(found(2)["vmap"]):
        assert text.startswith("process_group must be None under a transform of torch.func")


def test_the_processes_are_gone():
    assert not dist.is_initialized()


def test_a_graph_is_gone_back_through_once(found):
    for raised in whole_results(found(2)["twice"]):
        for name, text in zip(LOSSES, raised, strict=True):
            assert text is not None and "second time" in text, name
