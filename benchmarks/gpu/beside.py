"""Hopper's kinds of products in turn with the default, which they are not until this says that they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from benchmarks.cases import OURS, shape_name
from benchmarks.gpu import products
from benchmarks.gpu.apart import Apart
from benchmarks.gpu.device import milliseconds
from benchmarks.measure import Spread

T = TypeVar("T")
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


def compared(
    measure: Callable[[str, int, int, torch.device], T],
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    apart: Apart,
    *,
    leave_out: Callable[[str], None],
    fail: Callable[[str, Exception], None],
    late: Callable[[str], bool] = lambda what: False,
) -> Iterator[tuple[str, tuple[int, int], str, T]]:
    """Kind, size, title and what ``measure`` found apart; ``late`` says that there is no time for one.

    A kind that fails at one size is not tried at the next, which might take as long; it leaves the other kind.
    """
    for kind in kinds(apart, device, leave_out):
        for at in sizes:
            title = f"{shape_name(*at)} by {kind}"
            if late(title):
                continue
            try:
                found = apart(measure, kind, *at, device)
            except RuntimeError as error:
                fail(title, error)
                break
            yield kind, at, title, found
