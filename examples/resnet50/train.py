"""The command ``python -m examples.resnet50.train``: reads options, trains, reports, and turns trouble into exit codes.

0: trained to the end, or to that of --patience. 1: fused and reference parted, or a loss or an embedding is not
finite. 2: a wrong option or file. 130: Ctrl-C, checkpoint saved.

Under torchrun every process trains; the first leads, and does all else besides. The others follow: they print nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from examples.resnet50.agreement import Disagreement
from examples.resnet50.checkpoint import load_checkpoint
from examples.resnet50.datasets import read_dataset
from examples.resnet50.device import choose_own_device
from examples.resnet50.divergence import Diverged
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import bounded, pixel_metrics
from examples.resnet50.interrupt import Interrupt
from examples.resnet50.options import Options, complete, merge_resumed, parse_options
from examples.resnet50.processes import Processes, joined
from examples.resnet50.record import Record, Row
from examples.resnet50.report import in_a_row, metrics_line, print_start, progress_line, where_to_look
from examples.resnet50.run_folder import WRITTEN, run_folder
from examples.resnet50.trainer import Trainer

_LINES = 15  # lines of progress in a whole run


def _train(trainer: Trainer, record: Record, folder: Path, interrupt: Interrupt) -> None:
    """Steps with a progress bar until the end, --patience or Ctrl-C; the bar shows on a terminal only.

    It moves with every step; its figures, the lines and the record come with every read.
    """
    total, first = trainer.total_steps, trainer.step + 1
    every = max(1, total // _LINES)
    options, name = trainer.options, trainer.learners[0].name

    def write(line: str) -> None:
        tqdm.write(line, file=sys.stdout)  # above the bar
        sys.stdout.flush()

    with tqdm(total=total, initial=trainer.step, unit="step", disable=None, dynamic_ncols=True) as bar:

        def on_row(row: Row) -> None:
            record.add(row)
            loss, active = row[f"loss_{name}"], row[f"active_{name}"]
            bar.set_postfix_str(f"loss {loss:.4f}, active {active:.0%}, {row['images_per_second']:.1f} images/s")
            step = int(row["step"])
            if step % every == 0 or step in (first, total):
                write(progress_line(row, total, trainer.processes.size))

        def on_evaluation(row: Row, is_best: bool) -> None:
            record.add_evaluation(name, row)
            title = f"after {int(row['step'])} steps, {name}"
            write(metrics_line(title, row, options.best_by) + ("   best so far" if is_best else ""))
            if is_best:
                trainer.best.save(folder / "best.pt", options.to_dict())

        def go_on() -> bool:
            bar.update()
            if options.save_every and trainer.step % options.save_every == 0 and trainer.step < total:
                trainer.read(on_row)
                trainer.save(folder / "checkpoint.pt")
            return not interrupt.requested

        trainer.run(on_row, go_on, on_evaluation)


def _plot_loss(trainer: Trainer, folder: Path) -> None:
    from examples.resnet50.plots import plot_loss  # here: matplotlib takes a second

    options = trainer.options
    title = f"ResNet-50 on {options.data}, {options.classes_per_batch} x {options.samples_per_class} images per batch"
    plot_loss(trainer.history, title, trainer.held_steps, folder / "loss.png")


def _finish(trainer: Trainer, record: Record, folder: Path) -> None:
    """Measures what was not yet measured, and draws what the best network is worth."""
    from examples.resnet50 import plots

    assert trainer.before is not None
    _plot_loss(trainer, folder)
    by, best = trainer.options.best_by, trainer.best
    for learner in trainer.learners:
        if learner.scaler.is_enabled():
            skipped = trainer.history[-1][f"skipped_{learner.name}"]
            print(
                f"skipped: {skipped:.0f} of {trainer.step} steps of {learner.name}, whose gradients overflowed "
                f"float16; its loss is scaled by {learner.scaler.get_scale():g} now"
            )
    measured = {
        learner.name: trainer.evaluate(learner)
        for learner in trainer.learners[1 if best.measured_at(trainer.step) else 0 :]
    }
    for name, evaluation in measured.items():
        print(metrics_line(f"after {trainer.step} steps, {name}", evaluation.metrics, by))
        record.add_evaluation(name, {"step": trainer.step, **evaluation.metrics})
    if best.exhausted and trainer.step < trainer.total_steps:
        print(f"stopped: {in_a_row(best.since)} had no better {by} than the best")
    if best.best is None:  # interrupted before
        shown, when = measured[trainer.learners[0].name], f"after {trainer.step} steps"
    else:
        shown, when = best.best.evaluation, f"after {best.best.step} steps, best by {by}"
        print(f"best:    {by} {best.value:.4f} after {best.best.step} steps; that network is in {folder / 'best.pt'}")
    test = trainer.split.test
    for plot, name in (
        (plots.plot_embeddings, "embeddings.png"),
        (plots.plot_retrieval, "retrieval.png"),
        (plots.plot_distances, "distances.png"),
    ):
        plot(test, trainer.before, shown, when, folder / name)
    plots.plot_worst_queries(test, shown, when, folder / "worst_queries.png")


def _prepare(options: Options, given: frozenset[str], processes: Processes) -> Trainer:
    """Reads the data and builds the networks, new or from a checkpoint."""
    saved = None
    if options.resume is not None:
        saved = load_checkpoint(options.resume)
        options = merge_resumed(options, given, saved["options"])
    options = complete(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    here = (os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) if processes.size > 1 else (0, 1)
    device = choose_own_device(options.device, *map(int, here))
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)  # pinning memory would start the first GPU beside it
    split = read_dataset(options.data, options.root, options.image_size)
    split = replace(split, test=bounded(split.test, options.test_limit))
    trainer = Trainer(options, split, device, processes=processes, weights_needed=saved is None)
    if saved is not None:
        trainer.restore(saved)
    return trainer


def _start(trainer: Trainer) -> tuple[Path, Record]:
    """The folder of the results and its open files, once it is said what is about to be done, and from where."""
    options, split = trainer.options, trainer.split
    folder = run_folder(options)
    print_start(options, split, trainer, folder)
    by, name = options.best_by, trainer.learners[0].name
    print(metrics_line("pixels, for comparison", pixel_metrics(split.test, trainer.device), by), flush=True)
    begun = trainer.before is not None  # by the run that is resumed
    if trainer.before is None:
        trainer.before = trainer.evaluate(trainer.learners[0])
    print(metrics_line("before training", trainer.before.metrics, by), flush=True)
    before: Row = {"step": 0, **trainer.before.metrics}
    record = Record(folder, trainer.history, name, [before, *trainer.best.evaluations] if begun else [])
    if not begun:
        record.add_evaluation(name, before)
    if trainer.best.best is not None:
        trainer.best.save(folder / "best.pt", options.to_dict())
    return folder, record


def _lead(trainer: Trainer, interrupt: Interrupt) -> int:
    """The run; where there are several processes, what the first of them does."""
    started = time.perf_counter()
    options, processes = trainer.options, trainer.processes
    with processes.together():
        folder, record = _start(trainer)
    checkpoint = folder / "checkpoint.pt"
    try:
        if not processes.any(interrupt.requested):
            _train(trainer, record, folder, interrupt)
        interrupted = processes.any(interrupt.requested)
        if not trainer.history:
            print("interrupted before the first step: nothing to save", flush=True)
            return 130
        with processes.together():
            trainer.save(checkpoint)
            if interrupted:
                print(f"interrupted after step {trainer.step}; continue with --resume {checkpoint}", flush=True)
            _finish(trainer, record, folder)
    except Disagreement:
        _plot_loss(trainer, folder)
        raise
    except Diverged as error:
        _plot_loss(trainer, folder)
        raise Diverged(f"{error}; {where_to_look(options, folder)}") from None
    finally:
        record.close()
    seconds = time.perf_counter() - started
    share = trainer.evaluation_seconds / seconds
    written = [name for name in WRITTEN if (folder / name).exists()]
    print(f"{seconds:.0f} s, of which evaluations took {share:.0%}; see {folder}/: {', '.join(written)}")
    return 130 if interrupted or interrupt.requested else 0


def _follow(trainer: Trainer, interrupt: Interrupt) -> int:
    """What every other process does: the same steps, and at the same points it waits for the first."""
    processes = trainer.processes
    with processes.together():
        pass
    if not processes.any(interrupt.requested):
        trainer.run(lambda row: None, lambda: not interrupt.requested)
    interrupted = processes.any(interrupt.requested)
    if trainer.history:
        with processes.together():
            pass
    return 130 if interrupted else 0


#: Options that may differ from machine to machine.
_OF_A_MACHINE = ("root", "device", "threads", "name", "out", "overwrite", "save_every", "resume")


def what_all_share(trainer: Trainer) -> dict[str, object]:
    """What every process has to have alike for all of them to draw the same batches, by the name of its option."""
    labels = trainer.split.train.labels.numpy().tobytes()
    shared = {f"--{name}": value for name, value in trainer.options.to_dict().items() if name not in _OF_A_MACHINE}
    return {
        **shared,
        "the step that --resume goes on from": trainer.step,
        "the training labels of --data and --root": hashlib.sha256(labels).hexdigest()[:12],
    }


def _run(options: Options, given: frozenset[str], processes: Processes) -> int:
    with Interrupt(quiet=not processes.is_first) as interrupt:
        with processes.together():
            trainer = _prepare(options, given, processes)
        processes.check_alike(what_all_share(trainer))
        return (_lead if processes.is_first else _follow)(trainer, interrupt)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with ``arguments``, by default those of the process, and returns its exit code."""
    options, given = parse_options(arguments)
    try:
        with joined() as processes:
            try:
                return _run(options, given, processes)
            except (UserError, Disagreement, Diverged) as error:
                if processes.is_first:
                    print(f"error: {error}", file=sys.stderr, flush=True)
                return 2 if isinstance(error, UserError) else 1
    except UserError as error:  # of the processes' environment
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted: stopped at once", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
