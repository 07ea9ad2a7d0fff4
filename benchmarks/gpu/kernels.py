"""Where a step's time goes on a GPU: its kernels by PyTorch's profiler, and the screen's own counters.

Writes ``<gpu>_kernels.md`` anew after each size. Beside the kernels stand the time of a step launched by Python, up to
8192 rows its time in a graph, and how that stands to what is aimed at. All sizes are timed before the first is
profiled, since a profiler stays in the way of later launches. Hopper's products come last, in turn with the default and
in a process apart, and which kind was fastest is said at each size.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import fasttriplet
from benchmarks.cases import OURS, shape_name, size, step
from benchmarks.gpu import aims, beside, products
from benchmarks.gpu.apart import Apart
from benchmarks.gpu.device import batch, describe, in_graph, listed, milliseconds, name_of, slug, synchronize
from benchmarks.measure import Spread, table

SIZES = tuple((aim.n, aim.d) for aim in aims.AIMS)
_LONGEST_NAME = 70


class Kernel(NamedTuple):
    name: str
    launches: float  # a step
    microseconds: float  # a step


class Section(NamedTuple):
    n: int
    d: int
    milliseconds: dict[str, Spread]
    counters: str
    kernels: tuple[Kernel, ...] = ()  # none before it was profiled


def short(name: str) -> str:
    """A kernel's name as it is read: of ours the struct that is run, of others what stands before their arguments."""
    name = re.sub(r"\(anonymous namespace\)::|^void ", "", name)
    depth = 0
    for place, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            name = name[:place]
            break
    ours = re.fullmatch(r"fasttriplet::cuda::run<(.*)>", name.strip())
    name = re.sub(r"fasttriplet::(cuda::)?", "", ours[1] if ours else name).replace(" >", ">").strip()
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def profiled(run: Callable[[], object], device: torch.device) -> tuple[Kernel, ...]:
    """Kernels of a step, the longest first; on a CPU the operators stand in for them. Raises where none was seen."""
    began = time.perf_counter()
    run()
    synchronize(device)
    steps = 3 if time.perf_counter() - began < 1 else 1
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            run()
        synchronize(device)
    launches: dict[str, int] = {}
    microseconds: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA if on_gpu else event.name.startswith("fasttriplet::"):
            name = short(event.name)
            launches[name] = launches.get(name, 0) + 1
            microseconds[name] = microseconds.get(name, 0.0) + event.time_range.elapsed_us()
    if not launches:
        raise RuntimeError("PyTorch's profiler saw no kernel of the step")
    found = [Kernel(name, launches[name] / steps, microseconds[name] / steps) for name in launches]
    return tuple(sorted(found, key=lambda kernel: -kernel.microseconds))


def counters(rows: Tensor, labels: Tensor) -> str:
    """What the screen left open, as the library counts it."""
    operator = getattr(torch.ops.fasttriplet, "_cuda_mine_counters", None)
    if operator is None:
        return "this library does not count what its screen leaves open"
    if rows.device.type == "cpu":
        return "not counted without a GPU"
    return ", ".join(line.replace("=", " ") for line in operator(rows.detach(), labels, 0).split())


def timed(n: int, d: int, device: torch.device) -> Section:
    rows, labels = batch(n, d, device)
    contenders: dict[str, tuple[Callable[[], object], float]] = {
        OURS: (step(fasttriplet.batch_hard_triplet_loss, rows, labels), 1)
    }
    if device.type == "cuda" and n <= aims.GRAPH_ROWS:
        contenders[aims.GRAPH] = (in_graph(rows.detach().clone().requires_grad_(), labels), 1)
    return Section(n, d, milliseconds(contenders, device), counters(rows, labels))


def timed_by(kind: str, n: int, d: int, device: torch.device) -> Section:
    """In turn with the default, with the counters of the kind's screen."""
    rows, labels = batch(n, d, device)
    times = beside.in_turn(kind, step(fasttriplet.batch_hard_triplet_loss, rows, labels), device)
    with products.forced(kind):
        return Section(n, d, times, counters(rows, labels))


def profiled_by(kind: str, n: int, d: int, device: torch.device) -> tuple[Kernel, ...]:
    with products.forced(kind):
        return profiled(step(fasttriplet.batch_hard_triplet_loss, *batch(n, d, device)), device)


def rendered(section: Section, title: str) -> str:
    parts = [
        f"## {title}",
        f"Milliseconds: {listed(section.milliseconds)}.",
        f"Screen: {section.counters}.",
    ]
    if section.kernels:
        whole = sum(kernel.microseconds for kernel in section.kernels)
        launches = sum(kernel.launches for kernel in section.kernels)
        rows = [
            [f"`{name}`", f"{count:.3g}", f"{microseconds:.1f}", f"{100 * microseconds / whole:.1f} %"]
            for name, count, microseconds in section.kernels
        ]
        parts.append(f"{launches:.3g} launches a step, {whole:.1f} us in kernels.")
        parts.append(table(["kernel", "launches a step", "us a step", "share"], rows))
    return "\n\n".join(parts)


class Report:
    """The file as far as it has come."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.device = folder / f"{slug(device)}_kernels.md", device
        self.sections: dict[str, Section] = {}
        self.ratios: dict[tuple[int, int], dict[str, float]] = {}  # of Hopper's products to the default, by size
        self.failed: list[str] = []

    def time(self, title: str, section: Section) -> None:
        self.sections[title] = section
        print(f"{name_of(self.device)}, {title}, ms: {listed(section.milliseconds)}; {section.counters}", flush=True)
        self.write()

    def profile(self, title: str, kernels: tuple[Kernel, ...]) -> None:
        self.sections[title] = self.sections[title]._replace(kernels=kernels)
        print(f"{name_of(self.device)}, {title}, kernels:", flush=True)
        for kernel in kernels[:8]:
            print(f"  {kernel.microseconds:12.1f} us {kernel.launches:4.3g} x {kernel.name}", flush=True)
        self.write()

    def verdicts(self) -> list[str]:
        if self.device.type == "cpu":
            return []
        by_default = {(s.n, s.d): s.milliseconds for title, s in self.sections.items() if title == shape_name(s.n, s.d)}
        return aims.judged(name_of(self.device), by_default)

    def fastest(self) -> list[str]:
        return [beside.fastest(*at, ratios) for at, ratios in self.ratios.items()]

    def fail(self, what: str, error: Exception) -> None:
        self.failed.append(f"{what}: {error}")
        print(f"{name_of(self.device)}, {what} FAILED: {error}", flush=True)
        self.write()

    def write(self) -> None:
        name = name_of(self.device)
        verdicts = self.verdicts()
        parts = [
            f"# Kernels of a step on {name}",
            f"Made by `benchmarks/gpu.sh`. {describe(self.device)}",
            "Batch-hard triplet loss, forward plus backward, float32, euclidean, 4 samples per class, random unit "
            "vectors. Times are by the device's clock, median (lowest to highest). Kernels are added up by name; by as "
            "much as a step takes longer than its kernels, the device waits between them.",
            *(["## Aims", "\n".join(verdicts)] if verdicts else []),
            *self.fastest(),
            *([f"FAILED: {'; '.join(self.failed)}."] if self.failed else []),
            *(rendered(section, f"{title}, {name}") for title, section in self.sections.items()),
        ]
        self.path.write_text("\n\n".join(parts) + "\n")


def compare_products(report: Report, sizes: Sequence[tuple[int, int]]) -> None:
    device = report.device
    large = [at for at in sizes if at[0] > products.SMALL_TILES]
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the memory is the other process's now
    with Apart(beside.MOST) as apart:
        measured = []
        for kind, at, title, section in beside.compared(
            timed_by, large, device, apart, leave_out=print, fail=report.fail
        ):
            report.ratios.setdefault(at, {})[kind] = beside.ratio(kind, section.milliseconds)
            report.time(title, section)
            measured.append((kind, title, *at))
        for line in report.fastest():
            print(line, flush=True)
        for kind, title, n, d in measured:  # after all times, as before
            try:
                report.profile(title, apart(profiled_by, kind, n, d, device))
            except RuntimeError as error:
                report.fail(f"the profile of {title}", error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="NxD")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    device = arguments.device
    report = Report(arguments.output, device)
    done = []
    for n, d in arguments.sizes:
        try:
            report.time(shape_name(n, d), timed(n, d, device))
            done.append((n, d))
        except Exception as error:  # a capture that fails, or memory: the other sizes still tell something
            report.fail(shape_name(n, d), error)
    for line in report.verdicts():
        print(line, flush=True)
    for n, d in done:
        run = step(fasttriplet.batch_hard_triplet_loss, *batch(n, d, device))
        try:
            report.profile(shape_name(n, d), profiled(run, device))
        except Exception as error:
            report.fail(f"the profile of {shape_name(n, d)}", error)
    if device.type == "cuda":
        compare_products(report, arguments.sizes)
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
