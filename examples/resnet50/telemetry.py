"""What steps measured, left on the device and read for several of them at once.

To read a number the CPU waits until the device has computed it, and the device then waits until the CPU has prepared
and launched the next step. Read after every step, a GPU idles for that long in each.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

#: A step of the record: figures by their columns.
Row = dict[str, float]
#: Nine idle gaps in ten are gone, and ten steps of a GPU are about a second: the bar still lives.
READ_EVERY = 10


class Telemetry:
    """The steps since the last :meth:`read`."""

    def __init__(self) -> None:
        self._steps: list[tuple[Row, dict[str, Tensor]]] = []
        self._images = 0
        self._started = 0.0

    def __len__(self) -> int:
        return len(self._steps)

    def start_step(self) -> None:
        """Starts the clock, if it is the first step since the last read."""
        if not self._steps:
            self._started = time.perf_counter()

    def add(self, known: Row, measured: dict[str, Tensor], images: int) -> None:
        """A step: what the CPU knows of it, float32 scalars that the device has yet to compute, and its images."""
        self._steps.append((known, measured))
        self._images += images

    def read(self) -> list[Row]:
        """A row for every step, and none of them is kept; waits for the device, once.

        Images per second are those of all these steps together: when one of them began and ended, only the device
        knows.
        """
        if not self._steps:
            return []
        values = iter(torch.stack([value for _, measured in self._steps for value in measured.values()]).tolist())
        speed = self._images / (time.perf_counter() - self._started)
        rows = [
            known | {key: next(values) for key in measured} | {"images_per_second": speed}
            for known, measured in self._steps
        ]
        self._steps, self._images = [], 0
        return rows
