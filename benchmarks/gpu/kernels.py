"""Where a step's time goes on a GPU: its kernels by PyTorch's profiler, and the screen's own counters.

Writes ``<gpu>_kernels.md`` anew after each size. Beside the kernels stand the time of a step launched by Python, up to
8192 rows its time in a graph, and how that stands to what is aimed at.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import fasttriplet
from benchmarks.cases import OURS, shape_name, size, step
from benchmarks.gpu import aims, products
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
    kernels: list[Kernel]
    milliseconds: dict[str, Spread]
    counters: str


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


def profiled(run: Callable[[], object], device: torch.device) -> list[Kernel]:
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
    return sorted(found, key=lambda kernel: -kernel.microseconds)


def counters(rows: Tensor, labels: Tensor) -> str:
    """What the screen left open, as the library counts it."""
    operator = getattr(torch.ops.fasttriplet, "_cuda_mine_counters", None)
    if operator is None:
        return "this library does not count what its screen leaves open"
    if rows.device.type == "cpu":
        return "not counted without a GPU"
    return ", ".join(line.replace("=", " ") for line in operator(rows.detach(), labels, 0).split())


def measure(n: int, d: int, device: torch.device) -> Section:
    rows, labels = batch(n, d, device)
    run = step(fasttriplet.batch_hard_triplet_loss, rows, labels)
    kernels = profiled(run, device)
    contenders: dict[str, tuple[Callable[[], object], float]] = {OURS: (run, 1)}
    if device.type == "cuda" and n <= aims.GRAPH_ROWS:
        contenders[aims.GRAPH] = (in_graph(rows.detach().clone().requires_grad_(), labels), 1)
    return Section(n, d, kernels, milliseconds(contenders, device), counters(rows, labels))


def rendered(section: Section, title: str) -> str:
    whole = sum(kernel.microseconds for kernel in section.kernels)
    launches = sum(kernel.launches for kernel in section.kernels)
    rows = [
        [
            f"`{kernel.name}`",
            f"{kernel.launches:.3g}",
            f"{kernel.microseconds:.1f}",
            f"{100 * kernel.microseconds / whole:.1f} %",
        ]
        for kernel in section.kernels
    ]
    return "\n\n".join(
        [
            f"## {title}",
            f"{launches:.3g} launches, {whole:.1f} us in kernels. Milliseconds: {listed(section.milliseconds)}.",
            f"Screen: {section.counters}.",
            table(["kernel", "launches a step", "us a step", "share"], rows),
        ]
    )


class Report:
    """The file as far as it has come."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.device = folder / f"{slug(device)}_kernels.md", device
        self.parts: list[str] = []
        self.measured: dict[tuple[int, int], dict[str, Spread]] = {}

    def add(self, title: str, n: int, d: int, *, judged: bool = True) -> None:
        name = name_of(self.device)
        section = measure(n, d, self.device)
        self.parts.append(rendered(section, f"{title}, {name}"))
        if judged:
            self.measured[n, d] = section.milliseconds
        print(f"{name}, {title}, ms: {listed(section.milliseconds)}; {section.counters}", flush=True)
        for kernel in section.kernels[:8]:
            print(f"  {kernel.microseconds:12.1f} us {kernel.launches:4.3g} x {kernel.name}", flush=True)
        self.write()

    def write(self) -> None:
        name = name_of(self.device)
        head = [
            f"# Kernels of a step on {name}",
            f"Made by `benchmarks/gpu.sh`. {describe(self.device)}",
            "Batch-hard triplet loss, forward plus backward, float32, euclidean, 4 samples per class, random unit "
            "vectors. Kernels are added up by name over a step; between them the device may wait, which the times "
            "in milliseconds hold, median (lowest to highest).",
        ]
        if self.device.type == "cuda":
            head += ["## Aims", "\n".join(aims.judged(name, self.measured))]
        self.path.write_text("\n\n".join(head + self.parts) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="NxD")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    device = arguments.device
    report = Report(arguments.output, device)
    for n, d in arguments.sizes:
        report.add(shape_name(n, d), n, d)
    if device.type == "cuda":
        print("\n".join(aims.judged(name_of(device), report.measured)), flush=True)
        distrust = products.distrust("wgmma", device)  # last: what it breaks is broken for the process
        if distrust:
            print(f"wgmma is left out: {distrust}")
            return 0
        for n, d in arguments.sizes:
            if n > products.SMALL_TILES:
                with products.forced("wgmma"):
                    report.add(f"{shape_name(n, d)} by wgmma", n, d, judged=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
