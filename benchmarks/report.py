"""Runs every benchmark of batch-hard and writes ``results/cpu.md`` and its plots: twenty minutes of ``make bench``.

Each table is a process of its own, so that instruction sets and thread counts can be set, and every contender is
checked before it is timed. ``--quick`` goes through the same motions on small batches, to try the report itself; it
writes where ``--output`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import fasttriplet
from benchmarks import bench_loss, peers
from benchmarks.cases import OURS, YARDSTICK, shape_name, size
from benchmarks.measure import Spread, against, machine, mib, table
from benchmarks.peak_memory import added_mib_of_fresh_process
from benchmarks.plots import plot_memory, plot_small, plot_times

RESULTS = Path(__file__).parent / "results"
Found = dict[str, Any]

LARGE = ("8192x128", "8192x512", "8192x2048", "32768x128")
#: What each tier is held to, forward + backward / mm, in the order of LARGE.
LIMITS: dict[str, tuple[float, ...]] = {
    "amx": (0.12, 0.14, 0.20, 0.08),
    "avx512": (0.35, 0.60, 0.65, 0.30),
    "avx2": (0.50, 0.65, 0.70, 0.45),
}
SMALL = ("128x128", "128x512", "256x128", "256x512")
SMALL_LIMIT_US = 100  # beyond one mm
MEMORY_PEERS = ("gather", "reference", "pytorch-metric-learning")


def measured(*arguments: str, sizes: Iterable[str], environment: dict[str, str] | None = None) -> list[Found]:
    """Rows of bench_loss in a process of its own, spreads as tuples."""
    command = [sys.executable, "-m", "benchmarks.bench_loss", "--json", *arguments, "--sizes", *sizes]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | (environment or {}))
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    for row in found:
        for key in ("milliseconds", "ratio"):
            row[key] = {name: Spread(*values) for name, values in row[key].items()}
    return found


def printed_table(module: str, *arguments: str) -> str:
    """The table that another benchmark prints, in a process of its own too.

    What is left in a heap by an earlier table may serve as mm's result, whose fresh pages are half of its time.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return "\n".join(line for line in run.stdout.splitlines() if line.startswith("|"))


class Report:
    def __init__(self, output: Path, quick: bool) -> None:
        self.output, self.quick = output, quick
        self.parts: list[str] = []
        slow_to_start = ("compiled", "KeOps") if quick else ()
        self.here = [name for name in peers.available() if not any(word in name for word in slow_to_start)]

    def sizes(self, sizes: Iterable[str]) -> list[str]:
        """With --quick every batch has at most 256 rows of 16."""
        if not self.quick:
            return list(sizes)
        return list(dict.fromkeys(f"{min(256, size(text)[0])}x16" for text in sizes))

    def rounds(self, count: int) -> str:
        return "2" if self.quick else str(count)

    def only_here(self, *names: str) -> list[str]:
        return [name for name in names if name in self.here]

    def add(self, *parts: str) -> None:
        self.parts += parts
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "cpu.md").write_text("\n\n".join(self.parts) + "\n")
        print("\n\n".join(parts), end="\n\n", flush=True)

    def head(self) -> None:
        info = fasttriplet.build_info()
        self.add(
            "# Batch-hard triplet loss on the CPU",
            f"Made by `make bench`. {machine()}; {info['compiler']}; tier `{info['tier']}` of "
            f"{', '.join(info['tiers'].split(','))}.",
            "Forward plus backward, float32, euclidean, 4 samples per class, random unit vectors, unless a table says "
            "otherwise. `mm` is `torch.mm(X, X.T)` in float32 on the same batch. All contenders of a row run in turn, "
            "in one process; median (lowest to highest) of the rounds. Like every contender, mm allocates its result, "
            "N x N floats, at each call. Before a row is timed, mined indices are compared with float64's (all "
            "anchors up to N = 2048, a sample beyond), the loss and its gradient with those of the mined pairs in "
            "float64, and every peer's loss with the exact one.",
        )

    def large(self) -> None:
        names = [name for name in self.here if name != "KeOps"]
        arguments = ("--rounds", self.rounds(5), "--peer-rounds", self.rounds(2), "--memory", "--peers", *names)
        rows = measured(*arguments, sizes=self.sizes(LARGE))
        cells = [bench_loss.row(row, names, memory=True) for row in rows]
        self.add("## Beside others", table(bench_loss.columns(names, memory=True), cells))

    def tiers(self) -> None:
        cells = []
        available = fasttriplet.build_info()["tiers_available"].split(",")
        for tier in available:
            environment = {"FASTTRIPLET_ISA": tier}
            if tier == "avx2":
                environment["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"
            arguments = ("--rounds", self.rounds(3), "--peers")
            rows = measured(*arguments, sizes=self.sizes(LARGE), environment=environment)
            limits = LIMITS.get(tier)
            ratios = [row["ratio"][OURS] for row in rows]
            shown = [against(*pair) for pair in zip(ratios, limits, strict=False)] if limits else map(str, ratios)
            cells.append(
                [f"`{tier}`", *shown, ", ".join(f"{row['milliseconds'][YARDSTICK].median:.0f}" for row in rows)]
            )
        missing = [f"`{tier}`" for tier in fasttriplet.build_info()["tiers"].split(",") if tier not in available]
        self.add(
            "## Instruction sets",
            f"{OURS} / mm, each tier forced; beside `avx2` mm is held to AVX2 (`MKL_ENABLE_INSTRUCTIONS=AVX2`)."
            + (f" This machine lacks {', '.join(missing)}." if missing else ""),
            table(["tier", *(shape_name(*size(text)) for text in self.sizes(LARGE)), "mm ms"], cells),
        )

    def variations(self) -> None:
        self.add(
            "## Variations",
            f"Cost is in plain calls, round by round; squared_euclidean, float16 and bfloat16 are to cost no more than "
            f"one. mm is float32's with {torch.get_num_threads()} threads in every row.",
            printed_table("variations", *self.sizes(LARGE[:2]), "--rounds", self.rounds(9)),
        )

    def small(self) -> None:
        names = self.only_here("gather", "masks compiled", "reference compiled", "pytorch-metric-learning")
        arguments = ("--rounds", self.rounds(25), "--repeats", "20", "--peer-rounds", self.rounds(25))
        rows = measured(*arguments, "--peers", *names, sizes=self.sizes(SMALL))
        cells = []
        for row in rows:
            milliseconds = row["milliseconds"]
            ours, mm = 1e3 * milliseconds[OURS].median, 1e3 * milliseconds[YARDSTICK].low
            limit = SMALL_LIMIT_US + mm
            cells.append(
                [
                    shape_name(row["n"], row["d"]),
                    f"{mm:.0f}",
                    f"{ours:.0f} {'within' if ours <= limit else 'MISSES'} {limit:.0f}",
                    *(f"{milliseconds[name].median / milliseconds[OURS].median:.1f}" for name in names),
                ]
            )
        self.add(
            "## Small batches",
            f"A measurement is 20 calls in a row. The limit is {SMALL_LIMIT_US} us + the fastest round of mm. Peers as "
            f"multiples of {OURS}'s time.",
            table(["N x D", "fastest mm us", f"{OURS} us", *(f"{name} / {OURS}" for name in names)], cells),
            "![Small batches](cpu_small.png)",
        )
        plot_small(rows, self.output / "cpu_small.png")

    def worst_cases(self) -> None:
        (shape,) = self.sizes(["4096x128"])
        self.add(
            "## Batches that are hard for a screen",
            f"{shape_name(*size(shape))}; mm of random rows. Each is verified first.",
            printed_table("worst_cases", shape),
        )

    def growth(self) -> None:
        names = self.only_here("gather", "masks compiled", "pytorch-metric-learning", "KeOps")
        sizes = self.sizes(f"{2**power}x128" for power in range(7, 16))
        rows = []
        for text in sizes:
            repeats = max(1, 1024 // size(text)[0])
            few = ("--rounds", self.rounds(5), "--peer-rounds", self.rounds(2), "--repeats", str(repeats))
            rows += measured(*few, "--peers", *names, sizes=[text])
        plot_times(rows, self.output / "cpu_time.png")
        memory: dict[str, dict[int, float]] = {}
        for name in (OURS, *self.only_here(*MEMORY_PEERS)):
            for n, d in map(size, sizes):
                worth_a_process = n >= 1024 or self.quick
                if worth_a_process and (name == OURS or bench_loss.takes_part(name, n, d)):
                    added = added_mib_of_fresh_process(n, d, 4, name)
                    if added is not None:
                        memory.setdefault(name, {})[n] = added
        plot_memory(memory, self.output / "cpu_memory.png")
        n, d = size(*self.sizes(["65536x128"]))
        input_mib = n * d * 4 / 2**20
        added = added_mib_of_fresh_process(n, d, 4)
        beyond = None if added is None else added - input_mib
        times = "" if beyond is None else f", {beyond / input_mib:.2f} times the input's {input_mib:.0f} MiB (limit 3)"
        self.add(
            "## Growth with N",
            "![Time](cpu_time.png)",
            "![Memory](cpu_memory.png)",
            f"At {shape_name(n, d)}, forward and backward take {mib(beyond)} MiB beyond the input and the gradient"
            f"{times}.",
        )

    def stages(self) -> None:
        self.add(
            "## Where the time goes",
            "Wall time by stage, as `python -m benchmarks.stages` prints it: prepare reads the rows, finds classes and "
            "packs; positives are scored pair by pair; the screen multiplies and tests; settle scores what is left; "
            "write puts the results out; backward gathers the gradient. Around is Python, autograd, PyTorch's "
            "dispatcher and allocator, and the loss of the mined distances: what is left of the whole, below zero "
            "where the machine drifted.",
            printed_table("stages", *self.sizes((*SMALL[::2], "256x512", "1024x128", *LARGE[:3]))),
        )

    def run(self) -> None:
        self.head()
        self.large()
        self.tiers()
        self.variations()
        self.small()
        self.growth()
        self.worst_cases()
        self.stages()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches and two rounds: tries the report itself")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to (default benchmarks/results)")
    arguments = parser.parse_args()
    Report(arguments.output, arguments.quick).run()


if __name__ == "__main__":
    main()
