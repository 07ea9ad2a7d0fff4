"""The loop over steps: one learner, or two copies of it on the same batches.

Several processes have one learner together, each with its part of every batch. The second copy is then trained by the
first process alone, on whole batches: the fused loss of all processes beside the reference of one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from examples.resnet50.agreement import check, compare, held_steps
from examples.resnet50.augment import augment, augmenting_device, draw_changes
from examples.resnet50.best import BestSoFar
from examples.resnet50.checkpoint import save_checkpoint
from examples.resnet50.datasets import Split
from examples.resnet50.divergence import check_finite
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import Evaluation, evaluate
from examples.resnet50.learner import Learner
from examples.resnet50.losses import loss_function
from examples.resnet50.model import build_model
from examples.resnet50.options import Options
from examples.resnet50.precision import parameter_dtype
from examples.resnet50.processes import ALONE, Processes
from examples.resnet50.record import Row
from examples.resnet50.sampler import ClassBalancedSampler
from examples.resnet50.schedule import Schedule
from examples.resnet50.telemetry import READ_EVERY, Telemetry
from examples.resnet50.transfer import to_device


class Trainer:
    """Everything a run consists of; its state can be saved and continued bit for bit.

    Where there are several ``processes``, each has a trainer, and trains together with the others; sums over them may
    then differ in the last bit from run to run.
    """

    def __init__(
        self,
        options: Options,
        split: Split,
        device: torch.device,
        *,
        processes: Processes = ALONE,
        weights_needed: bool = True,
    ):
        self.options = options
        self.processes = processes
        self.split = split
        self.device = device
        self.held_steps = held_steps(options.precision, device, processes.size)
        self.generator = torch.Generator().manual_seed(options.seed)  # of batches and augmentation
        self.sampler = ClassBalancedSampler(
            split.train.labels, options.classes_per_batch, options.samples_per_class, self.generator
        )
        if processes.size > 1:
            self._check_for_processes()
        per_epoch = self.sampler.batches_per_epoch
        self.total_steps = options.steps if options.steps is not None else (options.epochs or 1) * per_epoch
        self.step = 0
        self.history: list[Row] = []  # of the steps that have been read
        self.telemetry = Telemetry()  # of those since
        self.before: Evaluation | None = None
        self.best = BestSoFar(options.best_by, options.patience)  # by the first learner, in the first process alone
        self.evaluation_seconds = 0.0  # of the time since it was made
        self.learners = self._build_learners(options.weights if weights_needed else None)

    def _check_for_processes(self) -> None:
        """What only one process can do, by name."""
        options, rows, number = self.options, self.sampler.batch_size, self.processes.size
        if options.loss == "reference":
            raise UserError(
                "--loss must be fused or both in several processes, since the reference knows one only; got reference"
            )
        if options.compile:
            raise UserError("--compile must be left out in several processes; got it")
        if rows < number:
            raise UserError(
                f"--classes-per-batch x --samples-per-class must be at least {number}, the processes; got {rows}"
            )

    def _build_learners(self, weights: str | None) -> list[Learner]:
        options = self.options
        trained_by = {"fused" if options.loss == "both" else options.loss: self.processes}
        if options.loss == "both" and self.processes.is_first:
            trained_by["reference"] = ALONE
        losses = [
            loss_function(
                name,
                margin=options.margin,
                distance=options.distance,
                soft_margin=options.soft_margin,
                group=processes.group,
            )
            for name, processes in trained_by.items()
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
        models = [
            m.to(self.device, parameter_dtype(options.precision, self.device))
            for m in (model, *(copy.deepcopy(model) for _ in losses[1:]))
        ]
        return [
            Learner(
                name,
                m,
                loss,
                schedule,
                precision=options.precision,
                soft_margin=options.soft_margin,
                compiled=options.compile,
                processes=processes,
            )
            for (name, processes), m, loss in zip(trained_by.items(), models, losses, strict=True)
        ]

    def evaluate(self, learner: Learner) -> Evaluation:
        """Retrieval among the test images by its network as it is now; waits for no other process."""
        started = time.perf_counter()
        found = evaluate(learner.model, self.split.train, self.split.test, learner.name, self.step)
        self.evaluation_seconds += time.perf_counter() - started
        return found

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the step that was trained last ends ``--evaluate-every`` epochs, or the run."""
        every = (self.options.evaluate_every or 0) * self.sampler.batches_per_epoch
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def _next_batch(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, C, S, S] and labels [N] on the device: ``part`` of a batch that is the same in every process."""
        indices = self.sampler.next_batch()
        changes = None  # drawn for the whole batch
        if not self.options.no_augment:
            changes = draw_changes(len(indices), self.generator, mirror=self.split.mirrored)
        indices = indices[part]
        images = self.split.train.images(indices, augmenting_device(self.device))
        if changes is not None:
            images = augment(images, changes[part])
        return images.to(self.device), to_device(self.split.train.labels[indices], self.device)

    def train_step(self) -> None:
        """One batch for every learner. What it measured is there after :meth:`read`; nothing here waits for it."""
        self.telemetry.start_step()
        self.step += 1
        n, compared = self.sampler.batch_size, len(self.learners) == 2
        part = self.processes.part(n)
        images, labels = self._next_batch(slice(n) if compared else part)
        own = part if compared else slice(len(images))
        results = [self.learners[0].train_step(self.step, images[own], labels[own])]
        results += [learner.train_step(self.step, images, labels) for learner in self.learners[1:]]
        if self.options.loss == "both":  # in every process: they gather
            whole = self.processes.whole
            results[0] = replace(
                results[0],
                embeddings=whole(results[0].embeddings, n),
                embedding_gradient=whole(results[0].embedding_gradient, n),
            )
        known: Row = {"step": self.step, "learning_rate": self.learners[0].optimizer.param_groups[0]["lr"]}
        measured: dict[str, torch.Tensor] = {}
        for learner, result in zip(self.learners, results, strict=True):
            measured[f"loss_{learner.name}"] = result.loss
            measured[f"gradient_norm_{learner.name}"] = result.gradient_norm
            measured[f"active_{learner.name}"] = result.active
            if self.options.precision == "float16":
                measured[f"skipped_{learner.name}"] = result.skipped
        if compared:
            measured.update(compare(results[0], results[1], self.learners[1].loss, labels))
        self.telemetry.add(known, measured, n * len(results))

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

    def run(
        self,
        on_row: Callable[[Row], None],
        go_on: Callable[[], bool] = lambda: True,
        on_evaluation: Callable[[Row, bool], None] = lambda row, is_best: None,
    ) -> None:
        """Trains to the last step, or until ``go_on`` is asked after a step and says no, in one process or another, or
        no evaluation was better than the best for ``--patience``.

        The first process evaluates: ``on_evaluation`` has the step with the metrics, and whether they are the best so
        far. What one process alone finds wrong, as the first with its second copy, ends all of them in the same step,
        and so does what one decides.
        """
        first = self.step + 1  # read at once: what is wrong from the beginning is told of then
        while self.step < self.total_steps:
            self.train_step()
            with self.processes.together():
                due = self.evaluation_is_due
                if self.step % READ_EVERY == 0 or self.step == first or due:
                    self.read(on_row)
                if due and self.processes.is_first:
                    self._evaluate_for_best(on_evaluation)
                stop = not go_on() or self.best.exhausted
            if self.processes.any(stop):
                break
        with self.processes.together():
            self.read(on_row)

    def _evaluate_for_best(self, on_evaluation: Callable[[Row, bool], None]) -> None:
        learner = self.learners[0]
        is_best = self.best.add(self.step, learner.model, self.evaluate(learner))
        on_evaluation(self.best.evaluations[-1], is_best)

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
            "before": self.before.to_dict(),
            "best": self.best.state_dict(),
        }
        save_checkpoint(path, state)

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`save`, on a trainer of the same options."""
        if state["step"] >= self.total_steps:
            raise UserError(
                f"--steps must be above {state['step']}, the step of the checkpoint; got {self.total_steps}"
            )
        self.best.load_state_dict(state["best"])
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        self.step = state["step"]
        self.history = list(state["history"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.before = Evaluation(**state["before"])
