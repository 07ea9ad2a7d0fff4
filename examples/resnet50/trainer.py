"""The loop over steps: one learner, or two copies of it on the same batches."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.resnet50.agreement import check, compare
from examples.resnet50.augment import augment
from examples.resnet50.checkpoint import save_checkpoint
from examples.resnet50.datasets import Split
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import Evaluation, evaluate
from examples.resnet50.learner import Learner, StepResult
from examples.resnet50.losses import loss_function
from examples.resnet50.metrics import RetrievalMetrics
from examples.resnet50.model import build_model
from examples.resnet50.options import Options
from examples.resnet50.record import Row
from examples.resnet50.sampler import ClassBalancedSampler
from examples.resnet50.schedule import Schedule


class Trainer:
    """Everything a run consists of; its state can be saved and continued bit for bit."""

    def __init__(self, options: Options, split: Split, *, weights_needed: bool = True):
        self.options = options
        self.split = split
        self.generator = torch.Generator().manual_seed(options.seed)  # of batches and augmentation
        self.sampler = ClassBalancedSampler(
            split.train.labels, options.classes_per_batch, options.samples_per_class, self.generator
        )
        per_epoch = self.sampler.batches_per_epoch
        self.total_steps = options.steps if options.steps is not None else (options.epochs or 1) * per_epoch
        self.step = 0
        self.history: list[Row] = []
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
        models = [model, *(copy.deepcopy(model) for _ in names[1:])]
        return [
            Learner(name, m, loss, schedule, amp=options.amp, soft_margin=options.soft_margin)
            for name, m, loss in zip(names, models, losses, strict=True)
        ]

    def evaluate(self) -> list[Evaluation]:
        """Retrieval among the test images by each learner's network as it is now."""
        return [evaluate(learner.model, self.split.train, self.split.test) for learner in self.learners]

    def train_step(self) -> Row:
        """One batch for every learner; raises Disagreement if there are two and their losses part."""
        start = time.perf_counter()
        self.step += 1
        indices = self.sampler.next_batch()
        images, labels = self.split.train.images(indices), self.split.train.labels[indices]
        if not self.options.no_augment:
            images = augment(images, self.generator, mirror=self.split.mirrored)
        results = [learner.train_step(self.step, images, labels) for learner in self.learners]
        row: Row = {"step": self.step, "learning_rate": self.learners[0].optimizer.param_groups[0]["lr"]}
        for learner, result in zip(self.learners, results, strict=True):
            row[f"loss_{learner.name}"] = result.loss
            row[f"gradient_norm_{learner.name}"] = result.gradient_norm
            row[f"active_{learner.name}"] = result.active
        row["images_per_second"] = len(images) * len(results) / (time.perf_counter() - start)
        self.history.append(row)
        if len(results) == 2:
            self._compare(row, results, labels)
        return row

    def _compare(self, row: Row, results: list[StepResult], labels: torch.Tensor) -> None:
        agreement = compare(*results, self.learners[1].loss, labels)
        row["copies_loss_difference"] = agreement.copies_loss
        row["copies_gradient_norm_difference"] = agreement.copies_gradient_norm
        row["same_embeddings_loss_difference"] = agreement.same_loss
        row["same_embeddings_gradient_difference"] = agreement.same_gradient
        check(self.step, agreement, amp=self.options.amp)

    def run(self, after_step: Callable[[Row], bool]) -> None:
        """Trains to the last step, or until ``after_step`` returns False."""
        while self.step < self.total_steps:
            if not after_step(self.train_step()):
                return

    def save(self, path: Path) -> None:
        """Writes everything a run needs to go on as if it had not stopped."""
        assert self.before is not None
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
