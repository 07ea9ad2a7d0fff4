"""What the command says in words: what is about to be done, progress, results, and where to look."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from examples.resnet50.agreement import statement
from examples.resnet50.datasets import Split
from examples.resnet50.device import describe
from examples.resnet50.measures import Metrics, figures
from examples.resnet50.options import Options
from examples.resnet50.record import Row
from examples.resnet50.trainer import Trainer

_PACKAGES = ("fasttriplet", "torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "tensorboard")


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # fasttriplet may be used from its sources
            found.append(f"{package} {getattr(sys.modules.get(package), '__version__', 'not installed')}")
    return ", ".join(found)


def print_start(options: Options, split: Split, trainer: Trainer, folder: Path) -> None:
    """Versions, data, device, and what is about to be done."""
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
    print(f"test:    {_when_evaluated(trainer)}")
    print(f"results: {folder}/", flush=True)


def _spread(trainer: Trainer) -> str:
    """Over how many processes the batches are."""
    n, size = trainer.sampler.batch_size, trainer.processes.size
    share = f"{n // size} to {-(-n // size)}" if n % size else f"{n // size}"
    text = f"{size} processes with {share} images of each batch, batch norm and loss of all {n}"
    if trainer.options.loss == "both":
        text += "; beside them the reference in one process, with whole batches"
    return text


def in_a_row(number: int) -> str:
    """So many evaluations."""
    return "one evaluation" if number == 1 else f"{number} evaluations in a row"


def _when_evaluated(trainer: Trainer) -> str:
    """What is evaluated how often, and what follows from it."""
    options, every = trainer.options, trainer.options.evaluate_every
    when = "every epoch" if every == 1 else f"every {every} epochs" if every else "at the end"
    if options.loss == "both" and every:
        when = f"{trainer.learners[0].name} {when}, the reference at the end"
    text = f"{when}; the network with the best {options.best_by} is kept"
    if options.patience:
        text += f", and after {in_a_row(options.patience)} without a better one the run ends"
    return text


def metrics_line(title: str, metrics: Metrics, by: str) -> str:
    """An evaluation, ``by`` among its figures."""
    return f"{title:<28}{figures(metrics, by)}"


def progress_line(row: Row, total: int, processes: int) -> str:
    """A step: losses, and how far two copies are apart."""
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


def where_to_look(options: Options, folder: Path) -> str:
    """How a loss that is not finite may have come about, in the words of an error."""
    remedy = "a smaller --lr" + (" or --precision bfloat16" if options.precision == "float16" else "")
    return f"look at the steps before it in {folder}/metrics.csv (gradient_norm: did it grow?), and try {remedy}"
