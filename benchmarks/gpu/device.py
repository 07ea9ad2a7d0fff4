"""The device under measurement: its name, batches made on it, a step in a graph, and its clock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import fasttriplet
from benchmarks.cases import step
from benchmarks.measure import Spread


def name_of(device: torch.device) -> str:
    return "a CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def slug(device: torch.device) -> str:
    """What the files of a device's results begin with."""
    name = "gpu-trial" if device.type == "cpu" else name_of(device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return f"No GPU: this run only tries the script. PyTorch {torch.__version__}."
    facts = torch.cuda.get_device_properties(device)
    return (
        f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.multi_processor_count} multiprocessors, "
        f"{facts.total_memory / 2**30:.0f} GiB; PyTorch {torch.__version__}, CUDA {torch.version.cuda}."
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batch(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random unit vectors [n, d], four a class in no order, made where they are needed: the host takes seconds."""
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, device=device), dim=1)
    labels = torch.randperm(n, generator=generator, device=device) // 4
    return rows.requires_grad_(), labels


def in_graph(rows: Tensor, labels: Tensor) -> Callable[[], object]:
    """Forward and backward captured once and replayed: no launch, no Python."""
    run = step(fasttriplet.batch_hard_triplet_loss, rows, labels)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # on which the rows were made
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    rows.grad = None
    with torch.cuda.graph(graph):
        fasttriplet.batch_hard_triplet_loss(rows, labels).backward()
    return graph.replay


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


def milliseconds(
    contenders: Mapping[str, tuple[Callable[[], object], float]], device: torch.device, rounds: int = 7
) -> dict[str, Spread]:
    """Of contenders run in turn; each comes with what its time is to be multiplied by."""
    clock = Clock(device)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    repeats = {}
    for name, (run, _) in contenders.items():  # warm, and how often a measurement has to repeat it
        clock.seconds(run, 1)
        repeats[name] = max(1, min(50, int(0.005 / max(clock.seconds(run, 1), 1e-6))))
    for number in range(rounds):
        for name, (run, factor) in contenders.items():
            if number < 3 or seconds[name][0] < 0.3 * factor:  # three times is enough of what takes long
                seconds[name].append(clock.seconds(run, repeats[name]) * factor)
    return {name: Spread.of([1e3 * value for value in values]) for name, values in seconds.items()}


def listed(times: Mapping[str, Spread]) -> str:
    """Of each contender, on one line."""
    return ", ".join(f"{name} {spread}" for name, spread in times.items())
