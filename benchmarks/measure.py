"""Timing in turn, and the machine it was done on: what every benchmark here shares."""

from __future__ import annotations

import argparse
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """Median, lowest and highest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        decimals = 3 if self.median < 0.3 else 2 if self.median < 3 else 1
        return f"{self.median:.{decimals}f} ({self.low:.{decimals}f} to {self.high:.{decimals}f})"


class Timing(NamedTuple):
    """Seconds a call, of every round in the order they were run."""

    seconds: list[float]

    def milliseconds(self) -> Spread:
        return Spread.of([1e3 * value for value in self.seconds])

    def ratio(self, yardstick: Timing) -> Spread:
        """Of the ratios to the yardstick, round by round: what drifts with the machine cancels."""
        # A slow contender may have been left out of the later rounds.
        return Spread.of([mine / its for mine, its in zip(self.seconds, yardstick.seconds, strict=False)])


def in_turn(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    repeats: int = 1,
    fewer_rounds: Mapping[str, int] | None = None,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Runs all contenders one after the other, ``rounds`` times after one that does not count.

    ``repeats`` calls in a row make one measurement, for calls of microseconds. ``fewer_rounds`` names contenders that
    take part in the first few rounds only. ``before`` is called ahead of each measurement and is no part of it.
    """
    limits = dict.fromkeys(contenders, rounds) | dict(fewer_rounds or {})
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        for name, run in contenders.items():
            if number >= limits[name]:
                continue
            before()
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            elapsed = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(elapsed / repeats)
    return {name: Timing(values) for name, values in seconds.items()}


def machine() -> str:
    """One line: processor, threads, PyTorch."""
    processor = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        processor = found[1] if found else processor
    except OSError:
        pass
    return f"{processor}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def verdict(value: float, limit: float) -> str:
    return f"{'within' if value <= limit else 'MISSES'} {limit:g}"


def against(spread: Spread, limit: float) -> str:
    return f"{spread} {verdict(spread.median, limit)}"


def mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report there as well, Markdown")


def publish(title: str, module: str, lines: Iterable[str], out: Path | None) -> None:
    """Prints the lines of a report as they come, and writes them under a title to ``out``."""
    report = []
    for line in lines:
        print(line, flush=True)
        report.append(line)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([f"# {title}", "", f"Made by `python -m {module}`.", "", *report, ""]))


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
