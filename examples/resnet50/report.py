"""What a run says, writes and draws: all of it by one process, the first where there are several."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import fasttriplet
from examples.resnet50 import plots
from examples.resnet50.agreement import COPIES_GRADIENT_NORM, COPIES_LOSS, SAME_GRADIENT, SAME_LOSS, TOLERANCE
from examples.resnet50.device import describe
from examples.resnet50.errors import Disagreement, Diverged
from examples.resnet50.evaluate import UNSEEN, Evaluation, Metrics, pixel_metrics
from examples.resnet50.files import WRITTEN, Record, run_folder
from examples.resnet50.telemetry import Row
from examples.resnet50.trainer import Trainer

_LINES = 15  # lines of progress in a whole run
_NAMED = 5  # classes in a line


class Report:
    """Begins with what is about to be done, and what the test images are worth before the first step."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._started = time.perf_counter()
        self._name = trainer.learners[0].name
        self.folder = run_folder(trainer.options)
        _print_start(trainer, self.folder)
        self._pixels = pixel_metrics(trainer.split, trainer.device)
        self._print_metrics("pixels, for comparison", self._pixels)
        resumed = trainer.before is not None
        if trainer.before is None:
            trainer.before = replace(trainer.evaluate(trainer.learners[0]), network=None)  # it takes 95 MB
        self._print_metrics("before training", trainer.before.metrics)
        before: Row = {"step": 0, **trainer.before.metrics}
        known = [before, *trainer.best.evaluations] if resumed else []
        self._record = Record(self.folder, trainer.history, self._name, known)
        if not resumed:
            self._record.add_evaluation(self._name, before)
        if trainer.best.best is not None:
            trainer.best.save(self.folder / "best.pt", trainer.options)
        # On a terminal only. It moves with every step; its figures, the lines and the record come with every read.
        self._first = trainer.step + 1
        self._bar = tqdm(total=trainer.total_steps, initial=trainer.step, unit="step", disable=None, dynamic_ncols=True)

    def _write(self, line: str) -> None:
        tqdm.write(line, file=sys.stdout)  # above the bar
        sys.stdout.flush()

    def _print_metrics(self, title: str, metrics: Metrics, end: str = "") -> None:
        names = dict.fromkeys(("hit_rate@1", "hit_rate@5", "map_at_r", self.trainer.options.best_by))
        text = "   ".join(f"{name} {metrics[name]:.4f}" for name in names)
        if f"{UNSEEN}map_at_r" in metrics:
            text += "   unseen classes: " + " ".join(f"{metrics[f'{UNSEEN}{name}']:.4f}" for name in names)
        self._write(f"{title:<28}{text}{end}")

    def on_row(self, row: Row) -> None:
        """A step that was read."""
        self._record.add(row)
        step, total = int(row["step"]), self.trainer.total_steps
        loss, active, speed = row[f"loss_{self._name}"], row[f"active_{self._name}"], row["images_per_second"]
        self._bar.set_postfix_str(f"loss {loss:.4f}, active {active:.0%}, {speed:.1f} images/s")
        if step % max(1, total // _LINES) == 0 or step in (self._first, total):
            self._write(progress_line(row, total, self.trainer.processes.size))

    def on_evaluation(self, row: Row, is_best: bool) -> None:
        """The first learner was measured."""
        self._record.add_evaluation(self._name, row)
        self._print_metrics(f"after {int(row['step'])} steps, {self._name}", row, "   best so far" if is_best else "")
        if is_best:
            self.trainer.best.save(self.folder / "best.pt", self.trainer.options)

    def on_step(self) -> None:
        """A step was trained, and may not have been read."""
        trainer, every = self.trainer, self.trainer.options.save_every
        self._bar.update()
        if every and trainer.step % every == 0 and trainer.step < trainer.total_steps:
            trainer.read(self.on_row)
            trainer.save(self.folder / "checkpoint.pt")

    def finish(self, interrupted: bool) -> None:
        """Saves, measures what was not yet measured, and draws what the best network is worth."""
        self._bar.close()
        trainer, checkpoint = self.trainer, self.folder / "checkpoint.pt"
        if not trainer.history:
            print("interrupted before the first step: nothing to save", flush=True)
            return
        trainer.save(checkpoint)
        if interrupted:
            print(f"interrupted after step {trainer.step}; continue with --resume {checkpoint}", flush=True)
        self._plot_loss()
        for learner in trainer.learners:
            if learner.scaler.is_enabled():
                skipped = trainer.history[-1][f"skipped_{learner.name}"]
                print(
                    f"skipped: {skipped:.0f} of {trainer.step} steps of {learner.name}, whose gradients overflowed "
                    f"float16; its loss is scaled by {learner.scaler.get_scale():g} now"
                )
        self._show_the_best()
        seconds = time.perf_counter() - self._started
        share = trainer.evaluation_seconds / seconds
        written = [name for name in WRITTEN if (self.folder / name).exists()]
        print(f"{seconds:.0f} s, of which evaluations took {share:.0%}; see {self.folder}/: {', '.join(written)}")
        if trainer.options.data == "folder":
            print("next:    python -m examples.resnet50.train --help")
        else:
            print(
                "next:    your own images, a folder for each class, larger and with ImageNet's weights:\n"
                f"         {sys.executable} -m examples.resnet50.train --data folder --root PHOTOS --image-size 224 "
                "--weights IMAGENET1K_V2 --freeze-epochs 2 --epochs 10\n"
                "         or the shortest script to copy from: examples/quickstart.py"
            )

    def _show_the_best(self) -> None:
        trainer, by, best = self.trainer, self.trainer.options.best_by, self.trainer.best
        assert trainer.before is not None
        last = {
            learner.name: trainer.evaluate(learner)
            for learner in trainer.learners[1 if best.measured_at(trainer.step) else 0 :]
        }
        for name, evaluation in last.items():
            self._print_metrics(f"after {trainer.step} steps, {name}", evaluation.metrics)
            self._record.add_evaluation(name, {"step": trainer.step, **evaluation.metrics})
        if best.exhausted and trainer.step < trainer.total_steps:
            print(f"stopped: {_in_a_row(best.since)} had no better {by} than the best")
        if best.best is None:  # interrupted before
            shown, when = last[self._name], f"after {trainer.step} steps"
        else:
            shown, step = Evaluation(best.best["embeddings"], best.best["metrics"]), best.best["step"]
            when = f"after {step} steps, best by {by}"
            print(f"best:    {by} {best.value:.4f} after {step} steps; that network is in {self.folder / 'best.pt'}")
        test = trainer.split.test
        plots.plot_embeddings(trainer.split, trainer.before, shown, when, self.folder / "embeddings.png")
        plots.plot_retrieval(test, trainer.before, shown, when, self.folder / "retrieval.png")
        plots.plot_distances(test, trainer.before, shown, when, self.folder / "distances.png")
        plots.plot_worst_queries(test, shown, when, self.folder / "worst_queries.png")
        lines = {
            "comparing pixels, no network": self._pixels,
            "ResNet-50 before training": trainer.before.metrics,
            f"ResNet-50 {when}": shown.metrics,
        }
        _print_summary(trainer, lines)

    def _plot_loss(self) -> None:
        trainer, options = self.trainer, self.trainer.options
        batch = f"{options.classes_per_batch} x {options.samples_per_class} images per batch"
        title = f"ResNet-50 on {options.data}, {batch}; {_losses(trainer)}"
        plots.plot_loss(trainer.history, title, trainer.held_steps, self.folder / "loss.png")

    def of_failure(self, error: Disagreement | Diverged) -> Disagreement | Diverged:
        """Draws how it came about; the error, with where to look."""
        self._plot_loss()
        if isinstance(error, Disagreement):
            return error
        half = " or --precision bfloat16" if self.trainer.options.precision == "float16" else ""
        return Diverged(
            f"{error}; look at the steps before it in {self.folder}/metrics.csv (gradient_norm: did it grow?), and "
            f"try a smaller --lr{half}"
        )

    def close(self) -> None:
        """Closes all files."""
        self._bar.close()
        self._record.close()


def _print_start(trainer: Trainer, folder: Path) -> None:
    """Versions, data, device, and what is about to be done."""
    options, split, sampler, number = trainer.options, trainer.split, trainer.sampler, trainer.processes.size
    train, test, augmented = split.train, split.test, not options.no_augment
    known = len(set(train.classes) & set(test.classes))
    print(f"Python {platform.python_version()}, fasttriplet {fasttriplet.__version__}, torch {torch.__version__}")
    print(
        f"data:    {options.data}, {options.image_size} x {options.image_size}; train {len(train)} images of "
        f"{len(train.classes)} classes, test {len(test)} other images of {len(test.classes)} classes, "
        f"{'all' if known == len(test.classes) else known or 'none'} of them trained on"
    )
    if options.nuisance:
        as_training = ", as training images are" if augmented else ""
        print(f"note:    test images are turned, scaled, sheared and shifted at random{as_training}")
    if split.left_out:
        print(f"note:    classes left out of the training since the test has them: {split.left_out}")
    if sampler.short_classes:
        print(
            f"note:    training classes with fewer than {sampler.samples_per_class} images: {sampler.short_classes}; "
            f"some of theirs come more than once in a batch{', differently augmented' if augmented else ''}"
        )
    compiled = ", compiled" if options.compile else ""
    print(f"device:  {describe(trainer.device, options.device)}; the network in {options.precision}{compiled}")
    print(
        f"batches: {options.classes_per_batch} classes x {options.samples_per_class} images, "
        f"{trainer.total_steps} steps ({len(sampler)} are one epoch), {torch.get_num_threads()} threads"
    )
    if number > 1:
        n = sampler.batch_size
        share = f"{n // number} to {-(-n // number)}" if n % number else n // number
        beside = "; beside them the reference in one process, with whole batches" if trainer.checks else ""
        print(f"spread:  {number} processes with {share} images of each batch, batch norm and loss of all {n}{beside}")
    soft = " (all of them with a soft margin)" if options.soft_margin or options.start == "soft-margin" else ""
    print(f"loss:    {_losses(trainer)}; active is the share of triplets with a loss above 0{soft}")
    if trainer.checks:
        held = "first step" if trainer.held_steps == 1 else f"first {trainer.held_steps} steps"
        print(
            "check:   in every step the reference, plain PyTorch in float64, must give the same loss and gradient, to "
            f"{TOLERANCE:.0e}; and in the {held} a copy of the network that the reference trains must have the same "
            "loss (later, rounding parts the two)"
        )
    print(f"test:    {_when_evaluated(trainer)}")
    print(f"results: {folder}/", flush=True)


def _losses(trainer: Trainer) -> str:
    """Which losses it trains with, and for how long."""
    start, steps = trainer.options.start, trainer.options.start_steps
    if start == "batch-hard" or not steps:
        return "batch-hard"
    return start if steps >= trainer.total_steps else f"{start} for {steps} steps, then batch-hard"


def _in_a_row(number: int) -> str:
    return "one evaluation" if number == 1 else f"{number} evaluations in a row"


def _when_evaluated(trainer: Trainer) -> str:
    """What is evaluated how often, and what follows from it."""
    options, every = trainer.options, trainer.options.evaluate_every
    when = "every epoch" if every == 1 else f"every {every} epochs" if every else "at the end"
    if options.loss == "both" and every:
        when = f"{trainer.learners[0].name} {when}, the reference at the end"
    text = f"{when}; the network with the best {options.best_by} is kept"
    if options.patience:
        text += f", and after {_in_a_row(options.patience)} without a better one the run ends"
    return text


def progress_line(row: Row, total: int, processes: int) -> str:
    """A step: losses, and how far two copies are apart."""
    names = [key.removeprefix("loss_") for key in row if key.startswith("loss_")]
    where = {"fused": f" in {processes} processes", "reference": " in one"} if processes > 1 else {}
    losses = ", ".join(f"{name}{where.get(name, '')} {row[f'loss_{name}']:.5f}" for name in names)
    line = f"step {int(row['step']):>4}/{total}  loss {losses}  active {row[f'active_{names[0]}']:4.0%}"
    if SAME_LOSS in row:
        line += f"  off the reference: loss {row[SAME_LOSS]:.0e}, gradient {row[SAME_GRADIENT]:.0e}"
    if COPIES_LOSS in row:
        line += f"  copies apart: loss {row[COPIES_LOSS]:.0e}, gradient norm {row[COPIES_GRADIENT_NORM]:.0e}"
    return f"{line}  {row['images_per_second']:.1f} images/s"


def _print_summary(trainer: Trainer, lines: dict[str, Metrics]) -> None:
    """The closing table, in words for someone who knows no metric's name."""
    split, pixels = trainer.split, next(iter(lines.values()))
    groups = {"": "test images"}
    if f"{UNSEEN}map_at_r" in pixels:
        names = split.unseen_classes
        few = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        groups = {"": "new images of classes trained on", UNSEEN: f"images of classes never trained on ({few})"}
    width = max(map(len, lines))
    print()
    for prefix, title in groups.items():
        number = int(pixels[f"{prefix}queries"])
        print(f"{title}, {number} of them: each looks for its like among all {len(split.test)}")
        print(f"  {'':<{width}}  nearest one is right   share of its class found first")
        for name, metrics in lines.items():
            print(f"  {name:<{width}}  {metrics[f'{prefix}hit_rate@1']:>20.0%}   {metrics[f'{prefix}map_at_r']:>30.0%}")
    print('"nearest one is right" is hit_rate@1, papers call it Recall@1; the other is map_at_r, MAP@R')
    if trainer.checks:
        worst = max(max(row[SAME_LOSS], row[SAME_GRADIENT]) for row in trainer.history)
        print(
            f"in each of {trainer.step} steps loss and gradient agreed with plain PyTorch in float64, "
            f"to {worst:.0e} at worst"
        )
