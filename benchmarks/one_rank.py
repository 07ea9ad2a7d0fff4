"""What one rank does for ``benchmarks.distributed``: contenders verified, what they send counted, steps timed.

Verified before anything is timed: of every loss some anchors are those of ``fasttriplet.reference``; with a process
group all ranks have the same loss and together the gradient of one process, of losses that mine to the bit; and what
travels is what the formulas of ``benchmarks.traffic`` say, byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import fasttriplet
from benchmarks import compat, family, gathering
from benchmarks.cases import LOSS_TOLERANCE, MARGIN, batch, step
from benchmarks.gathering import Loss
from benchmarks.measure import Timing, in_turn, machine
from benchmarks.peak_memory import added_by
from benchmarks.traffic import FORMULAS, FORMULAS_BACK, NOTHING, Counter, Traffic, counted, expected
from fasttriplet.arguments import as_lists
from fasttriplet.check import DISTANCES
from fasttriplet.distributed.autograd import JoinedRows
from fasttriplet.distributed.group import Group
from fasttriplet.engines import operator

LOSSES = tuple(FORMULAS)
#: Those that sum over all pairs: of float32 quality, and with a collective on the way back.
DENSE = tuple(loss for loss in LOSSES if FORMULAS_BACK[loss] != "0")
SAMPLES_PER_CLASS = 4
LARGE = 4096
#: Contenders.
ONE, OURS, BY_HAND, LIBRARY = "one process", "process_group", "by hand", "pytorch-metric-learning"
#: Of the way back of the dense losses.
EXCHANGE, WALK, SHARE = "exchange", "walk of own anchors", "walk of one process"


class Plan(NamedTuple):
    """What is measured."""

    ranks: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]  # N of all ranks together, and D
    library: int  # the largest N that pytorch-metric-learning takes part in
    rounds: int
    rounds_of_large: int  # of batches of more than LARGE rows, whose steps take seconds

    def rounds_of(self, n: int) -> int:
        return self.rounds if n <= LARGE else self.rounds_of_large


class Contender(NamedTuple):
    """A loss of one rank's rows that has all ranks' for its batch."""

    loss: Loss
    tolerances: tuple[float, float] | None  # of value and gradient, as shares; None: the bits of one process
    same_everywhere: bool = False  # whether the value has the same bits on all ranks
    times_ranks: bool = False  # what the value is


class Step(NamedTuple):
    """What one step of a contender takes on one rank."""

    timing: Timing
    forward: Traffic
    back: Traffic
    mib: float | None


class Found(NamedTuple):
    """On one rank, by loss, N and D."""

    machine: str
    steps: dict[tuple[str, int, int], dict[str, Step]]
    ways_back: dict[tuple[str, int, int], dict[str, Timing]]


class Rank:
    """One rank's part of a batch."""

    def __init__(self, group: Any, n: int, d: int) -> None:
        self.group, self.number, self.count = group, dist.get_rank(group), dist.get_world_size(group)
        self.rows, self.labels = batch(n, d, SAMPLES_PER_CLASS)
        self.n = n // self.count
        self.first = self.number * self.n
        own = slice(self.first, self.first + self.n)
        self.own, self.own_labels = self.rows.detach()[own].clone().requires_grad_(), self.labels[own]

    def together(self) -> None:
        """Waits for all."""
        dist.barrier(self.group)

    def most_pairs(self) -> int:
        """Ordered positive pairs of the rank that has the most."""
        of_anchors = self.labels.bincount()[self.labels] - 1
        return int(of_anchors.view(self.count, self.n).sum(1).amax())


def contenders(loss: str, rank: Rank, with_library: bool) -> dict[str, Contender]:
    one = family.function_of(fasttriplet, loss)
    summed = (1e-6, 1e-5)  # float32's quality
    found = {
        OURS: Contender(
            lambda rows, labels: one(rows, labels, process_group=rank.group), summed if loss in DENSE else None, True
        ),
        BY_HAND: Contender(gathering.by_hand(one, rank.group), summed),
    }
    library = gathering.pytorch_metric_learning() if with_library and loss == "batch-hard" else None
    if library is not None:
        tolerances = LOSS_TOLERANCE, compat.GRADIENT_TOLERANCE
        found[LIBRARY] = Contender(library, tolerances, times_ranks=True)
    return found


def check(name: str, contender: Contender, found: Sequence[tuple[float, Tensor]], one: tuple[float, Tensor]) -> None:
    """Raises AssertionError unless values and gradients by rank are those of one process; gradients times the ranks."""
    values = [value / len(found) if contender.times_ranks else value for value, _ in found]
    gradient = torch.cat([each for _, each in found]) / len(found)
    if contender.same_everywhere:
        assert len(set(values)) == 1, f"{name}: the ranks have the losses {values}"
    if contender.tolerances is None:
        assert values[0] == one[0], f"{name}: the loss is {values[0]}, and of one process {one[0]}"
        differs = int((gradient != one[1]).sum())
        assert differs == 0, f"{name}: the gradient differs from that of one process in {differs} places"
    else:
        for value in values:
            compat.compare(name, (value, gradient), one, *contender.tolerances)


def verify(loss: str, rank: Rank, those: dict[str, Contender]) -> None:
    """Raises AssertionError, on the first rank for all, unless every contender is right."""
    one = None
    if rank.number == 0:
        family.verify_anchors(loss, rank.rows, rank.labels)
        one = compat.result_of(family.function_of(fasttriplet, loss), rank.rows, rank.labels)
    for name, contender in those.items():
        found: list[Any] = [None] * rank.count
        dist.all_gather_object(found, compat.result_of(contender.loss, rank.own, rank.own_labels), rank.group)
        if one is not None:
            check(f"{loss}, {name}, {rank.count} ranks", contender, found, one)


def traffic_of(contender: Contender, rank: Rank, counter: Counter) -> tuple[Traffic, Traffic]:
    value = contender.loss(rank.own, rank.own_labels)
    forward = counter.taken()
    value.backward()
    return forward, counter.taken()


def check_traffic(loss: str, rank: Rank, found: tuple[Traffic, Traffic]) -> None:
    """Raises AssertionError unless it is what the formulas say."""
    wanted = expected(loss, rank.count, rank.n, rank.own.shape[1], rank.most_pairs())
    for way, counted_bytes, formula in zip(("forward", "back"), found, wanted, strict=True):
        assert counted_bytes == formula, f"{loss}, {way}: {counted_bytes}, and by the formula {formula}"


def peak(run: Callable[[], object]) -> float | None:
    """MiB that the process grows by; None, and nothing run, where that cannot be measured."""
    try:
        return added_by(run)
    except (OSError, AttributeError):  # no Linux
        return None


def counted_step(contender: Contender, rank: Rank) -> tuple[Traffic, Traffic, float | None]:
    """What a step sends forward and back, and what it adds to the process."""
    rank.own.grad = None
    found: list[tuple[Traffic, Traffic]] = []
    rank.together()
    with counted() as counter:
        mib = peak(lambda: found.append(traffic_of(contender, rank, counter)))
        if not found:
            found.append(traffic_of(contender, rank, counter))
    return *found[0], mib


def steps_of(loss: str, rank: Rank, plan: Plan) -> dict[str, Step]:
    """Verified, counted and timed; of one process on the first rank, while the others wait."""
    those = contenders(loss, rank, len(rank.labels) <= plan.library)
    verify(loss, rank, those)
    counts = {name: counted_step(contender, rank) for name, contender in those.items()}
    check_traffic(loss, rank, counts[OURS][:2])
    runs: dict[str, Callable[[], object]] = {ONE: lambda: None}
    if rank.number == 0:
        runs[ONE] = step(family.function_of(fasttriplet, loss), rank.rows, rank.labels)
    runs |= {name: step(contender.loss, rank.own, rank.own_labels) for name, contender in those.items()}
    counts[ONE] = NOTHING, NOTHING, peak(runs[ONE])
    timings = in_turn(runs, plan.rounds_of(len(rank.labels)), before=rank.together)
    return {name: Step(timings[name], *counts[name]) for name in runs}


def ways_back(loss: str, rank: Rank, rounds: int) -> dict[str, Timing]:
    """The walk back of own anchors against everyone, the gradients exchanged then, and one process's walk back."""
    own, rows = rank.own.detach(), rank.rows.detach()
    everyone = torch.arange(rank.first, rank.first + rank.n)
    pairing = as_lists({"ref_labels": rank.labels, "self_indices": everyone})
    leaf = own.clone().requires_grad_()
    joined = JoinedRows.apply(leaf, rows, Group(rank.group), [rank.n] * rank.count)
    runs: dict[str, Callable[[], object]] = {
        EXCHANGE: lambda: torch.autograd.grad(joined, leaf, rows, retain_graph=True),
        WALK: walk_back(loss, own, rank.own_labels, rows, *pairing),
        SHARE: walk_back(loss, rows, rank.labels, None, *as_lists({})),
    }
    return in_turn(runs, rounds, before=rank.together)


def walk_back(loss: str, rows: Tensor, *rest: Any) -> Callable[[], object]:
    """The backward of a dense loss's operator; ``rest`` are its arguments from labels to numbers."""
    arguments = rows, *rest, DISTANCES.index("euclidean")
    if loss == "batch-all":
        back = operator("_batch_all_backward", rows.device)
        return lambda: back(torch.ones(len(rows), dtype=torch.float64), *arguments, MARGIN, False)
    values = operator("weighted_distances", rows.device)(*arguments)
    back = operator("_weighted_distances_backward", rows.device)
    return lambda: back(torch.ones_like(values[:2]), *arguments, values)


def work(group: Any, plan: Plan) -> Found:
    """Of one rank."""
    found = Found(machine(), {}, {})
    for n, d in plan.sizes:
        rank = Rank(group, n, d)
        for loss in LOSSES:
            found.steps[loss, n, d] = steps_of(loss, rank, plan)
            if loss in DENSE and rank.count > 1:
                found.ways_back[loss, n, d] = ways_back(loss, rank, plan.rounds_of(n))
    return found
