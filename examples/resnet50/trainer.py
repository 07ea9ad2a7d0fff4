"""The loop over steps: one learner, and beside it a second copy on the same batches, for a few steps or for all.

Several processes have one learner together, each with its part of every batch. The second copy is then trained by the
first process alone, on whole batches: the fused loss of all processes beside the reference of one.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, repeat
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from examples.resnet50.agreement import SAME_LOSS, check, compare_copies, compare_losses, held_steps
from examples.resnet50.augment import augment, augmenting_device, draw_changes
from examples.resnet50.best import BestSoFar
from examples.resnet50.datasets import Split
from examples.resnet50.device import parameter_dtype, to_device
from examples.resnet50.errors import Diverged, UserError
from examples.resnet50.evaluate import Evaluation, evaluate
from examples.resnet50.files import save_state
from examples.resnet50.learner import Learner, LossFunction, Schedule, loss_function
from examples.resnet50.model import build_model
from examples.resnet50.options import Options
from examples.resnet50.processes import ALONE, Processes
from examples.resnet50.telemetry import READ_EVERY, Row, Telemetry
from fasttriplet import PKSampler


def _sampler(options: Options, split: Split) -> PKSampler:
    """Whole batches, the same in every process, each of which takes its part of the rows."""
    p, k = options.classes_per_batch, options.samples_per_class
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of short classes, which the run tells of itself
            return PKSampler(split.train.labels, p, k, seed=options.seed, num_replicas=1, rank=0)
    except ValueError as error:  # of an option, which has the argument's name
        name, _, rest = str(error).partition(" ")
        raise UserError(f"--{name.replace('_', '-')} {rest.replace('in labels', 'to train on')}") from error


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
        self.generator = torch.Generator().manual_seed(options.seed)  # of augmentation
        self.sampler = _sampler(options, split)
        self._batches = chain.from_iterable(repeat(self.sampler))  # one epoch after the other
        if processes.size > 1:
            self._check_for_processes()
        self.total_steps = options.steps if options.steps is not None else (options.epochs or 1) * len(self.sampler)
        self.step = 0
        self.history: list[Row] = []  # of the steps that have been read
        self.telemetry = Telemetry()  # of those since
        self.before: Evaluation | None = None
        self.best = BestSoFar(options.best_by, options.patience)  # by the first learner, in the first process alone
        self.evaluation_seconds = 0.0  # of the time since it was made
        self.checks = options.loss in ("checked", "both")  # the fused loss by the reference, in every step
        self.held_steps = held_steps(options.precision, device, self.sampler.batch_size, processes.size)
        #: How long the second copy is trained: one step longer than it is held to the first, which shows them part.
        self.twin_steps = {"both": self.total_steps, "checked": self.held_steps + 1}.get(options.loss, 0)
        self.learners = self._build_learners(options.weights if weights_needed else None)

    def _check_for_processes(self) -> None:
        """What only one process can do, by name."""
        rows, number = self.sampler.batch_size, self.processes.size
        if self.options.loss == "reference":
            raise UserError(
                "--loss must be another in several processes, since the reference knows one only; got reference"
            )
        if self.options.compile:
            raise UserError("--compile must be left out in several processes; got it")
        if rows < number:
            raise UserError(
                f"--classes-per-batch x --samples-per-class must be at least {number}, the processes; got {rows}"
            )

    def loss_at(self, engine: str, step: int, group: Any = None) -> LossFunction:
        """The loss of ``step``, by ``engine``: that of ``--start`` for the first ``--start-steps``.

        Its batch is that of all processes of ``group``, where there is one; the reference has no groups.
        """
        options = self.options
        told = {"margin": options.margin, "distance": options.distance, "soft_margin": options.soft_margin}
        if group is not None:
            told["process_group"] = group
        return loss_function(engine, options.start if step <= options.start_steps else "batch-hard", **told)

    def _build_learners(self, weights: str | None) -> list[Learner]:
        options = self.options
        schedule = Schedule(
            lr=options.lr,
            fine_tune_lr=options.fine_tune_lr,
            total_steps=self.total_steps,
            frozen_steps=options.freeze_epochs * len(self.sampler),
            cosine=options.schedule == "cosine",
        )
        if options.freeze_epochs and schedule.frozen_steps >= self.total_steps:
            raise UserError(
                f"--freeze-epochs must end before the run does, at step {self.total_steps}; "
                f"got {options.freeze_epochs} epochs, {schedule.frozen_steps} steps"
            )
        model = build_model(
            options.embedding_dim, weights, options.seed, pooled_shortcuts=options.shortcuts == "pooled"
        )

        def learner(name: str, processes: Processes) -> Learner:
            return Learner(
                name,
                copy.deepcopy(model).to(self.device, parameter_dtype(options.precision, self.device)),
                partial(self.loss_at, name, group=processes.group),
                schedule,
                precision=options.precision,
                compiled=options.compile,
                processes=processes,
            )

        learners = [learner("fused" if self.checks else options.loss, self.processes)]
        if self.checks and self.processes.is_first:
            learners.append(learner("reference", ALONE))
        return learners

    def evaluate(self, learner: Learner) -> Evaluation:
        """Retrieval among the test images by its network as it is now; waits for no other process."""
        started = time.perf_counter()
        found = evaluate(learner.model, self.split, learner.name, self.step)
        self.evaluation_seconds += time.perf_counter() - started
        return found

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the step that was trained last ends ``--evaluate-every`` epochs, or the run."""
        every = self.options.evaluate_every * len(self.sampler)
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def _next_batch(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch of N that is the same in every process the images of ``part``, [n, C, S, S], and labels [N]."""
        indices = torch.tensor(next(self._batches))
        changes = None  # drawn for the whole batch
        if not self.options.no_augment:
            changes = draw_changes(len(indices), self.generator, mirror=self.split.mirrored)
        images = self.split.train.images(indices[part], augmenting_device(self.device))
        if changes is not None:
            images = augment(images, changes[part])
        return images.to(self.device), to_device(self.split.train.labels[indices], self.device)

    def train_step(self) -> None:
        """One batch for every learner. What it measured is there after :meth:`read`; nothing here waits for it."""
        self.telemetry.start_step()
        self.step += 1
        if self.step > self.twin_steps:
            del self.learners[1:]
        n, whole, part = self.sampler.batch_size, self.processes.whole, self.processes.part(self.sampler.batch_size)
        twins = len(self.learners) == 2
        images, labels = self._next_batch(slice(n) if twins else part)
        results = [self.learners[0].train_step(self.step, images[part] if twins else images, labels[part])]
        results += [learner.train_step(self.step, images, labels) for learner in self.learners[1:]]
        known: Row = {"step": self.step, "learning_rate": self.learners[0].optimizer.param_groups[0]["lr"]}
        measured = {
            f"{name}_{learner.name}": value
            for learner, result in zip(self.learners, results, strict=True)
            for name, value in result.figures.items()
        }
        if self.checks:  # in every process: they gather
            gathered = replace(
                results[0],
                embeddings=whole(results[0].embeddings, n),
                embedding_gradient=whole(results[0].embedding_gradient, n),
            )
            if self.processes.is_first:
                measured |= compare_losses(gathered, self.loss_at("reference", self.step), labels)
        if twins:
            measured |= compare_copies(*results)
        self.telemetry.add(known, measured, n * len(results))

    def read(self, on_row: Callable[[Row], None]) -> None:
        """Adds the steps since the last read to the history and hands each to ``on_row``.

        Raises Disagreement at the first whose two losses part, and Diverged at the first whose loss is not finite; that
        one is the last in the history.
        """
        for row in self.telemetry.read():
            self.history.append(row)
            on_row(row)
            if SAME_LOSS in row:
                check(row, self.held_steps)
            for learner in ("fused", "reference"):
                loss = row.get(f"loss_{learner}", 0.0)
                if not isfinite(loss):
                    raise Diverged(f"step {row['step']}: the loss of {learner} must be finite; got {loss}")

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
                    is_best = self.best.add(self.step, self.evaluate(self.learners[0]))
                    on_evaluation(self.best.evaluations[-1], is_best)
                stop = not go_on() or self.best.exhausted
            if self.processes.any(stop):
                break
        with self.processes.together():
            self.read(on_row)

    def save(self, path: Path) -> None:
        """Writes everything a run needs to go on as if it had not stopped."""
        assert self.before is not None and not self.telemetry  # every step is read: the history is whole, and finite
        state: dict[str, Any] = {
            "options": asdict(self.options),
            "step": self.step,
            "learners": {learner.name: learner.state_dict() for learner in self.learners},
            "sampler": self.sampler.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "history": self.history,
            "before": self.before.to_dict(),
            "best": self.best.state_dict(),
        }
        save_state(path, state)

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`save`, on a trainer of the same options."""
        if state["step"] >= self.total_steps:
            raise UserError(
                f"--steps must be above {state['step']}, the step of the checkpoint; got {self.total_steps}"
            )
        self.best.load_state_dict(state["best"])
        self.learners = [learner for learner in self.learners if learner.name in state["learners"]]
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        self.step = state["step"]
        self.history = list(state["history"])
        self.sampler.load_state_dict(state["sampler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.before = Evaluation(**state["before"])
