"""Few large classes: forward plus backward of losses whose work could grow with the positives, verified, then timed.

In turn with ``torch.mm``, each held to a limit; beside the libraries that mine the same or nearly the same, where the
claim is that none of them is ever quicker; and the peak of memory that a step adds to a fresh process. Verified: on a
small batch of as many classes loss and gradient are those of ``fasttriplet.reference`` in float64; at each size that
is timed the loss of some anchors, against the whole batch as references, is that of the reference too. Run it as
``python -m benchmarks.classes``; see ``--help``.
"""

from __future__ import annotations

import argparse
import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import fasttriplet
from benchmarks import compat, family, originals, peers, portable
from benchmarks.cases import MARGIN, OURS, YARDSTICK, batch, positive, shape_name, step
from benchmarks.measure import Spread, add_out, against, in_turn, machine, mib, publish, table, verdict
from benchmarks.peak_memory import added_mib_of_fresh_process

LOSSES = ("batch-hard", "semi-hard", "batch-all", "weighted")

#: Verified whole: the reference makes all triplets of it.
SMALL = (192, 32)
#: Anchors verified of a batch that is timed: with ten classes one of 8192 rows has 6 million triplets.
ANCHORS = 3

#: A contender that needs more for its triplets takes no part.
MEMORY_LIMIT = 4 * 2**30
#: Nor does one that would take longer for a step, judged by its time on the batch of half as many rows.
SECONDS_LIMIT = 20.0
#: Together the counted rounds of a contender take no longer, but for the first of them.
SECONDS_OF_ROUNDS = 4.0


class Held(NamedTuple):
    """A batch, and the most that the losses may take of it, as ratios to ``torch.mm``."""

    n: int
    d: int
    classes: int
    limits: Mapping[str, float] = {}


class Plan(NamedTuple):
    """What is measured."""

    held: tuple[Held, ...]
    beside: tuple[int, ...]  # N of the batches that libraries take part in
    beside_d: int
    memory: Held  # its limits in MiB
    rounds: int


FULL = Plan(
    held=(
        Held(8192, 128, 2048),
        Held(8192, 128, 100, {"semi-hard": 1.5, "batch-all": 2.5, "weighted": 2.2}),
        Held(8192, 128, 10, {"semi-hard": 4, "batch-all": 3, "weighted": 3}),
        Held(2048, 128, 2, {"semi-hard": 12, "batch-all": 8, "weighted": 8}),
        Held(512, 128, 10, {"semi-hard": 4, "batch-all": 4, "weighted": 5}),
    ),
    beside=(256, 512, 1024, 2048, 4096),
    beside_d=128,
    memory=Held(4096, 32, 2, {"batch-hard": 8, "semi-hard": 160, "batch-all": 8, "weighted": 8}),
    rounds=5,
)
QUICK = Plan(
    held=(Held(48, 8, 3, {"semi-hard": 1e9}),),
    beside=(24, 48),
    beside_d=8,
    memory=Held(64, 8, 2, {"batch-hard": 8}),
    rounds=1,
)

ABOUT_OTHERS = """What is mined:

- batch-hard: the farthest positive and the nearest negative of every anchor, by all three; of the libraries in float32.
- semi-hard: here and in sentence-transformers every positive pair with the nearest negative farther than the positive,
  else the farthest. pytorch-metric-learning's `TripletMarginMiner` takes every negative of a pair that lies within the
  margin behind the positive, and a pair without one has no triplet: more triplets, and another loss.
- batch-all: every triplet, averaged over the losses above zero, by all three."""


def samples_of(n: int, classes: int) -> int:
    """A class, rounded up: the last has what is left."""
    return -(-n // classes)


class Other(NamedTuple):
    """A loss of others, and whether it is ours: the same triplets, and the same mean of them."""

    original: portable.Original
    same: bool = True

    @property
    def name(self) -> str:
        return self.original.name


def losses_beside() -> dict[str, list[Other]]:
    """Who else mines each loss, of what is installed; formulas where sentence-transformers is not."""
    of_entries = {entry.name: entry.originals for entry in portable.entries()}
    found = {name: [Other(each) for each in of_entries[name]] for name in ("batch-hard", "semi-hard")}
    # All of them have a number for every triplet.
    found["batch-all"] = [Other(each._replace(cubic=True)) for each in of_entries["batch-all"]]
    found["semi-hard"] += [Other(each, same=False) for each in of_entries["all semi-hard triplets"]]
    if originals.sentence_transformers_module("losses") is None:
        formula = peers.sentence_transformers_formula
        found["batch-hard"].append(Other(portable.Original("sentence-transformers, formula", formula)))
        # Of which that of sentence-transformers is a translation.
        name = "TensorFlow Addons TripletSemiHardLoss, formula in PyTorch"
        (pair,) = (pair for pair in compat.pairs() if pair.name == name)
        found["semi-hard"].append(Other(portable.Original(name, pair.original, pair.cubic)))
    return found


def verify(loss: str, rows: Tensor, labels: Tensor) -> None:
    """Raises AssertionError unless what is timed is right, on a small batch of as many classes and on this one."""
    classes = len(labels.unique())
    small = min(SMALL[0], len(labels)), min(SMALL[1], rows.shape[1])
    family.verify(loss, samples_of(small[0], min(classes, small[0] // 2)), small)
    family.verify_anchors(loss, rows, labels, ANCHORS)


def verify_others(loss: str, others: list[Other], rows: Tensor, labels: Tensor) -> None:
    """Raises AssertionError unless those of the same triplets have our value and gradient; of the smallest batch."""
    ours = compat.result_of(family.function_of(fasttriplet, loss), rows, labels)
    for other in others:
        if other.same:
            found = compat.result_of(other.original.loss, rows, labels)
            compat.compare(f"{loss} beside {other.name}", ours, found)


def our_step(loss: str, rows: Tensor, labels: Tensor) -> Callable[[], None]:
    verify(loss, rows, labels)
    return step(family.function_of(fasttriplet, loss), rows, labels)


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds_of(seconds: float, rounds: int) -> int:
    """As many as fit, of a contender that takes so long for a step."""
    return max(1, min(rounds, int(SECONDS_OF_ROUNDS / max(seconds, 1e-6))))


def held_rows(held: Held, rounds: int) -> list[list[str]]:
    """Of the table beside ``torch.mm``."""
    rows, labels = batch(held.n, held.d, samples_of(held.n, held.classes))
    fixed = rows.detach()
    ours = {loss: our_step(loss, rows, labels) for loss in LOSSES}
    fewer = {loss: rounds_of(seconds_of(run), rounds) for loss, run in ours.items()}
    timings = in_turn({YARDSTICK: lambda: torch.mm(fixed, fixed.T)} | ours, rounds, fewer_rounds=fewer)
    yardstick = timings.pop(YARDSTICK)
    where = [shape_name(held.n, held.d), str(held.classes)]
    result = [[*where, "torch.mm", str(yardstick.milliseconds()), "1"]]
    for loss, timing in timings.items():
        ratio = timing.ratio(yardstick)
        judged = against(ratio, held.limits[loss]) if loss in held.limits else str(ratio)
        result.append([*where, loss, str(timing.milliseconds()), judged])
    return result


def bytes_of_triplets(labels: Tensor) -> int:
    """What pytorch-metric-learning makes: two masks of [N, N, N], and of each triplet three indices, its place in the
    matrix of distances twice and two distances, forward and backward."""
    counts = labels.unique(return_counts=True)[1]
    n = len(labels)
    triplets = int((counts * (counts - 1) * (n - counts)).sum())
    return 2 * n**3 + 8 * 8 * triplets


def takes_part(original: portable.Original, labels: Tensor, seconds: float) -> bool:
    """``seconds`` are those of its step with half as many rows."""
    if original.cubic and bytes_of_triplets(labels) > MEMORY_LIMIT:
        return False
    return (8 if original.cubic else 4) * seconds <= SECONDS_LIMIT


def judged_never_slower(theirs: Spread) -> str:
    """Of the ratios of their time to ours."""
    return f"{theirs} {'never slower' if theirs.median >= 1 else 'MISSES 1 or more'}"


def beside_rows(
    loss: str, others: list[Other], n: int, d: int, classes: int, rounds: int, seconds: dict[str, float]
) -> list[list[str]]:
    """Of the table beside libraries. ``seconds`` has what each one's step took with half as many rows, infinite where
    it took no part, and is given what it takes now."""
    rows, labels = batch(n, d, samples_of(n, classes))
    here = [each for each in others if takes_part(each.original, labels, seconds.get(each.name, 0))]
    if not seconds:
        verify_others(loss, here, rows, labels)
    steps = {OURS: our_step(loss, rows, labels)}
    steps |= {each.name: step(each.original.loss, rows, labels) for each in here}
    fewer = {name: rounds_of(4 * seconds.get(name, 0), rounds) for name in steps}
    timings = in_turn(steps, rounds, fewer_rounds=fewer)
    seconds.update({each.name: math.inf for each in others})
    seconds.update({name: Spread.of(timing.seconds).median for name, timing in timings.items()})
    ours = timings.pop(OURS)
    where = [loss, shape_name(n, d), str(classes), str(ours.milliseconds())]
    beside = {each.name: ["not run", "not run"] for each in others}
    for name, timing in timings.items():
        beside[name] = [str(timing.milliseconds()), judged_never_slower(timing.ratio(ours))]
    return [[*where, name, *cells] for name, cells in beside.items()] or [[*where, "none", "none", "none"]]


def memory_row(loss: str, held: Held) -> list[str]:
    added = added_mib_of_fresh_process(held.n, held.d, samples_of(held.n, held.classes), loss_name=loss)
    cell = mib(added)
    if added is not None and loss in held.limits:
        cell = f"{cell} {verdict(added, held.limits[loss])}"
    return [loss, shape_name(held.n, held.d), str(held.classes), cell]


def class_counts(n: int) -> tuple[int, ...]:
    """Of a batch beside libraries: few large classes, and many of four."""
    return 2, 10, n // 4


def report(plan: Plan) -> Iterator[str]:
    """Line by line: a size may take a minute."""
    yield f"{datetime.date.today()}. {machine()}, tier {fasttriplet.build_info()['tier']}; {originals.versions()}."
    yield ""
    yield (
        f"Random unit vectors, shuffled labels, float32, euclidean, margin {MARGIN}; forward plus backward, median "
        "(lowest to highest). Classes are of equal size, the last of what is left."
    )
    yield from ("", "## Beside torch.mm", "")
    columns = ["N x D", "classes", "loss", "ms", "ratio to torch.mm"]
    yield table(columns, [])
    for held in plan.held:
        for cells in held_rows(held, plan.rounds):
            yield table(columns, [cells]).splitlines()[-1]
    yield from ("", "## Beside others", "", ABOUT_OTHERS, "")
    yield (
        f"Not run: what needs more than {MEMORY_LIMIT / 2**30:g} GiB for a list of triplets, or would take more than "
        f"{SECONDS_LIMIT:g} s for a step."
    )
    yield ""
    columns = ["loss", "N x D", "classes", f"{OURS} ms", "other", "its ms", f"its time / {OURS}"]
    yield table(columns, [])
    for loss, others in losses_beside().items():
        for which in range(len(class_counts(0))):
            seconds: dict[str, float] = {}
            for n in plan.beside:
                classes = class_counts(n)[which]
                for cells in beside_rows(loss, others, n, plan.beside_d, classes, plan.rounds, seconds):
                    yield table(columns, [cells]).splitlines()[-1]
    yield from (
        "",
        "## Memory",
        "",
        "MiB that one step adds to a fresh process at its peak, the gradient among them:",
        "",
    )
    columns = ["loss", "N x D", "classes", "MiB"]
    yield table(columns, [])
    for loss in LOSSES:
        yield table(columns, [memory_row(loss, plan.memory)]).splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny batches, one round: goes through the motions")
    parser.add_argument("--rounds", type=positive, help=f"counted rounds of every batch (default {FULL.rounds})")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_out(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        plan = plan._replace(rounds=arguments.rounds)
    publish("Few large classes on the CPU", "benchmarks.classes", report(plan), arguments.out)


if __name__ == "__main__":
    main()
