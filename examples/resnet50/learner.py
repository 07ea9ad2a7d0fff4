"""One network with its loss, optimiser and learning rate: a training step and its state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

import fasttriplet
from examples.resnet50.device import autocast, grad_scaler
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.processes import ALONE, Processes
from examples.resnet50.sync_norm import synchronised
from fasttriplet import reference

#: (embeddings [N, D], labels [N]) -> scalar; with ``return_stats=True`` also fasttriplet's TripletStats
LossFunction = Callable[..., Any]
#: Of ``--start``; all but the first are gentler while all embeddings lie together.
STARTS = ("batch-hard", "batch-all", "semi-hard", "soft-margin")
#: DistributedDataParallel does not hand out the first process's statistics in every step: each computes them, of all
#: rows. The option has the first name since PyTorch 2.13.
_KEPT_BUFFERS: dict[str, Any] = {"forward_sync_buffers": False}
if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel.__init__).parameters:
    _KEPT_BUFFERS = {"broadcast_buffers": False}


def loss_function(engine: str, mining: str, **options: Any) -> LossFunction:
    """One of ``STARTS`` by ``engine``: ``"fused"``, fasttriplet's kernels, or ``"reference"``, plain PyTorch."""
    library: Any = reference if engine == "reference" else fasttriplet
    if mining == "soft-margin":
        mining, options = "batch-hard", {**options, "soft_margin": True}
    return partial(getattr(library, f"{mining.replace('-', '_')}_triplet_loss"), **options)


@dataclass(frozen=True)
class Schedule:
    """Learning rates by steps, from 1: the head alone, if ``frozen_steps``; then everything, at ``fine_tune_lr``."""

    lr: float
    fine_tune_lr: float
    total_steps: int
    frozen_steps: int
    cosine: bool
    warmup_steps: int = 10  # Adam's first steps have the size of the rate, whatever the gradient

    def is_frozen(self, step: int) -> bool:
        """Whether the body rests in this step."""
        return step <= self.frozen_steps

    def rate(self, step: int) -> float:
        """A linear rise at the start of each phase, then constant or half a cosine down to 0 at the end of the run."""
        if self.is_frozen(step):
            return self.lr * min(1.0, step / self.warmup_steps)
        done = step - self.frozen_steps
        rate = (self.fine_tune_lr if self.frozen_steps else self.lr) * min(1.0, done / self.warmup_steps)
        if self.cosine:
            rate *= 0.5 * (1 + math.cos(math.pi * (done - 1) / max(1, self.total_steps - self.frozen_steps)))
        return rate


@dataclass(frozen=True)
class StepResult:
    """What one step computed, before the parameters moved; all of it still on the device."""

    figures: dict[str, Tensor]  # scalars, by what their columns in the record begin with
    embeddings: Tensor  # [N, D] detached, of this process's images
    embedding_gradient: Tensor  # [N, D] of the loss


class Learner:
    """Trains ``model`` with ``loss_at(step)`` by Adam; ``name`` is what reports call it.

    Several ``processes`` train one model: each has a part of the batch, and the loss is that of the whole.
    """

    def __init__(
        self,
        name: str,
        model: EmbeddingNet,
        loss_at: Callable[[int], LossFunction],
        schedule: Schedule,
        *,
        precision: str,
        compiled: bool = False,
        processes: Processes = ALONE,
    ):
        self.name = name
        self.model = model
        self.loss_at = loss_at
        self.schedule = schedule
        self.precision = precision
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
        loss, stats = self.loss_at(step)(embeddings, labels, return_stats=True)
        self.scaler.scale(loss).backward()
        # The scale is a power of two: exact. What processes average is their number times the loss's gradient.
        embedding_gradient = embeddings.grad / self.scaler.scale(torch.ones_like(loss)) / self.processes.size
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        figures = {
            "loss": loss.detach(),
            "gradient_norm": norm,  # over all trained parameters
            "active": stats.active_fraction,  # share of the triplets with a loss above zero
            "positive_distance": stats.mean_positive_distance,  # of batch-all to each anchor's farthest
            "negative_distance": stats.mean_negative_distance,  # and nearest
        }
        if self.scaler.is_enabled():
            figures["skipped"] = step - self._steps_taken()  # so far
        return StepResult(figures, embeddings.detach(), embedding_gradient)

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
        for name in ("model", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])
