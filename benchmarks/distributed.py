"""Losses of several processes: what every rank sends, and forward plus backward beside one process and other ways.

Ranks are processes of this machine over gloo, with one thread each; ``benchmarks.one_rank`` is what each does, and
verifies first. Run it as ``python -m benchmarks.distributed``; see ``--help``.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import fasttriplet
from benchmarks import originals, ranks
from benchmarks.cases import MARGIN, positive, shape_name, size
from benchmarks.measure import Timing, add_out, mib, publish, table
from benchmarks.one_rank import (
    BY_HAND,
    EXCHANGE,
    LIBRARY,
    LOSSES,
    ONE,
    OURS,
    SAMPLES_PER_CLASS,
    SHARE,
    WALK,
    Found,
    Plan,
    Step,
    work,
)
from benchmarks.traffic import FORMULAS, FORMULAS_BACK

FULL = Plan(ranks=(1, 2, 4), sizes=((2048, 128), (8192, 128)), library=2048, rounds=5, rounds_of_large=3)
QUICK = Plan(ranks=(2,), sizes=((64, 8),), library=64, rounds=1, rounds_of_large=1)


def slowest(timings: Sequence[Timing]) -> Timing:
    """Of the ranks in each round."""
    return Timing([max(each) for each in zip(*(timing.seconds for timing in timings), strict=True)])


def in_mib(count: float) -> str:
    return f"{count / 2**20:.3g}"


class Shown(NamedTuple):
    """A contender of all ranks together."""

    timing: Timing
    collectives: str  # forward + back
    forward: str  # MiB that the rank with most sends or receives
    back: str
    mib: str


def shown(steps: Sequence[Step]) -> Shown:
    forward, back = (
        max(max(way.sent, way.received) for way in each)
        for each in ([step.forward for step in steps], [step.back for step in steps])
    )
    known = [each.mib for each in steps if each.mib is not None]
    return Shown(
        slowest([each.timing for each in steps]),
        f"{steps[0].forward.collectives} + {steps[0].back.collectives}",
        in_mib(forward),
        in_mib(back),
        mib(max(known) if len(known) == len(steps) else None),
    )


Row = Callable[[list[str], dict[str, Shown]], list[str] | None]


def rows_of(found: dict[int, list[Found]], row: Row) -> list[list[str]]:
    """A table's, by size, loss and number of ranks; without those of which ``row`` makes None."""
    result = []
    for loss, n, d in sorted(next(iter(found.values()))[0].steps, key=lambda key: (key[1:], LOSSES.index(key[0]))):
        for count, by_rank in found.items():
            steps = [each.steps[loss, n, d] for each in by_rank]
            of_all = {name: shown([each[name] for each in steps]) for name in steps[0]}
            cells = row([shape_name(n, d), loss, str(count)], of_all)
            if cells is not None:
                result.append(cells)
    return result


def time_row(where: list[str], those: dict[str, Shown]) -> list[str]:
    one, ours, by_hand = (those[name] for name in (ONE, OURS, BY_HAND))
    return [
        *(*where, str(one.timing.milliseconds()), str(ours.timing.milliseconds()), str(ours.timing.ratio(one.timing))),
        *(str(by_hand.timing.milliseconds()), str(by_hand.timing.ratio(ours.timing)), one.mib, ours.mib, by_hand.mib),
    ]


def traffic_row(where: list[str], those: dict[str, Shown]) -> list[str] | None:
    if where[2] == "1":
        return None
    ours, by_hand = those[OURS], those[BY_HAND]
    return [*where, *ours[1:4], *by_hand[1:4]]


def library_row(where: list[str], those: dict[str, Shown]) -> list[str] | None:
    if LIBRARY not in those:
        return None
    ours, library = those[OURS], those[LIBRARY]
    times = [str(ours.timing.milliseconds()), str(library.timing.milliseconds())]
    return [where[0], where[2], *times, str(library.timing.ratio(ours.timing)), *library[1:4], ours.mib, library.mib]


def back_rows(found: dict[int, list[Found]]) -> list[list[str]]:
    rows = []
    for count, by_rank in found.items():
        for loss, n, d in by_rank[0].ways_back:
            exchange, walk, whole = (
                slowest([each.ways_back[loss, n, d][part] for each in by_rank]) for part in (EXCHANGE, WALK, SHARE)
            )
            share = Timing([seconds / count for seconds in whole.seconds])
            own = n // count
            of_anchor = 80 if loss == "weighted" else 8 + 8 * (SAMPLES_PER_CLASS - 1)
            rows.append(
                [
                    *(shape_name(n, d), loss, str(count)),
                    *(in_mib((count - 1) * 4 * own * d), str(exchange.milliseconds()), str(walk.milliseconds())),
                    *(in_mib((count - 1) * of_anchor * own), str(share.milliseconds())),
                ]
            )
    return sorted(rows, key=lambda cells: int(cells[0].split()[0]))


TIMES = f"""A rank is a process with one thread; the batch is split evenly. Time is that of the slowest rank, all
started by a barrier. `{ONE}` is the whole batch in one process with one thread, while the other ranks wait.
`{BY_HAND}` is `torch.distributed.nn.functional.all_gather`, which has a gradient, and then the same loss of one
process on every rank. Ratios are taken round by round. Where there are more ranks than cores they share them.

A rank scans its own anchors against everyone. In one process batch-hard makes a product once for both of its rows,
and batch-all and weighted walk over the pairs once for both ends' gradients; a rank, whose anchors are not everyone,
does twice that, so that two ranks together are hardly quicker than one, or slower. Semi-hard takes every anchor by
itself anyway. A rank alone in its group goes the way of one process. MiB are what a step adds to the process that it
adds most to, gradients among them."""

TRAVELS = """MiB that a rank sends, and as many that it receives, counted in the collectives' tensors
(`benchmarks/traffic.py`); with `process_group` the bytes are those of the formulas, which is checked. A rank sends
each *other* one, with n = N / ranks rows of float32, int64 labels and, of semi-hard, T positive pairs:"""

BACK = """What the anchors of a rank pull of other ranks' rows has to get there. What is done: the operator walks back
over n own anchors and N candidates, once for either end's gradient, and in the exchange each rank sends every other
what that one's rows get, N D numbers, and adds up what comes in float64, by rank.

The other way would be a second walk, of own rows against the anchors of all ranks, of which only numbers would be
gathered: of an anchor of the weighted loss eight and two gradients in float64, of one of batch-all a gradient and the
distances to its positives. As one more walk back of the operator it would cost what the column of own anchors says.
Own rows could also be walked over once against everyone in both roles, as one process does, in place of both: its
walk back, divided by the ranks, is the last column. Neither is built."""

ABOUT_LIBRARY = f"""`DistributedLossWrapper` and `DistributedMinerWrapper`, `efficient=False`, around
`TripletMarginLoss` and `BatchHardMiner`: all rows gathered without a gradient, twice, and the [N, N] matrices of one
process on every rank. Beside batch-hard with `process_group`; collectives and MiB sent are {LIBRARY}'s."""


def report(plan: Plan) -> Iterator[str]:
    found = {count: ranks.run(count, work, plan) for count in plan.ranks}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = ["N x D", "loss", "ranks"]
    yield (
        f"{datetime.date.today()}. {found[plan.ranks[0]][0].machine} in every process; {cores} cores, "
        f"tier {fasttriplet.build_info()['tier']}, gloo; {originals.versions()}."
    )
    yield ""
    yield (
        f"Random unit vectors, shuffled labels, {SAMPLES_PER_CLASS} samples a class, float32, euclidean, margin "
        f"{MARGIN}; forward plus backward, median (lowest to highest)."
    )
    yield from ("", "## Time and memory", "", TIMES, "")
    columns = [ONE + " ms", "process_group ms", "ratio", "by hand ms", "by hand / process_group"]
    memory = ["one process MiB", "process_group MiB", "by hand MiB"]
    yield table([*where, *columns, *memory], rows_of(found, time_row))
    yield from ("", "## What travels", "", TRAVELS, "")
    yield table(
        ["loss", "bytes forward", "bytes on the way back"],
        [[loss, f"`{FORMULAS[loss]}`", f"`{FORMULAS_BACK[loss]}`"] for loss in LOSSES],
    )
    yield ""
    columns = ["collectives, forward + back", "MiB forward", "MiB back"]
    yield table([*where, *columns, *(f"by hand: {column}" for column in columns)], rows_of(found, traffic_row))
    yield from ("", "## The way back of sums over all pairs", "", BACK, "")
    columns = ["exchange MiB", "exchange ms", "walk back of own anchors ms", "numbers MiB", "one process / ranks ms"]
    yield table([*where, *columns], back_rows(found))
    library = rows_of(found, library_row)
    if library:
        yield from ("", f"## Beside {LIBRARY}", "", ABOUT_LIBRARY, "")
        columns = ["N x D", "ranks", "process_group ms", "its ms", "its time / process_group"]
        traffic = ["collectives, forward + back", "MiB forward", "MiB back"]
        yield table([*columns, *traffic, "process_group MiB added", "its MiB added"], library)


def options() -> tuple[Plan, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny batch, one round: goes through the motions")
    parser.add_argument("--sizes", type=size, nargs="+", metavar="NxD", help="N of all ranks together")
    parser.add_argument("--ranks", type=positive, nargs="+", help="numbers of processes (default 1 2 4)")
    parser.add_argument("--rounds", type=positive, help="counted rounds of every batch (default 5, large ones 3)")
    add_out(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    given = {name: getattr(arguments, name) for name in ("sizes", "ranks", "rounds")}
    given["rounds_of_large"] = arguments.rounds
    plan = plan._replace(**{name: value for name, value in given.items() if value is not None})
    for n, _ in plan.sizes:
        for count in plan.ranks:
            if n % count:
                parser.error(f"--sizes: N must be a multiple of every number of ranks; got {n} for {count}")
    return plan, arguments


def main() -> None:
    plan, arguments = options()
    publish("Several processes on the CPU", "benchmarks.distributed", report(plan), arguments.out)


if __name__ == "__main__":
    main()
