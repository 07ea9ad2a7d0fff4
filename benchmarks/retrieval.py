"""Nearest neighbours and retrieval metrics, beside the matrix product and beside what others evaluate with.

Verified, then timed in turn: neighbours are those of float64 in a sample of queries, whose distances to every row are
taken by differences; of the others it is counted how many of theirs are not. Run it as
``python -m benchmarks.retrieval``; see ``--help``.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import originals
from benchmarks.cases import positive, shape_name, size
from benchmarks.measure import Timing, add_out, against, in_turn, machine, mib, publish, table, verdict
from benchmarks.peak_memory import added_by, told_by_fresh_process
from fasttriplet.retrieval import nearest, retrieval_metrics

OURS, YARDSTICK = "fasttriplet", "mm"
#: Of the self join with k = 10, as a ratio to the matrix product.
LIMITS = {(65536, 128): 0.25, (8192, 512): 0.35}
#: Of all metrics at once, as a ratio to ``nearest``; and MiB that either may add at 60,502 rows.
METRICS_LIMIT, MEMORY_LIMIT = 2.5, 100.0
#: Stanford Online Products' test set: 60,502 images of some five a class.
PRODUCTS = (60502, 128)
K = 10
CHUNK = 4096
#: Rows above which the others run once, while they are verified, and of clusters alone.
MANY_ROWS = 20000
VERIFIED = 64

Neighbours = Callable[[], Tensor]


def rows_of(n: int, d: int, kind: str, per_class: int = 5) -> tuple[Tensor, Tensor]:
    """Unit rows [n, d] and labels [n], shuffled: ``"random"``, or ``"clusters"`` about a centre for each class."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(n) // per_class)[torch.randperm(n, generator=generator)]
    rows = torch.randn(n, d, generator=generator)
    if kind == "clusters":
        rows = 0.7 * rows + torch.randn(n // per_class + 1, d, generator=generator)[labels]
    return torch.nn.functional.normalize(rows), labels


def product(rows: Tensor) -> None:
    for chunk in rows.split(CHUNK):
        torch.mm(chunk, rows.T)


def cdist_topk(rows: Tensor) -> Tensor:
    """As it is written most often, a chunk of queries at a time."""
    found = []
    for first in range(0, len(rows), CHUNK):
        distances = torch.cdist(rows[first : first + CHUNK], rows)
        own = torch.arange(len(distances))
        distances[own, first + own] = torch.inf
        found.append(distances.topk(K, largest=False).indices)
    return torch.cat(found)


def without_self(indices: Tensor) -> Tensor:
    """K of K + 1 neighbours [N, K + 1], without the row itself or else the last."""
    own = indices == torch.arange(len(indices))[:, None]
    own[:, -1] |= ~own.any(1)
    return indices[~own].view(len(indices), -1)


def faiss_flat(rows: Tensor) -> Tensor:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows.numpy())
    return without_self(torch.from_numpy(index.search(rows.numpy(), K + 1)[1]))


def sklearn_brute(rows: Tensor) -> Tensor:
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(rows.numpy())
    return torch.from_numpy(found.kneighbors(return_distance=False))


def contenders(rows: Tensor) -> dict[str, Neighbours]:
    """Those that are installed, by name; each gives neighbours [N, K]."""
    known: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "torch.cdist + topk": ("torch", cdist_topk),
        "faiss IndexFlatL2": ("faiss", faiss_flat),
        "scikit-learn": ("sklearn", sklearn_brute),
    }
    found: dict[str, Neighbours] = {OURS: lambda: nearest(rows, k=K).indices}
    for name, (module, function) in known.items():
        if importlib.util.find_spec(module) is not None:
            found[name] = functools.partial(function, rows)
    return found


class Judge(NamedTuple):
    """Neighbours [V, K] of some queries [V] by float64 differences, ties to the lowest index."""

    queries: Tensor
    neighbours: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Judge:
        queries, wide = torch.linspace(0, len(rows) - 1, VERIFIED).long(), rows.double()
        found = []
        for query in queries:
            distances = (wide - wide[query]).square().sum(1)
            distances[query] = torch.inf
            found.append(distances.sort(stable=True).indices[:K])
        return cls(queries, torch.stack(found))

    def wrong(self, neighbours: Tensor) -> int:
        return int((neighbours[self.queries] != self.neighbours).sum())


def neighbour_lines(shapes: list[tuple[int, int]], rounds: int) -> Iterator[str]:
    """The self join."""
    yield f"## The {K} nearest of every row among the others"
    yield ""
    yield f"Ratios to `torch.mm` of the same rows in chunks of {CHUNK}. Wrong: those that are not float64's, of"
    yield f"{VERIFIED} x {K} neighbours."
    yield ""
    lines = []
    for n, d in shapes:
        for kind in ("random", "clusters"):
            rows, _ = rows_of(n, d, kind)
            runs, judge = contenders(rows), Judge.of(rows)
            if n > MANY_ROWS and kind != "clusters":
                runs = {OURS: runs[OURS]}
            wrong, once = {}, {}
            for name, run in runs.items():
                start = time.perf_counter()
                neighbours = run()
                once[name] = Timing([time.perf_counter() - start])
                wrong[name] = judge.wrong(neighbours)
            if wrong[OURS]:
                raise AssertionError(f"{wrong[OURS]} neighbours at {shape_name(n, d)} are not float64's")
            timed = {OURS: runs[OURS]} if n > MANY_ROWS else runs
            timings = once | in_turn({YARDSTICK: functools.partial(product, rows), **timed}, rounds)
            for name in runs:
                ratio = timings[name].ratio(timings[YARDSTICK])
                limit = LIMITS.get((n, d)) if name == OURS else None
                lines.append(
                    [
                        shape_name(n, d),
                        kind,
                        name,
                        str(timings[name].milliseconds()),
                        str(ratio) if limit is None else against(ratio, limit),
                        str(wrong[name]),
                    ]
                )
    yield table(["N x D", "rows", "contender", "ms", "/ mm", "wrong"], lines)
    yield ""


def pml_calculator(rows: Tensor, labels: Tensor, k: int | str) -> Callable[[], dict[str, float]] | None:
    if originals.pytorch_metric_learning() is None:
        return None
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    # Those that rank; the others cluster.
    include = ("precision_at_1", "r_precision", "mean_average_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=(*include, "mean_reciprocal_rank"), k=k, device=torch.device("cpu"))
    return lambda: calculator.get_accuracy(rows, labels)


def metric_lines(shapes: list[tuple[int, int]], rounds: int) -> Iterator[str]:
    yield "## All rank metrics at once"
    yield ""
    yield "Five rows a class. `retrieval_metrics` gives what the whole ranking says; pytorch-metric-learning's"
    yield "calculator searches up to the largest class (`max_bin_count`), which gives it no MAP of the whole ranking."
    yield ""
    lines = []
    for n, d in shapes:
        for kind in ("random", "clusters"):
            rows, labels = rows_of(n, d, kind)
            runs: dict[str, Callable[[], object]] = {
                YARDSTICK: functools.partial(product, rows),
                "nearest": functools.partial(nearest, rows, k=K),
                OURS: functools.partial(retrieval_metrics, rows, labels),
            }
            mine = retrieval_metrics(rows, labels)
            theirs = pml_calculator(rows, labels, "max_bin_count")
            difference = ""
            if theirs is not None and n <= MANY_ROWS:
                runs["pytorch-metric-learning"] = theirs
                found = theirs()
                at_r, hit = found["mean_average_precision_at_r"], found["precision_at_1"]
                difference = (
                    f"MAP@R {abs(at_r - float(mine.map_at_r)):.1e}, P@1 {abs(hit - float(mine.hit_rate[0])):.1e}"
                )
            timings = in_turn(runs, rounds)
            for name in list(runs)[1:]:
                of_nearest = timings[name].ratio(timings["nearest"])
                limited = name == OURS and (n, d) == PRODUCTS
                lines.append(
                    [
                        shape_name(n, d),
                        kind,
                        name,
                        str(timings[name].milliseconds()),
                        str(timings[name].ratio(timings[YARDSTICK])),
                        against(of_nearest, METRICS_LIMIT) if limited else str(of_nearest),
                        difference if name == "pytorch-metric-learning" else "",
                    ]
                )
    yield table(["N x D", "rows", "contender", "ms", "/ mm", "/ nearest", "difference to ours"], lines)
    yield ""


def large_class_lines(shape: tuple[int, int], classes: int) -> Iterator[str]:
    n, d = shape
    rows, labels = rows_of(n, d, "clusters", -(-n // classes))
    timings = in_turn({YARDSTICK: lambda: product(rows), OURS: lambda: retrieval_metrics(rows, labels, at=(1, 10))}, 1)
    ours: Timing = timings[OURS]
    yield f"## {classes} classes of {n // classes} rows"
    yield ""
    yield f"At {shape_name(n, d)}, where each query has {n // classes - 1} positives, `retrieval_metrics` takes"
    seconds, ratio = ours.milliseconds().median / 1e3, ours.ratio(timings[YARDSTICK]).median
    yield f"{seconds:.1f} s, {ratio:.2f} of the matrix product."
    yield ""


#: By name the kind of rows and the call.
MEMORY: dict[str, tuple[str, Callable[[Tensor, Tensor], object]]] = {
    "nearest": ("clusters", lambda rows, labels: nearest(rows, k=K)),
    "metrics": ("clusters", retrieval_metrics),
    "metrics of random rows": ("random", retrieval_metrics),
}


def memory_lines() -> Iterator[str]:
    n, d = PRODUCTS
    yield "## Memory"
    yield ""
    yield f"What a call adds to a fresh process at its peak at {shape_name(n, d)}, beyond the rows and the result."
    yield ""
    lines = []
    for name in MEMORY:
        added = told_by_fresh_process("benchmarks.retrieval", ["--memory-of", name], name)
        result = n * K * 16 / 2**20 if name == "nearest" else 0.0
        own = None if added is None else added - result
        said = mib(own) if own is None else f"{mib(own)} {verdict(own, MEMORY_LIMIT)}"
        lines.append([name, said, f"{result:.1f}"])
    yield table(["call", "MiB added", "MiB of the result"], lines)
    yield ""


def versions() -> str:
    found = []
    for name in ("faiss-cpu", "scikit-learn", "pytorch-metric-learning"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def report(arguments: argparse.Namespace) -> Iterator[str]:
    yield f"{datetime.date.today().isoformat()}, {machine()}, {versions()}."
    yield ""
    yield from neighbour_lines(arguments.sizes, arguments.rounds)
    yield from metric_lines(arguments.metric_sizes, arguments.rounds)
    yield from large_class_lines(arguments.large, arguments.classes)
    yield from memory_lines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=size, default=[(4096, 128), (8192, 128), (8192, 512), (65536, 128)])
    parser.add_argument("--metric-sizes", nargs="+", type=size, default=[(8192, 128), PRODUCTS])
    parser.add_argument("--large", type=size, default=(60000, 64), metavar="NxD", help="rows of a few large classes")
    parser.add_argument("--classes", type=positive, default=6)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--memory-of", choices=list(MEMORY), help=argparse.SUPPRESS)
    add_out(parser)
    arguments = parser.parse_args()
    if arguments.memory_of is not None:
        kind, call = MEMORY[arguments.memory_of]
        rows, labels = rows_of(*PRODUCTS, kind)
        call(rows[:500], labels[:500])  # the libraries are up
        print(f"{added_by(lambda: call(rows, labels)):.1f}")
        return
    warnings.simplefilter("ignore")  # of the others
    publish("Retrieval", "benchmarks.retrieval", report(arguments), arguments.out)


if __name__ == "__main__":
    main()
