"""Hopper's kinds of products in turn with the default, which they are not until this says that they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from benchmarks.cases import OURS, shape_name
from benchmarks.gpu import products
from benchmarks.gpu.apart import Apart
from benchmarks.gpu.device import milliseconds
from benchmarks.measure import Spread

#: Seconds of a call in a process apart: at a million rows a step takes half a second.
MOST = 40.0


def contender(kind: str) -> str:
    return f"{OURS} {kind}"


def in_turn(kind: str, run: Callable[[], object], device: torch.device) -> dict[str, Spread]:
    """Of a step by default and by a kind."""

    def forced() -> None:
        with products.forced(kind):
            run()

    return milliseconds({OURS: (run, 1), contender(kind): (forced, 1)}, device)


def ratio(kind: str, times: Mapping[str, Spread]) -> float:
    return times[contender(kind)].median / times[OURS].median


def fastest(n: int, d: int, ratios: Mapping[str, float]) -> str:
    """``ratios``: of each kind that was measured, to the default in turn with it."""
    best = min(ratios, key=lambda kind: ratios[kind])
    winner = best if ratios[best] < 1 else "the default"
    others = ", ".join(
        f"{kind} took {ratios[kind]:.3f} of its time" if kind in ratios else f"{kind} was not measured"
        for kind in products.HOPPER
    )
    return f"Fastest at {shape_name(n, d)}: {winner}; beside the default, {others}."


def kinds(apart: Apart, device: torch.device, leave_out: Callable[[str], None]) -> Iterator[str]:
    """Those that can be trusted here, asked apart; ``leave_out`` is told of the others."""
    for kind in products.HOPPER:
        try:
            reason = apart(products.distrust, kind, device)
        except RuntimeError as error:
            reason = str(error)
        if reason:
            apart.end()  # the test may have broken it
            leave_out(f"{kind} is left out: {reason}")
        else:
            yield kind
