"""What steps measured, left on the device and read for several of them at once.

To read a number the CPU waits until the device has computed it, and the device then waits until the CPU has prepared
and launched the next step. Read after every step, a GPU idles for that long in each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.resnet50.record import Row

#: Nine idle gaps in ten are gone, and ten steps of a GPU are about a second: the bar still lives.
READ_EVERY = 10


@dataclass(frozen=True)
class _Step:
    known: Row
    measured: dict[str, Tensor]  # each a scalar in float32
    images: int


class Telemetry:
    """The steps since the last :meth:`read`."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._started = 0.0

    def __len__(self) -> int:
        return len(self._steps)

    def start_step(self) -> None:
        """Starts the clock, if it is the first step since the last read."""
        if not self._steps:
            self._started = time.perf_counter()

    def add(self, known: Row, measured: dict[str, Tensor], images: int) -> None:
        """A step: what the CPU knows of it, what the device has yet to compute, and how many images it took."""
        self._steps.append(_Step(known, measured, images))

    def read(self) -> list[Row]:
        """A row for every step, and none of them is kept; waits for the device, once.

        Images per second are those of all these steps together: when one of them began and ended, only the device
        knows.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return []
        values = iter(torch.stack([value for step in steps for value in step.measured.values()]).tolist())
        speed = sum(step.images for step in steps) / (time.perf_counter() - self._started)
        return [
            {**step.known, **{key: next(values) for key in step.measured}, "images_per_second": speed} for step in steps
        ]
