"""A small model that holds a CrossBatchMemory and the loss over it, and how to train it."""

from __future__ import annotations

import torch
from torch import Tensor

import fasttriplet


class Net(torch.nn.Module):
    """Takes [N, 6] to its loss over the memory; also as the trainers of transformers call a model."""

    def __init__(self, size: int = 20, num_labels: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)
        self.memory = fasttriplet.CrossBatchMemory(size, 4, num_labels=num_labels)
        self.loss = fasttriplet.BatchHardTripletLoss(soft_margin=True)

    def forward(
        self, x: Tensor, y: Tensor, sample_ids: Tensor | None = None, groups: Tensor | None = None
    ) -> dict[str, Tensor]:
        rows = self.layer(x)
        self.memory.enqueue(rows, y, sample_ids=sample_ids, groups=groups)
        references = self.memory.references()._asdict()
        return {"loss": self.loss(rows, y, sample_ids=sample_ids, groups=groups, **references)}


def batch(step: int, num_labels: int | None = None, n: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs [n, 6], labels, sample ids and groups."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(0, 4, (n,), generator=generator)
    if num_labels is not None:
        y = torch.rand(n, num_labels, generator=generator) < 0.4
    ids, groups = torch.randint(0, 50, (n,), generator=generator), torch.randint(0, 5, (n,), generator=generator)
    return x, y, ids, groups


def train(model: Net, step: int) -> Tensor:
    """One step of gradient descent on the batch of that number."""
    loss = model(*batch(step, model.memory.num_labels))["loss"]
    descend(model, loss)
    return loss.detach()


def descend(model: torch.nn.Module, loss: Tensor) -> None:
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
