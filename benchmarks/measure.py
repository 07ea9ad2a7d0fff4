"""Timing in turn, and the machine it was done on: what every benchmark here shares."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Seconds of every round, in the order they were run."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def milliseconds(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{1e3 * self.median:.2f} ({1e3 * low:.2f} to {1e3 * high:.2f})"

    def ratio(self, yardstick: Timing) -> str:
        """Median and spread of the ratios to the yardstick, round by round: what drifts with the machine cancels."""
        ratios = [mine / its for mine, its in zip(self.seconds, yardstick.seconds, strict=True)]
        return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def in_turn(contenders: dict[str, Callable[[], object]], rounds: int, warmups: int = 1) -> dict[str, Timing]:
    """Runs all contenders once per round, one after the other, ``rounds`` times after ``warmups`` that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmups + rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if number >= warmups:
                seconds[name].append(elapsed)
    return {name: Timing(values) for name, values in seconds.items()}


def machine() -> str:
    """One line: processor, cores, threads, PyTorch."""
    processor = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        processor = found[1] if found else processor
    except OSError:
        pass
    return f"{processor}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
