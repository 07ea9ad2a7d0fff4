"""The loss as it is otherwise asked for (distances, dtypes, samples a class, threads), each against the plain call.

``python -m benchmarks.variations [NxD ...]``: all variations of a size run in turn, in one process, so that what drifts
with the machine cancels. Each is verified first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import fasttriplet
from benchmarks.cases import YARDSTICK, batch, positive, shape_name, size, step, verify
from benchmarks.measure import Spread, against, in_turn, machine, table
from fasttriplet.check import DISTANCES

DEFAULT_SIZES = ("8192x128", "8192x512")
PLAIN, ONE_THREAD = "plain", "one thread"
#: What each may cost, in plain calls. The others, squared_euclidean and half precision, are to cost no more than it,
#: which the noise of the rounds cannot decide to the digit.
LIMITS = {"cosine": 1.2, "inner_product": 1.2, "float64": 1.5, "16 per class": 1.2, "64 per class": 1.2}
LEAST_GAIN = 1.8  # of two threads over one

Run = Callable[[], object]


def verified_step(n: int, d: int, samples_per_class: int, dtype: torch.dtype, distance: str) -> Run:
    rows, labels = batch(n, d, samples_per_class, dtype)
    verify(rows, labels, distance)
    return step(fasttriplet.batch_hard_triplet_loss, rows, labels, distance=distance)


def with_threads(threads: int, run: Run) -> Run:
    def alone() -> None:
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            run()
        finally:
            torch.set_num_threads(usual)

    return alone


def variations(n: int, d: int) -> dict[str, Run]:
    """Forward plus backward, by name; the plain call first."""
    single = torch.float32
    runs = {PLAIN: verified_step(n, d, 4, single, "euclidean")}
    runs |= {name: verified_step(n, d, 4, single, name) for name in DISTANCES if name != "euclidean"}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        runs[str(dtype).removeprefix("torch.")] = verified_step(n, d, 4, dtype, "euclidean")
    runs |= {f"{count} per class": verified_step(n, d, count, single, "euclidean") for count in (16, 64)}
    if torch.get_num_threads() > 1:
        runs[ONE_THREAD] = with_threads(1, runs[PLAIN])
    return runs


def judged(name: str, cost: Spread) -> str:
    if name == ONE_THREAD and torch.get_num_threads() == 2:
        return f"{cost} {'within' if cost.median >= LEAST_GAIN else 'MISSES'} {LEAST_GAIN:g} or more"
    return against(cost, LIMITS[name]) if name in LIMITS else str(cost)


def variations_table(sizes: list[tuple[int, int]], rounds: int) -> str:
    found: dict[str, list[str]] = {}
    for n, d in sizes:
        fixed = batch(n, d, 4)[0].detach()
        runs = variations(n, d)
        timings = in_turn({YARDSTICK: lambda rows=fixed: torch.mm(rows, rows.T)} | runs, rounds)
        for name in runs:
            timing = timings[name]
            cost = judged(name, timing.ratio(timings[PLAIN]))
            found.setdefault(name, []).extend([cost, str(timing.ratio(timings[YARDSTICK]))])
    columns = [f"{what}, {shape_name(n, d)}" for n, d in sizes for what in ("cost", f"/ {YARDSTICK}")]
    return table(["", *columns], [[name, *cells] for name, cells in found.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=size, nargs="*", metavar="NxD", default=[size(text) for text in DEFAULT_SIZES])
    parser.add_argument("--rounds", type=positive, default=9, help="counted rounds of every size (default 9)")
    arguments = parser.parse_args()
    print(f"{machine()}, tier {fasttriplet.build_info()['tier']}; forward plus backward, median (lowest to highest)\n")
    print(variations_table(arguments.sizes, arguments.rounds))


if __name__ == "__main__":
    main()
