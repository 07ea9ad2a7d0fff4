"""Times the loss on a GPU and writes ``results/<gpu>.md`` and its plot: the last step of ``benchmarks/gpu.sh``.

Forward plus backward beside ``torch.mm(X, X.T)`` in float32, TF32 and bfloat16 and beside others, in turn, by the
device's own clock; mined indices, loss and gradient are verified before a row is timed. A product of more than 2^31
entries is computed in chunks of rows into the same memory, a few of them are timed and the time is scaled to all.
``--minutes`` ends it: the rows come in the order in which they matter, and what was left out is said.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import fasttriplet
from benchmarks import peers
from benchmarks.cases import OURS, YARDSTICK, batch, shape_name, size, step, verify, verify_peer
from benchmarks.measure import Spread, mib, table
from benchmarks.plots import plot_times

RESULTS = Path(__file__).parent / "results"
SIZES = (
    *("256x128", "1024x128", "8192x128", "65536x128", "262144x128", "1048576x128", "256x2048", "65536x512"),
    *("8192x512", "1024x512", "256x512", "8192x2048", "1024x2048", "262144x512", "65536x2048", "1048576x512"),
)
GRAPH, WGMMA, TF32, BF16 = f"{OURS} in a graph", f"{OURS} wgmma", "mm tf32", "mm bf16"
PEERS = ("gather", "masks", "masks compiled", "pytorch-metric-learning")
#: What is aimed at on an H200: (size, contender, limit in seconds) or (size, contender, limit, yardstick).
AIMS = (
    ("65536x512", OURS, 0.10, YARDSTICK),
    ("1048576x128", OURS, 1.0, None),
    ("256x2048", GRAPH, 60e-6, None),
)
#: Matrices of N x N floats that a peer makes; it takes part where twice as many fit.
PEER_MATRICES = 6
CHUNK_ENTRIES = 2**31


class Clock:
    """Seconds of a call: the device's events on a GPU, the host's clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        if self.device.type == "cpu":
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats


class Row(NamedTuple):
    n: int
    d: int
    verified: str
    milliseconds: dict[str, Spread]
    added_mib: float | None  # at the peak, beyond the input; the gradient is part of it


def product(rows: Tensor, dtype: torch.dtype, tf32: bool) -> tuple[Callable[[], object], float]:
    """``torch.mm(X, X.T)`` without keeping more than one chunk of it, and by what its time is to be multiplied."""
    fixed = rows.detach().to(dtype)
    n = len(fixed)
    height = min(n, max(1, CHUNK_ENTRIES // n))
    chunks = -(-n // height)
    timed = min(chunks, 4)
    out = torch.empty(height, n, dtype=dtype, device=rows.device) if chunks > 1 else None

    def run() -> None:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        for chunk in range(timed):
            part = fixed[chunk * height : (chunk + 1) * height]
            torch.mm(part, fixed.T, out=None if out is None else out[: len(part)])
        torch.backends.cuda.matmul.allow_tf32 = False

    return run, n / min(n, timed * height)


def in_graph(rows: Tensor, labels: Tensor) -> Callable[[], object]:
    """Forward and backward captured once and replayed: no launch, no Python."""
    run = step(fasttriplet.batch_hard_triplet_loss, rows, labels)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    rows.grad = None
    with torch.cuda.graph(graph):
        fasttriplet.batch_hard_triplet_loss(rows, labels).backward()
    return graph.replay


def by_wgmma(run: Callable[[], None]) -> Callable[[], None]:
    """The same with Hopper's products of four warps, which are not the default until this table says they should be."""

    def forced() -> None:
        os.environ["FASTTRIPLET_CUDA_PRODUCTS"] = "wgmma"
        try:
            run()
        finally:
            del os.environ["FASTTRIPLET_CUDA_PRODUCTS"]

    return forced


def added_mib(run: Callable[[], object], device: torch.device) -> float | None:
    if device.type == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else 2**33


def measure(n: int, d: int, device: torch.device, deadline: float) -> Row:
    clock = Clock(device)
    rows, labels = batch(n, d, 4)
    rows, labels = rows.detach().to(device).requires_grad_(), labels.to(device)
    verified = verify(rows, labels, "euclidean")
    ours = step(fasttriplet.batch_hard_triplet_loss, rows, labels)
    memory = added_mib(ours, device)
    contenders: dict[str, tuple[Callable[[], object], float]] = {OURS: (ours, 1)}
    if device.type == "cuda" and n <= 8192:
        own = rows.detach().clone().requires_grad_()
        contenders[GRAPH] = (in_graph(own, labels), 1)
    if device.type == "cuda" and torch.cuda.get_device_capability() == (9, 0):
        contenders[WGMMA] = (by_wgmma(ours), 1)
    contenders[YARDSTICK] = product(rows, torch.float32, False)
    if device.type == "cuda":
        contenders[TF32] = product(rows, torch.float32, True)
    contenders[BF16] = product(rows, torch.bfloat16, False)
    available = peers.available()
    if 2 * PEER_MATRICES * n * n * 4 < free_bytes(device):
        for name in PEERS:
            if name in available:
                try:
                    loss = available[name]()
                    verify_peer(name, loss, rows, labels)
                    contenders[name] = (step(loss, rows, labels), 1)
                except Exception as error:  # a compiler that fails here, say: the others are still timed
                    print(f"{name} is left out at {shape_name(n, d)}: {error}", flush=True)

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    repeats = {}
    for name, (run, _) in contenders.items():  # warm, and how often a measurement has to repeat it
        clock.seconds(run, 1)
        repeats[name] = max(1, min(50, int(0.005 / max(clock.seconds(run, 1), 1e-6))))
    for number in range(7):
        if number >= 3 and time.monotonic() > deadline:
            break
        for name, (run, factor) in contenders.items():
            if number == 0 or seconds[name][0] < 5:  # once is enough of what takes long
                seconds[name].append(clock.seconds(run, repeats[name]) * factor)
    return Row(n, d, verified, {name: Spread.of([1e3 * x for x in values]) for name, values in seconds.items()}, memory)


def aims_of(row: Row) -> list[str]:
    found = []
    for where, name, limit, yardstick in AIMS:
        if (row.n, row.d) != size(where) or name not in row.milliseconds:
            continue
        value = row.milliseconds[name].median / (row.milliseconds[yardstick].median if yardstick else 1e3)
        unit = f"of {yardstick}" if yardstick else "s"
        verdict = "within" if value <= limit else "MISSES"
        found.append(f"- {shape_name(row.n, row.d)}, {name}: {value:.3g} {unit}, {verdict} {limit:g}")
    return found


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return f"No GPU: this run only tries the script. PyTorch {torch.__version__}."
    facts = torch.cuda.get_device_properties(device)
    return (
        f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.multi_processor_count} multiprocessors, "
        f"{facts.total_memory / 2**30:.0f} GiB; PyTorch {torch.__version__}, CUDA {torch.version.cuda}."
    )


def report(found: list[Row], left_out: list[str], device: torch.device) -> str:
    names = list(dict.fromkeys(name for row in found for name in row.milliseconds))
    cells = []
    for row in found:
        mm = row.milliseconds[YARDSTICK].median
        times = [str(row.milliseconds[name]) if name in row.milliseconds else "" for name in names]
        ratio = f"{row.milliseconds[OURS].median / mm:.3f}"
        cells.append([shape_name(row.n, row.d), row.verified, *times, ratio, mib(row.added_mib)])
    aims = [line for row in found for line in aims_of(row)]
    parts = [
        f"# Batch-hard triplet loss on {'a CPU' if device.type == 'cpu' else torch.cuda.get_device_name(device)}",
        f"Made by `benchmarks/gpu.sh`. {describe(device)}",
        "Forward plus backward, float32, euclidean, 4 samples per class, random unit vectors; milliseconds, median "
        "(lowest to highest). `mm` is `torch.mm(X, X.T)` in float32, beyond 2^31 entries in chunks of rows, four of "
        "them timed and scaled. Memory is what a step adds at its peak, the gradient included.",
        table(["N x D", "verified", *(f"{name} ms" for name in names), f"{OURS} / mm", "added peak MiB"], cells),
        *(["## Aims", "\n".join(aims)] if aims else []),
        *([f"Left out for lack of time: {', '.join(left_out)}."] if left_out else []),
        "![Time](" + plot_name(device) + ")",
    ]
    return "\n\n".join(parts) + "\n"


def slug(device: torch.device) -> str:
    name = "gpu-trial" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def plot_name(device: torch.device) -> str:
    return f"{slug(device)}_time.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--sizes", nargs="+", type=size, default=[size(text) for text in SIZES], metavar="NxD")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = arguments.device
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --device cpu tries the script without one")
    deadline = time.monotonic() + 60 * arguments.minutes
    found: list[Row] = []
    left_out: list[str] = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    for n, d in arguments.sizes:
        if time.monotonic() > deadline:
            left_out.append(shape_name(n, d))
            continue
        found.append(measure(n, d, device, deadline))
        print(shape_name(n, d), {name: str(spread) for name, spread in found[-1].milliseconds.items()}, flush=True)
        write(arguments.output, found, left_out, device)  # now: the time may end before the last row
    write(arguments.output, found, left_out, device)


def write(output: Path, found: list[Row], left_out: list[str], device: torch.device) -> None:
    ordered = sorted(found, key=lambda row: (row.d, row.n))
    (output / f"{slug(device)}.md").write_text(report(ordered, left_out, device))
    shallow = [row._asdict() for row in ordered if row.d == min(row.d for row in ordered)]
    plot_times(shallow, output / plot_name(device))


if __name__ == "__main__":
    main()
