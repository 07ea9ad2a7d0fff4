"""The loop over steps: one learner, or two copies of it on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.resnet50.agreement import check, compare, held_steps
from examples.resnet50.augment import augment, augmenting_device
from examples.resnet50.checkpoint import save_checkpoint
from examples.resnet50.datasets import Split
from examples.resnet50.divergence import check_finite
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import Evaluation, evaluate
from examples.resnet50.learner import Learner
from examples.resnet50.losses import loss_function
from examples.resnet50.metrics import RetrievalMetrics
from examples.resnet50.model import build_model
from examples.resnet50.options import Options
from examples.resnet50.record import Row
from examples.resnet50.sampler import ClassBalancedSampler
from examples.resnet50.schedule import Schedule
from examples.resnet50.telemetry import READ_EVERY, Telemetry
from examples.resnet50.transfer import to_device


class Trainer:
    """Everything a run consists of; its state can be saved and continued bit for bit."""

    def __init__(self, options: Options, split: Split, device: torch.device, *, weights_needed: bool = True):
        self.options = options
        self.split = split
        self.device = device
        self.held_steps = held_steps(options.precision, device)
        self.generator = torch.Generator().manual_seed(options.seed)  # of batches and augmentation
        self.sampler = ClassBalancedSampler(
            split.train.labels, options.classes_per_batch, options.samples_per_class, self.generator
        )
        per_epoch = self.sampler.batches_per_epoch
        self.total_steps = options.steps if options.steps is not None else (options.epochs or 1) * per_epoch
        self.step = 0
        self.history: list[Row] = []  # of the steps that have been read
        self.telemetry = Telemetry()  # of those since
        self.before: Evaluation | None = None
        self.learners = self._build_learners(options.weights if weights_needed else None)

    def _build_learners(self, weights: str | None) -> list[Learner]:
        options = self.options
        names = ("fused", "reference") if options.loss == "both" else (options.loss,)
        losses = [
            loss_function(name, margin=options.margin, distance=options.distance, soft_margin=options.soft_margin)
            for name in names
        ]
        schedule = Schedule(
            lr=options.lr,
            fine_tune_lr=options.fine_tune_lr or options.lr,
            total_steps=self.total_steps,
            frozen_steps=options.freeze_epochs * self.sampler.batches_per_epoch,
            cosine=options.schedule == "cosine",
        )
        if options.freeze_epochs and schedule.frozen_steps >= self.total_steps:
            raise UserError(
                f"--freeze-epochs must end before the run does, at step {self.total_steps}; "
                f"got {options.freeze_epochs} epochs, {schedule.frozen_steps} steps"
            )
        model = build_model(options.embedding_dim, weights, options.seed)
        models = [m.to(self.device) for m in (model, *(copy.deepcopy(model) for _ in names[1:]))]
        return [
            Learner(
                name,
                m,
                loss,
                schedule,
                precision=options.precision,
                soft_margin=options.soft_margin,
                compiled=options.compile,
            )
            for name, m, loss in zip(names, models, losses, strict=True)
        ]

    def evaluate(self) -> list[Evaluation]:
        """Retrieval among the test images by each learner's network as it is now."""
        return [evaluate(learner.model, self.split.train, self.split.test) for learner in self.learners]

    def _next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, C, S, S] and labels [N] on the device."""
        indices = self.sampler.next_batch()
        images = self.split.train.images(indices, augmenting_device(self.device))
        if not self.options.no_augment:
            images = augment(images, self.generator, mirror=self.split.mirrored)
        return images.to(self.device), to_device(self.split.train.labels[indices], self.device)

    def train_step(self) -> None:
        """One batch for every learner. What it measured is there after :meth:`read`; nothing here waits for it."""
        self.telemetry.start_step()
        self.step += 1
        images, labels = self._next_batch()
        results = [learner.train_step(self.step, images, labels) for learner in self.learners]
        known: Row = {"step": self.step, "learning_rate": self.learners[0].optimizer.param_groups[0]["lr"]}
        measured: dict[str, torch.Tensor] = {}
        for learner, result in zip(self.learners, results, strict=True):
            measured[f"loss_{learner.name}"] = result.loss
            measured[f"gradient_norm_{learner.name}"] = result.gradient_norm
            measured[f"active_{learner.name}"] = result.active
            if self.options.precision == "float16":
                measured[f"skipped_{learner.name}"] = result.skipped
        if len(results) == 2:
            measured.update(compare(results[0], results[1], self.learners[1].loss, labels))
        self.telemetry.add(known, measured, len(images) * len(results))

    def read(self, on_row: Callable[[Row], None]) -> None:
        """Adds the steps since the last read to the history and hands each to ``on_row``.

        Raises Disagreement at the first whose two losses part, and Diverged at the first whose loss is not finite; that
        one is the last in the history.
        """
        for row in self.telemetry.read():
            self.history.append(row)
            on_row(row)
            if len(self.learners) == 2:
                check(row, self.held_steps)
            check_finite(row)

    def run(self, on_row: Callable[[Row], None], go_on: Callable[[], bool] = lambda: True) -> None:
        """Trains to the last step, or until ``go_on`` is asked after a step and says no."""
        first = self.step + 1  # read at once: what is wrong from the beginning is told of then
        while self.step < self.total_steps:
            self.train_step()
            if self.step % READ_EVERY == 0 or self.step == first:
                self.read(on_row)
            if not go_on():
                break
        self.read(on_row)

    def save(self, path: Path) -> None:
        """Writes everything a run needs to go on as if it had not stopped."""
        assert self.before is not None and not self.telemetry  # every step is read: the history is whole, and finite
        state: dict[str, Any] = {
            "options": self.options.to_dict(),
            "step": self.step,
            "learners": {learner.name: learner.state_dict() for learner in self.learners},
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "history": self.history,
            "before_embeddings": self.before.embeddings,
            "before_metrics": vars(self.before.metrics),
        }
        save_checkpoint(path, state)

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`save`, on a trainer of the same options."""
        if state["step"] >= self.total_steps:
            raise UserError(
                f"--steps must be above {state['step']}, the step of the checkpoint; got {self.total_steps}"
            )
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        self.step = state["step"]
        self.history = list(state["history"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.before = Evaluation(state["before_embeddings"], RetrievalMetrics(**state["before_metrics"]))
