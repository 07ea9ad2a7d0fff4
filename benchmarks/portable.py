"""The portable engine on the CPU, a stand-in for a device without kernels, beside the originals of each loss.

Forward plus backward, verified and then timed in turn with the originals and with the CPU's own kernel; then the peak
of memory that one such step adds. Verified on the batch that is timed: value and gradient are the kernel's, and those
of each original within the tolerances of ``benchmarks.compat``. Originals are libraries where they are installed,
fast-reid's formula (``benchmarks.published``) and the plain forms of PyTorch. Run it as
``python -m benchmarks.portable``; see ``--help``.
"""

from __future__ import annotations

import argparse
import datetime
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

import fasttriplet
from benchmarks import compat, originals, peers, triplet_margin
from benchmarks.cases import MARGIN, batch, positive, shape_name, size
from benchmarks.family import function_of
from benchmarks.measure import add_out, against, in_turn, machine, mib, publish, table, verdict
from benchmarks.peak_memory import added_by, told_by_fresh_process
from fasttriplet import engines
from fasttriplet.compat import pml

DEFAULT_SIZES = ("512x128", "1024x128", "2048x128", "4096x128")
PORTABLE, KERNEL = "portable", "kernel"
#: Of explicit triplets: 0.3, that of the others, is met by all of the batch, and a loss of 0 would verify nothing.
EXPLICIT_MARGIN = 1.0
#: Both engines of ours pick the same pairs; sums of float32 rows differ in their order. Of value and gradient.
KERNEL_TOLERANCES = (1e-6, 1e-5)

Loss = Callable[..., Tensor]
Run = Callable[[], object]


class Original(NamedTuple):
    """A loss of others; a ``cubic`` one takes part up to N = ``compat.CUBIC_LIMIT``."""

    name: str
    loss: Loss
    cubic: bool = False


class Entry(NamedTuple):
    """A loss of ours, and who else computes it."""

    name: str
    ours: Loss
    originals: list[Original]
    batch: Callable[[int, int, int], tuple[Tensor, ...]] = batch  # of N, D and samples per class: what the losses take
    time_limit: float = 1.0  # of portable / quickest original
    memory_limit: float = 0.1  # of portable / original


def _pml_originals() -> dict[str, Original]:
    """By what they mine; of rows as they are."""
    library = originals.pytorch_metric_learning()
    if library is None:
        return {}
    metric = library.distances.LpDistance(normalize_embeddings=False)
    of_all = library.losses.TripletMarginLoss(margin=MARGIN, distance=metric)
    of_each = library.losses.TripletMarginLoss(margin=MARGIN, distance=metric, reducer=library.reducers.MeanReducer())
    name, miners = "pytorch-metric-learning", library.miners
    nearest, semi_hard = (miners.BatchEasyHardMiner(distance=metric, neg_strategy=how) for how in ("hard", "semihard"))
    margin = miners.TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance=metric)
    return {
        "hardest": Original(f"{name} BatchHardMiner", peers.pytorch_metric_learning()),
        "all": Original(f"{name} TripletMarginLoss", of_all, cubic=True),
        "all semi-hard": Original(f"{name} TripletMarginMiner", _mined(margin, of_all), cubic=True),
        "easy, hardest": Original(f"{name} BatchEasyHardMiner", _mined(nearest, of_each)),
        "easy, semi-hard": Original(f"{name} BatchEasyHardMiner", _mined(semi_hard, of_each)),
    }


def _mined(miner: torch.nn.Module, loss: torch.nn.Module) -> Loss:
    return lambda rows, labels: loss(rows, labels, miner(rows, labels))


def _given_triplets(n: int, d: int, _: int) -> tuple[Tensor, ...]:
    return tuple(triplet_margin.triplets(n, d, torch.float32))


def entries() -> list[Entry]:
    """All, with those originals that are here."""
    known = _pml_originals()
    pairs = {pair.name: pair for pair in compat.pairs()}
    known |= {name: Original(name, pair.original, pair.cubic) for name, pair in pairs.items()}
    weighted = "fast-reid triplet_loss, weighted mining, formula"
    # Its many triplets of a pair are no loss of the package's own: the drop-in makes them.
    all_semi_hard = _mined(
        pml.TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance="euclidean"),
        pml.TripletMarginLoss(margin=MARGIN, distance="euclidean"),
    )
    easy_semi_hard = functools.partial(
        fasttriplet.easy_positive_triplet_loss, margin=MARGIN, negatives="semi_hard", otherwise="skip"
    )

    def here(*names: str) -> list[Original]:
        return [known[name] for name in names if name in known]

    family = functools.partial(function_of, fasttriplet)
    return [
        # Apart, for its limit: gather is not exact, in near ties it takes whichever its matrix of float32 has nearer.
        Entry("batch-hard beside gather", family("batch-hard"), [Original("gather", peers.gather)], time_limit=1.5),
        Entry("batch-hard", family("batch-hard"), here("hardest", "sentence-transformers BatchHardTripletLoss")),
        Entry("semi-hard", family("semi-hard"), here("sentence-transformers BatchSemiHardTripletLoss")),
        Entry("all semi-hard triplets", all_semi_hard, here("all semi-hard")),
        Entry("batch-all", family("batch-all"), here("all", "sentence-transformers BatchAllTripletLoss")),
        Entry("easy positive", family("easy positive"), here("easy, hardest")),
        Entry("easy positive, semi-hard", easy_semi_hard, here("easy, semi-hard")),
        Entry("weighted, as fast-reid", pairs[weighted].ours, here(weighted)),
        Entry("4 hardest", family("4 hardest"), []),
        Entry(
            "explicit triplets",
            functools.partial(fasttriplet.triplet_margin_loss, margin=EXPLICIT_MARGIN),
            [Original("PyTorch", functools.partial(torch.nn.functional.triplet_margin_loss, margin=EXPLICIT_MARGIN))],
            _given_triplets,
            memory_limit=1.0,  # nothing there is quadratic, and both have three gradients
        ),
    ]


@contextmanager
def engine(portable: bool) -> Iterator[None]:
    """Calls of ours run by that engine, whichever ``FASTTRIPLET_ENGINE`` asks for."""
    usual, engines.forced = engines.forced, portable
    try:
        yield
    finally:
        engines.forced = usual


def ours_by(portable: bool, run: Run) -> Run:
    def alone() -> None:
        with engine(portable):
            run()

    return alone


def taking_part(entry: Entry, n: int) -> list[Original]:
    return [original for original in entry.originals if not original.cubic or n <= compat.CUBIC_LIMIT]


def verify(entry: Entry, *inputs: Tensor) -> None:
    """Raises AssertionError unless value and gradient by the portable engine are the kernel's and each original's."""
    with engine(portable=True):
        found = compat.result_of(entry.ours, *inputs)
    with engine(portable=False):
        kernel = compat.result_of(entry.ours, *inputs)
    compat.compare(f"{entry.name}, {PORTABLE} beside the {KERNEL}", found, kernel, *KERNEL_TOLERANCES)
    for original in taking_part(entry, len(inputs[0])):
        compat.compare(f"{entry.name} beside {original.name}", found, compat.result_of(original.loss, *inputs))


def cells(entry: Entry, n: int, d: int, rounds: int, samples_per_class: int) -> list[str]:
    """A row of the table of times."""
    inputs = entry.batch(n, d, samples_per_class)
    verify(entry, *inputs)
    step = triplet_margin.step
    contenders = {name: ours_by(name == PORTABLE, step(entry.ours, inputs)) for name in (PORTABLE, KERNEL)}
    contenders |= {original.name: step(original.loss, inputs) for original in taking_part(entry, n)}
    measured = in_turn(contenders, rounds)
    ours, kernel = measured.pop(PORTABLE), measured.pop(KERNEL)
    beside = ["none", "none"]
    if measured:
        quickest = min(measured, key=lambda name: measured[name].milliseconds().median)
        theirs = measured[quickest]
        beside = [f"{quickest} {theirs.milliseconds()}", against(ours.ratio(theirs), entry.time_limit)]
    return [entry.name, shape_name(n, d), str(ours.milliseconds()), *beside, str(kernel.milliseconds())]


def losses_of(entry: Entry) -> dict[str, Loss]:
    """Whose memory is measured, by name."""
    return {PORTABLE: entry.ours} | {original.name: original.loss for original in entry.originals}


def added_mib(entry: Entry, contender: str, n: int, d: int, samples_per_class: int) -> float:
    """Of one step by the portable engine, or of that original."""
    loss, step = losses_of(entry)[contender], triplet_margin.step
    with engine(contender == PORTABLE):
        step(loss, entry.batch(16, d, 4))()  # the libraries are up
        return added_by(step(loss, entry.batch(n, d, samples_per_class)))


def memory_rows(entry: Entry, arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Of the table of memory, one for each original."""
    n, d = arguments.memory_size

    def added(contender: str) -> float | None:
        told = ["--peak-of", entry.name, contender, "--memory-size", f"{n}x{d}", "--threads", str(arguments.threads)]
        told += ["--samples-per-class", str(arguments.samples_per_class)]
        return told_by_fresh_process("benchmarks.portable", told, f"{entry.name}, {contender}")

    ours = added(PORTABLE)
    for original in taking_part(entry, n):
        theirs = added(original.name)
        judged = "unknown"
        if ours is not None and theirs:  # of a tiny batch the kernel may see nothing added
            judged = f"{ours / theirs:.3f} {verdict(ours / theirs, entry.memory_limit)}"
        yield [entry.name, shape_name(n, d), mib(ours), f"{original.name} {mib(theirs)}", judged]
    if not taking_part(entry, n):
        yield [entry.name, shape_name(n, d), mib(ours), "none", "none"]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="NxD")
    parser.add_argument("--rounds", type=positive, default=7, help="counted rounds of every size (default 7)")
    parser.add_argument("--samples-per-class", type=positive, default=4)
    parser.add_argument("--only", default="", metavar="TEXT", help="losses whose name has this in it")
    parser.add_argument("--memory-size", type=size, default=size("4096x128"), metavar="NxD", help="default 4096x128")
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    parser.add_argument(
        "--peak-of",
        nargs=2,
        metavar=("LOSS", "CONTENDER"),
        help="print how many MiB that one adds, and nothing else: what the table of memory asks a fresh process for",
    )
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_out(parser)
    arguments = parser.parse_args()
    if arguments.peak_of is not None:
        loss, contender = arguments.peak_of
        found = {entry.name: entry for entry in entries()}
        if loss not in found:
            parser.error(f"--peak-of: LOSS must be one of {', '.join(found)}; got {loss!r}")
        if contender not in (here := losses_of(found[loss])):
            parser.error(f"--peak-of: CONTENDER must be one of {', '.join(here)}; got {contender!r}")
    return arguments


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Line by line: a size may take a minute."""
    chosen = [entry for entry in entries() if arguments.only in entry.name]
    yield (
        f"{datetime.date.today()}. Originals: {originals.versions()}; fast-reid's is its formula, gather the strongest "
        "form in plain PyTorch, which is not exact."
    )
    yield ""
    yield (
        f"{machine()}; float32, margin {MARGIN}, {arguments.samples_per_class} samples per class (explicit triplets: N "
        f"of them, margin {EXPLICIT_MARGIN:g}); forward plus backward, median (lowest to highest). An original that "
        f"makes an array of N x N x N numbers, or lists all triplets, takes part up to N = {compat.CUBIC_LIMIT}."
    )
    yield ""
    columns = ["loss", "N x D", "portable ms", "quickest original, ms", "portable / original", "CPU kernel ms"]
    yield table(columns, [])
    for entry in chosen:
        for n, d in arguments.sizes:
            found = cells(entry, n, d, arguments.rounds, arguments.samples_per_class)
            yield table(columns, [found]).splitlines()[-1]
    if arguments.no_memory:
        return
    yield ""
    yield "MiB that one such step adds to a fresh process at its peak, the gradient among them:"
    yield ""
    columns = ["loss", "N x D", "portable MiB", "original, MiB", "portable / original"]
    yield table(columns, [])
    for entry in chosen:
        for found in memory_rows(entry, arguments):
            yield table(columns, [found]).splitlines()[-1]


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of is not None:
        loss, contender = arguments.peak_of
        (entry,) = (entry for entry in entries() if entry.name == loss)
        print(f"{added_mib(entry, contender, *arguments.memory_size, arguments.samples_per_class):.1f}")
        return
    title = "The portable engine on the CPU beside the originals"
    publish(title, "benchmarks.portable", report(arguments), arguments.out)


if __name__ == "__main__":
    main()
