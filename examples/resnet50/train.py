"""The command ``python -m examples.resnet50.train``: reads options, trains, reports, and turns trouble into exit codes.

0: trained to the end. 1: fused and reference parted, or a loss is not finite. 2: a wrong option or file. 130: Ctrl-C,
checkpoint saved.

Under torchrun every process trains; the first leads, and does all else besides. The others follow: they print nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tqdm import tqdm

from examples.resnet50.agreement import Disagreement, statement
from examples.resnet50.checkpoint import load_checkpoint
from examples.resnet50.datasets import Split, read_dataset
from examples.resnet50.device import choose_own_device, describe
from examples.resnet50.divergence import Diverged
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import bounded, pixel_metrics
from examples.resnet50.interrupt import Interrupt
from examples.resnet50.metrics import NotFinite, RetrievalMetrics
from examples.resnet50.options import Options, complete, merge_resumed, parse_options
from examples.resnet50.processes import Processes, joined
from examples.resnet50.record import Record, Row
from examples.resnet50.run_folder import run_folder
from examples.resnet50.trainer import Trainer

_PACKAGES = ("fasttriplet", "torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "tensorboard")
_LINES = 15  # lines of progress in a whole run


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # fasttriplet may be used from its sources
            found.append(f"{package} {getattr(sys.modules.get(package), '__version__', 'not installed')}")
    return ", ".join(found)


def _print_start(options: Options, split: Split, trainer: Trainer, folder: Path) -> None:
    train, test, sampler = split.train, split.test, trainer.sampler
    relation = "none of them trained on" if split.unseen else "some of them trained on"
    print(_versions())
    print(
        f"data:    {options.data}, {options.image_size} x {options.image_size}; train {len(train)} images of "
        f"{len(train.classes)} classes, test {len(test)} images of {len(test.classes)} classes, {relation}"
    )
    if split.left_out:
        print(f"note:    {split.left_out} classes of the training files are left out: the test has them")
    if sampler.short_classes:
        print(
            f"note:    {sampler.short_classes} training classes have fewer than {sampler.samples_per_class} images; "
            "some of theirs come twice in a batch, differently augmented"
        )
    compiled = ", compiled" if options.compile else ""
    print(f"device:  {describe(trainer.device, options.device)}; the network in {options.precision}{compiled}")
    print(
        f"batches: {options.classes_per_batch} classes x {options.samples_per_class} images, "
        f"{trainer.total_steps} steps ({sampler.batches_per_epoch} are one epoch), {torch.get_num_threads()} threads"
    )
    if trainer.processes.size > 1:
        print(f"spread:  {_spread(trainer)}")
    if options.loss == "both":
        print(f"check:   {statement(trainer.held_steps)}")
    print(f"results: {folder}/", flush=True)


def _spread(trainer: Trainer) -> str:
    """Over how many processes the batches are."""
    n, size = trainer.sampler.batch_size, trainer.processes.size
    share = f"{n // size} to {-(-n // size)}" if n % size else f"{n // size}"
    text = f"{size} processes with {share} images of each batch, batch norm and loss of all {n}"
    if trainer.options.loss == "both":
        text += "; beside them the reference in one process, with whole batches"
    return text


def _print_metrics(title: str, m: RetrievalMetrics) -> None:
    figures = f"recall@1 {m.recall_at_1:.4f}   recall@5 {m.recall_at_5:.4f}   mAP@R {m.map_at_r:.4f}"
    print(f"{title:<28}{figures}", flush=True)


def _progress_line(row: Row, total: int, processes: int) -> str:
    names = [key.removeprefix("loss_") for key in row if key.startswith("loss_")]
    where = {"fused": f" in {processes} processes", "reference": " in one"} if processes > 1 else {}
    losses = ", ".join(f"{name}{where.get(name, '')} {row[f'loss_{name}']:.5f}" for name in names)
    line = f"step {int(row['step']):>4}/{total}  loss {losses}  active {row[f'active_{names[0]}']:4.0%}"
    if "copies_loss_difference" in row:
        line += (
            f"  apart: loss {row['copies_loss_difference']:.0e}, gradient norm "
            f"{row['copies_gradient_norm_difference']:.0e}; on the same embeddings: loss "
            f"{row['same_embeddings_loss_difference']:.0e}, gradient {row['same_embeddings_gradient_difference']:.0e}"
        )
    return f"{line}  {row['images_per_second']:.1f} images/s"


def _train(trainer: Trainer, record: Record, checkpoint: Path, interrupt: Interrupt) -> None:
    """Steps with a progress bar until the end or Ctrl-C; the bar shows on a terminal only.

    It moves with every step; its figures, the lines and the record come with every read.
    """
    total, first = trainer.total_steps, trainer.step + 1
    every = max(1, total // _LINES)
    save_every = trainer.options.save_every
    name = trainer.learners[0].name
    with tqdm(total=total, initial=trainer.step, unit="step", disable=None, dynamic_ncols=True) as bar:

        def on_row(row: Row) -> None:
            record.add(row)
            loss, active = row[f"loss_{name}"], row[f"active_{name}"]
            bar.set_postfix_str(f"loss {loss:.4f}, active {active:.0%}, {row['images_per_second']:.1f} images/s")
            step = int(row["step"])
            if step % every == 0 or step in (first, total):
                tqdm.write(_progress_line(row, total, trainer.processes.size), file=sys.stdout)
                sys.stdout.flush()

        def go_on() -> bool:
            bar.update()
            if save_every and trainer.step % save_every == 0 and trainer.step < total:
                trainer.read(on_row)
                trainer.save(checkpoint)
            return not interrupt.requested

        trainer.run(on_row, go_on)


def _plot_loss(trainer: Trainer, folder: Path) -> None:
    from examples.resnet50.plots import plot_loss  # here: matplotlib takes a second

    options = trainer.options
    title = f"ResNet-50 on {options.data}, {options.classes_per_batch} x {options.samples_per_class} images per batch"
    plot_loss(trainer.history, title, trainer.held_steps, folder / "loss.png")


def _finish(trainer: Trainer, record: Record, folder: Path) -> None:
    """Measures and draws what the networks are worth now."""
    from examples.resnet50.plots import plot_embeddings, plot_retrieval

    assert trainer.before is not None
    _plot_loss(trainer, folder)
    for learner in trainer.learners:
        if learner.scaler.is_enabled():
            skipped = trainer.history[-1][f"skipped_{learner.name}"]
            print(
                f"skipped: {skipped:.0f} of {trainer.step} steps of {learner.name}, whose gradients overflowed "
                f"float16; its loss is scaled by {learner.scaler.get_scale():g} now"
            )
    evaluations = trainer.evaluate()
    for learner, evaluation in zip(trainer.learners, evaluations, strict=True):
        _print_metrics(f"after {trainer.step} steps, {learner.name}", evaluation.metrics)
        record.add_retrieval(learner.name, trainer.step, evaluation.metrics)
    test = trainer.split.test
    plot_embeddings(test, trainer.before, evaluations[0], trainer.step, folder / "embeddings.png")
    plot_retrieval(test, trainer.before, evaluations[0], trainer.step, folder / "retrieval.png")


def _where_to_look(options: Options, folder: Path) -> str:
    """How a loss that is not finite may have come about, in the words of an error."""
    remedy = "a smaller --lr" + (" or --precision bfloat16" if options.precision == "float16" else "")
    return f"look at the steps before it in {folder}/metrics.csv (gradient_norm: did it grow?), and try {remedy}"


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
    _print_start(options, split, trainer, folder)
    _print_metrics("pixels, for comparison", pixel_metrics(split.test, trainer.device))
    if trainer.before is None:
        trainer.before = trainer.evaluate()[0]
    _print_metrics("before training", trainer.before.metrics)
    record = Record(folder, trainer.history)
    record.add_retrieval(trainer.learners[0].name, 0, trainer.before.metrics)
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
            _train(trainer, record, checkpoint, interrupt)
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
        raise Diverged(f"{error}; {_where_to_look(options, folder)}") from None
    finally:
        record.close()
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s; see {folder}/: loss.png, embeddings.png, retrieval.png, metrics.csv, checkpoint.pt")
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
            except (UserError, Disagreement, Diverged, NotFinite) as error:
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
