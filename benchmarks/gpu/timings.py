"""Times the loss on a GPU beside others and writes ``<gpu>.md`` and its plot.

Forward plus backward beside ``torch.mm(X, X.T)`` in float32, TF32 and bfloat16 and beside peers that no compiler has to
make, in turn, by the device's own clock; mined indices, loss and gradient are verified before a row is timed. A product
of more than 2^31 entries is computed in chunks of rows into the same memory, a few of them are timed and the time is
scaled to all. The sizes that are aimed at come first, then Hopper's kinds of products there, in turn with the default
and in a process apart; which was fastest is said at each size. ``--minutes`` ends it, and what was left out is said.
What fails at one size is said too and leaves the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import fasttriplet
from benchmarks import peers
from benchmarks.cases import OURS, YARDSTICK, shape_name, size, step, verify, verify_peer
from benchmarks.gpu import aims, beside, products
from benchmarks.gpu.apart import Apart
from benchmarks.gpu.device import batch, describe, in_graph, listed, milliseconds, name_of, slug, synchronize
from benchmarks.measure import Spread, mib, table
from benchmarks.plots import plot_times

RESULTS = Path(__file__).parents[1] / "results"
AIMED = tuple((aim.n, aim.d) for aim in aims.AIMS)
SIZES = (
    *AIMED,
    *((1024, 128), (65536, 128), (262144, 128), (8192, 512), (1024, 512), (256, 512), (8192, 2048), (1024, 2048)),
    *((262144, 512), (65536, 2048), (1048576, 512)),
)
TF32, BF16 = "mm tf32", "mm bf16"
PEERS = ("gather", "masks")
#: Matrices of N x N floats that a peer makes; it takes part where twice as many fit.
PEER_MATRICES = 6
CHUNK_ENTRIES = 2**31
#: The plot's D.
PLOTTED = 128


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


def added_mib(run: Callable[[], object], device: torch.device) -> float | None:
    if device.type == "cpu":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    synchronize(device)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else 2**33


def measure(n: int, d: int, device: torch.device, wanted_peers: tuple[str, ...]) -> Row:
    rows, labels = batch(n, d, device)
    verified = verify(rows, labels, "euclidean")
    ours = step(fasttriplet.batch_hard_triplet_loss, rows, labels)
    memory = added_mib(ours, device)
    contenders: dict[str, tuple[Callable[[], object], float]] = {OURS: (ours, 1)}
    if device.type == "cuda" and n <= aims.GRAPH_ROWS:
        contenders[aims.GRAPH] = (in_graph(rows.detach().clone().requires_grad_(), labels), 1)
    contenders[YARDSTICK] = product(rows, torch.float32, False)
    if device.type == "cuda":
        contenders[TF32] = product(rows, torch.float32, True)
    contenders[BF16] = product(rows, torch.bfloat16, False)
    available = peers.available()
    if 2 * PEER_MATRICES * n * n * 4 < free_bytes(device):
        for name in wanted_peers:
            if name in available:
                try:
                    loss = available[name]()
                    verify_peer(name, loss, rows, labels)
                    contenders[name] = (step(loss, rows, labels), 1)
                except Exception as error:  # a compiler that fails here, say: the others are still timed
                    print(f"{name} is left out at {shape_name(n, d)}: {error}", flush=True)
    return Row(n, d, verified, milliseconds(contenders, device), memory)


def timed_by(kind: str, n: int, d: int, device: torch.device) -> dict[str, Spread]:
    """Of a kind of products, once verified, in turn with the default."""
    rows, labels = batch(n, d, device)
    with products.forced(kind):
        verify(rows, labels, "euclidean")
    return beside.in_turn(kind, step(fasttriplet.batch_hard_triplet_loss, rows, labels), device)


class Report:
    """What was found so far; written anew after every row, since the time may end before the last."""

    def __init__(self, folder: Path, device: torch.device, suffix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device, self.stem = folder, device, slug(device) + suffix
        self.rows: dict[tuple[int, int], Row] = {}
        self.ratios: dict[tuple[int, int], dict[str, float]] = {}  # of Hopper's products to the default, by size
        self.left_out: list[str] = []
        self.failed: list[str] = []
        self.notes: list[str] = []

    def attempt(self, what: str, make: Callable[[], Row]) -> None:
        try:
            self.add(what, make())
        except Exception as error:
            self.fail(what, error)

    def add(self, what: str, row: Row) -> None:
        self.rows[row.n, row.d] = row
        print(f"{name_of(self.device)}, {what}, ms: {listed(row.milliseconds)}", flush=True)
        self.write()

    def fail(self, what: str, error: Exception) -> None:
        """On the terminal and in the report."""
        self.failed.append(f"{what}: {error}")
        print(f"{name_of(self.device)}, {what} FAILED: {error}", flush=True)
        self.write()

    def note(self, line: str) -> None:
        self.notes.append(line)
        print(line, flush=True)

    def verdicts(self) -> list[str]:
        if self.device.type == "cpu":
            return []
        return aims.judged(name_of(self.device), {at: row.milliseconds for at, row in self.rows.items()})

    def fastest(self) -> list[str]:
        return [beside.fastest(*at, ratios) for at, ratios in self.ratios.items()]

    def write(self) -> None:
        if not self.rows:
            return
        ordered = sorted(self.rows.values(), key=lambda row: (row.d, row.n))
        shallow = [row._asdict() for row in ordered if row.d == PLOTTED]
        plot = f"{self.stem}_time.png"
        if len(shallow) > 1:
            plot_times(shallow, self.folder / plot, name_of(self.device))
        (self.folder / f"{self.stem}.md").write_text(self.rendered(ordered, plot if len(shallow) > 1 else None))

    def rendered(self, ordered: list[Row], plot: str | None) -> str:
        device = name_of(self.device)
        names = list(dict.fromkeys(name for row in ordered for name in row.milliseconds))
        cells = []
        for row in ordered:
            times = [str(row.milliseconds[name]) if name in row.milliseconds else "" for name in names]
            ratio = f"{row.milliseconds[OURS].median / row.milliseconds[YARDSTICK].median:.3f}"
            cells.append([device, shape_name(row.n, row.d), row.verified, *times, ratio, mib(row.added_mib)])
        verdicts = self.verdicts()
        parts = [
            f"# Batch-hard triplet loss on {device}",
            f"Made by `benchmarks/gpu.sh`. {describe(self.device)}",
            "Forward plus backward, float32, euclidean, 4 samples per class, random unit vectors; milliseconds, median "
            "(lowest to highest). `mm` is `torch.mm(X, X.T)` in float32, beyond 2^31 entries in chunks of rows, four "
            "of them timed and scaled. Memory is what a step adds at its peak, the gradient included.",
            *(["## Aims", "\n".join(verdicts)] if verdicts else []),
            "## Beside others",
            table(
                ["device", "N x D", "verified", *(f"{name} ms" for name in names), f"{OURS} / mm", "added peak MiB"],
                cells,
            ),
            *self.fastest(),
            *self.notes,
            *([f"FAILED: {'; '.join(self.failed)}."] if self.failed else []),
            *([f"Left out for lack of time: {', '.join(self.left_out)}."] if self.left_out else []),
            *([f"![Time]({plot})"] if plot else []),
        ]
        return "\n\n".join(parts) + "\n"


def compare_products(report: Report, sizes: list[tuple[int, int]], deadline: float) -> None:
    torch.cuda.empty_cache()  # the memory is the other process's now

    def late(what: str) -> bool:
        if time.monotonic() <= deadline:
            return False
        report.left_out.append(what)
        return True

    with Apart(beside.MOST) as apart:
        for kind, at, title, times in beside.compared(
            timed_by, sizes, report.device, apart, leave_out=report.note, fail=report.fail, late=late
        ):
            report.ratios.setdefault(at, {})[kind] = beside.ratio(kind, times)
            row, name = report.rows[at], beside.contender(kind)
            report.add(title, row._replace(milliseconds=row.milliseconds | {name: times[name]}))
    for line in report.fastest():
        print(line, flush=True)


def run(report: Report, sizes: list[tuple[int, int]], wanted_peers: tuple[str, ...], deadline: float) -> None:
    device = report.device

    def rows_of(some: list[tuple[int, int]]) -> None:
        for n, d in some:
            if time.monotonic() > deadline:
                report.left_out.append(shape_name(n, d))
            else:
                report.attempt(shape_name(n, d), lambda n=n, d=d: measure(n, d, device, wanted_peers))

    rows_of([at for at in sizes if at in AIMED])
    large = [at for at in report.rows if at[0] > products.SMALL_TILES]
    if device.type == "cuda" and large:
        compare_products(report, large, deadline)
    rows_of([at for at in sizes if at not in AIMED])
    report.write()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--sizes", nargs="+", type=size, default=list(SIZES), metavar="NxD")
    parser.add_argument("--peers", nargs="*", choices=sorted(peers.available()), default=PEERS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--suffix", default="", help="of the files' names, after the GPU's")
    arguments = parser.parse_args()
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --device cpu tries the script without one")
    report = Report(arguments.output, arguments.device, arguments.suffix)
    run(report, arguments.sizes, tuple(arguments.peers), time.monotonic() + 60 * arguments.minutes)
    for line in report.verdicts():
        print(line, flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
