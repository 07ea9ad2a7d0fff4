"""Run by test_torchrun.py under torchrun, and by it in one process: the losses of some steps, a line each."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fasttriplet import BatchHardTripletLoss
from tests.distributed.ranks import leave

STEPS, N = 4, 20


def steps(rank: int, ranks: int) -> list[float]:
    """Of this rank's rows of each batch."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    group = dist.group.WORLD if dist.is_initialized() else None
    if group is not None:
        model = DistributedDataParallel(model)
    loss_function = BatchHardTripletLoss(margin=1.0, process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for step in range(STEPS):
        x = torch.randn(N, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        own = slice(N * rank // ranks, N * (rank + 1) // ranks)
        optimizer.zero_grad()
        loss = loss_function(model(x[own]), (torch.arange(N) % 5)[own])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    losses = steps(dist.get_rank(), dist.get_world_size())
    with open(f"{os.environ['LOSSES']}/{dist.get_rank()}.txt", "w") as file:  # lines of several processes would mix
        file.writelines(f"{loss!r}\n" for loss in losses)
    leave()


if __name__ == "__main__":
    main()
