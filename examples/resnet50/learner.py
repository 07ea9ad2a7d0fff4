"""One network with its optimiser and its loss: a training step and its state."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from examples.resnet50.losses import LossFunction
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.precision import autocast, grad_scaler
from examples.resnet50.processes import ALONE, Processes
from examples.resnet50.schedule import Schedule
from examples.resnet50.sync_norm import synchronised

#: DistributedDataParallel does not hand out the first process's statistics in every step: each computes them, of all
#: rows. The option has the first name since PyTorch 2.13.
_KEPT_BUFFERS: dict[str, Any] = {"forward_sync_buffers": False}
if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel.__init__).parameters:
    _KEPT_BUFFERS = {"broadcast_buffers": False}


@dataclass(frozen=True)
class StepResult:
    """What one step computed, before the parameters moved; scalars still on the device."""

    loss: Tensor
    gradient_norm: Tensor  # over all trained parameters
    active: Tensor  # share of anchors whose negative is not yet far enough: loss > 0, soft margin: d_ap > d_an
    skipped: Tensor  # steps so far that overflowed and moved nothing
    embeddings: Tensor  # [N, D] detached, of this process's images
    embedding_gradient: Tensor  # [N, D] of the loss


class Learner:
    """Trains ``model`` with ``loss`` by Adam; ``name`` is what reports call it.

    Several ``processes`` train one model: each has a part of the batch, and ``loss`` is that of the whole.
    """

    def __init__(
        self,
        name: str,
        model: EmbeddingNet,
        loss: LossFunction,
        schedule: Schedule,
        *,
        precision: str,
        soft_margin: bool,
        compiled: bool = False,
        processes: Processes = ALONE,
    ):
        self.name = name
        self.model = model
        self.loss = loss
        self.schedule = schedule
        self.precision = precision
        self.threshold = math.log(2) if soft_margin else 0.0
        self.processes = processes
        self._compiled = compiled
        self._trained = synchronised(model, processes)
        # fused: the decision to skip a step that overflowed is then the device's; else the CPU would wait to make it.
        self.optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr, fused=True)
        self.scaler = grad_scaler(precision, model.device)

    @cached_property
    def _network(self) -> nn.Module:
        """Beside the model, for training alone: its state keeps its names, and evaluation, whose last batch has another
        size, compiles nothing anew and needs one process. Made in the first step, for all processes make it together.
        """
        if self.processes.size == 1:
            return cast(nn.Module, torch.compile(self.model)) if self._compiled else self.model
        return DistributedDataParallel(
            self._trained,
            process_group=self.processes.group,
            find_unused_parameters=self.schedule.frozen_steps > 0,
            **_KEPT_BUFFERS,
        )

    def _prepare(self, step: int) -> None:
        """A resting body has no gradients (Adam then skips it) and keeps its batch-norm statistics."""
        frozen = self.schedule.is_frozen(step)
        self._trained.train()
        self._trained.body.requires_grad_(not frozen)
        self._trained.body.train(not frozen)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)

    def train_step(self, step: int, images: Tensor, labels: Tensor) -> StepResult:
        """One step on images [N, C, S, S] and labels [N], this process's part of the batch."""
        network = self._network  # made before the body rests: only what has gradients then is ever averaged
        self._prepare(step)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.precision, self.model.device):
            embeddings = network(images)
        embeddings.retain_grad()
        loss = self.loss(embeddings, labels)
        self.scaler.scale(loss).backward()
        assert embeddings.grad is not None
        # The scale is a power of two: exact. What processes average is their number times the loss's gradient.
        embedding_gradient = embeddings.grad / self.scaler.scale(torch.ones_like(loss)) / self.processes.size
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            per_anchor = self.loss(embeddings.detach(), labels, reduction="none")
        active = self.processes.mean((per_anchor > self.threshold).float())
        return StepResult(
            loss.detach(), norm, active, step - self._steps_taken(), embeddings.detach(), embedding_gradient
        )

    def _steps_taken(self) -> Tensor:
        """Adam's own count, which a skipped step leaves as it is; the last parameter, the head's, is always trained."""
        *_, last = self.model.parameters()
        return self.optimizer.state[last]["step"]

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and scale of the loss."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
