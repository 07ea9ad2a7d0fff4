"""Writes ``docs/family.md``: runs every loss of the family with every distance and option, and says what agreed.

``python -m build_tools.docs.family`` writes the page; ``tests/test_family_table.py`` compares it with what a run says.
Nothing goes into the page that changes from run to run: an agreement within a stated tolerance, and a peak of memory
below a stated limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fasttriplet
from benchmarks.measure import table
from benchmarks.peak_memory import added_by
from build_tools.docs import serving
from fasttriplet import reference
from fasttriplet.check import DISTANCES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "family.md"

N, D, PER_CLASS = 8192, 128, 4  # of the memory's run
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


class Member(NamedTuple):
    """A loss of the family; ``limit``: peak beyond inputs and gradient, in multiples of the embeddings' own size."""

    title: str
    function: str
    keywords: dict[str, Any]
    limit: float = 6.0
    explicit: bool = False  # takes triplets, not labels


FAMILY = (
    Member("batch-hard", "batch_hard_triplet_loss", {}, limit=3),
    Member("batch-hard, with statistics", "batch_hard_triplet_loss", {"return_stats": True}),
    Member("semi-hard", "semi_hard_triplet_loss", {}, limit=8),
    Member("semi-hard within the margin", "semi_hard_triplet_loss", {"within_margin": True}, limit=8),
    Member("easy positive, hardest negative", "easy_positive_triplet_loss", {}),
    Member("easy positive, semi-hard negative", "easy_positive_triplet_loss", {"negatives": "semi_hard"}),
    Member("k hardest negatives, k = 4", "k_hardest_triplet_loss", {"k": 4}),
    Member("batch-all", "batch_all_triplet_loss", {}),
    Member("weighted", "weighted_triplet_loss", {}),
    Member("explicit triplets", "triplet_margin_loss", {}, limit=3, explicit=True),
)


class Inputs(NamedTuple):
    """Tensors by argument; ``leaves`` are the names of those that take a gradient."""

    positional: tuple[str, ...]
    tensors: dict[str, Tensor]
    keywords: dict[str, Any]
    leaves: tuple[str, ...]


def specification(member: Member) -> Callable[..., Any]:
    return getattr(reference, member.function)


def family() -> list[Member]:
    return [member for member in FAMILY if is_there(member)]


def is_there(member: Member) -> bool:
    """Whether this version has the loss, with these keywords."""
    function = getattr(fasttriplet, member.function, None)
    inputs = (triplets if member.explicit else batch)(torch.Generator().manual_seed(0))
    try:
        return function is not None and call(function, inputs, inputs.tensors, member.keywords) is not None
    except (TypeError, NotImplementedError):
        return False


# What is tried: the batch alone, and each option on top.


def batch(generator: torch.Generator) -> Inputs:
    embeddings = torch.randn(60, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 12, (60,), generator=generator)
    return Inputs(("embeddings", "labels"), {"embeddings": embeddings, "labels": labels}, {}, ("embeddings",))


def triplets(generator: torch.Generator) -> Inputs:
    names = ("anchor", "positive", "negative")
    rows = {name: torch.randn(60, 16, generator=generator, dtype=torch.float64) for name in names}
    return Inputs(names, rows, {}, names)


def with_references(generator: torch.Generator) -> Inputs:
    inputs = batch(generator)
    rows = torch.randn(75, 16, generator=generator, dtype=torch.float64)
    more = {"ref_embeddings": rows, "ref_labels": torch.randint(0, 12, (75,), generator=generator)}
    return inputs._replace(tensors=inputs.tensors | more, leaves=("embeddings", "ref_embeddings"))


def with_several_labels(generator: torch.Generator) -> Inputs:
    inputs = batch(generator)
    several = torch.rand(60, 80, generator=generator) < 0.02
    return inputs._replace(tensors=inputs.tensors | {"labels": several})


def with_sample_ids(generator: torch.Generator) -> Inputs:
    inputs = batch(generator)
    return inputs._replace(tensors=inputs.tensors | {"sample_ids": torch.randint(-1, 25, (60,), generator=generator)})


def with_ignore_index(generator: torch.Generator) -> Inputs:
    return batch(generator)._replace(keywords={"ignore_index": 3})


def with_groups(generator: torch.Generator) -> Inputs:
    inputs = batch(generator)
    return inputs._replace(tensors=inputs.tensors | {"groups": torch.randint(0, 5, (60,), generator=generator)})


def with_weights(generator: torch.Generator) -> Inputs:
    inputs = batch(generator)
    return inputs._replace(
        tensors=inputs.tensors | {"weights": torch.rand(60, generator=generator, dtype=torch.float64)}
    )


OPTIONS: dict[str, Callable[[torch.Generator], Inputs]] = {
    "references": with_references,
    "several labels": with_several_labels,
    "`sample_ids`": with_sample_ids,
    "`ignore_index`": with_ignore_index,
    "`groups`": with_groups,
    "`weights`": with_weights,
}


# One run of one function, and what agrees with the specification.


def results(function: Callable[..., Any], inputs: Inputs, keywords: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """The loss, and its gradient for every leaf."""
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.tensors.items()}
    leaves = [tensors[name].requires_grad_() for name in inputs.leaves]
    loss = first(call(function, inputs, tensors, keywords))
    return [loss, *torch.autograd.grad(loss, leaves)]


def second_derivatives(function: Callable[..., Any], inputs: Inputs, keywords: dict[str, Any]) -> list[Tensor]:
    tensors = {name: value.clone() for name, value in inputs.tensors.items()}
    leaves = [tensors[name].requires_grad_() for name in inputs.leaves]
    loss = first(call(function, inputs, tensors, keywords | {"soft_margin": True}))
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    return list(torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), leaves))


def call(function: Callable[..., Any], inputs: Inputs, tensors: dict[str, Tensor], keywords: dict[str, Any]) -> object:
    named = {name: value for name, value in tensors.items() if name not in inputs.positional}
    return function(*(tensors[name] for name in inputs.positional), **named, **inputs.keywords, **keywords)


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> list[bool]:
    return [
        bool((mine.double() - its).norm() <= tolerance * (1e-12 + its.norm()))
        for mine, its in zip(ours, theirs, strict=True)
    ]


def cell(member: Member, distance: str, make: Callable[[torch.Generator], Inputs]) -> str:
    """``L``, ``G``, ``S`` for what agrees; ``refused`` for a ValueError, ``no`` for an argument that is not there."""
    ours, its = getattr(fasttriplet, member.function), specification(member)
    keywords = {"distance": distance, **member.keywords}
    inputs = make(torch.Generator().manual_seed(1))
    try:
        found = {dtype: results(ours, inputs, keywords, dtype) for dtype in TOLERANCE}
    except ValueError:
        return "refused"
    except TypeError:
        return "no"
    right = results(its, inputs, keywords, torch.float64)
    agreed = [agree(found[dtype], right, tolerance) for dtype, tolerance in TOLERANCE.items()]
    said = "L" if all(loss for loss, *_ in agreed) else ""
    said += "G" if all(all(gradients) for _, *gradients in agreed) else ""
    try:
        second = agree(second_derivatives(ours, inputs, keywords), second_derivatives(its, inputs, keywords), 1e-6)
    except RuntimeError:  # once differentiable
        second = [False]
    return (said + ("S" if all(second) else "")) or "differs"


# Memory, and the device's kernels.


def memory_step(member: Member) -> Callable[[int], None]:
    function = getattr(fasttriplet, member.function)

    def inputs(n: int) -> tuple[list[Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(0)
        count = 3 if member.explicit else 1
        leaves = [torch.randn(n, D, generator=generator).requires_grad_() for _ in range(count)]
        return leaves, [] if member.explicit else [torch.arange(n) // PER_CLASS]

    def run(leaves: list[Tensor], labels: list[Tensor]) -> None:
        for distance in DISTANCES:
            torch.autograd.grad(first(function(*leaves, *labels, distance=distance, **member.keywords)), leaves)

    def prepared(n: int) -> Callable[[], None]:
        leaves, labels = inputs(n)
        return lambda: run(leaves, labels)

    return prepared


def multiple_of_inputs(member: Member) -> float:
    """Peak beyond inputs and gradient, all distances, in multiples of the inputs' size."""
    prepared = memory_step(member)
    prepared(16)()  # the libraries are up
    own = (3 if member.explicit else 1) * N * D * 4 / 2**20  # of the inputs, and of the gradient as well
    return (added_by(prepared(N)) - own) / own


def memory_cell(member: Member) -> str:
    """In a process of its own, since memory pools of this one would hide it.

    Large blocks go back to the system at once there: how many of them glibc keeps, in whichever order threads let go of
    them, is between one and four times the inputs, and differs from run to run.
    """
    command = [sys.executable, "-m", "build_tools.docs.family", "--memory", member.title]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if run.returncode != 0:
        raise OSError(run.stderr.strip())
    multiple = float(run.stdout)
    return f"below {member.limit:g}" if multiple < member.limit else f"{multiple:.1f}, above {member.limit:g}"


def cuda_cell(member: Member) -> str:
    """The engine of the loss with labels alone, where the CUDA library is loaded."""
    inputs = (triplets if member.explicit else batch)(torch.Generator().manual_seed(1))
    function = getattr(fasttriplet, member.function)
    calls = serving.calls_of(lambda: results(function, inputs, member.keywords, torch.float32))
    return serving.word(calls, serving.CUDA)


# The page.

HEAD = f"""# The family

This page is made by `python -m build_tools.docs.family`, which runs what it states; a test fails where a run says
something else.

Every loss with every distance, forward and backward, beside `fasttriplet.reference` in float64: **L**, the loss agrees;
**G**, so does the gradient; **S**, so does the derivative of the gradient (with `soft_margin`). Agreement is to within
{TOLERANCE[torch.float64]:g} of the norm for float64 inputs and {TOLERANCE[torch.float32]:g} for float32.

"""

OPTIONS_HEAD = """
## Options

The same for the options, with the euclidean distance; `no` is an argument that the function does not take, `refused` a
`ValueError` that says why.

"""

MEMORY_HEAD = f"""
## Memory and devices

Memory is the most that forward and backward add beyond the inputs and the gradient, for all distances, {N} rows of {D}
float32, {PER_CLASS} a class, as a multiple of the inputs ({N * D * 4 // 2**20} MiB for a batch). A distance matrix in
float32 would be {N // D} times the inputs. CUDA is the engine that serves a GPU where the CUDA library is loaded:
`kernels`, the `portable` engine in plain PyTorch, or `both`, each a part of the loss. [Devices](devices.md) has all of
that. Neither has run on a GPU yet.

"""


def page() -> str:
    members = family()
    distances = [[m.title, *(cell(m, d, triplets if m.explicit else batch) for d in DISTANCES)] for m in members]
    parts = [HEAD, table(["loss", *(f"`{distance}`" for distance in DISTANCES)], distances)]
    options = [[m.title, *(cell(m, "euclidean", make) for make in OPTIONS.values())] for m in members if not m.explicit]
    parts += ["\n", OPTIONS_HEAD, table(["loss", *OPTIONS], options)]
    devices = [[m.title, f"`{m.function}`", memory_cell(m), "yes", cuda_cell(m)] for m in members]
    parts += ["\n", MEMORY_HEAD, table(["loss", "function", "memory / inputs", "CPU", "CUDA"], devices), "\n"]
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    titles = [member.title for member in family()]
    parser.add_argument("--memory", choices=titles, help="print this loss's peak beyond inputs and gradient / inputs")
    arguments = parser.parse_args()
    if arguments.memory:
        print(multiple_of_inputs(family()[titles.index(arguments.memory)]))
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
