"""One network with its optimiser and its loss: a training step and its state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from examples.resnet50.losses import LossFunction
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.schedule import Schedule


@dataclass(frozen=True)
class StepResult:
    """What one step computed, before the parameters moved."""

    loss: float
    gradient_norm: float  # over all trained parameters
    active: float  # share of anchors whose negative is not yet far enough: loss > 0, soft margin: d_ap > d_an
    embeddings: Tensor  # [N, D] detached
    embedding_gradient: Tensor  # [N, D]


class Learner:
    """Trains ``model`` with ``loss`` by Adam; ``name`` is what reports call it."""

    def __init__(
        self, name: str, model: EmbeddingNet, loss: LossFunction, schedule: Schedule, *, amp: bool, soft_margin: bool
    ):
        self.name = name
        self.model = model
        self.loss = loss
        self.schedule = schedule
        self.amp = amp
        self.threshold = math.log(2) if soft_margin else 0.0
        self.optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr, fused=True)

    def _prepare(self, step: int) -> None:
        """A resting body has no gradients (Adam then skips it) and keeps its batch-norm statistics."""
        frozen = self.schedule.is_frozen(step)
        self.model.train()
        self.model.body.requires_grad_(not frozen)
        self.model.body.train(not frozen)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)

    def train_step(self, step: int, images: Tensor, labels: Tensor) -> StepResult:
        """One step on images [N, C, S, S] and labels [N]."""
        self._prepare(step)
        self.optimizer.zero_grad(set_to_none=True)
        # bfloat16 keeps the exponent range of float32, so autocast needs no loss scaling.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.amp):
            embeddings = self.model(images)
        embeddings.retain_grad()
        loss = self.loss(embeddings, labels)
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        self.optimizer.step()
        with torch.no_grad():
            per_anchor = self.loss(embeddings.detach(), labels, reduction="none")
        active = (per_anchor > self.threshold).float().mean().item()
        assert embeddings.grad is not None
        return StepResult(loss.item(), norm.item(), active, embeddings.detach(), embeddings.grad)

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
