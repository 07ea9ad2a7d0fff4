"""A rank that does not come: the others raise at the time-out, and say what may be wrong."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fasttriplet
from tests.distributed.ranks import whole_results

RANKS = 2
SHORT = timedelta(seconds=2)


def lagging(rank, group):
    """Rank 1 is late by more than the group's patience."""
    impatient = dist.new_group(timeout=SHORT)
    x, y = torch.randn(6, 4), torch.arange(6) // 2
    begin = time.monotonic()
    if rank == 1:
        time.sleep(2 * SHORT.total_seconds())
    try:
        fasttriplet.batch_hard_triplet_loss(x, y, process_group=impatient)
        return None
    except RuntimeError as error:
        return str(error), time.monotonic() - begin


def joined(rank, group):
    """Rank 1 has a batch less, and DistributedDataParallel's join stands in for its model, not for the loss.

    In one group the stand-in's collectives would meet the loss's, which gloo may end by ending the process; so the two
    have groups of their own here.
    """
    patient, impatient = dist.new_group(timeout=4 * SHORT), dist.new_group(timeout=SHORT)
    model = DistributedDataParallel(nn.Linear(4, 3), process_group=patient)
    y, told = torch.arange(6) // 2, []
    try:
        with model.join():
            for _ in range(2 - rank):
                fasttriplet.batch_hard_triplet_loss(model(torch.randn(6, 4)), y, process_group=impatient).backward()
                told.append("a step")
    except RuntimeError as error:
        told.append(str(error))
    return told


def descended(parts, wrap, **group):
    """Losses and the gradient after two batches, of whose rows ``parts`` are this process's."""
    torch.manual_seed(0)
    model = wrap(nn.Linear(4, 3).double())
    losses = []
    for step in range(2):
        x = torch.randn(12, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        if step == 1:
            x = x[:6]  # all of them rank 0's
        rows, labels = (each[parts] for each in (x, torch.arange(12)[: len(x)] // 2))
        loss = fasttriplet.batch_hard_triplet_loss(model(rows), labels, margin=2.0, **group)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses), [parameter.grad for parameter in model.parameters()]


def empty(rank, group):
    """What is done in its place: empty batches."""
    own = slice(6 * rank, 6 * rank + 6)
    return descended(own, lambda model: DistributedDataParallel(model, process_group=group), process_group=group)


def work(ranks):
    return {"absence lagging": lagging, "absence joined": joined, "absence empty": empty} if ranks == RANKS else {}


def test_a_late_rank_is_an_error_at_the_time_out(found):
    first, _ = whole_results(found(RANKS)["absence lagging"])
    text, seconds = first
    assert text.startswith("the ranks of process_group did not all come here")
    assert SHORT.total_seconds() - 1 < seconds < SHORT.total_seconds() + 5


def test_join_ends_at_the_time_out_and_is_named(found):
    first, _ = whole_results(found(RANKS)["absence joined"])
    assert first[0] == "a step" and len(first) == 2
    assert "in place of DistributedDataParallel.join, which is not supported" in first[1]


def test_a_rank_may_have_no_rows_left(found):
    losses, gradients = descended(slice(None), lambda model: model)
    for of_rank, gradients_of_rank in whole_results(found(RANKS)["absence empty"]):
        torch.testing.assert_close(of_rank, losses, rtol=1e-12, atol=0)
        for value, expected in zip(gradients_of_rank, gradients, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("process_group", ["gloo", 3, object()])
def test_what_is_no_group_is_refused_where_it_is_given(process_group):
    with pytest.raises(TypeError, match=r"process_group must be a torch\.distributed\.ProcessGroup"):
        fasttriplet.BatchHardTripletLoss(process_group=process_group)
