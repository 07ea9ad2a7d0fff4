"""The command ``python -m examples.resnet50.train``: reads options, trains, reports, and turns trouble into exit codes.

0: trained to the end, or to that of --patience. 1: fused and reference parted, or a loss or an embedding is not
finite. 2: a wrong option or file. 130: Ctrl-C, checkpoint saved.

Under torchrun every process trains; the first leads, and reports besides.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from examples.resnet50.datasets import read_dataset
from examples.resnet50.device import choose_device
from examples.resnet50.errors import Disagreement, Diverged, RunError
from examples.resnet50.evaluate import bounded, under_nuisance
from examples.resnet50.files import load_checkpoint
from examples.resnet50.options import OF_A_MACHINE, Options, complete, merge_resumed, parse_options
from examples.resnet50.processes import Processes, joined
from examples.resnet50.report import Report
from examples.resnet50.trainer import Trainer


@contextmanager
def _interruptible(*, quiet: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: raised in the middle of a step it could leave half of the weights moved. A second one
    is raised as usual. ``quiet``, in those processes that leave that to the first: nothing is printed.
    """
    pressed: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        if not quiet:
            print("\ninterrupted: finishing this step, then saving; press Ctrl-C again to stop at once", flush=True)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)


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
    device = choose_device(options.device, *map(int, here))
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)  # pinning memory would start the first GPU beside it
    split = read_dataset(options.data, options.root, options.image_size)
    split = replace(split, test=bounded(split.test, options.test_limit))
    if options.nuisance:
        split = under_nuisance(split)
    trainer = Trainer(options, split, device, processes=processes, weights_needed=saved is None)
    if saved is not None:
        trainer.restore(saved)
    return trainer


def what_all_share(trainer: Trainer) -> dict[str, object]:
    """What every process has to have alike for all of them to draw the same batches, by the name of its option."""
    labels = trainer.split.train.labels.numpy().tobytes()
    options = asdict(trainer.options).items()
    shared = {f"--{name.replace('_', '-')}": value for name, value in options if name not in OF_A_MACHINE}
    return {
        **shared,
        "the step that --resume goes on from": trainer.step,
        "the training labels of --data and --root": hashlib.sha256(labels).hexdigest()[:12],
    }


def _train(trainer: Trainer, report: Report | None, interrupted: Callable[[], bool]) -> None:
    if report is None:
        trainer.run(lambda row: None, lambda: not interrupted())
        return

    def go_on() -> bool:
        report.on_step()
        return not interrupted()

    trainer.run(report.on_row, go_on, report.on_evaluation)


def _run(options: Options, given: frozenset[str], processes: Processes) -> int:
    with _interruptible(quiet=not processes.is_first) as interrupted:
        with processes.together():
            trainer = _prepare(options, given, processes)
        processes.check_alike(what_all_share(trainer))
        report = None
        with processes.together():
            if processes.is_first:
                report = Report(trainer)
        try:
            if not processes.any(interrupted()):
                _train(trainer, report, interrupted)
            stopped = processes.any(interrupted())
            with processes.together():
                if report is not None:
                    report.finish(stopped)
        except (Disagreement, Diverged) as error:
            raise error if report is None else report.of_failure(error) from None
        finally:
            if report is not None:
                report.close()
        return 130 if stopped or interrupted() else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with ``arguments``, by default those of the process, and returns its exit code."""
    options, given = parse_options(arguments)
    try:
        with joined() as processes:
            try:
                return _run(options, given, processes)
            except RunError as error:
                if processes.is_first:
                    print(f"error: {error}", file=sys.stderr, flush=True)
                return error.exit_code
    except RunError as error:  # of the processes' environment
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: stopped at once", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
