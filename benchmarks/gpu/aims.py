"""What is aimed at on an H100, and how a measurement stands to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.cases import OURS, shape_name
from benchmarks.measure import Spread

GRAPH = f"{OURS} in a graph"


class Aim(NamedTuple):
    """Seconds of a step, forward and backward: the bar was estimated from the kernels, the goal is what is wanted."""

    n: int
    d: int
    contender: str
    bar: float
    goal: float


#: By the device's time: up to 8192 rows in a graph, since there a step launched by Python waits for the host.
AIMS = (
    Aim(256, 128, GRAPH, 65e-6, 50e-6),
    Aim(256, 2048, GRAPH, 85e-6, 60e-6),
    Aim(8192, 128, GRAPH, 0.16e-3, 0.12e-3),
    Aim(65536, 512, OURS, 8e-3, 5e-3),
    Aim(1048576, 128, OURS, 0.55, 0.5),
)
#: Largest batch whose step is captured in a graph too.
GRAPH_ROWS = 8192


def shown(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.1 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def verdict(aim: Aim, seconds: float) -> str:
    if seconds <= aim.goal:
        return f"within the goal of {shown(aim.goal)}"
    if seconds <= aim.bar:
        return f"within the bar of {shown(aim.bar)}, misses the goal of {shown(aim.goal)}"
    return f"MISSES the bar of {shown(aim.bar)} and the goal of {shown(aim.goal)}"


def judged(device: str, measured: Mapping[tuple[int, int], Mapping[str, Spread]]) -> list[str]:
    """A line for each aim; ``measured`` has milliseconds by contender, for each size."""
    lines = []
    for aim in AIMS:
        where = f"- {device}, {shape_name(aim.n, aim.d)}, {aim.contender}: "
        spread = measured.get((aim.n, aim.d), {}).get(aim.contender)
        if spread is None:
            lines.append(where + "not measured")
            continue
        low, high = (shown(value / 1e3) for value in (spread.low, spread.high))
        lines.append(f"{where}{shown(spread.median / 1e3)} ({low} to {high}), {verdict(aim, spread.median / 1e3)}")
    return lines
